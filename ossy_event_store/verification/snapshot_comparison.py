"""
Compare snapshots with a fresh fold of their events: all of them, or a fair sample.
"""

from __future__ import annotations

import random
from contextlib import aclosing
from itertools import groupby
from operator import itemgetter
from typing import Any

from ..aggregate.registry import registered_aggregates
from ..documents.bson_types import Document
from ..documents.event_document import read_whole_event, version_number
from ..exceptions import ReducerError
from ..mongodb.connection import Store
from ..mongodb.deadline import in_time
from ..mongodb.ports import ONE_BATCH
from ..mongodb.resumable_scan import scan
from ..rebuild.fold_streams import StreamFold
from ..streams.reducers import revision_of
from .options import Sizes
from .report import (
    CHANGED,
    NOT_CHOSEN,
    OTHER_REVISION,
    REDUCER,
    UNREGISTERED,
    UNSOUND,
    Finding,
    VerifyReport,
)
from .rules import StreamCheck, state_finding


class SnapshotComparison:
    """
    Compares the states of snapshots that it is offered.

    Args:
        store: one face of the store.
        report: gets the counts and the findings.
        sample: how many snapshots to choose at random; None compares every one.
        sizes: how many streams to fold at a time.
    """

    def __init__(
        self,
        store: Store,
        report: VerifyReport,
        sample: int | None,
        sizes: Sizes | None = None,
    ) -> None:
        self._store = store
        self._report = report
        self._roots = registered_aggregates()
        self._sample = sample
        self._sizes = sizes or Sizes()
        self._chosen: list[str] = []
        self._rejected = 0  # snapshots that were offered and are not in the sample

    def root_of(self, snapshot: Document) -> Any:
        """Return the class registered under the type of a snapshot, or None."""
        aggregate_type = snapshot.get("aggregateType")
        return (
            self._roots.get(aggregate_type) if isinstance(aggregate_type, str) else None
        )

    def revision_of(self, snapshot: Document) -> str | None:
        """Return the current revision of the reducer of a snapshot, or None."""
        Root = self.root_of(snapshot)
        return None if Root is None else revision_of(Root)

    async def offer(self, snapshot: Document) -> None:
        """Choose a snapshot for comparison, or count why it is not compared."""
        revision = self.revision_of(snapshot)
        if revision is None:
            self._report.not_compared[UNREGISTERED] += 1
        elif snapshot.get("revision") != revision:
            self._report.not_compared[OTHER_REVISION] += 1
        elif self._sample is not None:
            self._draw(snapshot["_id"], self._sample)
        else:
            self._chosen.append(snapshot["_id"])
            if len(self._chosen) >= self._sizes.compared_streams:
                await self.run()

    def _draw(self, aggregate_id: str, size: int) -> None:
        """Keep ``size`` of all that are offered, each with the same probability."""
        if len(self._chosen) < size:
            self._chosen.append(aggregate_id)
            return
        self._rejected += 1
        index = random.randrange(size + self._rejected)  # noqa: S311 - no secret
        if index < size:
            self._chosen[index] = aggregate_id

    async def run(self) -> None:
        """Compare the snapshots that are chosen so far."""
        chosen, self._chosen = sorted(self._chosen), []
        size = self._sizes.compared_streams
        for start in range(0, len(chosen), size):
            await self._compare(chosen[start : start + size])
        if self._rejected:
            self._report.not_compared[NOT_CHOSEN] = self._rejected

    async def _compare(self, ids: list[str]) -> None:
        """Compare some snapshots: together, unless they are large."""
        left = ids
        while left:
            query = {"_id": {"$in": left}}
            batches = self._store.snapshots.batches(query, ONE_BATCH)
            async with aclosing(batches):
                with in_time():
                    found: list[Document] = await anext(batches, [])
            if not found:
                self._report.not_compared[CHANGED] += len(left)
                return
            await self._compare_found(found)
            known = {snapshot["_id"] for snapshot in found}
            left = [one for one in left if one not in known]

    async def _compare_found(self, found: list[Document]) -> None:
        pairs = {
            snapshot["_id"]: _Pair(snapshot, self.root_of(snapshot))
            for snapshot in found
            if self._is_comparable(snapshot)
        }
        if changed := len(found) - len(pairs):
            self._report.not_compared[CHANGED] += changed
        query = {
            "aggregateId": {"$in": list(pairs)},
            "aggregateVersion": {"$gte": 1},  # a number
        }
        events = scan(self._store, query, size=self._sizes.events)
        async with aclosing(events) as batches:
            async for batch in batches:
                for aggregate_id, run in groupby(batch, itemgetter("aggregateId")):
                    # An event whose id is a list that holds this id matches too.
                    if isinstance(aggregate_id, str):
                        pairs[aggregate_id].take(list(run))
                        # Else events of a batch each would be held, however large.
                        pairs[aggregate_id].fold.fold()
        for pair in pairs.values():
            self._count(pair)

    def _is_comparable(self, snapshot: Document) -> bool:
        """Whether it can still be compared: another process may have saved it."""
        revision = self.revision_of(snapshot)
        return (
            revision is not None
            and snapshot.get("revision") == revision
            and version_number(snapshot.get("aggregateVersion")) is not None
        )

    def _count(self, pair: _Pair) -> None:
        if reason := pair.incomparable():
            self._report.not_compared[reason] += 1
            return
        self._report.compared += 1
        if finding := pair.finding():
            self._report.add(finding)


class _Pair:
    """A snapshot, and the fold of its events up to its version."""

    def __init__(self, snapshot: Document, Root: Any) -> None:
        self.snapshot = snapshot
        self.fold = StreamFold(Root, snapshot["_id"])
        self.check = StreamCheck(snapshot["_id"])

    def take(self, events: list[Document]) -> None:
        for event in events:
            self.check.take(event)
        until = self.snapshot["aggregateVersion"]
        self.fold.take(
            [read_whole_event(event) for event in events if _is_in(event, until)]
        )

    def incomparable(self) -> str | None:
        """Return why the state cannot be compared, or None."""
        if self.check.end() or self.check.type != self.snapshot["aggregateType"]:
            return UNSOUND
        return CHANGED if self.check.head < self.snapshot["aggregateVersion"] else None

    def finding(self) -> Finding | None:
        try:
            return state_finding(self.snapshot, self.fold.snapshot()["state"])
        except ReducerError as error:
            versions = error.version, error.version
            return Finding(
                REDUCER, error.aggregate_id, versions, "", "a state", error.error
            )


def _is_in(event: Document, until: int) -> bool:
    version = version_number(event["aggregateVersion"])
    return version is not None and version <= until
