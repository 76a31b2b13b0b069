"""
Check the streams that are chosen by type, id or time, by reading each of them.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from ..documents.collections import SNAPSHOTS
from .event_checks import check_fields_of_streams
from .options import VerifyOptions
from .position_checks import check_positions_of
from .run import Run
from .snapshot_comparison import SnapshotComparison
from .stream_checks import StreamChecks


async def check_chosen(
    run: Run, options: VerifyOptions, comparison: SnapshotComparison
) -> None:
    """Check the chosen streams, and offer their snapshots for comparison."""
    report, streams = run.report, StreamChecks(run, comparison)
    async with aclosing(_chosen_ids(run, options)) as pages:
        async for ids in pages:
            await check_fields_of_streams(run, ids)
            checked = await streams.check(ids)
            await check_positions_of(run, ids)
            report.streams += checked.streams
            report.events += checked.events
            report.reads += checked.events
            report.snapshots += len(checked.snapshots)
            await streams.offer(checked.snapshots, checked.unsound)
            run.tick()


async def _chosen_ids(
    run: Run, options: VerifyOptions
) -> AsyncGenerator[list[str], None]:
    """Yield the ids of the chosen streams in pages, each id once."""
    size = run.sizes.streams
    if options.since is None and options.types is None:
        ids = list(dict.fromkeys(options.ids or ()))
        for start in range(0, len(ids), size):
            yield ids[start : start + size]
        return
    # The server groups, on its disk if need be. It answers after it has read every
    # chosen event, so no time-out bounds this.
    pipeline = [{"$match": options.event_query}, {"$group": {"_id": "$aggregateId"}}]
    if options.since is None:
        snapshots = [{"$match": options.snapshot_query}, {"$project": {"_id": 1}}]
        pipeline += [
            {"$unionWith": {"coll": SNAPSHOTS, "pipeline": snapshots}},
            {"$group": {"_id": "$_id"}},
        ]
    found = run.store.events.aggregate(
        pipeline, size, allowDiskUse=True, unbounded=True
    )
    async with aclosing(found) as batches:
        async for batch in batches:
            yield [group["_id"] for group in batch if isinstance(group["_id"], str)]
