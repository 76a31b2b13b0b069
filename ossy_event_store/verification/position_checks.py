"""
Check that the events which got positions still exist.

The last version of a stream among the entries is compared with that among the events;
holes before it show in the events alone. Only streams that look wrong are read.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection, Sequence
from contextlib import aclosing

from ..documents.bson_types import Document
from ..mongodb.deadline import in_time
from ..mongodb.indexes import ENTRY_VERSIONS, STREAM_VERSIONS
from ..mongodb.ports import Documents
from ..positions.damage import lost_positions, merged
from ..positions.held_streams import REPLACED
from .report import EVENT_LOST, Finding
from .run import Run


async def check_all_positions(run: Run) -> None:
    """Check the positions of every stream."""
    # Of entries before events: an event exists before its entry does.
    found = _heads(run, run.store.positions, {"aggregateId": {"$gte": ""}})
    async with aclosing(found) as batches:
        async for heads in batches:
            await _check(run, heads)
            run.tick()
    replaced = run.store.damaged.batches(
        {"heldUp": True, "reason": REPLACED}, run.sizes.streams, projection=["_id"]
    )
    async with aclosing(replaced) as batches:
        async for batch in batches:
            await _report(run, [one["_id"] for one in batch])


async def check_positions_of(run: Run, ids: Sequence[str]) -> None:
    """Check the positions of some streams."""
    found = _heads(run, run.store.positions, {"aggregateId": {"$in": list(ids)}})
    async with aclosing(found) as batches:
        async for heads in batches:
            await _check(run, heads)


async def _check(run: Run, placed: dict[str, int]) -> None:
    """Report the streams whose events end before their positions do."""
    stored: dict[str, int] = {}
    query = {"aggregateId": {"$in": list(placed)}}
    async with aclosing(_heads(run, run.store.events, query)) as batches:
        async for heads in batches:
            stored.update(heads)
    await _report(run, [i for i, head in placed.items() if head > stored.get(i, 0)])


async def _heads(
    run: Run, documents: Documents, query: Document
) -> AsyncGenerator[dict[str, int], None]:
    """Yield the last version of each stream, in batches."""
    has_index = run.has(
        STREAM_VERSIONS if documents is run.store.events else ENTRY_VERSIONS
    )
    pipeline = [
        {"$match": query},
        {"$sort": {"aggregateId": -1, "aggregateVersion": -1}},
        {"$group": {"_id": "$aggregateId", "head": {"$first": "$aggregateVersion"}}},
    ]
    options = {} if has_index else {"allowDiskUse": True}
    found = documents.aggregate(pipeline, run.sizes.streams, unbounded=True, **options)
    async with aclosing(found) as batches:
        async for batch in batches:
            yield {
                one["_id"]: one["head"]
                for one in batch
                if type(one["_id"]) is str and isinstance(one["head"], int)
            }


async def _report(run: Run, suspects: Collection[str]) -> None:
    for aggregate_id in suspects:
        with in_time():
            lost = await lost_positions(run.store, aggregate_id)
        for first, last in merged([(version, version) for version in lost]):
            what = f"position {lost[first]}"
            if first < last:
                what = f"positions {lost[first]} to {lost[last]}"
            run.report.add(
                Finding(
                    EVENT_LOST,
                    aggregate_id,
                    (first, last),
                    what,
                    "the event that got it" if first == last else "their events",
                    "none",
                )
            )
