"""
Check some streams together with their snapshots, by reading them in full.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from ..documents.bson_types import Document
from ..mongodb.deadline import in_time
from ..mongodb.indexes import STREAM_VERSIONS, TYPE_VERSIONS
from ..positions.damage import accepted_losses
from .report import AHEAD, ORPHAN, UNSOUND, Finding
from .rules import StreamCheck, snapshot_finding
from .run import Run
from .snapshot_comparison import SnapshotComparison

#: The fields of a snapshot that place it in its stream.
SNAPSHOT_FIELDS = {"aggregateType": 1, "aggregateVersion": 1, "revision": 1}


@dataclass(frozen=True)
class CheckedStreams:
    """What reading some streams showed; the findings are already in the report."""

    streams: int
    events: int
    snapshots: list[Document]
    #: Ids of the streams that have findings.
    unsound: set[str | None]


class StreamChecks:
    """
    Checks streams, and offers the snapshots of sound ones for comparison.

    Args:
        run: the run.
        comparison: where to offer snapshots.
    """

    def __init__(self, run: Run, comparison: SnapshotComparison) -> None:
        self._run = run
        self._comparison = comparison

    async def check(self, ids: Sequence[str]) -> CheckedStreams:
        """Read these streams and their snapshots, and report what is wrong."""
        # Snapshots first: the events then include what is appended in between.
        with in_time():
            snapshots = await self._run.store.snapshots.find(
                {"_id": {"$in": list(ids)}},
                projection=SNAPSHOT_FIELDS,
                batch_size=len(ids) + 1,
            )
        checks = await self._read_events(ids)
        findings = [finding for check in checks.values() for finding in check.end()]
        for snapshot in snapshots:
            finding = await self._snapshot_finding(snapshot, checks[snapshot["_id"]])
            findings += [finding] if finding else []
        for finding in findings:
            self._run.report.add(finding)
        self._run.report.accepted += sum(one.has_accepted for one in checks.values())
        return CheckedStreams(
            sum(check.events > 0 for check in checks.values()),
            sum(check.events for check in checks.values()),
            snapshots,
            {finding.aggregate_id for finding in findings},
        )

    async def _read_events(self, ids: Sequence[str]) -> dict[str, StreamCheck]:
        accepted = await accepted_losses(self._run.store, ids)
        checks = {one: StreamCheck(one, accepted.get(one)) for one in ids}
        query = {"aggregateId": {"$in": list(ids)}}
        fields = {key: 1 for key, _ in TYPE_VERSIONS.keys}
        found = self._run.walk(STREAM_VERSIONS, query, fields)
        async with aclosing(found) as batches:
            async for batch in batches:
                for event in batch:
                    # An event whose id is a list that holds this id matches too.
                    if isinstance(event["aggregateId"], str):
                        checks[event["aggregateId"]].take(event)
                self._run.tick()
        return checks

    async def _snapshot_finding(
        self, snapshot: Document, check: StreamCheck
    ) -> Finding | None:
        revision = self._comparison.revision_of(snapshot)
        finding = snapshot_finding(snapshot, check.type, check.head, revision)
        if finding is None or not await self._is_confirmed(finding, snapshot):
            return None
        return finding

    async def _is_confirmed(self, finding: Finding, snapshot: Document) -> bool:
        """Whether a snapshot really is newer than its stream, or has none."""
        if finding.kind not in (AHEAD, ORPHAN):
            return True
        # A snapshot can be read as soon as it is written, an event once a majority has
        # it. So what one transaction wrote may not appear at the same time.
        with in_time():
            events = await self._run.store.client.find_after_all_writes(
                self._run.store.events,
                {
                    "aggregateId": {"$eq": snapshot["_id"]},
                    "aggregateVersion": {"$gte": snapshot["aggregateVersion"]},
                },
            )
        return not events

    async def offer(
        self, snapshots: Sequence[Document], unsound: Collection[str | None]
    ) -> None:
        """Offer snapshots for comparison, unless their streams have findings."""
        for snapshot in snapshots:
            if snapshot["_id"] in unsound:
                self._run.report.not_compared[UNSOUND] += 1
            else:
                await self._comparison.offer(snapshot)
