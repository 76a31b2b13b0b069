"""
The indexes, each with its reason.

``migrate`` and ``manage.py ensure_event_store`` create them, an append never does: the
database user of a site may not be allowed to. But an append looks, once a process,
whether the index exists that gives each version to one writer.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from django.apps import apps
from pymongo.errors import OperationFailure

from ..conf import get_settings
from ..documents.bson_types import Document
from ..documents.collections import (
    DAMAGED,
    EVENTS,
    OWN,
    PARKED,
    POSITIONS,
    SKIPPED,
    SNAPSHOTS,
    is_ours,
)
from ..exceptions import ForeignCollection, IndexConflict, IndexMissing, InvalidEvent
from . import schema_validator
from .connection import Store, database_name, documents
from .deadline import explained
from .ports import Documents
from .write_errors import DUPLICATE_KEY, UNAUTHORIZED

NAMESPACE_NOT_FOUND = 26
OTHER_OPTIONS = (85, 86)
NO_TAGS = (
    "events cannot have tags, nor boundaries and transactions a condition, while the "
    "collection eventstore is sharded: a unique index over all shards, which gives "
    "each number in a tag to one event, does not exist. Unshard it, or keep to streams"
)
NAMED_STREAMS = 10  # in the error of an index that documents prevent


class Kind(enum.Enum):
    """What an index is for."""

    SAFETY = "safety: without it, the store refuses to write"
    SPEED = "speed"
    ADMIN = "the admin and traces: ``ADMIN_INDEXES`` leaves it out"


@dataclass(frozen=True)
class Index:
    """An index: its collection, its keys, its options, and its purpose."""

    collection: str
    keys: Sequence[tuple[str, int]]
    reason: str
    unique: bool = False
    partial: dict[str, Any] = field(default_factory=dict)
    kind: Kind = Kind.SPEED
    #: Whether its collection may be sharded; a unique index begins with the shard key.
    allows_shards: bool = True

    @property
    def is_wanted(self) -> bool:
        """Whether this project has it; those of the admin are optional."""
        settings = get_settings()
        if self.keys == EVENT_TYPE_TIME.keys and settings.TYPE_BOUNDARIES:
            return True  # boundaries read the events of a declared type
        return self.kind is not Kind.ADMIN or settings.ADMIN_INDEXES

    @property
    def name(self) -> str:
        """MongoDB's default name for it."""
        return "_".join(f"{key}_{direction}" for key, direction in self.keys)

    @property
    def options(self) -> dict[str, Any]:
        """The options for ``create_index()``."""
        options: dict[str, Any] = {"name": self.name}
        if self.unique:
            options["unique"] = True
        if self.partial:
            options["partialFilterExpression"] = self.partial
        return options


STREAM_VERSIONS = Index(
    EVENTS,
    [("aggregateId", 1), ("aggregateVersion", 1)],
    "Reads a stream in order, and gives each version to one writer.",
    unique=True,
    kind=Kind.SAFETY,
)
TAG_PLACES = Index(
    EVENTS,
    # Descending, so that a scan of one tag meets its last event first: a sort by a
    # field of an array is never read from an index.
    [("places.t", 1), ("places.n", -1)],
    "Gives each number in a tag to one event, and reads the events of a tag.",
    unique=True,
    partial={"places": {"$exists": True}},
    kind=Kind.SAFETY,
    allows_shards=False,
)
TYPE_VERSIONS = Index(
    EVENTS,
    [("aggregateType", 1), ("aggregateId", 1), ("aggregateVersion", 1)],
    "Reads all streams of a type in order (rebuild, export, queries of a type), and "
    "finds the last version of each without reading the others.",
)
FIRST_EVENTS = Index(
    EVENTS,
    [("aggregateId", 1), ("aggregateType", 1), ("type", 1), ("aggregateVersion", 1)],
    "Lists the streams: one entry each, for their first event.",
    partial={"aggregateVersion": 1},
)
SNAPSHOT_HEADS = Index(
    SNAPSHOTS,
    [("aggregateType", 1), ("_id", 1), ("aggregateVersion", 1), ("revision", 1)],
    "Finds stale snapshots without reading a state.",
)

