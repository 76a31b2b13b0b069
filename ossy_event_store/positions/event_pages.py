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
from ..mongodb.ports import ONE_BATCH

PAGE_BYTES = 8_000_000  # of the events of a page, about
SIZED_EVENTS = 50  # whose sizes are asked for at a time
PLAIN_ID_TYPES = (str, ObjectId)  # of ids that are hashable and compare as MongoDB does
TIME_SCAN_EVENTS = 50  # from so many on, events are read along the index of time
SPARE_FACTOR = 1.25  # events read for each that is wanted, at most


async def events_of(
    store: Store, entries: list[Document], session: Any
) -> tuple[dict[Any, Document], list[Document]]:
    """
    Return the events of some entries by the keys of their ids, and which were read.

    Neighbours in the global order were recorded at about the same time: reading along
    the index of time costs a third less than looking up each id. Events that it does
    not return are looked up by id. A batch of the server's has 16 MB at most; if that
    is not enough, only the first entries are read, by their sizes.
    """
    events: dict[Any, Document] = {}
    if large_events.are_expected:
        return events, await _fitting(store, entries, events, session)
    limit = round(len(entries) * SPARE_FACTOR)
    span = entries[-1]["_id"] - entries[0]["_id"] if entries else 0
    is_dense = len(entries) >= TIME_SCAN_EVENTS and span < limit
    if is_dense and (times := await _time_span(store, entries, session)):
        # Without a sort, the server picks the one index on the time alone.
        found = await _first_batch(store, times, session, limit=limit)
        events = {id_key(event["_id"]): event for event in found}
    ids = [entry["eventId"] for entry in entries]
    missing = [one for one in ids if id_key(one) not in events]
    if missing:
        found = await _first_batch(store, {"_id": {"$in": missing}}, session)
        events.update((id_key(event["_id"]), event) for event in found)
        if len(found) < len(missing):
            entries = await _fitting(store, entries, events, session)
    return events, entries


class _LargeEvents:
    """Whether a page did not fit lately, so that sizes are asked for first."""

    are_expected = False


large_events = _LargeEvents()


async def _first_batch(
    store: Store, query: Document, session: Any, **options: Any
) -> list[Document]:
    found = store.events.batches(query, ONE_BATCH, session=session, **options)
    async with aclosing(found) as batches:
        return await anext(batches, [])


async def _fitting(
    store: Store, entries: list[Document], events: dict[Any, Document], session: Any
) -> list[Document]:
    """
    Return the first entries whose events fit into a page; add those that are missing.

    Entries whose events no longer exist are among them.
    """
    size = at = 0
    while at < len(entries) and size < PAGE_BYTES:
        some = entries[at : at + SIZED_EVENTS]
        sizes = await _sizes(store, [one["eventId"] for one in some], session)
        wanted = []
        for entry in some:
            key = id_key(entry["eventId"])
            size += sizes.get(key, 0)
            if size > PAGE_BYTES and at:
                break
            at += 1
            if key in sizes and key not in events:
                wanted.append(entry["eventId"])
        query = {"_id": {"$in": wanted}}
        found = await store.events.find(query, session=session) if wanted else []
        events.update((id_key(event["_id"]), event) for event in found)
    large_events.are_expected = at < len(entries)
    return entries[:at]


async def _sizes(store: Store, ids: Sequence[Any], session: Any) -> dict[Any, int]:
    """Return the bytes of the events that exist, by the keys of their ids."""
    sizes: dict[Any, int] = {}
    pipeline: list[Document] = [
        {"$match": {"_id": {"$in": list(ids)}}},
        {"$project": {"size": {"$bsonSize": "$$ROOT"}}},
    ]
    found = store.events.aggregate(pipeline, SIZED_EVENTS + 1, session=session)
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
