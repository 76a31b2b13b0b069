"""
Read the events of a page of entries: along the index of time, and bounded by bytes.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from contextlib import aclosing
from typing import Any

import bson
from bson import ObjectId

from ..documents.bson_types import Document
from ..mongodb.connection import Store
from ..mongodb.ports import ONE_BATCH, bytes_of

PAGE_BYTES = 4_000_000  # of the events of a page, about; as dicts they take more
SIZED_EVENTS = 50  # whose sizes are asked for first; then for twice as many each time
PLAIN_ID_TYPES = (str, ObjectId)  # of ids that are hashable and compare as MongoDB does
TIME_SCAN_EVENTS = 50  # from so many on, events are read along the index of time
SPARE_FACTOR = 1.25  # events read for each that is wanted, at most


class PageLimit:
    """
    How much one reader reads at a time, as learned from the events that it has met.

    Args:
        most: bytes of the events of a page, about. A page has one event at least.
        first: how many events the first page has, at most.
        along_time: whether neighbours in the order are looked for along the index of
            time. That is quick, and in vain if they were imported.
    """

    def __init__(
        self,
        most: int = PAGE_BYTES,
        first: int = SIZED_EVENTS,
        *,
        along_time: bool = True,
    ) -> None:
        self.bytes = most
        #: How many events the next page has, at most; as large as the last ones, they
        #: fit.
        self.events = first
        #: Whether to ask for the sizes first. The server sends up to 16 MB at a time,
        #: which is too much if every reader of a process gets it at once.
        self.expects_large = True
        self.along_time = along_time

    def learn(self, events: int, size: int) -> None:
        """Take note of how many bytes some events had."""
        if not events:
            return
        fitting = 3 * self.bytes * events // (4 * max(1, size))
        self.events = max(SIZED_EVENTS, fitting)
        self.expects_large = fitting < SIZED_EVENTS


async def events_of(
    store: Store, entries: list[Document], session: Any, limit: PageLimit
) -> tuple[dict[Any, Document], list[Document]]:
    """
    Return the events of some entries by the keys of their ids, and which were read.

    Neighbours in the global order were recorded at about the same time: reading along
    the index of time costs a third less than looking up each id. Events that it does
    not return are looked up by id. If the events have too many bytes, only the first
    entries are read, by their sizes.
    """
    events: dict[Any, Document] = {}
    if limit.expects_large and len(entries) > 1:
        return events, await _fitting(store, entries, events, session, limit)
    most = round(len(entries) * SPARE_FACTOR)
    span = entries[-1]["_id"] - entries[0]["_id"] if entries else 0
    is_dense = len(entries) >= TIME_SCAN_EVENTS and span < most
    size = 0
    if (
        limit.along_time
        and is_dense
        and (times := await _time_span(store, entries, session))
    ):
        # Without a sort, the server picks the one index on the time alone.
        size = await _add(store, times, events, session, limit.bytes, limit=most)
    ids = [entry["eventId"] for entry in entries]
    missing = [one for one in ids if id_key(one) not in events]
    if missing and size <= limit.bytes:
        query = {"_id": {"$in": missing}}
        size += await _add(store, query, events, session, limit.bytes - size)
    if size > limit.bytes:
        return events, await _fitting(store, entries, events, session, limit)
    limit.learn(len(events), size)
    return events, entries


async def _add(
    store: Store,
    query: Document,
    events: dict[Any, Document],
    session: Any,
    most: int,
    **options: Any,
) -> int:
    """Add the events of a query; return their bytes, more than ``most`` if cut."""
    size = 0
    found = store.events.batches(query, ONE_BATCH, session=session, **options)
    async with aclosing(found) as batches:
        async for batch in batches:
            events.update((id_key(event["_id"]), event) for event in batch)
            size += bytes_of(batch)
            if size > most:
                break
    return size


async def _fitting(
    store: Store,
    entries: list[Document],
    events: dict[Any, Document],
    session: Any,
    limit: PageLimit,
) -> list[Document]:
    """
    Return the first entries whose events fit into a page; add those that are missing.

    Entries whose events no longer exist are among them.
    """
    size = at = 0
    many = SIZED_EVENTS
    while at < len(entries) and size < limit.bytes:
        some, many = entries[at : at + many], 2 * many
        sizes = await _sizes(store, [one["eventId"] for one in some], session)
        wanted = []
        for entry in some:
            key = id_key(entry["eventId"])
            size += sizes.get(key, 0)
            if size > limit.bytes and at:
                break
            at += 1
            if key in sizes and key not in events:
                wanted.append(entry["eventId"])
        query = {"_id": {"$in": wanted}}
        found = await store.events.find(query, session=session) if wanted else []
        events.update((id_key(event["_id"]), event) for event in found)
    limit.learn(at, size)
    return entries[:at]


async def _sizes(store: Store, ids: Sequence[Any], session: Any) -> dict[Any, int]:
    """Return the bytes of the events that exist, by the keys of their ids."""
    sizes: dict[Any, int] = {}
    pipeline: list[Document] = [
        {"$match": {"_id": {"$in": list(ids)}}},
        {"$project": {"size": {"$bsonSize": "$$ROOT"}}},
    ]
    found = store.events.aggregate(pipeline, ONE_BATCH, session=session)
    async for batch in found:
        sizes.update((id_key(one["_id"]), one["size"]) for one in batch)
    return sizes


async def _time_span(
    store: Store, entries: Sequence[Document], session: Any
) -> Document | None:
    """Return the filter for the time from the first entry's event to the last one's."""
    ends = [entries[0]["eventId"], entries[-1]["eventId"]]
    found = await store.events.find(
        {"_id": {"$in": ends}}, projection=["created"], session=session
    )
    times = [event.get("created") for event in found]
    dates = [time for time in times if isinstance(time, dt.datetime)]
    if not dates:
        return None  # another program stores numbers
    return {"created": {"$gte": min(dates), "$lte": max(dates)}}


def id_key(event_id: Any) -> Any:
    """Return a hashable key for an event id, which may be of any BSON type."""
    return event_id if type(event_id) in PLAIN_ID_TYPES else bson.encode({"": event_id})
