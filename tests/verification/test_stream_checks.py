"""Streams that are read in full, while the site appends."""

import pytest

from ossy_event_store import Aggregate
from ossy_event_store.verification.stream_checks import StreamChecks
from tests.support.verification import SMALL, append, break_stream, look


def once(action):
    """A progress that acts once the versions are being read."""
    done = []

    def progress(report):
        if report.events and not done:
            done.append(True)
            action()

    return progress


@pytest.mark.parametrize("of", ["b-00", "b-10", "b-20", "a", "b-105", "z"])
def test_events_and_snapshots_that_are_written_meanwhile_are_no_findings(library, of):
    report = look(sizes=SMALL, progress=once(lambda: append(of, 3)))
    assert report.ok
    assert report.compared in (21, 22)


def test_a_snapshot_that_is_gone_when_it_is_read_again_is_no_finding(library):
    break_stream(library, "a snapshot ahead")

    def discard():
        Aggregate.collection.delete_one({"_id": "b-10"})

    assert look(sizes=SMALL, progress=once(discard)).ok


def test_a_snapshot_seen_before_the_events_of_its_transaction_is_no_finding(
    library, monkeypatch
):
    """What a majority has is seen later than what the primary has."""
    append("b-10")
    late = library.find_one_and_delete({"aggregateVersion": 8})
    whole = StreamChecks._is_confirmed

    async def is_confirmed(self, finding, snapshot):
        library.insert_one(late)
        return await whole(self, finding, snapshot)

    monkeypatch.setattr(StreamChecks, "_is_confirmed", is_confirmed)
    report = look()
    assert report.ok
    assert report.compared == 21
