"""
What people look at: pages of events and of streams, each one bounded look-up.

A page is found by its place on an index, never by skipping or counting, so that the
last page of a large store costs what the first of a small one does.
"""

from __future__ import annotations

import base64
import contextlib
import datetime as dt
from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import bson
from bson import ObjectId
from bson.errors import BSONError, InvalidId
from bson.max_key import MaxKey
from bson.min_key import MinKey

from ..documents.bson_types import CODEC, Document
from ..documents.event_document import check_id, read_event
from ..mongodb.connection import Store, in_time
from ..mongodb.indexes import (
    CAUSATION,
    CORRELATION,
    EVENT_TYPE_TIME,
    FIRST_EVENTS,
    SNAPSHOT_HEADS,
    STREAM_VERSIONS,
    TIME,
    TYPE_TIME,
    WHO_TIME,
    Index,
)
from ..registry import registered_aggregates
from ..streams.reducers import revision_of

PAGE = 50  # streams or events of a page
BLOCK = 100  # versions of a page of one stream
CHUNK = 200  # events a round trip, while some of them are passed over
MOST = 2000  # events looked at for one page; then it ends where it is
SHORT = 4096  # bytes of a payload that is shown in a list
RELATED = 50  # related events shown beside one

_NAMES = {
    "aggregateId": 1,
    "aggregateType": 1,
    "aggregateVersion": 1,
    "type": 1,
    "created": 1,
    "createdBy": 1,
}


# --- places -----------------------------------------------------------------


@dataclass(frozen=True)
class Cursor:
    """Where an event is among all, by time and then by id."""

    created: Any
    id: Any

    @classmethod
    def of(cls, event: Mapping[str, Any]) -> Cursor:
        """Return the place of a stored event, before ``read_event``."""
        return cls(event.get("created"), event["_id"])

    @classmethod
    def parse(cls, text: str) -> Cursor:
        """
        Return the place that ``str()`` wrote into a URL.

        Raises:
            ValueError: it did not.
        """
        try:
            raw = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
            place = bson.decode(raw, codec_options=CODEC)
        except (ValueError, BSONError) as error:
            raise ValueError(f"not a place among the events: {text!r}") from error
        if set(place) != {"c", "i"}:
            raise ValueError(f"not a place among the events: {text!r}")
        return cls(place["c"], place["i"])

    def __str__(self) -> str:
        raw = bson.encode({"c": self.created, "i": self.id}, codec_options=CODEC)
        return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


@dataclass(frozen=True)
class Search:
    """Which events: every field that is set narrows them; times are aware."""

    type: str | None = None
    aggregate_type: str | None = None
    created_by: str | None = None
    correlation_id: str | None = None
    causation_id: str | None = None
    since: dt.datetime | None = None
    until: dt.datetime | None = None

    # The one that is likely to leave the fewest comes first.
    _INDEXES = (
        ("causation_id", CAUSATION),
        ("correlation_id", CORRELATION),
        ("created_by", WHO_TIME),
        ("type", EVENT_TYPE_TIME),
        ("aggregate_type", TYPE_TIME),
    )

    @property
    def index(self) -> Index:
        """The index to read from."""
        for name, index in self._INDEXES:
            if getattr(self, name) is not None:
                return index
        return TIME

    @property
    def prefix(self) -> list[tuple[str, Any]]:
        """What is the same in every key of the index that is asked for."""
        keys = [key for key, _ in self.index.keys if key not in ("created", "_id")]
        return [(key, self._asked()[key]) for key in keys]

    def _asked(self) -> dict[str, str]:
        asked = {index.keys[0][0]: getattr(self, name) for name, index in self._INDEXES}
        return {key: value for key, value in asked.items() if value is not None}

    def admits(self, event: Document) -> bool:
        """Whether an event is meant; it need only be asked what the index did not."""
        return all(
            _at(event, key) == value
            for key, value in self._asked().items()
            if key != self.index.keys[0][0]
        )


def _at(event: Document, path: str) -> Any:
    value: Any = event
    for key in path.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    return value


@dataclass
class Page:
    """Some of what was asked for, and where it goes on on either side."""

    items: list[Document] = field(default_factory=list)
    newer: Cursor | None = None
    older: Cursor | None = None


# --- events -----------------------------------------------------------------


