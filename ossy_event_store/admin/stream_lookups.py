"""Bounded look-ups of streams: pages of them, and one stream's events and snapshot."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from ..aggregate.registry import registered_aggregates
from ..documents.bson_types import Document
from ..documents.event_document import check_id, read_event
from ..documents.passed_over import TYPED
from ..mongodb.connection import Store
from ..mongodb.deadline import in_time
from ..mongodb.indexes import FIRST_EVENTS, SNAPSHOT_HEADS, STREAM_VERSIONS
from ..streams.reducers import revision_of
from .event_fields import LISTED_FIELDS, SHORT_PAYLOAD, VERSIONS, collect, is_in_stream
from .paging import PAGE_SIZE, Cursor, Page, Search, read_page


async def streams(
    store: Store,
    search: Search,
    *,
    older: Cursor | None = None,
    newer: Cursor | None = None,
    size: int = PAGE_SIZE,
) -> Page:
    """
    Return a page of streams, each as its last event, the latest activity first.

    Args:
        store: one face of the store.
        search: what the last event of a stream must match.
        older: only streams after this cursor: the next page.
        newer: only streams before it: the previous page. Without either, the first.
        size: streams on the page. A page that meets many events of few streams
            ends early, and its cursor says where to continue.
    """
    with in_time():
        page = await read_page(
            store, search, older=older, newer=newer, size=size, keep=_keep_heads
        )
        await _add_snapshots(store, page.items)
    return page


async def _keep_heads(store: Store, events: list[Document]) -> list[Document]:
    """Return the events that are the last of their stream."""
    events = [event for event in events if is_in_stream(event)]
    last = await _last_versions(store, {event["aggregateId"] for event in events})
    return [
        event
        for event in events
        if event["aggregateVersion"] == last.get(event["aggregateId"])
    ]


async def _last_versions(store: Store, ids: Collection[str]) -> dict[str, int]:
    # In this order the server skips from stream to stream and reads no document.
    pipeline: list[Document] = [
        {"$match": {"aggregateId": {"$in": list(ids)}, "aggregateVersion": VERSIONS}},
        {"$sort": {"aggregateId": -1, "aggregateVersion": -1}},
        {"$group": {"_id": "$aggregateId", "last": {"$first": "$aggregateVersion"}}},
    ]
    return {head["_id"]: head["last"] for head in await collect(store, pipeline)}


async def streams_by_id(
    store: Store, prefix: str, *, after: str | None = None, size: int = PAGE_SIZE
) -> tuple[list[Document], str | None]:
    """
    Return the streams whose id begins with ``prefix``, by id, and where to continue.

    Args:
        store: one face of the store.
        prefix: the beginning of an id; an empty one lists all streams.
        after: the last id of the previous page.
        size: streams on the page.

    Returns:
        The last event of each stream, and the id after which there are more, or None.
    """
    check_id(after or prefix or "-", "prefix")
    query: Document = {"$gte": prefix, "$lt": prefix + "\U0010ffff"}
    if after is not None:
        query = {"$gt": after, "$lt": prefix + "\U0010ffff"}
    with in_time():
        firsts = await store.events.find(
            {"aggregateId": query, "aggregateVersion": 1, **TYPED},
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
    """Return one event of each stream, ordered by the stream's id."""
    if not versions:
        return []
    either = [
        {"aggregateId": aggregate_id, "aggregateVersion": version}
        for aggregate_id, version in versions.items()
    ]
    found = await store.events.find({"$or": either}, projection=LISTED_FIELDS)
    return sorted(map(read_event, found), key=lambda event: str(event["aggregateId"]))


async def _add_snapshots(store: Store, heads: Sequence[Document]) -> None:
    """Add to each stream whether its snapshot is up to date; no state is read."""
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
    """Return the class that folds an event's stream, or None if none is registered."""
    kind = event.get("aggregateType")
    return registered_aggregates().get(kind) if type(kind) is str else None


def snapshot_status(head: Document, snapshot: Document | None) -> str:
    """
    Compare a stream's snapshot with its last event.

    Returns:
        ``current``, ``behind``, ``ahead``, ``other revision`` (the reducer has
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
            {
                "aggregateId": {"$eq": aggregate_id},
                "aggregateVersion": {**VERSIONS, "$type": ["int", "long", "double"]},
            },
            projection=LISTED_FIELDS,
            sort=[("aggregateVersion", -1)],
        )
    if found is None:
        return None
    found["aggregateVersion"] = int(found["aggregateVersion"])
    return read_event(found)


async def snapshot_of(store: Store, head: Document) -> Document | None:
    """Return the snapshot of a stream without its state, or None."""
    with in_time():
        return await store.snapshots.find_one(
            {"_id": {"$eq": head["aggregateId"]}}, projection={"state": 0}
        )


async def timeline(
    store: Store, aggregate_id: str, first: int, last: int, payloads: bool
) -> list[Document]:
    """Return a range of a stream's events, with short payloads if asked for."""
    fields: Document = dict(LISTED_FIELDS)
    if payloads:
        fields |= {**SHORT_PAYLOAD, "metadata.causationId": 1}
    pipeline: list[Document] = [
        {
            "$match": {
                "aggregateId": {"$eq": aggregate_id},
                "aggregateVersion": {"$gte": first, "$lte": last},
            }
        },
        {"$sort": dict(STREAM_VERSIONS.keys)},
        {"$project": fields},
    ]
    with in_time():
        return [read_event(event) for event in await collect(store, pipeline)]
