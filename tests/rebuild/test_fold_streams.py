"""Folding streams from their events, and writing the snapshots."""

import dataclasses

import pytest
from django.conf import settings as django_settings
from pymongo.errors import AutoReconnect

from ossy_event_store import Aggregate, AggregateRebuild
from ossy_event_store.mongodb import resumable_scan
from ossy_event_store.mongodb.ports import drive_each
from ossy_event_store.rebuild import fold_streams
from ossy_event_store.rebuild.fold_streams import SnapshotBuilder, StreamFold
from ossy_event_store.streams import snapshots
from tests.library.aggregate import Book
from tests.support.rebuild import profiled, stored


def test_streams_across_batches_are_folded_in_full(store, face, lend, monkeypatch):
    monkeypatch.setattr(resumable_scan, "BATCH", 3)
    monkeypatch.setattr(StreamFold, "held_events", 4)
    monkeypatch.setattr(SnapshotBuilder, "write_batch", 2)
    for number in range(5):
        lend(f"b-{number}", "BookBought", *["BookLent", "BookReturned"] * (number + 1))
    report = face(AggregateRebuild.build_and_save_all)
    assert (report.streams, report.events) == (5, 35)
    assert [state["loans"] for _, state in sorted(stored().values())] == [1, 2, 3, 4, 5]


def test_a_newer_snapshot_is_kept(store, lend, monkeypatch):
    lend("b-1", "BookBought")
    built = snapshots.build_snapshot

    def appended_meanwhile(*args):
        snapshot = built(*args)
        monkeypatch.undo()
        lend("b-1", "BookLent")
        Aggregate.of(Book, "b-1").save()
        return snapshot

    monkeypatch.setattr(fold_streams, "build_snapshot", appended_meanwhile)
    report = AggregateRebuild.build_and_save_all()
    assert (report.streams, report.saved, report.newer) == (1, 0, 1)
    assert stored()["b-1"][0] == 2


def test_a_first_snapshot_saved_meanwhile_is_kept_too(store, face, lend, monkeypatch):
    monkeypatch.setattr(SnapshotBuilder, "write_batch", 1)
    monkeypatch.setattr(resumable_scan, "BATCH", 1)
    for name in ("b-1", "b-2"):
        lend(name, "BookBought")
    newer = {"_id": "b-2", "aggregateType": "Book", "aggregateVersion": 2, "state": {}}

    def save_meanwhile(report):
        if report.saved and Aggregate.collection.count_documents({"_id": "b-2"}) == 0:
            Aggregate.collection.insert_one(newer)
            lend("b-2", "BookLent")

    if face.runner is not None and django_settings.STORE == "mongodb":
        pytest.skip("Django's own client blocks")
    monkeypatch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "1")
    report = face(AggregateRebuild.build_and_save_all, progress=save_meanwhile)
    assert Aggregate.collection.find_one({"_id": "b-2"})["aggregateVersion"] == 2
    assert report.failed == 0


def test_a_failing_reducer_fails_only_its_stream(store, face, lend, broken):
    lend("b-1", "BookBought", "BookLent", "BookReturned")
    lend("b-2", "BookBought")
    AggregateRebuild.build_and_save_all()
    before = stored()
    lend("b-2", "BookReturned")
    broken("BookLent")
    report = face(AggregateRebuild.build_and_save_all)
    assert (report.streams, report.failed, report.ok) == (2, 1, False)
    (failure,) = report.failures
    assert (failure.aggregate_id, failure.version) == ("b-1", 2)
    assert failure.error == "ZeroDivisionError: BookLent"
    assert stored()["b-1"] == before["b-1"]
    assert stored()["b-2"][0] == 2


def test_a_state_that_cannot_be_stored_fails_its_stream(store, face, lend, monkeypatch):
    lend("b-1", "BookBought")
    monkeypatch.setattr(Book, "view", staticmethod(lambda events, state: {"x": {1}}))
    report = face(AggregateRebuild.build_and_save_all)
    assert report.failures[0].error == (
        "state.x: MongoDB has no type for builtins.set; use a list"
    )


def test_a_full_rebuild_needs_no_query_per_stream(history, lend):
    for number in range(50):
        lend(f"b-{number}", "BookBought")
    ours = {"ns": {"$regex": r"\.(eventstore|aggregates)$"}, "op": {"$ne": "insert"}}
    found = profiled(
        history.database,
        lambda: AggregateRebuild.build_and_save_all(types=["Book"]),
        ours,
    )
    assert len(found) == 2  # one scan, and one count of the existing snapshots


def test_a_scan_resumes_where_it_broke_off(store, lend, monkeypatch):
    monkeypatch.setattr(resumable_scan, "BATCH", 3)
    for number in range(4):
        lend(f"b-{number}", *["BookReturned"] * 4)
    whole = store.events.batches
    breaks = iter([2, 1, 3])

    class Flaky:
        async def batches(self, query, size, **options):
            left = next(breaks, 1000)
            async for batch in whole(query, size, **options):
                yield batch
                left -= 1
                if not left:
                    raise AutoReconnect("the primary is gone")

    flaky = dataclasses.replace(store, events=Flaky())
    events = [e for batch in drive_each(resumable_scan.scan(flaky, {})) for e in batch]
    keys = [(e["aggregateId"], e["aggregateVersion"]) for e in events]
    assert keys == [(f"b-{n}", v) for n in range(4) for v in range(1, 5)]


def test_a_scan_without_progress_ends(store, lend, monkeypatch, settings):
    monkeypatch.setattr(resumable_scan, "BATCH", 3)
    settings.OSSY_EVENT_STORE = {**settings.OSSY_EVENT_STORE, "TIMEOUT": 0.5}
    lend("b-1", *["BookReturned"] * 8)
    opened, whole = [], store.events.batches

    class Stuck:
        async def batches(self, query, size, **options):
            opened.append(query)
            assert len(opened) < 50, "it would never end"
            left = 2
            async for batch in whole(query, size, **options):
                yield batch
                left -= 1
                if not left:
                    raise AutoReconnect("at the third batch, again and again")

    stuck = dataclasses.replace(store, events=Stuck())
    with pytest.raises(AutoReconnect):
        list(drive_each(resumable_scan.scan(stuck, {})))
    assert len(opened) > 1
