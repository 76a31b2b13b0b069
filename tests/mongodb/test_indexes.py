"""Indexes: created where they are missing, with a clear error where they cannot be."""

import threading

import pytest

from ossy_event_store import (
    Aggregate,
    EventStore,
    ForeignCollection,
    IndexConflict,
    IndexMissing,
)
from ossy_event_store.documents.collections import OWN
from ossy_event_store.mongodb import connection, indexes
from ossy_event_store.mongodb.indexes import Kind
from ossy_event_store.mongodb.ports import drive
from ossy_event_store.positions.leased_sequencer import run_sequencer
from ossy_event_store.rebuild.stale import _heads
from tests.library.aggregate import Book
from tests.support.event_lines import bring, line
from tests.support.processes import ON_URL
from tests.support.sent_commands import Listener

UNIQUE = "aggregateId_1_aggregateVersion_1"
KEYS = [("aggregateId", 1), ("aggregateVersion", 1)]


@pytest.fixture
def bare(store):
    """The store without its unique index, which is created again afterwards."""
    EventStore.collection.drop_index(UNIQUE)
    store.seen.clear()
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


def test_a_conflict_names_the_streams_that_have_a_version_twice(bare):
    streams = [f"b-{number:02}" for number in range(12)]
    EventStore.collection.insert_many(
        {"aggregateId": stream, "aggregateVersion": version}
        for stream in ["a", *streams]
        for version in ([1, 2] if stream == "a" else [1, 1, 2])
    )
    with pytest.raises(IndexConflict) as error:
        drive(indexes.ensure(bare))
    assert error.value.streams == tuple(streams[:10])
    assert "'b-09' and others. Until" in str(error.value)


# --- without its index the store writes nothing ------------------------------

BOUGHT = {"type": "BookBought", "aggregateId": "b-1"}
RAW = {**BOUGHT, "aggregateType": "Book"}
APPENDS = {
    "the first event": lambda face: face(Aggregate.of, Book, BOUGHT),
    "an event": lambda face: face(EventStore.append_event, RAW),
    "several": lambda face: face(EventStore.append_events, [RAW, RAW]),
}


@pytest.mark.parametrize("append", APPENDS.values(), ids=APPENDS)
def test_nothing_is_appended_without_the_unique_index(bare, face, append):
    with pytest.raises(IndexMissing, match=r"Run manage.py migrate or"):
        append(face)
    assert EventStore.collection.count_documents({}) == 0
    drive(indexes.ensure(bare))
    append(face)  # without a restart
    assert EventStore.collection.count_documents({}) > 0


def test_nothing_is_imported_without_the_unique_index(bare):
    with pytest.raises(IndexMissing):
        bring(bare, [line("b-1", 1)])
    assert EventStore.collection.count_documents({}) == 0


def test_an_index_that_is_not_unique_does_not_count(bare, face):
    EventStore.collection.create_index(KEYS)
    with pytest.raises(IndexMissing):
        face(EventStore.append_event, RAW)


@ON_URL
def test_a_process_looks_once(store, face, settings):
    listener = Listener()
    settings.OSSY_EVENT_STORE = {
        **settings.OSSY_EVENT_STORE,
        "OPTIONS": {"event_listeners": [listener]},
    }
    store.seen.clear()
    for _ in range(3):
        face(EventStore.append_event, RAW)
    assert len(listener.sent["insert"]) == 3
    assert len(listener.sent["listIndexes"]) == 1


@ON_URL
def test_a_process_looks_in_each_database(store, face, settings):
    face(EventStore.append_event, RAW)
    settings.OSSY_EVENT_STORE = {**settings.OSSY_EVENT_STORE, "NAME": "test_bare"}
    with pytest.raises(IndexMissing) as error:
        face(EventStore.append_event, RAW)
    assert error.value.database.startswith("test_test_bare")
    assert f"of the database {error.value.database!r}" in str(error.value)


def test_no_position_is_assigned_without_the_index_of_positions(store, lend, caplog):
    lend("b-1", "BookBought")
    entries, index = connection.raw(store.positions), indexes.ENTRY_VERSIONS
    entries.drop_index(index.name)
    store.seen.clear()
    stop = threading.Event()

    def reach():
        if caplog.records:
            stop.set()
        return store

    try:
        run_sequencer(reach, stop, "a")
    finally:
        drive(indexes.ensure(store))
    assert "The collection eventstore_positions of the database" in caplog.text
    assert entries.count_documents({}) == 0


# --- collections of other programs -------------------------------------------


@pytest.mark.parametrize("name", OWN)
def test_a_collection_of_another_program_is_refused(store, name):
    connection.raw(store.events).database[name].insert_one({"_id": 1, "plan": "x"})
    with pytest.raises(ForeignCollection, match=f"{name} belongs to another program"):
        drive(indexes.ensure(store))


def test_the_indexes_of_the_admin_are_optional(store, settings):
    own = [index for index in indexes.INDEXES if index.kind is Kind.ADMIN]
    assert own
    for index in own:
        EventStore.collection.drop_index(index.name)
    assert drive(indexes.missing(store)) == own
    settings.OSSY_EVENT_STORE = {**settings.OSSY_EVENT_STORE, "ADMIN_INDEXES": False}
    assert drive(indexes.ensure(store)) == []
    settings.OSSY_EVENT_STORE = {**settings.OSSY_EVENT_STORE, "ADMIN_INDEXES": True}
    assert drive(indexes.ensure(store)) == own


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
