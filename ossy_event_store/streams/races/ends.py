"""Read where a stream ends."""

from __future__ import annotations

from ...documents.bson_types import Document
from ...mongodb.connection import Store

_HEAD = {
    "_id": 0,
    "aggregateId": 1,
    "aggregateVersion": 1,
    "aggregateType": 1,
    "type": 1,
    "tick": 1,
}


async def stream_head(store: Store, aggregate_id: str) -> Document | None:
    """Return id, version, types and tick of a stream's last event, or None."""
    if store.unit is not None and (own := store.unit.ends.get(aggregate_id)):
        return own  # type: ignore[no-any-return]
    return await store.events.find_one(
        {"aggregateId": {"$eq": aggregate_id}},
        projection=_HEAD,
        sort=[("aggregateVersion", -1)],
    )


async def settled_head(store: Store, aggregate_id: str) -> Document | None:
    """
    Return a stream's last event after every write that the primary has now.

    A primary that was just elected may not know for seconds what a majority has.
    """
    query = {"aggregateId": {"$eq": aggregate_id}}
    order = [("aggregateVersion", -1)]
    found = await store.client.find_after_all_writes(
        store.events, query, projection=_HEAD, sort=order, limit=1
    )
    return found[0] if found else None
