"""Which types and versions are stored: by a few seeks, or by reading all events."""

import datetime as dt
from contextlib import contextmanager
from dataclasses import make_dataclass

import pymongo
import pytest
from bson import Int64
from pymongo.errors import ExecutionTimeout

from ossy_event_store.documents.catalogue.compatibility.event_types import known_types
from ossy_event_store.documents.catalogue.declaration import (
    Declarations,
    EventType,
    Upcaster,
)
from ossy_event_store.mongodb import connection, indexes
from ossy_event_store.mongodb.ports import drive
from ossy_event_store.monitoring.catalogue import stored as stored_module
from ossy_event_store.monitoring.catalogue.stored import stored_types
from tests.support.processes import ON_URL
from tests.support.sent_commands import Listener
from tests.support.verification import rebuild_indexes

DAY = dt.datetime(2026, 3, 15, tzinfo=dt.UTC)


@pytest.fixture
def known():
    """A type with three versions and an alias."""
    declared = Declarations()
    declared.add(EventType("A", make_dataclass("A", []), 3, ("old",)))
    for version in (1, 2):
        declared.add(Upcaster("A", version, lambda payload: payload))
    return known_types(declared)


KINDS = [
    *[("A", None)] * 3,
    *[("A", 2)] * 2,
    ("A", 1),
    ("A", 2.0),
    ("A", Int64(3)),
    ("B", None),
    ("C", 4),
    ("C", 5),
    ("old", None),
    ("$StreamClosed", None),
]
EXPECTED = [
    ("$StreamClosed", 1, "of the store", 1, 12),
    ("A", 1, "upcasted", 4, 5),
    ("A", 2, "upcasted", 3, 6),
    ("A", 3, "current", 1, 7),
    ("B", 1, "unknown", 1, 8),
    ("C", 4, "unreadable", 1, 9),
    ("C", 5, "unreadable", 1, 10),
    ("old", 1, "upcasted", 1, 11),
]


@pytest.fixture
def filled(history, _unbound):
    for number, (kind, version) in enumerate(KINDS):
        event = {"_id": str(number), "aggregateId": str(number), "aggregateVersion": 1}
        event |= {"type": kind, "created": DAY + dt.timedelta(number)}
        if version is not None:
            event["typeVersion"] = version
        history.insert_one(event)
    # Of other programs.
    others = ({"type": 7}, {"type": ["A"], "created": DAY}, {"type": None}, {})
    for number, fields in enumerate(others):
        history.insert_one({"_id": f"x{number}", "aggregateId": f"x{number}", **fields})
    yield
    # An index that once held a list is never as new.
    rebuild_indexes(_unbound(connection.blocking().events).database)


def figures(found):
    return [
        (one.type, one.version, one.standing.value, one.count, (one.last - DAY).days)
        for one in found.versions
    ]


@pytest.mark.parametrize("way", ["by index", "by scan"])
def test_each_type_and_version_is_found_and_counted(
    filled, store, known, way, monkeypatch
):
    if way == "by scan":

        async def has_none(store):
            return False

        monkeypatch.setattr(stored_module, "_has_indexes", has_none)
    found = drive(stored_types(store, known))
    # A list that holds a type is counted with it by an index.
    lists = {("A", 1): 1} if way == "by index" else {}
    assert [
        (kind, version, standing, count - lists.get((kind, version), 0), last)
        for kind, version, standing, count, last in figures(found)
    ] == EXPECTED
    assert [one.version for one in found.unreadable()] == [4, 5]
    assert [one.type for one in found.unreadable(strict=True)] == ["B", "C", "C"]
    assert found.never_stored == []


def test_a_version_that_is_no_number_of_one_is_unreadable(history, store, known):
    for number, version in enumerate((1.5, float("inf"))):
        history.insert_one(
            {"_id": number, "aggregateId": str(number), "type": "A", "created": DAY}
            | {"typeVersion": version}
        )
    found = drive(stored_types(store, known))
    assert [one.reason for one in found.versions] == [
        "its version is no whole number"
    ] * 2


def test_types_that_are_not_stored_under_any_name_are_listed(history, store, known):
    assert drive(stored_types(store, known)).never_stored == ["A"]
    history.insert_one({"_id": 1, "aggregateId": "1", "type": "old", "created": DAY})
    assert drive(stored_types(store, known)).never_stored == []


def test_what_cannot_be_counted_in_time_is_judged_nevertheless(
    filled, store, known, monkeypatch
):
    async def count(self, where, index):
        raise ExecutionTimeout("over time", 50)

    monkeypatch.setattr(stored_module._Lookup, "_number", count)
    found = drive(stored_types(store, known))
    assert found.is_counted is False
    assert [one.type for one in found.unreadable()] == ["C", "C"]
    assert {one.count for one in found.versions} == {None}
    assert [(one.type, one.version) for one in found.versions] == [
        one[:2] for one in EXPECTED
    ]


@contextmanager
def examined(collection):
    """Tell how many keys and documents a query of a block examined at most."""
    found = {"totalKeysExamined": 0, "totalDocsExamined": 0}
    explained = []
    find = type(collection).find_one

    def find_one(self, query, **options):
        names = ("projection", "sort", "hint")
        cursor = self.find(query, **{k: options[k] for k in names}).limit(-1)
        explained.append(cursor.explain()["executionStats"])
        return find(self, query, **options)

    type(collection).find_one = find_one
    try:
        yield found
    finally:
        type(collection).find_one = find
        for one in explained:
            for name in found:
                found[name] = max(found[name], one[name])


@ON_URL
def test_whether_a_version_exists_takes_one_key_however_many_events(
    history, store, known, monkeypatch
):
    for index in (indexes.EVENT_TYPE_TIME, indexes.EVENT_TYPE_VERSIONS):
        # One list as a type, in any test before, and it never again gives an order.
        history.drop_index(index.name)
        history.create_index(list(index.keys), **index.options)
    history.insert_many(
        {
            "_id": str(n),
            "aggregateId": str(n),
            "type": "A",
            "typeVersion": 1 + n // 200,
            "created": DAY,
        }
        for n in range(600)
    )

    async def count(self, kinds):
        raise ExecutionTimeout("over time", 50)

    monkeypatch.setattr(stored_module._Lookup, "_count", count)
    with examined(connection.raw(store.events)) as most:
        found = drive(stored_types(store, known))
    assert [one.version for one in found.versions] == [1, 2, 3]
    assert most["totalKeysExamined"] <= 2
    assert most["totalDocsExamined"] <= 1


def test_the_index_has_no_events_of_version_1(history, store):
    index = indexes.EVENT_TYPE_VERSIONS
    assert history.index_information()[index.name]["partialFilterExpression"] == {
        "typeVersion": {"$gt": 1}
    }


@ON_URL
def test_the_caller_bounds_every_query(filled, store, known, settings):
    listener = Listener()
    options = {"event_listeners": [listener]}
    settings.OSSY_EVENT_STORE = {**settings.OSSY_EVENT_STORE, "OPTIONS": options}
    with pymongo.timeout(5):
        drive(stored_types(connection.blocking(), known))
    sent = [one for name in ("find", "aggregate") for one in listener.sent[name]]
    assert len(sent) > 10
    assert all(command["maxTimeMS"] <= 5000 for command in sent)
