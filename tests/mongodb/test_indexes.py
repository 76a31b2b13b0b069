"""Indexes: created where they are missing, with a clear error where they cannot be."""

import pytest

from ossy_event_store import EventStore, IndexConflict
from ossy_event_store.mongodb import indexes
from ossy_event_store.mongodb.ports import drive
from ossy_event_store.rebuild.stale import _heads

UNIQUE = "aggregateId_1_aggregateVersion_1"
KEYS = [("aggregateId", 1), ("aggregateVersion", 1)]


@pytest.fixture
def bare(store):
    """The store without its unique index, which is created again afterwards."""
    EventStore.collection.drop_index(UNIQUE)
    yield store
    EventStore.collection.delete_many({})
    if UNIQUE in EventStore.collection.index_information():
        EventStore.collection.drop_index(UNIQUE)
    drive(indexes.ensure(store))


def test_a_missing_index_is_found_and_created(bare):
    assert [index.name for index in drive(indexes.missing(bare))] == [UNIQUE]
    assert [index.name for index in drive(indexes.ensure(bare))] == [UNIQUE]
    assert drive(indexes.missing(bare)) == []
    assert drive(indexes.ensure(bare)) == []


def test_an_index_with_other_options_is_missing_and_a_conflict(bare):
    EventStore.collection.create_index(KEYS)
    assert [index.name for index in drive(indexes.missing(bare))] == [UNIQUE]
    with pytest.raises(IndexConflict, match="dropIndex") as error:
        drive(indexes.ensure(bare))
    assert (error.value.collection, error.value.name) == ("eventstore", UNIQUE)


def test_a_conflict_names_the_version_of_two_events(bare):
    event = {"aggregateId": "b-1", "aggregateType": "Book", "aggregateVersion": 3}
    EventStore.collection.insert_many([{**event}, {**event}])
    with pytest.raises(IndexConflict, match=r"'b-1'.*3.*only one may"):
        drive(indexes.ensure(bare))


def test_every_index_has_a_reason():
    assert all(len(index.reason) > 20 for index in indexes.INDEXES)


def test_the_heads_of_a_type_are_found_by_skipping_from_stream_to_stream(store, lend):
    for number in range(10):
        lend(f"b-{number}", *["BookReturned"] * 20)
    kind = {"aggregateType": {"$eq": "Book"}, "aggregateId": {"$gte": ""}}
    plan = EventStore.collection.database.command(
        {
            "explain": {
                "aggregate": "eventstore",
                "pipeline": _heads(kind),
                "cursor": {},
            },
            "verbosity": "executionStats",
        }
    )
    text = str(plan)
    assert "DISTINCT_SCAN" in text
    stats = plan["stages"][0]["$cursor"]["executionStats"]
    assert stats["totalDocsExamined"] == 0
    assert stats["totalKeysExamined"] <= 11
