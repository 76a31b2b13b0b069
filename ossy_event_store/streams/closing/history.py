"""
Read a stream together with those that it continues.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from ...documents.bson_types import Document
from ...documents.event_document import STREAM_CONTINUED, read_whole_event
from ...mongodb.connection import Store
from ...mongodb.deadline import in_time
from ...mongodb.resumable_scan import scan


async def predecessors(store: Store, aggregate_id: str) -> list[str]:
    """
    Return the ids of the streams that one continues, the nearest first.

    Each stream names the one before it in its first event: one look-up by index each.
    """
    found: list[str] = []
    at: str | None = aggregate_id
    while at is not None:
        with in_time():
            first = await store.events.find_one(
                {"aggregateId": {"$eq": at}, "aggregateVersion": 1}
            )
        at = predecessor_of(first) if first else None
        if at is not None:
            found.append(at)
    return found


def predecessor_of(event: Document) -> str | None:
    """Return the id of the stream that the one of a first event continues."""
    if event.get("type") != STREAM_CONTINUED:
        return None
    payload = event.get("payload")
    found = payload.get("predecessor") if isinstance(payload, dict) else None
    return found if isinstance(found, str) else None


async def each_event(store: Store, aggregate_id: str) -> AsyncGenerator[Document, None]:
    """Iterate over the events of a stream and its predecessors, from the first on."""
    streams = [*reversed(await predecessors(store, aggregate_id)), aggregate_id]
    for stream in streams:
        query = {"aggregateId": {"$eq": stream}}
        async with aclosing(scan(store, query, pushed=False)) as batches:
            async for batch in batches:
                for event in batch:
                    yield read_whole_event(event)
