"""A store to verify: its documents, what breaks it, and a look at the findings."""

import datetime as dt
from collections import Counter

from bson import ObjectId

from ossy_event_store import Aggregate, EventStore
from ossy_event_store.documents.event_document import version_number
from ossy_event_store.mongodb import connection, indexes
from ossy_event_store.mongodb.ports import drive
from ossy_event_store.verification.options import (
    ProjectionSizes,
    Sizes,
    VerifyOptions,
)
from ossy_event_store.verification.verify import (
    averify_event_store,
    verify,
    verify_event_store,
)
from tests.library.aggregate import Book

LONG_AGO = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
LATELY = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
UNIQUE = indexes.STREAM_VERSIONS
#: What the Node package leaves out, and how it writes a date.
NODE = {"created": 1767225600000.0, "metadata": ..., "createdBy": ...}
#: Pages of a few documents, so that everything lies across borders.
SMALL = Sizes(events=4, streams=3, compared_streams=3, heartbeats=1)
SMALL_PROJECTIONS = ProjectionSizes(events=2, documents=2, keys=2)


def event(aggregate_id, version, **fields):
    """An event as it is stored; a field that is ``...`` is left out."""
    document = {
        "_id": ObjectId(),
        "aggregateId": aggregate_id,
        "aggregateType": "Book",
        "aggregateVersion": version,
        "type": "BookBought" if version == 1 else "BookLent",
        "payload": {"title": "Emma", "to": "ann"},
        "created": LATELY,
        "createdBy": "jane",
        "metadata": {},
        **fields,
    }
    return {key: value for key, value in document.items() if value is not ...}


def stream(aggregate_id, length, **fields):
    return [event(aggregate_id, version, **fields) for version in range(1, length + 1)]


def append(aggregate_id, count=1):
    """Append to a stream of a book, and save its snapshot."""
    length = EventStore.collection.count_documents({"aggregateId": aggregate_id})
    EventStore.collection.insert_many(stream(aggregate_id, length + count)[length:])
    Aggregate.of(Book, aggregate_id).save()


def rebuild_indexes(database=None):
    """Empty the collections and create their indexes again."""
    database = EventStore.collection.database if database is None else database
    for name in {index.collection for index in indexes.INDEXES}:
        database[name].delete_many({})
        database[name].drop_indexes()
    for index in indexes.INDEXES:
        database[index.collection].create_index(list(index.keys), **index.options)


# --- findings ---------------------------------------------------------------


def look(face=None, *, sizes=None, projection_sizes=None, **options):
    """Verify through a face; return the report. Compares all states by default."""
    options = {"sample": None, **options}
    if sizes is None and projection_sizes is None:
        if face is None or face.runner is None:
            return verify_event_store(**options)
        return face.runner.run(averify_event_store(**options))
    names = ("types", "ids", "since")
    chosen = VerifyOptions(**{n: options.pop(n) for n in names if n in options})
    options |= {"sizes": sizes, "projection_sizes": projection_sizes}
    if face is None or face.runner is None:
        return drive(verify(connection.blocking(), chosen, **options))

    async def verified():
        return await verify(await connection.awaitable(), chosen, **options)

    return face.runner.run(verified())


def found(report):
    """Return kind, stream and versions of all findings except for missing indexes."""
    assert len(report.findings) == report.total
    assert report.compared + sum(report.not_compared.values()) == report.snapshots
    assert report.found == Counter(one.kind for one in report.findings)
    return in_order(
        (one.kind, one.aggregate_id, one.versions)
        for one in report.findings
        if one.kind != "index"
    )


def in_order(findings):
    return sorted(findings, key=repr)


# --- what breaks a stream ---------------------------------------------------

#: Each breaks a stream of seven events with a snapshot, and returns the findings to
#: expect. It takes the collections of events and of snapshots.
BREAKS = {}


def breaks(function):
    BREAKS[function.__name__.replace("_", " ")] = function
    return function


def missing(first, last):
    def lose(events, snapshots, of):
        between = {"$gte": first, "$lte": last}
        events.delete_many({"aggregateId": of, "aggregateVersion": between})
        return [("hole", of, (first, last))]

    return lose


BREAKS["a hole at the beginning"] = missing(1, 1)
BREAKS["a hole of two at the beginning"] = missing(1, 2)
BREAKS["a hole in the middle"] = missing(3, 3)
BREAKS["a hole of several"] = missing(2, 5)


