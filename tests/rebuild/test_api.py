"""``AggregateRebuild``: all snapshots, chosen ones, or a single one."""

import pytest

from ossy_event_store import (
    Aggregate,
    AggregateNotFound,
    AggregateRebuild,
    EventStore,
    ReducerError,
    UnknownAggregateType,
)
from tests.support.rebuild import stored


def test_every_stream_of_every_type_is_folded(store, face, lend):
    lend("b-1", "BookBought", "BookLent")
    lend("b-2", "BookBought")
    EventStore.append_event(
        {"aggregateId": "r-1", "aggregateType": "Reader", "type": "Joined"}
    )
    report = face(AggregateRebuild.build_and_save_all)
    assert (report.streams, report.events, report.saved, report.failed) == (3, 4, 3, 0)
    assert stored() == {
        "b-1": (2, {"loans": 1, "title": "Emma", "lent_to": "ann"}),
        "b-2": (1, {"loans": 0, "title": "Emma"}),
        "r-1": (1, {"events": 1}),
    }


def test_a_rebuild_replaces_a_wrong_state(store, face, lend):
    lend("b-1", "BookBought")
    AggregateRebuild.build_and_save_all()
    Aggregate.collection.update_one({"_id": "b-1"}, {"$set": {"state.title": "Ema"}})
    face(AggregateRebuild.build_and_save_all)
    assert stored()["b-1"] == (1, {"loans": 0, "title": "Emma"})


def test_only_the_chosen_types_and_streams_are_folded(store, face, lend):
    for name in ("b-1", "b-2", "b-3"):
        lend(name, "BookBought")
    EventStore.append_event(
        {"aggregateId": "r-1", "aggregateType": "Reader", "type": "Joined"}
    )
    face(AggregateRebuild.build_and_save_all, ids=["b-1", "b-3"])
    assert set(stored()) == {"b-1", "b-3"}
    face(AggregateRebuild.build_and_save_all, types=["Reader"])
    assert set(stored()) == {"b-1", "b-3", "r-1"}


def test_one_stream_is_rebuilt_and_its_snapshot_returned(store, face, lend):
    lend("b-1", "BookBought")
    snapshot = face(AggregateRebuild.build_and_save, "Book", "b-1")
    assert snapshot == Aggregate.find("b-1")
    assert snapshot["state"]["title"] == "Emma"


def test_rebuilding_one_stream_raises_its_error(store, face, lend, broken):
    lend("b-1", "BookBought")
    with pytest.raises(UnknownAggregateType, match="Registered: Book, Reader"):
        face(AggregateRebuild.build_and_save, "Film", "b-1")
    with pytest.raises(AggregateNotFound):
        face(AggregateRebuild.build_and_save, "Book", "nowhere")
    with pytest.raises(AggregateNotFound):
        face(AggregateRebuild.build_and_save, "Reader", "b-1")
    broken("BookBought")
    with pytest.raises(
        ReducerError, match=r"version 1 \(BookBought\): ZeroDivisionError"
    ):
        face(AggregateRebuild.build_and_save, "Book", "b-1")
