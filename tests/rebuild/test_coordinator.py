"""The coordination of a rebuild: what it reports, and what it leaves behind."""

import pytest

from ossy_event_store import AggregateRebuild
from ossy_event_store.mongodb import resumable_scan


def test_progress_is_reported_while_it_runs(store, lend, monkeypatch):
    monkeypatch.setattr(resumable_scan, "BATCH", 2)
    lend("b-1", *["BookReturned"] * 7)
    seen = []
    AggregateRebuild.build_and_save_all(
        types=["Book"], progress=lambda report: seen.append(report.streams)
    )
    assert seen[0] == 0
    assert seen[-1] == 1


def test_an_event_loop_does_not_wait_for_workers(store, face):
    if face.runner is None:
        return
    with pytest.raises(ValueError, match="workers is 2; it must be 1"):
        face(AggregateRebuild.build_and_save_all, workers=2)
