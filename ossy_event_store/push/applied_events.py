"""
What a projection has applied: all up to its checkpoint, except for parked streams.

The checkpoint passes the events of a parked stream, and a retry applies them late.
Reading the checkpoint first and the parked streams after it shows what is applied,
because a stream is parked in the transaction that moves the checkpoint past it. Two
reads of the parked streams show what a retry applied in between.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from ..documents.bson_types import Document
from ..mongodb.connection import Store
from ..mongodb.deadline import in_time
from ..subscriptions import parked_streams

NEVER = -1  # a position before every other


class Checkpoint(NamedTuple):
    """How far a projection has come."""

    position: int
    #: The position it had when it last applied an event late.
    late_at: int
    #: Which of its collections is in use.
    generation: int = 1


class Parked(NamedTuple):
    """The event at which a stream is parked; it and later ones are not applied."""

    position: int
    version: int


#: Parked streams by their ids; None if there are too many to compare.
ParkedStreams = Mapping[str, Parked] | None


async def read_checkpoint(store: Store, session: Any, name: str) -> Checkpoint:
    """Return how far a projection has come."""
    with in_time():
        found = await store.subscriptions.find_one(
            {"_id": {"$eq": name}},
            projection={"position": 1, "lateAt": 1, "generation": 1},
            session=session,
        )
    found = found or {}
    late_at = found.get("lateAt") or NEVER
    position = int(found.get("position", 0))
    return Checkpoint(position, late_at, found.get("generation", 1))


async def read_parked(
    store: Store, session: Any, name: str, limit: int
) -> ParkedStreams:
    """Return the parked streams of a projection; None if there are more than limit."""
    query = {"subscription": {"$eq": name}}
    found = await _parked(store, session, query, limit + 1)
    return None if len(found) > limit else found


async def parked_among(
    store: Store, session: Any, name: str, streams: Iterable[str]
) -> dict[str, Parked]:
    """Return which of some streams are parked."""
    ids = [parked_streams.parked_id(name, stream) for stream in set(streams)]
    return await _parked(store, session, {"_id": {"$in": ids}}, 0)


async def _parked(
    store: Store, session: Any, query: Document, limit: int
) -> dict[str, Parked]:
    with in_time():
        # By position, along the index: the position of a parked stream only rises, so
        # a stream that moves during the read may be found twice, but is never missed.
        found = await store.parked.find(
            query,
            projection=["aggregateId", "position", "aggregateVersion"],
            sort=[("position", 1)],
            limit=limit,
            session=session,
        )
    return {
        one["aggregateId"]: Parked(one["position"], one.get("aggregateVersion", 1))
        for one in found
    }


def is_applied(event: Document, parked: Mapping[str, Parked]) -> bool:
    """Whether an event up to the checkpoint was applied, or skipped."""
    found = parked.get(event["aggregateId"])
    return found is None or event["position"] < found.position


async def skipped_among(
    store: Store, session: Any, name: str, generation: int, positions: list[int]
) -> set[int]:
    """Return at which of some positions the event was skipped in a generation."""
    names = [name, f"{name}@{generation}"]  # also while it was being built
    with in_time():
        found = await store.skipped.find(
            {
                "subscription": {"$in": names},
                "position": {"$in": positions},
                "generation": {"$in": [generation, None]},
            },
            projection=["position"],
            session=session,
        )
    return {record["position"] for record in found}


def may_be_late(old: Checkpoint, new: Checkpoint) -> bool:
    """
    Whether an event may have been applied late since ``old`` was read.

    A second late event at the same checkpoint leaves no trace in it. So one is assumed
    when the checkpoint moves on from there.
    """
    return new.late_at > old.late_at or old.late_at == old.position < new.position


async def applied_late(
    store: Store,
    session: Any,
    wanted: Document,
    old: Mapping[str, Parked],
    new: Mapping[str, Parked],
    upto: int,
    limit: int,
) -> list[int] | None:
    """
    Return the events that left parked streams between two reads, applied or skipped.

    Args:
        store: the awaitable face.
        session: the session of both reads.
        wanted: a query over the positions.
        old: the parked streams at the earlier read.
        new: those at the later one.
        upto: the last position to consider.
        limit: the most events to return.

    Returns:
        Their positions; None if there are more than ``limit``.
    """
    moved = {
        stream: was
        for stream, was in old.items()
        if was.position <= upto and new.get(stream) != was
    }
    if len(moved) > limit:
        return None
    found: list[int] = []
    for stream, was in moved.items():
        now = new.get(stream)
        end = upto if now is None else min(upto, now.position - 1)
        with in_time():
            entries = await store.positions.find(
                {
                    **wanted,
                    "aggregateId": {"$eq": stream},
                    "aggregateVersion": {"$gte": was.version},
                    "_id": {"$gte": was.position, "$lte": end},
                },
                projection={"_id": 1},
                sort=[("aggregateVersion", 1)],
                limit=limit + 1 - len(found),
                session=session,
            )
        found += [entry["_id"] for entry in entries]
        if len(found) > limit:
            return None
    return found
