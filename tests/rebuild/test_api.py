"""Rebuild: full and stale, one and all, on streams that misbehave too."""

import dataclasses
import gc

import pytest
from bson import ObjectId
from django.conf import settings
from pymongo.errors import AutoReconnect

from ossy_event_store import (
    Aggregate,
    AggregateNotFound,
    AggregateRebuild,
    EventStore,
    ReducerError,
    UnknownAggregateType,
)
from ossy_event_store.mongodb import resumable_scan
from ossy_event_store.mongodb.ports import drive_each
from ossy_event_store.rebuild import fold_streams, stale
from ossy_event_store.streams import gc_pause, snapshots
from ossy_event_store.streams.reducers import revision_of
from tests.library.aggregate import Book, Reader


def states():
    found = Aggregate.collection.find({}, {"state": 1, "aggregateVersion": 1})
    return {doc["_id"]: (doc["aggregateVersion"], doc["state"]) for doc in found}


@pytest.fixture
def broken(monkeypatch):
    """Make the reducer of books raise at every event of one type."""

    def break_at(event_type):
        whole = Book.view

        def view(events, saved_state):
            for event in events:
                if event["type"] == event_type:
                    raise ZeroDivisionError(event["type"])
            return whole(events, saved_state)

        monkeypatch.setattr(Book, "view", staticmethod(view))

    return break_at


def test_every_stream_of_every_type_is_folded(store, face, lend):
    lend("b-1", "BookBought", "BookLent")
    lend("b-2", "BookBought")
    EventStore.append_event(
        {"aggregateId": "r-1", "aggregateType": "Reader", "type": "Joined"}
    )
    report = face(AggregateRebuild.build_and_save_all)
    assert (report.streams, report.events, report.saved, report.failed) == (3, 4, 3, 0)
    assert states() == {
        "b-1": (2, {"loans": 1, "title": "Emma", "lent_to": "ann"}),
        "b-2": (1, {"loans": 0, "title": "Emma"}),
        "r-1": (1, {"events": 1}),
    }


def test_a_rebuild_replaces_a_wrong_state(store, face, lend):
    lend("b-1", "BookBought")
    AggregateRebuild.build_and_save_all()
    Aggregate.collection.update_one({"_id": "b-1"}, {"$set": {"state.title": "Ema"}})
    face(AggregateRebuild.build_and_save_all)
    assert states()["b-1"] == (1, {"loans": 0, "title": "Emma"})


def test_only_the_chosen_types_and_streams_are_folded(store, face, lend):
    for name in ("b-1", "b-2", "b-3"):
        lend(name, "BookBought")
    EventStore.append_event(
        {"aggregateId": "r-1", "aggregateType": "Reader", "type": "Joined"}
    )
    face(AggregateRebuild.build_and_save_all, ids=["b-1", "b-3"])
    assert set(states()) == {"b-1", "b-3"}
    face(AggregateRebuild.build_and_save_all, types=["Reader"])
    assert set(states()) == {"b-1", "b-3", "r-1"}


def test_streams_across_batches_are_folded_whole(store, face, lend, monkeypatch):
    monkeypatch.setattr(resumable_scan, "BATCH", 3)
    monkeypatch.setattr(fold_streams, "LONG", 4)
    monkeypatch.setattr(fold_streams, "WRITE", 2)
    for number in range(5):
        lend(f"b-{number}", "BookBought", *["BookLent", "BookReturned"] * (number + 1))
    report = face(AggregateRebuild.build_and_save_all)
    assert (report.streams, report.events) == (5, 35)
    assert [state["loans"] for _, state in sorted(states().values())] == [1, 2, 3, 4, 5]


def test_a_stale_rebuild_folds_what_is_missing_or_behind(store, face, lend):
    lend("current", "BookBought")
    lend("behind", "BookBought")
    AggregateRebuild.build_and_save_all()
    lend("behind", "BookLent")
    lend("missing", "BookBought")
    report = face(AggregateRebuild.build_and_save_all, stale=True)
    assert (report.streams, report.saved) == (2, 2)
    assert {name: version for name, (version, _) in states().items()} == {
        "behind": 2,
        "current": 1,
        "missing": 1,
    }
    assert face(AggregateRebuild.build_and_save_all, stale=True).streams == 0


