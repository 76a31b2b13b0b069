"""
Refuse what would follow the end of a stream.

The event that closes a stream is the last one of it. So nobody has to look for it: an
append that knows the last version of a stream knows its last event, and an append that
does not collides with the closing event in the index on stream and version.
"""

from __future__ import annotations

from ...documents.bson_types import Document
from ...documents.event_document import STREAM_CLOSED
from ...exceptions import AggregateTypeMismatch, StreamClosed
from ...mongodb.connection import Store


def is_closing(event: Document | None) -> bool:
    """Whether an event, of which at least the type is known, has closed its stream."""
    return event is not None and event.get("type") == STREAM_CLOSED


async def check_end(store: Store, event: Document, end: Document | None) -> None:
    """
    Refuse to append an event to a stream of another type, or to one that has ended.

    Args:
        store: one face of the store.
        event: the new event.
        end: the last event of its stream; None if there is none.

    Raises:
        AggregateTypeMismatch, StreamClosed: as it says.
    """
    if end is None:
        return
    if end["aggregateType"] != event["aggregateType"]:
        raise AggregateTypeMismatch(
            event["aggregateId"], event["aggregateType"], end["aggregateType"]
        )
    await raise_if_closed(store, end)


async def raise_if_closed(store: Store, last: Document | None) -> None:
    """
    Refuse to append to a stream that has ended.

    Args:
        store: one face of the store.
        last: the last event of the stream: its id, version and type at least.

    Raises:
        StreamClosed: that event has closed the stream.
    """
    if last is None or not is_closing(last):
        return
    stream, version = last["aggregateId"], last["aggregateVersion"]
    event = last
    if "payload" not in last:
        query = {"aggregateId": {"$eq": stream}, "aggregateVersion": version}
        event = await store.events.find_one(query) or last
    raise StreamClosed(stream, version, successor_of(event))


def successor_of(event: Document) -> str | None:
    """Return the id of the stream that continues the one that an event has closed."""
    payload = event.get("payload")
    found = payload.get("successor") if isinstance(payload, dict) else None
    return found if isinstance(found, str) else None