# The event feed, by time: of all events, and by the filters that are used most.
TIME = Index(
    EVENTS,
    [("created", 1), ("_id", 1)],
    "Finds the events since a time: verification, and the event feed.",
)
TYPE_TIME = Index(
    EVENTS,
    [("aggregateType", 1), ("created", 1), ("_id", 1)],
    "The event feed of one aggregate type; its most recently active streams.",
    kind=Kind.ADMIN,
)
EVENT_TYPE_TIME = Index(
    EVENTS,
    [("type", 1), ("created", 1), ("_id", 1)],
    "The event feed of one event type; which event types exist.",
    kind=Kind.ADMIN,
)
EVENT_TYPE_VERSIONS = Index(
    EVENTS,
    [("type", 1), ("typeVersion", 1), ("created", 1)],
    "Which versions of each event type are stored; events of version 1 are not in it.",
    partial={"typeVersion": {"$gt": 1}},
    kind=Kind.ADMIN,
)
WHO_TIME = Index(
    EVENTS,
    [("createdBy", 1), ("created", 1), ("_id", 1)],
    "The event feed of one person.",
    partial={"createdBy": {"$type": "string"}},
    kind=Kind.ADMIN,
)
TAG_TIME = Index(
    EVENTS,
    [("tags", 1), ("created", 1), ("_id", 1)],
    "The event feed of one tag.",
    partial={"tags": {"$exists": True}},
    kind=Kind.ADMIN,
)
CORRELATION = Index(
    EVENTS,
    [("metadata.correlationId", 1), ("created", 1), ("_id", 1)],
    "The events of one correlation, across streams.",
    partial={"metadata.correlationId": {"$type": "string"}},
    kind=Kind.ADMIN,
)
CAUSATION = Index(
    EVENTS,
    [("metadata.causationId", 1), ("created", 1), ("_id", 1)],
    "The events that an event caused.",
    partial={"metadata.causationId": {"$type": "string"}},
    kind=Kind.ADMIN,
)

# The entries that assign each event its position in the global order.
ENTRY_VERSIONS = Index(
    POSITIONS,
    STREAM_VERSIONS.keys,
    "Finds the last event of a stream that has a position, and lets only one sequencer "
    "assign it.",
    unique=True,
    kind=Kind.SAFETY,
)
ENTRY_TYPES = Index(
    POSITIONS,
    [("type", 1), ("_id", 1)],
    "Reads the events of some event types in global order.",
)
ENTRY_AGGREGATE_TYPES = Index(
    POSITIONS,
    [("aggregateType", 1), ("_id", 1)],
    "Reads the events of some aggregate types in global order.",
)
ENTRY_TAGS = Index(
    POSITIONS,
    [("tags", 1), ("_id", 1)],
    "Reads the events of a tag in global order.",
    partial={"tags": {"$exists": True}},
)
PARKED_STREAMS = Index(
    PARKED,
    [("subscription", 1), ("position", 1)],
    "The parked streams of a subscription.",
)
PARKED_RETRIES = Index(
    PARKED,
    [("subscription", 1), ("retry", 1), ("position", 1)],
    "The parked streams that are marked for retry, looked up twice a second.",
    partial={"retry": True},
)
SKIPPED_EVENTS = Index(
    SKIPPED,
    [("subscription", 1), ("position", 1)],
    "The skipped events of a subscription.",
)
DAMAGED_REQUESTS = Index(
    DAMAGED,
    [("request", 1)],
    "The damaged streams whose loss was just accepted, looked up every second.",
    partial={"request": {"$type": "string"}},
)
HELD_UP = Index(
    DAMAGED,
    [("heldUp", 1), ("_id", 1)],
    "The streams that get no positions, and how many there are.",
    partial={"heldUp": True},
)
# The shard keys of the collections that may be sharded. A unique index must begin with
# the whole shard key, and an ``_id`` is unique across shards only as the shard key. The
# other collections stay unsharded: their ``_id`` is a position or a name.
SHARD_KEYS = {EVENTS: [("aggregateId", 1)], SNAPSHOTS: [("_id", 1)]}

INDEXES = (
    STREAM_VERSIONS,
    TAG_PLACES,
    TYPE_VERSIONS,
    FIRST_EVENTS,
    TIME,
    TYPE_TIME,
    EVENT_TYPE_TIME,
    EVENT_TYPE_VERSIONS,
    WHO_TIME,
    TAG_TIME,
    CORRELATION,
    CAUSATION,
    SNAPSHOT_HEADS,
    ENTRY_VERSIONS,
    ENTRY_TYPES,
    ENTRY_AGGREGATE_TYPES,
    ENTRY_TAGS,
    PARKED_STREAMS,
    PARKED_RETRIES,
    SKIPPED_EVENTS,
    DAMAGED_REQUESTS,
    HELD_UP,
)


async def look(store: Store, index: Index) -> None:
    """
    Make sure that an index for safety exists; ask the server once a process.

    A user who may not list indexes may write nevertheless; a check tells of it.

    Args:
        store: one face of the store.
        index: the index without which nothing may be written to its collection.

    Raises:
        IndexMissing: the index does not exist, or has other options.
        InvalidEvent: it cannot exist, since the collection is sharded.
    """
    seen = (index.collection, index.name)
    if seen in store.seen:
        return
    # A transaction may not list indexes.
    collection = dict(_collections(store.outside or store))[index.collection]
    try:
        present = {index.collection: await _listed(collection)}
    except OperationFailure as error:
        if error.code != UNAUTHORIZED:
            raise
    else:
        if not _matches(index, present):
            if not index.allows_shards and await is_sharded(store.outside or store):
                raise InvalidEvent("tags", NO_TAGS)
            is_installed = apps.apps_ready and apps.is_installed("ossy_event_store")
            raise IndexMissing(
                index.collection, index.name, database_name(store), is_installed
            )
    store.seen.add(seen)