@breaks
def two_holes(events, snapshots, of):
    return missing(2, 2)(events, snapshots, of) + missing(5, 6)(events, snapshots, of)


@breaks
def a_lost_end(events, snapshots, of):
    events.delete_one({"aggregateId": of, "aggregateVersion": 7})
    return [("snapshot-ahead", of, (7, 7))]


@breaks
def a_lost_stream(events, snapshots, of):
    events.delete_many({"aggregateId": of})
    return [("snapshot-orphan", of, (7, 7))]


def retyped(*versions):
    def retype(events, snapshots, of):
        events.update_many(
            {"aggregateId": of, "aggregateVersion": {"$in": versions}},
            {"$set": {"aggregateType": "Reader"}},
        )
        return [("type", of, (versions[0], versions[-1]))]

    return retype


BREAKS["another type at the end"] = retyped(7)
BREAKS["another type in the middle"] = retyped(3, 4)
BREAKS["another type here and there"] = retyped(2, 6)


@breaks
def another_type_of_the_first_event(events, snapshots, of):
    retyped(1)(events, snapshots, of)
    return [("snapshot-type", of, (7, 7)), ("type", of, (2, 7))]


def altered(name, value, version=2):
    def alter(events, snapshots, of):
        change = {"$unset": {name: 1}} if value is ... else {"$set": {name: value}}
        events.update_one({"aggregateId": of, "aggregateVersion": version}, change)
        return [("event", of, (version, version))]

    return alter


def added(**fields):
    """An eighth event that breaks a rule."""

    def add(events, snapshots, of):
        new = event(**{"aggregate_id": of, "version": 8, **fields})
        events.insert_one(new)
        version = version_number(new.get("aggregateVersion"))
        return [("event", of, version and (version, version))]

    return add


# One value of each field: tests/verification/test_rules.py tries the others.
BREAKS |= {
    "payload [1]": altered("payload", [1]),
    "created as text": altered("created", "2026-01-01"),
    "no created": altered("created", ...),
    "type 5": altered("type", 5),
    "no type": altered("type", ...),
    "metadata None": altered("metadata", None),
    "createdBy {}": altered("createdBy", {}),
    "a version as a float": altered("aggregateVersion", 2.0),
}
for value in (2.5, 0, -1, "8", None, True, float("nan"), float("inf"), ...):
    BREAKS[f"another event of version {value!r}"] = added(aggregateVersion=value)
for value in (5, None, 2.5, ...):
    BREAKS[f"another event of type {value!r}"] = added(aggregateType=value)
for value in (5, "x" * 281, b"x"):
    BREAKS[f"another event with the id {str(value)[:9]!r}"] = added(_id=value)


def snapshot_set(kind, versions=(7, 7), **fields):
    def change(events, snapshots, of):
        snapshots.update_one({"_id": of}, {"$set": fields})
        return [(kind, of, versions)]

    return change


BREAKS |= {
    "a snapshot ahead": snapshot_set("snapshot-ahead", (8, 8), aggregateVersion=8),
    "a snapshot far ahead": snapshot_set(
        "snapshot-ahead", (2**40,) * 2, aggregateVersion=2**40
    ),
    "a snapshot of another type": snapshot_set("snapshot-type", aggregateType="Reader"),
    "a snapshot of an unknown type": snapshot_set(
        "snapshot-type", aggregateType="Cook"
    ),
    "a snapshot's version as a float": snapshot_set(
        "snapshot-version", aggregateVersion=7.0
    ),
    "a snapshot's version as text": snapshot_set(
        "snapshot-version", None, aggregateVersion="7"
    ),
    "a wrong value in a state": snapshot_set(
        "snapshot-state", **{"state.title": "Ema"}
    ),
    "a wrong number in a state": snapshot_set("snapshot-state", **{"state.loans": 5}),
    "a float in a state": snapshot_set("snapshot-state", **{"state.loans": 6.0}),
    "an extra key in a state": snapshot_set("snapshot-state", **{"state.more": None}),
    "no document as a state": snapshot_set("snapshot-state", state=None),
    "a state of a later version": snapshot_set(
        "snapshot-state", (6, 6), aggregateVersion=6
    ),
}


@breaks
def a_missing_key_in_a_state(events, snapshots, of):
    snapshots.update_one({"_id": of}, {"$unset": {"state.title": 1}})
    return [("snapshot-state", of, (7, 7))]


def break_stream(events, name, of="b-10"):
    """Break a stream; return the findings to expect, in order."""
    return in_order(BREAKS[name](events, Aggregate.collection, of))
