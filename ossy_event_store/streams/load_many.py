"""
Load several aggregates at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import aclosing
from typing import Any

from ..documents.arguments import check_items
from ..documents.bson_types import Document
from ..documents.event_document import check_id, read_whole_event
from ..documents.passed_over import is_event
from ..exceptions import AggregateNotFound, AggregatesNotFound
from ..mongodb.connection import Store
from ..mongodb.ports import ONE_BATCH
from .load import A, assembled, first_needed, load_aggregate
from .snapshots import discard_if_ahead, is_usable

MOST_STREAMS = 1000  # the query has a part for each, and they are all in memory


def check_ids(values: Any) -> list[str]:
    """Return the ids of streams to load at once, each once, in their order."""
    items = check_items(values, "aggregate_ids", "ids")
    ids = list(dict.fromkeys(check_id(one, "each of aggregate_ids") for one in items))
    if len(ids) > MOST_STREAMS:
        raise ValueError(
            f"aggregate_ids has {len(ids):,} ids; {MOST_STREAMS:,} can be loaded at "
            "once. Load them in parts."
        )
    return ids


async def load_many(
    cls: type[A], store: Store, Root: Any, ids: Sequence[str], skip_missing: bool
) -> dict[str, A]:
    """
    Return the aggregates of some streams by their ids, in the order of these.

    Args:
        cls: the class of the results.
        store: one face of the store.
        Root: the aggregate class.
        ids: as of ``check_ids()``.
        skip_missing: leave out ids of which no stream exists.

    Raises:
        AggregatesNotFound: some do not exist.
        AggregateTypeMismatch: one is of another type than ``Root``.
    """
    if not ids:
        return {}
    found = await store.snapshots.find({"_id": {"$in": list(ids)}})
    snapshots = {one["_id"]: one for one in found if is_usable(one, Root)}
    needed = {one: first_needed(snapshots.get(one)) for one in ids}
    events = await _events(store, needed)
    loaded: dict[str, A] = {}
    missing = []
    for one in ids:
        try:
            aggregate = assembled(cls, Root, one, snapshots.get(one), events[one])
            if aggregate is None:  # its snapshot is newer than its stream
                await discard_if_ahead(store, one)
                aggregate = await load_aggregate(cls, store, Root, one, False)
            loaded[one] = aggregate
        except AggregateNotFound:
            missing.append(one)
    if missing and not skip_missing:
        raise AggregatesNotFound(Root.aggregate_type, missing)
    return loaded


async def _events(store: Store, needed: Mapping[str, int]) -> dict[str, list[Document]]:
    """Return the events of some streams, each from one of its versions on."""
    query = {
        "$or": [
            {"aggregateId": {"$eq": one}, "aggregateVersion": {"$gte": version}}
            for one, version in needed.items()
        ]
    }
    sort = [("aggregateId", 1), ("aggregateVersion", 1)]
    events: dict[str, list[Document]] = {one: [] for one in needed}
    # The server sends up to 16 MB at a time; of these, a part is decoded at a time.
    found = store.events.batches(query, ONE_BATCH, sort=sort)
    async with aclosing(found) as batches:
        async for batch in batches:
            for event in filter(is_event, batch):
                events[event["aggregateId"]].append(read_whole_event(event))
    return events