def test_a_stale_rebuild_folds_what_another_revision_folded(store, face, lend):
    lend("b-1", "BookBought")
    lend("b-2", "BookBought")
    AggregateRebuild.build_and_save_all()
    Aggregate.collection.update_one({"_id": "b-2"}, {"$set": {"revision": "older"}})
    report = face(AggregateRebuild.build_and_save_all, stale=True)
    assert (report.streams, report.saved) == (1, 1)


def test_a_snapshot_ahead_of_its_stream_is_replaced(history, face, lend, caplog):
    lend("b-1", "BookBought", "BookLent")
    AggregateRebuild.build_and_save_all()
    history.delete_one({"aggregateId": "b-1", "aggregateVersion": 2})
    report = face(AggregateRebuild.build_and_save_all, stale=True)
    assert (report.streams, report.saved) == (1, 1)
    assert states()["b-1"][0] == 1
    assert "Discarding" in caplog.text


def test_a_snapshot_without_a_stream_is_discarded(history, face, lend, caplog):
    lend("b-1", "BookBought")
    lend("b-2", "BookBought")
    AggregateRebuild.build_and_save_all()
    history.delete_many({"aggregateId": "b-1"})
    face(AggregateRebuild.build_and_save_all, stale=True)
    assert set(states()) == {"b-2"}


def test_a_newer_snapshot_is_left(store, lend, monkeypatch):
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
    assert states()["b-1"][0] == 2


def test_a_first_snapshot_saved_meanwhile_is_left_too(store, face, lend, monkeypatch):
    monkeypatch.setattr(fold_streams, "WRITE", 1)
    monkeypatch.setattr(resumable_scan, "BATCH", 1)
    for name in ("b-1", "b-2"):
        lend(name, "BookBought")
    newer = {"_id": "b-2", "aggregateType": "Book", "aggregateVersion": 2, "state": {}}

    def save_meanwhile(report):
        if report.saved and Aggregate.collection.count_documents({"_id": "b-2"}) == 0:
            Aggregate.collection.insert_one(newer)
            lend("b-2", "BookLent")

    if face.runner is not None and settings.STORE == "mongodb":
        pytest.skip("Django's own client blocks")
    monkeypatch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "1")
    report = face(AggregateRebuild.build_and_save_all, progress=save_meanwhile)
    assert Aggregate.collection.find_one({"_id": "b-2"})["aggregateVersion"] == 2
    assert report.failed == 0


def test_a_failing_reducer_fails_its_stream_alone(store, face, lend, broken):
    lend("b-1", "BookBought", "BookLent", "BookReturned")
    lend("b-2", "BookBought")
    AggregateRebuild.build_and_save_all()
    before = states()
    lend("b-2", "BookReturned")
    broken("BookLent")
    report = face(AggregateRebuild.build_and_save_all)
    assert (report.streams, report.failed, report.ok) == (2, 1, False)
    (failure,) = report.failures
    assert (failure.aggregate_id, failure.version) == ("b-1", 2)
    assert failure.error == "ZeroDivisionError: BookLent"
    assert states()["b-1"] == before["b-1"]
    assert states()["b-2"][0] == 2


def test_a_state_that_cannot_be_stored_fails_its_stream(store, face, lend, monkeypatch):
    lend("b-1", "BookBought")
    monkeypatch.setattr(Book, "view", staticmethod(lambda events, state: {"x": {1}}))
    report = face(AggregateRebuild.build_and_save_all)
    assert report.failures[0].error == (
        "state.x: MongoDB has no type for builtins.set; use a list"
    )


def test_one_stream_is_rebuilt_and_its_snapshot_returned(store, face, lend):
    lend("b-1", "BookBought")
    snapshot = face(AggregateRebuild.build_and_save, "Book", "b-1")
    assert snapshot == Aggregate.find("b-1")
    assert snapshot["state"]["title"] == "Emma"


