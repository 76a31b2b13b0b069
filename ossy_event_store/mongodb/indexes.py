"""
The indexes, each with its reason. Created by ``migrate`` and by
``manage.py ensure_event_store``, never by an append: the user that a site runs
under may lack the right.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pymongo.errors import OperationFailure

from ..documents.collections import EVENTS, PARKED, POSITIONS, SKIPPED, SNAPSHOTS
from ..exceptions import IndexConflict
from .connection import Store
from .deadline import in_time
from .ports import Documents
from .write_errors import DUPLICATE_KEY

NAMESPACE_NOT_FOUND = 26
OTHER_OPTIONS = (85, 86)


@dataclass(frozen=True)
class Index:
    """An index: its collection, its keys, its options, and what it is for."""

    collection: str
    keys: Sequence[tuple[str, int]]
    reason: str
    unique: bool = False
    partial: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The name that MongoDB gives by default."""
        return "_".join(f"{key}_{direction}" for key, direction in self.keys)

    @property
    def options(self) -> dict[str, Any]:
        """What ``create_index`` takes besides the keys."""
        options: dict[str, Any] = {"name": self.name}
        if self.unique:
            options["unique"] = True
        if self.partial:
            options["partialFilterExpression"] = self.partial
        return options


STREAM_VERSIONS = Index(
    EVENTS,
    [("aggregateId", 1), ("aggregateVersion", 1)],
    "Reads a stream in order, and lets only one writer have a version.",
    unique=True,
)
TYPE_VERSIONS = Index(
    EVENTS,
    [("aggregateType", 1), ("aggregateId", 1), ("aggregateVersion", 1)],
    "Reads all streams of a type in order: rebuild, export, type-level queries; "
    "and finds the head of each by skipping from stream to stream.",
)
FIRST_EVENTS = Index(
    EVENTS,
    [("aggregateId", 1), ("aggregateType", 1), ("aggregateVersion", 1)],
    "Lists the streams: one entry each, for the first event alone.",
    partial={"aggregateVersion": 1},
)
SNAPSHOT_HEADS = Index(
    SNAPSHOTS,
    [("aggregateType", 1), ("_id", 1), ("aggregateVersion", 1), ("revision", 1)],
    "Finds stale snapshots without reading a state.",
)

# The feed of events, by time: of everything, and of what is asked for most.
TIME = Index(
    EVENTS,
    [("created", 1), ("_id", 1)],
    "Finds what came since a time: verification, and the feed of events.",
)
TYPE_TIME = Index(
    EVENTS,
    [("aggregateType", 1), ("created", 1), ("_id", 1)],
    "The feed of one aggregate type; which streams of it were active last.",
)
EVENT_TYPE_TIME = Index(
    EVENTS,
    [("type", 1), ("created", 1), ("_id", 1)],
    "The feed of one event type; which event types there are.",
)
WHO_TIME = Index(
    EVENTS,
    [("createdBy", 1), ("created", 1), ("_id", 1)],
    "The feed of one person.",
    partial={"createdBy": {"$type": "string"}},
)
CORRELATION = Index(
    EVENTS,
    [("metadata.correlationId", 1), ("created", 1), ("_id", 1)],
    "The events of one correlation, in whatever streams they are.",
    partial={"metadata.correlationId": {"$type": "string"}},
)
CAUSATION = Index(
    EVENTS,
    [("metadata.causationId", 1), ("created", 1), ("_id", 1)],
    "What an event caused.",
    partial={"metadata.causationId": {"$type": "string"}},
)

# The entries that give every event its place in the one order over all.
ENTRY_VERSIONS = Index(
    POSITIONS,
    STREAM_VERSIONS.keys,
    "Finds how far a stream has positions, and lets only one sequencer give them.",
    unique=True,
)
ENTRY_TYPES = Index(
    POSITIONS,
    [("type", 1), ("_id", 1)],
    "Reads the events of some types in the order over all.",
)
ENTRY_AGGREGATE_TYPES = Index(
    POSITIONS,
    [("aggregateType", 1), ("_id", 1)],
    "The same for some aggregate types.",
)
PARKED_STREAMS = Index(
    PARKED,
    [("subscription", 1), ("position", 1)],
    "The parked streams of a subscription.",
)
PARKED_RETRIES = Index(
    PARKED,
    [("subscription", 1), ("retry", 1), ("position", 1)],
    "Those that are to be tried again, which is asked for twice a second.",
    partial={"retry": True},
)
SKIPPED_EVENTS = Index(
    SKIPPED,
    [("subscription", 1), ("position", 1)],
    "The events of a subscription that somebody skipped.",
)
# By which key a collection may be spread over shards. A unique index holds only with
# the whole shard key at its front; an ``_id`` is one of its kind only where it is the
# key. The others stay whole: their ``_id`` is a position, or a name.
SHARD_KEYS = {EVENTS: [("aggregateId", 1)], SNAPSHOTS: [("_id", 1)]}

INDEXES = (
    STREAM_VERSIONS,
    TYPE_VERSIONS,
    FIRST_EVENTS,
    TIME,
    TYPE_TIME,
    EVENT_TYPE_TIME,
    WHO_TIME,
    CORRELATION,
    CAUSATION,
    SNAPSHOT_HEADS,
    ENTRY_VERSIONS,
    ENTRY_TYPES,
    ENTRY_AGGREGATE_TYPES,
    PARKED_STREAMS,
    PARKED_RETRIES,
    SKIPPED_EVENTS,
)


async def missing(store: Store) -> list[Index]:
    """Return the indexes that are not there, or are there with other options."""
    present = {
        name: await _present(collection) for name, collection in _collections(store)
    }
    return [index for index in INDEXES if not _matches(index, present)]


def _collections(store: Store) -> list[tuple[str, Documents]]:
    return [
        (EVENTS, store.events),
        (SNAPSHOTS, store.snapshots),
        (POSITIONS, store.positions),
        (PARKED, store.parked),
        (SKIPPED, store.skipped),
    ]


async def _present(collection: Documents) -> dict[Any, Any]:
    with in_time():
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


async def ensure(store: Store) -> list[Index]:
    """
    Create the indexes that are missing and return them.

    Collections come into being with their first index, so that a later append
    inside a transaction need not create one.
    """
    created = await missing(store)
    for index in created:
        collection = dict(_collections(store))[index.collection]
        # Not bounded in time: on a large collection a build may take hours.
        try:
            await collection.create_index(
                list(index.keys), unbounded=True, **index.options
            )
        except OperationFailure as error:
            if reason := _conflict(index, error):
                raise IndexConflict(index.collection, index.name, reason) from None
            raise
    return created


def _conflict(index: Index, error: OperationFailure) -> str | None:
    if error.code in OTHER_OPTIONS:
        return (
            "one with the same keys or name and other options is there. If nothing "
            f"else needs it: db.{index.collection}.dropIndex({dict(index.keys)!r})"
        )
    if error.code == DUPLICATE_KEY:
        twice = (error.details or {}).get("keyValue")
        return (
            f"several documents have {twice!r}, and only one may. The events of such a "
            "stream must be put right by hand first."
        )
    return None