async def events(
    store: Store,
    search: Search,
    *,
    older: Cursor | None = None,
    newer: Cursor | None = None,
    size: int = PAGE,
) -> Page:
    """
    Return a page of the feed, the newest first, with the payloads that are short.

    Args:
        store: one face of the store.
        search: which events.
        older: only events behind this place; the next page.
        newer: only events before it; the page before. Without either, the first.
        size: events of the page.
    """
    with in_time():
        page = await _page(store, search, older, newer, size, _all)
        await _add_payloads(store, page.items)
    return page


async def _all(store: Store, events: list[Document]) -> list[Document]:
    return events


async def _page(
    store: Store,
    search: Search,
    older: Cursor | None,
    newer: Cursor | None,
    size: int,
    keep: Any,
) -> Page:
    """Walk from a place until a page is full; ``keep`` chooses from each chunk."""
    up = newer is not None
    found: list[Document] = []
    stopped: Cursor | None = None
    looked_at = 0
    async for chunk in _walk(store, search, newer if up else older, up):
        admitted = [event for event in chunk if search.admits(event)]
        found += await keep(store, admitted)
        looked_at += len(chunk)
        if len(found) > size:
            break
        if looked_at >= MOST:
            stopped = Cursor.of(chunk[-1])
            break
    more = len(found) > size
    found = found[:size]
    on = Cursor.of(found[-1]) if more else stopped
    back = None
    if newer or older:
        back = Cursor.of(found[0]) if found else newer or older
    if up:
        found.reverse()
    page = Page(found, newer=on if up else back, older=back if up else on)
    for event in found:
        read_event(event)
    return page


async def _walk(
    store: Store, search: Search, start: Cursor | None, up: bool
) -> AsyncGenerator[list[Document], None]:
    """Yield chunks of events from a place on, towards the newer or the older."""
    index = search.index
    way = 1 if up else -1
    projection = dict(_NAMES)
    for key in ("correlationId", "causationId"):
        projection[f"metadata.{key}"] = 1
    low, high = _bounds(search)
    while True:
        # Bounds of the index, not a filter: those hold across types of values, and
        # the place may be a date or, of the Node package, a number.
        if start is not None and up:
            low = _key(search, start.created, start.id)
        elif start is not None:
            high = _key(search, start.created, start.id)
        chunk = await store.events.find(
            {},
            projection=projection,
            hint=list(index.keys),
            min=dict(low),
            max=dict(high),
            sort=[(key, way) for key, _ in index.keys],
            limit=CHUNK + 1,
        )
        whole = len(chunk) > CHUNK
        if start is not None and up and chunk and Cursor.of(chunk[0]) == start:
            chunk = chunk[1:]  # the lower bound is included
        if not chunk:
            return
        yield chunk
        if not whole:
            return
        start = Cursor.of(chunk[-1])


def _bounds(search: Search) -> tuple[list[tuple[str, Any]], list[tuple[str, Any]]]:
    since = MinKey() if search.since is None else search.since
    until = MaxKey() if search.until is None else search.until
    return (_key(search, since, MinKey()), _key(search, until, MinKey()))


def _key(search: Search, created: Any, event_id: Any) -> list[tuple[str, Any]]:
    return [*search.prefix, ("created", created), ("_id", event_id)]


async def _add_payloads(store: Store, events: Sequence[Document]) -> None:
    """Give each event its payload if that is short, and its size in bytes."""
    short = {
        bson.encode({"": found["_id"]}): found
        for found in await _each(
            store,
            [
                {"$match": {"_id": {"$in": [event["_id"] for event in events]}}},
                {"$project": _SHORT_PAYLOAD},
            ],
        )
    }
    for event in events:
        # As bytes: an id that somebody else gave may be anything, a document too.
        found = short.get(bson.encode({"": event["_id"]}), {})
        event["bytes"] = found.get("bytes")
        if "payload" in found:
            event["payload"] = found["payload"]


_IS_OBJECT = {"$eq": [{"$type": "$payload"}, "object"]}
_SHORT_PAYLOAD: Document = {
    "bytes": {"$cond": [_IS_OBJECT, {"$bsonSize": "$payload"}, None]},
    "payload": {
        "$cond": [
            {"$and": [_IS_OBJECT, {"$lte": [{"$bsonSize": "$payload"}, SHORT]}]},
            "$payload",
            "$$REMOVE",
        ]
    },
}


async def _each(store: Store, pipeline: Sequence[Document]) -> list[Document]:
    found: list[Document] = []
    async for batch in store.events.aggregate(pipeline, 1000):
        found += batch
    return found


