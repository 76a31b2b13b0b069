"""
Which streams and types there are: bounded look-ups on indexes.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..documents.bson_types import Document
from ..documents.event_document import check_id
from ..mongodb.connection import Store
from ..mongodb.deadline import in_time
from ..mongodb.ports import Documents

NEAR = 5  # ids shown on either side of one that is not there

_FIRST: Document = {"aggregateVersion": 1}
_NAMES = {"_id": 0, "aggregateId": 1, "aggregateType": 1}


async def type_of(store: Store, aggregate_id: str) -> str | None:
    """Return the type of a stream, or None if there is no such stream."""
    check_id(aggregate_id)
    with in_time():
        first = await store.events.find_one(
            {**_FIRST, "aggregateId": {"$eq": aggregate_id}}, projection=_NAMES
        )
    return first["aggregateType"] if first else None


async def types(store: Store) -> list[str]:
    """Return the types of all streams, in order."""
    with in_time():
        return await types_in(store.events)


async def types_in(documents: Documents, *, unbounded: bool = False) -> list[str]:
    """Return the types of events or snapshots, in order; what is no string is none."""
    pipeline: list[Document] = [
        {"$sort": {"aggregateType": 1}},
        {"$group": {"_id": "$aggregateType"}},
    ]
    found: list[str] = []
    async for batch in documents.aggregate(pipeline, 1000, unbounded=unbounded):
        # Code, which BSON holds as well, is a subclass of str.
        found += [group["_id"] for group in batch if type(group["_id"]) is str]
    return sorted(found)


async def near(store: Store, aggregate_id: str) -> list[str]:
    """Return ids of streams that would stand beside this one in order."""
    below: list[Document] = []
    with in_time():
        for operator, direction in (("$lt", -1), ("$gt", 1)):
            below += await store.events.find(
                {**_FIRST, "aggregateId": {operator: aggregate_id}},
                projection=_NAMES,
                sort=[("aggregateId", direction)],
                limit=NEAR,
            )
    return sorted(stream["aggregateId"] for stream in below)


async def reason_against(
    store: Store, aggregate_id: str, kinds: Sequence[str] | None
) -> str | None:
    """
    Return why a stream cannot be worked on, or None if it can.

    Args:
        store: one face of the store.
        aggregate_id: the stream that was asked for.
        kinds: the types that are allowed; None allows any.
    """
    try:
        kind = await type_of(store, aggregate_id)
    except ValueError as error:
        return str(error)
    if kind is None:
        ids = await near(store, aggregate_id)
        around = f" Ids around it: {', '.join(ids)}." if ids else " The store is empty."
        return f"There is no stream {aggregate_id!r}.{around}"
    if kinds and kind not in kinds:
        known = ", ".join(kinds)
        return f"Stream {aggregate_id!r} is of type {kind!r}, not of {known}."
    return None
