"""
Damaged streams: which are held up, and the loss that operators have accepted.

A hole in a stream, or an event that was deleted, holds up its stream alone. An operator
who accepts the loss gives a reason, which is kept.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection
from dataclasses import dataclass
from secrets import token_hex
from typing import Any

from ..documents.bson_types import Document
from ..documents.passed_over import is_event
from ..mongodb.connection import Store
from ..mongodb.deadline import in_time
from .held_streams import Accepted, accepted_of, why_held

HELD_NAMED = 10  # held-up streams that are named, of those there are
PAGE_SIZE = 1000  # entries or events of a read


@dataclass(frozen=True)
class HeldUp:
    """A stream that gets no positions."""

    aggregate_id: str
    aggregate_type: str
    #: Why, and what to do.
    reason: str
    since: dt.datetime


async def held_up(store: Store) -> tuple[int, list[HeldUp]]:
    """Return how many streams get no positions, and the first of them."""
    query = {"heldUp": True}
    with in_time():
        count = await store.damaged.count_where(query)
        found = await store.damaged.find(query, sort=[("_id", 1)], limit=HELD_NAMED)
    return count, [
        HeldUp(
            one["_id"],
            one["aggregateType"],
            why_held(one["head"], one["version"], one["reason"]),
            one["since"],
        )
        for one in found
    ]


async def held_up_among(store: Store, streams: Collection[str]) -> set[str]:
    """Return which of some streams get no positions."""
    if not streams:
        return set()
    with in_time():
        found = await store.damaged.find(
            {"_id": {"$in": list(streams)}, "heldUp": True}, projection=["_id"]
        )
    return {one["_id"] for one in found}


async def accepted_losses(
    store: Store, streams: Collection[str]
) -> dict[str, Accepted]:
    """Return which versions of some streams were accepted as lost."""
    with in_time():
        found = await store.damaged.find(
            {"_id": {"$in": list(streams)}}, projection=["accepted"]
        )
    return {one["_id"]: accepted_of(one) for one in found}


async def lost_positions(store: Store, aggregate_id: str) -> dict[int, int]:
    """Return the positions of a stream's events that no longer exist, by version."""
    lost: dict[int, int] = {}
    query: Document = {"aggregateId": {"$eq": aggregate_id}, "lost": None}
    after, entries = 0, [query]
    async with store.client.session() as session:
        while entries:
            with in_time():
                entries = await store.positions.find(
                    {**query, "aggregateVersion": {"$gt": after}},
                    projection=["eventId", "aggregateVersion"],
                    sort=[("aggregateVersion", 1)],
                    limit=PAGE_SIZE,
                    session=session,
                )
                # After the entries: an event exists before its entry does.
                ids = [entry["eventId"] for entry in entries]
                found = await store.events.find(
                    {"_id": {"$in": ids}}, projection=["_id"], session=session
                )
            existing = [event["_id"] for event in found]
            for entry in entries if len(existing) < len(entries) else ():
                if entry["eventId"] not in existing:
                    lost[entry["aggregateVersion"]] = entry["_id"]
            after = entries[-1]["aggregateVersion"] if entries else after
    return lost


async def missing_versions(store: Store, aggregate_id: str) -> list[tuple[int, int]]:
    """Return the first and the last version of each hole in a stream."""
    holes: list[tuple[int, int]] = []
    head = 0
    batches = store.events.batches(
        {"aggregateId": {"$eq": aggregate_id}},
        PAGE_SIZE,
        projection=["aggregateId", "aggregateVersion", "aggregateType", "type"],
        sort=[("aggregateVersion", 1)],
    )
    async for batch in batches:
        for event in filter(is_event, batch):
            version = event["aggregateVersion"]
            if version > head + 1:
                holes.append((head + 1, version - 1))
            head = version
    return holes


async def accept(
    store: Store, aggregate_id: str, reason: str, who: str | None
) -> list[tuple[int, int]]:
    """
    Accept that events of a stream are lost, and keep the reason.

    Positions of events that no longer exist are given up: readers pass over them. The
    sequencer passes over the holes. Nothing of an event that exists changes.

    Returns:
        The first and the last version of each loss that was not accepted before.
    """
    lost = await lost_positions(store, aggregate_id)
    accepted = (await accepted_losses(store, [aggregate_id])).get(
        aggregate_id, Accepted()
    )
    holes = [
        hole
        for hole in await missing_versions(store, aggregate_id)
        if not accepted.covers(*hole)
    ]
    # Versions after the last event: the next events will get them.
    ends = merged([(one, one) for one in lost if not Accepted(holes).covers(one, one)])
    if not holes and not ends:
        return []
    record = {
        "reason": reason,
        "acceptedBy": who,
        "accepted": dt.datetime.now(dt.UTC),
    }
    records: list[Document] = [
        {"first": first, "last": last, "isHole": is_hole, **record}
        for is_hole, ranges in ((True, holes), (False, ends))
        for first, last in ranges
    ]
    # The record comes first: nothing is given up without one.
    change: dict[str, Any] = {"$push": {"accepted": {"$each": records}}}
    query = {"_id": aggregate_id}
    with in_time():
        await store.damaged.update_one(query, change, upsert=True)
        for version, position in lost.items():
            # Another event may get this version, and then a position of its own.
            gone = {"lost": version, "aggregateVersion": -position}
            await store.positions.update_one(
                {"_id": position, "lost": None}, {"$set": gone}
            )
        request = {"$set": {"request": token_hex(8)}}
        await store.damaged.update_one(query, request)
    return merged([*holes, *ends])


def merged(ranges: Collection[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return ranges of versions in order, those that touch as one."""
    found: list[tuple[int, int]] = []
    for first, last in sorted(ranges):
        if found and first <= found[-1][1] + 1:
            found[-1] = found[-1][0], max(last, found[-1][1])
        else:
            found.append((first, last))
    return found