async def event(store: Store, event_id: str) -> Document | None:
    """
    Return the event of an id, or None.

    Args:
        store: one face of the store.
        event_id: as text: 24 hex digits may be an ObjectId, or a string that looks
            like one; the string comes first.
    """
    check_id(event_id, "event_id")
    ids: list[Any] = [event_id]
    with contextlib.suppress(InvalidId):
        ids.append(ObjectId(event_id))
    with in_time():
        for found_id in ids:
            if found := await store.events.find_one({"_id": {"$eq": found_id}}):
                return read_event(found)
    return None


@dataclass
class Relations:
    """The events that belong to one; each list is cut at ``RELATED``."""

    previous: Document | None = None
    next: Document | None = None
    cause: Document | None = None
    caused: list[Document] = field(default_factory=list)
    correlated: list[Document] = field(default_factory=list)


async def relations(store: Store, of: Document) -> Relations:
    """Return the neighbours of an event, what caused it and what it caused."""
    found = Relations()
    with in_time():
        for neighbour in await store.events.find(
            {
                "aggregateId": {"$eq": of["aggregateId"]},
                "aggregateVersion": {
                    "$in": [of["aggregateVersion"] - 1, of["aggregateVersion"] + 1]
                },
            },
            projection=_NAMES,
        ):
            if neighbour["aggregateVersion"] < of["aggregateVersion"]:
                found.previous = read_event(neighbour)
            else:
                found.next = read_event(neighbour)
    if cause := text_in_metadata(of, "causationId"):
        try:
            found.cause = await event(store, cause)
        except ValueError:
            found.cause = None  # no event has such an id
    found.caused = await _others(store, Search(causation_id=str(of["_id"])), of)
    if correlation := text_in_metadata(of, "correlationId"):
        search = Search(correlation_id=correlation)
        found.correlated = await _others(store, search, of)
    return found


def text_in_metadata(event: Document, key: str) -> str | None:
    """Return the string under a key of an event's metadata, or None."""
    value = _at(event, f"metadata.{key}")
    return value if isinstance(value, str) and value else None


async def _others(store: Store, search: Search, of: Document) -> list[Document]:
    page = await events(store, search, size=RELATED)
    return [other for other in page.items if other["_id"] != of["_id"]]


async def event_types(store: Store) -> list[str]:
    """Return the types of all events, in order: one index key is read for each."""
    pipeline: list[Document] = [{"$sort": {"type": 1}}, {"$group": {"_id": "$type"}}]
    with in_time():
        found = await _each(store, pipeline)
    return sorted(group["_id"] for group in found if type(group["_id"]) is str)


# --- streams ----------------------------------------------------------------


async def streams(
    store: Store,
    search: Search,
    *,
    older: Cursor | None = None,
    newer: Cursor | None = None,
    size: int = PAGE,
) -> Page:
    """
    Return a page of streams, each as its last event, the latest activity first.

    Args:
        store: one face of the store.
        search: what the last event of a stream is like.
        older: only streams behind this place; the next page.
        newer: only streams before it; the page before. Without either, the first.
        size: streams of the page. One that meets many events of few streams ends
            early, and says where to go on.
    """
    with in_time():
        page = await _page(store, search, older, newer, size, _heads_among)
        await _add_snapshots(store, page.items)
    return page


async def _heads_among(store: Store, events: list[Document]) -> list[Document]:
    """Return those that are the last of their streams."""
    last = await _last_versions(store, {event["aggregateId"] for event in events})
    return [
        event
        for event in events
        if event["aggregateVersion"] == last.get(event["aggregateId"])
    ]


async def _last_versions(store: Store, ids: Collection[Any]) -> dict[str, int]:
    # In this order the server skips from stream to stream, and reads no document.
    pipeline: list[Document] = [
        {"$match": {"aggregateId": {"$in": [i for i in ids if isinstance(i, str)]}}},
        {"$sort": {"aggregateId": -1, "aggregateVersion": -1}},
        {"$group": {"_id": "$aggregateId", "last": {"$first": "$aggregateVersion"}}},
    ]
    return {head["_id"]: head["last"] for head in await _each(store, pipeline)}