def test_rebuilding_one_stream_raises_what_went_wrong(store, face, lend, broken):
    lend("b-1", "BookBought")
    with pytest.raises(UnknownAggregateType, match="Registered: Book, Reader"):
        face(AggregateRebuild.build_and_save, "Film", "b-1")
    with pytest.raises(AggregateNotFound):
        face(AggregateRebuild.build_and_save, "Book", "nowhere")
    with pytest.raises(AggregateNotFound):
        face(AggregateRebuild.build_and_save, "Reader", "b-1")
    broken("BookBought")
    with pytest.raises(ReducerError, match="version 1: ZeroDivisionError"):
        face(AggregateRebuild.build_and_save, "Book", "b-1")


def test_progress_is_reported_as_it_goes(store, lend, monkeypatch):
    monkeypatch.setattr(resumable_scan, "BATCH", 2)
    lend("b-1", *["BookReturned"] * 7)
    seen = []
    AggregateRebuild.build_and_save_all(
        types=["Book"], progress=lambda report: seen.append(report.streams)
    )
    assert seen[0] == 0
    assert seen[-1] == 1


def test_a_stale_check_with_nothing_stale_reads_no_document(history, lend):
    """By the profiler's count of what each query examined."""
    for number in range(20):
        lend(f"b-{number}", "BookBought", "BookLent")
    AggregateRebuild.build_and_save_all()
    database = history.database
    database.command("profile", 2)
    try:
        AggregateRebuild.build_and_save_all(stale=True)
    finally:
        database.command("profile", 0)
    reads = {"op": {"$in": ["query", "command"]}}
    profiled = list(database["system.profile"].find(reads))
    database.drop_collection("system.profile")
    read = [p for p in profiled if p["ns"].endswith((".eventstore", ".aggregates"))]
    assert len(read) == 4  # heads and snapshots of two types
    assert sum(p["docsExamined"] for p in read) == 0
    assert sum(p["keysExamined"] for p in read) <= 2 * 20 + 4


def test_a_full_rebuild_asks_no_query_a_stream(history, lend):
    for number in range(50):
        lend(f"b-{number}", "BookBought")

    database = history.database
    database.command("profile", 2)
    try:
        AggregateRebuild.build_and_save_all(types=["Book"])
    finally:
        database.command("profile", 0)
    ours = {"ns": {"$regex": r"\.(eventstore|aggregates)$"}, "op": {"$ne": "insert"}}
    count = database["system.profile"].count_documents(ours)
    database.drop_collection("system.profile")
    assert count == 2  # one scan, and one look at which snapshots are there


def test_a_scan_goes_on_where_it_broke_off(store, lend, monkeypatch):
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


def test_a_scan_that_comes_no_further_ends(store, lend, monkeypatch, settings):
    monkeypatch.setattr(resumable_scan, "BATCH", 3)
    settings.OSSY_EVENT_STORE = {**settings.OSSY_EVENT_STORE, "TIMEOUT": 0.5}
    lend("b-1", *["BookReturned"] * 8)
    opened, whole = [], store.events.batches

    class Stuck:
        async def batches(self, query, size, **options):
            opened.append(query)
            assert len(opened) < 50, "it would go on for ever"
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


def test_a_document_of_another_program_is_passed_over(store, face, lend):
    Aggregate.collection.insert_one({"_id": ObjectId(), "aggregateType": "Book"})
    lend("b-1", "BookBought")
    assert face(AggregateRebuild.build_and_save_all, stale=True).saved == 1


def test_the_garbage_collector_is_as_it_was_afterwards(store, face, lend, broken):
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


def test_heads_out_of_order_are_noticed(store):
    async def batches():
        yield [{"_id": "b"}, {"_id": "c"}]

    with pytest.raises(RuntimeError, match="out of order"):
        list(drive_each(stale._each(batches())))


def test_readers_have_a_revision_of_their_own():
    assert revision_of(Reader) == "1"
    assert len(revision_of(Book)) == 16