async def missing(store: Store) -> list[Index]:
    """Return the indexes that do not exist, or exist with other options."""
    with explained():
        present = {
            name: await _listed(collection) for name, collection in _collections(store)
        }
    found = [
        index for index in INDEXES if index.is_wanted and not _matches(index, present)
    ]
    if all(index.allows_shards for index in found) or not await is_sharded(store):
        return found
    return [index for index in found if index.allows_shards]


async def is_sharded(store: Store) -> bool:
    """Whether the events are spread over shards."""
    with explained():
        hello = await store.client.command("hello")
        if hello.get("msg") != "isdbgrid":
            return False
        try:
            stats = await store.events.database_command("collStats", EVENTS)
        except OperationFailure as error:
            if error.code not in (UNAUTHORIZED, NAMESPACE_NOT_FOUND):
                raise
            return False
    return bool(stats.get("sharded"))


def _collections(store: Store) -> list[tuple[str, Documents]]:
    names = (EVENTS, SNAPSHOTS, POSITIONS, PARKED, SKIPPED, DAMAGED)
    of_events = store.events, store.snapshots, store.positions
    of_subscriptions = store.parked, store.skipped, store.damaged
    return list(zip(names, of_events + of_subscriptions, strict=True))


async def _listed(collection: Documents) -> dict[Any, Any]:
    try:
        indexes = await collection.index_information()
    except OperationFailure as error:
        if error.code != NAMESPACE_NOT_FOUND:
            raise
        indexes = {}
    return {tuple(map(tuple, index["key"])): index for index in indexes.values()}


def _matches(index: Index, present: dict[str, dict[Any, Any]]) -> bool:
    found = present[index.collection].get(tuple(index.keys))
    return (
        found is not None
        and bool(found.get("unique")) == index.unique
        and dict(found.get("partialFilterExpression") or {}) == index.partial
    )


async def check_owner(store: Store) -> None:
    """
    Make sure that the store's collections hold no documents of another program.

    Raises:
        ForeignCollection: the first document of one is not the store's.
    """
    for name in OWN:
        try:
            with explained():
                found = await documents(store, name).find_one({})
        except OperationFailure as error:
            if error.code != UNAUTHORIZED:
                raise
            continue
        if found is not None and not is_ours(name, found):
            raise ForeignCollection(name, found["_id"])


async def ensure(store: Store) -> list[Index]:
    """
    Create the indexes that are missing, and return them.

    The first index creates its collection, so that an append in a transaction never
    has to.

    Raises:
        ForeignCollection: another program has a collection with the store's name.
        IndexConflict: existing documents or indexes prevent one.
    """
    await check_owner(store)
    created = await missing(store)
    for index in created:
        collection = dict(_collections(store))[index.collection]
        try:
            # On a large collection a build may take hours.
            await collection.create_index(
                list(index.keys), unbounded=True, **index.options
            )
        except OperationFailure as error:
            reason = await schema_validator.other_shape(store)
            if reason is None:
                if error.code == DUPLICATE_KEY and index is STREAM_VERSIONS:
                    raise await _doubled(store, error) from None
                reason = _conflict(index, error)
            if reason:
                raise IndexConflict(index.collection, index.name, reason) from None
            raise
    return created


async def _doubled(store: Store, error: OperationFailure) -> IndexConflict:
    """Return the error that names the streams with several events of one version."""
    key = {name: f"${name}" for name, _ in STREAM_VERSIONS.keys}
    pipeline: list[Document] = [
        {"$group": {"_id": key, "events": {"$sum": 1}}},
        {"$match": {"events": {"$gt": 1}}},
        {"$group": {"_id": "$_id.aggregateId"}},
        {"$sort": {"_id": 1}},
        {"$limit": NAMED_STREAMS + 1},
    ]
    streams: list[Any] = []
    try:
        found = store.events.aggregate(
            pipeline, NAMED_STREAMS + 1, unbounded=True, allowDiskUse=True
        )
        async for batch in found:
            streams += [stream["_id"] for stream in batch]
    except OperationFailure:  # this user may not read events
        streams = [(error.details or {}).get("keyValue", {}).get("aggregateId")]
    names = ", ".join(map(repr, streams[:NAMED_STREAMS]))
    more = " and others" if len(streams) > NAMED_STREAMS else ""
    return IndexConflict(
        EVENTS,
        STREAM_VERSIONS.name,
        "several events have the same version, and only one may, in the streams "
        f"{names}{more}. Until that is repaired, nothing can be appended. See "
        '"Repair doubled versions" in the documentation on verification.',
        streams[:NAMED_STREAMS],
    )


def _conflict(index: Index, error: OperationFailure) -> str | None:
    if error.code in OTHER_OPTIONS:
        return (
            "an index with the same keys or name but other options exists. If nothing "
            f"else needs it: db.{index.collection}.dropIndex({dict(index.keys)!r})"
        )
    if error.code == DUPLICATE_KEY:
        key = (error.details or {}).get("keyValue")
        return f"several documents have {key!r}, and only one may."
    return None