async def streams_by_id(
    store: Store, prefix: str, *, after: str | None = None, size: int = PAGE
) -> tuple[list[Document], str | None]:
    """
    Return streams whose id begins with ``prefix``, by id, and where to go on.

    Args:
        store: one face of the store.
        prefix: the beginning of an id; an empty one lists all.
        after: the last id of the page before.
        size: streams of the page.

    Returns:
        The last event of each stream, and the id after which there are more, or None.
    """
    check_id(after or prefix or "-", "prefix")
    query: Document = {"$gte": prefix, "$lt": prefix + "\U0010ffff"}
    if after is not None:
        query = {"$gt": after, "$lt": prefix + "\U0010ffff"}
    with in_time():
        firsts = await store.events.find(
            {"aggregateId": query, "aggregateVersion": 1},
            projection={"_id": 0, "aggregateId": 1},
            sort=[("aggregateId", 1)],
            hint=list(FIRST_EVENTS.keys),
            limit=size + 1,
        )
        ids = [first["aggregateId"] for first in firsts[:size]]
        last = await _last_versions(store, ids)
        heads = await _at_versions(store, last)
        await _add_snapshots(store, heads)
    return heads, ids[-1] if len(firsts) > size else None


async def _at_versions(store: Store, versions: Mapping[str, int]) -> list[Document]:
    """Return one event of each stream, by id of the stream."""
    if not versions:
        return []
    places = [
        {"aggregateId": aggregate_id, "aggregateVersion": version}
        for aggregate_id, version in versions.items()
    ]
    found = await store.events.find({"$or": places}, projection=_NAMES)
    return sorted(map(read_event, found), key=lambda event: str(event["aggregateId"]))


async def _add_snapshots(store: Store, heads: Sequence[Document]) -> None:
    """Say of each stream whether its snapshot is up to date; no state is read."""
    kinds = {head.get("aggregateType") for head in heads if class_of(head)}
    found = await store.snapshots.find(
        {
            "aggregateType": {"$in": sorted(kinds)},
            "_id": {"$in": [head["aggregateId"] for head in heads]},
        },
        projection=["aggregateType", "aggregateVersion", "revision"],
        hint=list(SNAPSHOT_HEADS.keys),
    )
    snapshots = {snapshot["_id"]: snapshot for snapshot in found}
    for head in heads:
        snapshot = snapshots.get(head["aggregateId"])
        head["snapshot"] = snapshot_status(head, snapshot)


def class_of(event: Document) -> Any:
    """Return the class that folds the stream of an event; None if there is none."""
    kind = event.get("aggregateType")
    return registered_aggregates().get(kind) if type(kind) is str else None


def snapshot_status(head: Document, snapshot: Document | None) -> str:
    """
    Return how the snapshot of a stream stands to its last event.

    ``current``, ``behind``, ``ahead``, ``other revision`` (of a reducer that has
    changed since), ``missing``, or ``unregistered`` (no class folds the type).
    """
    Root = class_of(head)
    if Root is None:
        return "unregistered"
    if snapshot is None:
        return "missing"
    version = snapshot.get("aggregateVersion")
    if not isinstance(version, int) or version > head["aggregateVersion"]:
        return "ahead"
    if snapshot.get("revision") != revision_of(Root):
        return "other revision"
    return "behind" if version < head["aggregateVersion"] else "current"


async def last_event(store: Store, aggregate_id: str) -> Document | None:
    """Return the last event of a stream without its payload, or None."""
    check_id(aggregate_id)
    with in_time():
        found = await store.events.find_one(
            {"aggregateId": {"$eq": aggregate_id}},
            projection=_NAMES,
            sort=[("aggregateVersion", -1)],
        )
    return read_event(found) if found else None


async def snapshot_of(store: Store, head: Document) -> Document | None:
    """Return the snapshot of a stream without its state, or None."""
    with in_time():
        return await store.snapshots.find_one(
            {"_id": {"$eq": head["aggregateId"]}}, projection={"state": 0}
        )


async def timeline(
    store: Store, aggregate_id: str, first: int, last: int, payloads: bool
) -> list[Document]:
    """Return the events of some versions of a stream, with payloads that are short."""
    project: Document = {**_NAMES, **(_SHORT_PAYLOAD if payloads else {})}
    pipeline: list[Document] = [
        {
            "$match": {
                "aggregateId": {"$eq": aggregate_id},
                "aggregateVersion": {"$gte": first, "$lte": last},
            }
        },
        {"$sort": dict(STREAM_VERSIONS.keys)},
        {"$project": project},
    ]
    with in_time():
        return [read_event(event) for event in await _each(store, pipeline)]


async def version_at(store: Store, aggregate_id: str, at: dt.datetime) -> int:
    """Return the version that a stream had at a time, 0 before its first event."""
    with in_time():
        found = await store.events.find_one(
            {"aggregateId": {"$eq": aggregate_id}, "created": {"$lte": at}},
            projection={"_id": 0, "aggregateVersion": 1},
            sort=[("aggregateVersion", -1)],
            hint=list(STREAM_VERSIONS.keys),
        )
    return found["aggregateVersion"] if found else 0
