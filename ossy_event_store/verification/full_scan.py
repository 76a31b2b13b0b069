"""
Check every stream of the store, reading each fact in the cheapest way.

Versions and heads come from indexes alone. That is enough to clear a stream, but not
to accuse one, since the site appends meanwhile: a stream that looks wrong is a suspect,
and is read again by itself.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing, nullcontext

from ..documents.bson_types import Document
from ..mongodb.deadline import in_time
from ..mongodb.indexes import (
    FIRST_EVENTS,
    SNAPSHOT_HEADS,
    STREAM_VERSIONS,
    TYPE_VERSIONS,
)
from ..streams.lookup import types_in
from .event_checks import check_all_fields, check_ids, check_tags
from .position_checks import check_all_positions
from .rules import Heads, snapshot_finding
from .run import Run
from .snapshot_comparison import SnapshotComparison
from .stream_checks import SNAPSHOT_FIELDS, StreamChecks


class FullScan:
    """
    Checks everything that is stored.

    Args:
        run: the run.
        comparison: where to offer snapshots.
    """

    def __init__(self, run: Run, comparison: SnapshotComparison) -> None:
        self._run = run
        self._comparison = comparison
        self._streams = StreamChecks(run, comparison)
        # Suspects that were read by themselves, and whether they have findings.
        self._suspects: dict[str, bool] = {}

    async def check(self) -> None:
        """Check every event, stream and snapshot."""
        await check_ids(self._run)
        await check_all_fields(self._run)
        for aggregate_type in await self._all_types():
            await self._check_type(aggregate_type)
        await check_all_positions(self._run)
        await check_tags(self._run)
        if not self._run.has(STREAM_VERSIONS):
            await self._check_first_events()

    async def _all_types(self) -> list[str]:
        by_index = self._run.has(TYPE_VERSIONS, SNAPSHOT_HEADS)
        store = self._run.store
        with in_time() if by_index else nullcontext():
            events = await types_in(store.events, unbounded=not by_index)
            snapshots = await types_in(store.snapshots, unbounded=not by_index)
        return sorted({*events, *snapshots})

    async def _check_type(self, aggregate_type: str) -> None:
        """Read the versions of a type from the index, and its snapshots with them."""
        run, heads = self._run, Heads()
        # Ids that are no strings and versions that are no numbers are reported by the
        # check of the fields.
        query = {
            "aggregateType": {"$eq": aggregate_type},
            "aggregateId": {"$gte": ""},
            "aggregateVersion": {"$gte": float("-inf")},
        }
        fields = {"_id": 0, **{key: 1 for key, _ in TYPE_VERSIONS.keys}}
        after: str | None = None
        async with aclosing(run.walk(TYPE_VERSIONS, query, fields)) as batches:
            async for batch in batches:
                heads.take(batch)
                run.report.events += len(batch)
                run.report.reads += len(batch)
                if len(heads.ended) >= run.sizes.streams:
                    after = await self._check_ended(aggregate_type, heads, after)
                run.tick()
        heads.end()
        await self._check_ended(aggregate_type, heads, after, last=True)

    async def _check_ended(
        self,
        aggregate_type: str,
        heads: Heads,
        after: str | None,
        *,
        last: bool = False,
    ) -> str | None:
        """Check the snapshots of some streams, and the streams that are suspects."""
        ended, heads.ended = heads.ended, {}
        until = None if last else next(reversed(ended))
        report = self._run.report
        report.streams += len(ended)
        await self._check_suspects([i for i, head in ended.items() if head is None])
        async for page in self._snapshots_between(aggregate_type, after, until):
            report.snapshots += len(page)
            await self._check_suspects(
                [
                    snapshot["_id"]
                    for snapshot in page
                    if self._is_suspect(aggregate_type, snapshot, ended)
                ]
            )
            unsound = {i for i, has_findings in self._suspects.items() if has_findings}
            await self._streams.offer(page, unsound)
        return until

    def _is_suspect(
        self, aggregate_type: str, snapshot: Document, heads: Mapping[str, int | None]
    ) -> bool:
        head, version = heads.get(snapshot["_id"], 0), snapshot.get("aggregateVersion")
        if head is None:
            return True
        if type(version) is int and 1 <= version <= head:  # nearly all of them
            return False
        revision = self._comparison.revision_of(snapshot)
        stream_type = aggregate_type if head else None
        return snapshot_finding(snapshot, stream_type, head, revision) is not None

    async def _snapshots_between(
        self, aggregate_type: str, after: str | None, until: str | None
    ) -> AsyncGenerator[list[Document], None]:
        has_index, limit = self._run.has(SNAPSHOT_HEADS), self._run.sizes.streams
        options = {"hint": list(SNAPSHOT_HEADS.keys)} if has_index else {}
        while True:
            ids: Document = {"$gte": ""} if after is None else {"$gt": after}
            if until is not None:
                ids["$lte"] = until
            with in_time() if has_index else nullcontext():
                page = await self._run.store.snapshots.find(
                    {"aggregateType": {"$eq": aggregate_type}, "_id": ids},
                    projection=SNAPSHOT_FIELDS,
                    sort=[("_id", 1)],
                    limit=limit,
                    batch_size=limit + 1,  # one round trip
                    unbounded=not has_index,
                    **options,
                )
            yield page
            if len(page) < limit:
                return
            after = page[-1]["_id"]

    async def _check_first_events(self) -> None:
        """Find ids whose stream exists in two types, which the unique index forbids."""
        query = {"aggregateVersion": 1, "aggregateId": {"$gte": ""}}
        fields = {"_id": 0, **{key: 1 for key, _ in FIRST_EVENTS.keys}}
        last: object = None
        async with aclosing(self._run.walk(FIRST_EVENTS, query, fields)) as batches:
            async for batch in batches:
                repeated = set()
                for event in batch:
                    # A list that holds an id matches the query too.
                    if event["aggregateId"] == last and isinstance(last, str):
                        repeated.add(last)
                    last = event["aggregateId"]
                await self._check_suspects(sorted(repeated))
                self._run.tick()

    async def _check_suspects(self, ids: Sequence[str]) -> None:
        """Read suspects by themselves, which shows what is wrong, if anything."""
        new = [
            aggregate_id for aggregate_id in ids if aggregate_id not in self._suspects
        ]
        sizes = self._run.sizes
        if len(self._suspects) > sizes.suspects:
            self._suspects.clear()
        for start in range(0, len(new), sizes.streams):
            page = new[start : start + sizes.streams]
            checked = await self._streams.check(page)
            self._suspects |= {i: i in checked.unsound for i in page}
