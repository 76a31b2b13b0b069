"""
What the sequencers of a process meet: written down, a word a line, in ``met``.

The code of an error that says that the history is lost, "overtaken" by another
sequencer, or "hole".
"""

import os
from pathlib import Path

from django.conf import settings
from pymongo.errors import BulkWriteError

from ossy_event_store.positions import sequencer
from ossy_event_store.positions.sequencer import HistoryLost, HoleInStream, Sequencer

MET = "met"


class WatchedChanges(sequencer.ChangeStream):
    def _take(self, *args, **options):
        try:
            return super()._take(*args, **options)
        except HistoryLost as error:
            met(error.__cause__.code)
            raise


class WatchedSequencer(Sequencer):
    def _give(self, found):
        try:
            return super()._give(found)
        except BulkWriteError:
            met("overtaken")
            raise
        except HoleInStream:
            met("hole")
            raise


def begin():
    sequencer.ChangeStream = WatchedChanges
    sequencer.Sequencer = WatchedSequencer


def met(what):
    path = Path(settings.FOLDER) / MET
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(file, f"{what}\n".encode())
    os.close(file)
