"""The coordination of a rebuild: what it reports, and what it leaves behind."""

import gc

import pytest

from ossy_event_store import AggregateRebuild
from ossy_event_store.mongodb import resumable_scan
from ossy_event_store.streams import gc_pause


def test_progress_is_reported_while_it_runs(store, lend, monkeypatch):
    monkeypatch.setattr(resumable_scan, "BATCH", 2)
    lend("b-1", *["BookReturned"] * 7)
    seen = []
    AggregateRebuild.build_and_save_all(
        types=["Book"], progress=lambda report: seen.append(report.streams)
    )
    assert seen[0] == 0
    assert seen[-1] == 1


def test_the_garbage_collector_is_as_before_afterwards(store, face, lend, broken):
    lend("b-1", "BookBought")
    before, during = gc.get_threshold(), []
    report = face(
        AggregateRebuild.build_and_save_all,
        progress=lambda report: during.append(gc.get_threshold()[0]),
    )
    assert report.saved == 1
    assert during[0] > before[0]
    assert gc.get_threshold() == before
    with gc_pause.fewer_collections(), gc_pause.fewer_collections():
        pass
    assert gc.get_threshold() == before


def test_an_event_loop_does_not_wait_for_workers(store, face):
    if face.runner is None:
        return
    with pytest.raises(ValueError, match="workers 2: expected 1"):
        face(AggregateRebuild.build_and_save_all, workers=2)
