"""
What the sequencers of a process meet: written down, a word a line, in ``met``.

The code of an error that says that the history is lost, "overtaken" by another
sequencer, or "hole".
"""

import os
from pathlib import Path

from django.conf import settings
from pymongo.errors import BulkWriteError

from ossy_event_store.positions import leased_sequencer, sequencer
from ossy_event_store.positions.change_stream import ChangeStream, HistoryLost
from ossy_event_store.positions.held_streams import HeldStreams
from ossy_event_store.positions.sequencer import Sequencer

MET = "met"


class WatchedChanges(ChangeStream):
    def _run(self, *args, **options):
        try:
            return super()._run(*args, **options)
        except HistoryLost as error:
            met(error.__cause__.code)
            raise


class WatchedSequencer(Sequencer):
    def _assign(self, found):
        try:
            return super()._assign(found)
        except BulkWriteError:
            met("overtaken")
            raise


class WatchedStreams(HeldStreams):
    def hold(self, *arguments):
        met("hole")
        super().hold(*arguments)


def begin():
    sequencer.ChangeStream = WatchedChanges
    sequencer.HeldStreams = WatchedStreams
    leased_sequencer.Sequencer = WatchedSequencer


def met(what):
    path = Path(settings.FOLDER) / MET
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(file, f"{what}\n".encode())
    os.close(file)
