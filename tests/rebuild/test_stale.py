"""Which snapshots are stale, found along two indexes."""

import pytest
from bson import ObjectId

from ossy_event_store import Aggregate, AggregateRebuild, UnexpectedState
from ossy_event_store.mongodb.ports import drive_each
from ossy_event_store.rebuild import stale
from tests.support.rebuild import profiled, stored
from tests.support.verification import rebuild_indexes


def test_a_stale_rebuild_folds_missing_and_older_snapshots(store, face, lend):
    lend("current", "BookBought")
    lend("behind", "BookBought")
    AggregateRebuild.build_and_save_all()
    lend("behind", "BookLent")
    lend("missing", "BookBought")
    report = face(AggregateRebuild.build_and_save_all, stale=True)
    assert (report.streams, report.saved) == (2, 2)
    assert {name: version for name, (version, _) in stored().items()} == {
        "behind": 2,
        "current": 1,
        "missing": 1,
    }
    assert face(AggregateRebuild.build_and_save_all, stale=True).streams == 0


def test_a_stale_rebuild_folds_snapshots_of_another_revision(store, face, lend):
    lend("b-1", "BookBought")
    lend("b-2", "BookBought")
    AggregateRebuild.build_and_save_all()
    Aggregate.collection.update_one({"_id": "b-2"}, {"$set": {"revision": "older"}})
    report = face(AggregateRebuild.build_and_save_all, stale=True)
    assert (report.streams, report.saved) == (1, 1)


def test_a_snapshot_newer_than_its_stream_is_replaced(history, face, lend, caplog):
    lend("b-1", "BookBought", "BookLent")
    AggregateRebuild.build_and_save_all()
    history.delete_one({"aggregateId": "b-1", "aggregateVersion": 2})
    report = face(AggregateRebuild.build_and_save_all, stale=True)
    assert (report.streams, report.saved) == (1, 1)
    assert stored()["b-1"][0] == 1
    assert "Discarding the snapshot of Book 'b-1'" in caplog.text


def test_a_snapshot_without_a_stream_is_discarded(history, face, lend, caplog):
    lend("b-1", "BookBought")
    lend("b-2", "BookBought")
    AggregateRebuild.build_and_save_all()
    history.delete_many({"aggregateId": "b-1"})
    face(AggregateRebuild.build_and_save_all, stale=True)
    assert set(stored()) == {"b-2"}


def test_looking_for_stale_snapshots_reads_no_document(history, lend):
    """By the profiler's count of what each query examined."""
    for number in range(20):
        lend(f"b-{number}", "BookBought", "BookLent")
    AggregateRebuild.build_and_save_all()
    found = profiled(
        history.database,
        lambda: AggregateRebuild.build_and_save_all(stale=True),
        {"op": {"$in": ["query", "command"]}},
    )
    read = [p for p in found if p["ns"].endswith((".eventstore", ".aggregates"))]
    assert len(read) == 4  # heads and snapshots of two types
    assert sum(p["docsExamined"] for p in read) == 0
    assert sum(p["keysExamined"] for p in read) <= 2 * 20 + 4


def test_a_document_of_another_program_is_skipped(store, face, lend):
    Aggregate.collection.insert_one({"_id": ObjectId(), "aggregateType": "Book"})
    lend("b-1", "BookBought")
    assert face(AggregateRebuild.build_and_save_all, stale=True).saved == 1


def test_heads_out_of_order_are_an_error(store):
    async def batches():
        yield [{"_id": "b"}, {"_id": "c"}]

    with pytest.raises(UnexpectedState, match="out of order"):
        list(drive_each(stale._each(batches())))


def test_an_id_that_is_a_list_takes_the_order_but_stops_nothing(
    store, face, lend, history, request
):
    # Once an index had a list, it is never as new.
    request.addfinalizer(lambda: rebuild_indexes(history.database))
    for name in "abcdefgh":
        lend(name, "BookBought")
    AggregateRebuild.build_and_save_all()
    lend("c", "BookLent")
    listed = {"aggregateId": ["x", "c"], "aggregateType": "Book", "type": "BookLent"}
    history.insert_one({**listed, "aggregateVersion": 7})
    report = face(AggregateRebuild.build_and_save_all, stale=True)
    assert (report.saved, stored()["c"][0]) == (1, 2)
