"""
Compare snapshots with a fresh fold of their events: all of them, or a fair sample.
"""

from __future__ import annotations

import random
from contextlib import aclosing
from itertools import groupby
from operator import itemgetter
from typing import Any

from ..documents.bson_types import Document
from ..documents.event_document import read_event, version_number
from ..exceptions import ReducerError
from ..mongodb.connection import Store
from ..mongodb.deadline import in_time
from ..mongodb.resumable_scan import scan
from ..rebuild.fold_streams import StreamFold
from ..registry import registered
from ..streams.reducers import revision_of
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

FOLDED = 100  # streams folded by one scan


class Comparison:
    """
    Snapshots to be compared, and what came of it.

    Args:
        store: one face of the store.
        report: where to count and tell.
        size: how many snapshots to choose at random; None compares every one.
    """

    def __init__(self, store: Store, report: VerifyReport, size: int | None) -> None:
        self.store = store
        self.report = report
        self.roots = registered()
        self.size = size
        self._chosen: list[str] = []
        self._left = 0

    def root_of(self, snapshot: Document) -> Any:
        """Return the class registered under the type of a snapshot, or None."""
        kind = snapshot.get("aggregateType")
        return self.roots.get(kind) if isinstance(kind, str) else None

    def revision_of(self, snapshot: Document) -> str | None:
        """Return the present revision of the reducer of a snapshot, or None."""
        Root = self.root_of(snapshot)
        return None if Root is None else revision_of(Root)

    async def offer(self, snapshot: Document) -> None:
        """Choose a snapshot or not, if it can be compared at all."""
        revision = self.revision_of(snapshot)
        if revision is None:
            self.report.not_compared[UNREGISTERED] += 1
        elif snapshot.get("revision") != revision:
            self.report.not_compared[OTHER_REVISION] += 1
        elif self.size is not None:
            self._draw(snapshot["_id"], self.size)
        else:
            self._chosen.append(snapshot["_id"])
            if len(self._chosen) >= FOLDED:
                await self.run()

    def _draw(self, aggregate_id: str, size: int) -> None:
        """Keep ``size`` of all that are offered, each as likely as any other."""
        if len(self._chosen) < size:
            self._chosen.append(aggregate_id)
            return
        self._left += 1
        at = random.randrange(size + self._left)  # noqa: S311 - no secret
        if at < size:
            self._chosen[at] = aggregate_id

    async def run(self) -> None:
        """Compare what is chosen by now."""
        chosen, self._chosen = sorted(self._chosen), []
        for at in range(0, len(chosen), FOLDED):
            await self._compare(chosen[at : at + FOLDED])
        if self._left:
            self.report.not_compared[NOT_CHOSEN] = self._left

    async def _compare(self, ids: list[str]) -> None:
        with in_time():
            found = await self.store.snapshots.find({"_id": {"$in": ids}})
        pairs = {
            snapshot["_id"]: _Pair(snapshot, self.root_of(snapshot))
            for snapshot in found
            if self._is_comparable(snapshot)
        }
        if changed := len(ids) - len(pairs):
            self.report.not_compared[CHANGED] += changed
        query = {
            "aggregateId": {"$in": list(pairs)},
            "aggregateVersion": {"$gte": 1},  # a number
        }
        async with aclosing(scan(self.store, query)) as batches:
            async for batch in batches:
                for aggregate_id, events in groupby(batch, itemgetter("aggregateId")):
                    # A list that holds the id answers the query too.
                    if isinstance(aggregate_id, str):
                        pairs[aggregate_id].take(list(events))
        for pair in pairs.values():
            self._tell(pair)

    def _is_comparable(self, snapshot: Document) -> bool:
        """Whether it still is: somebody may have saved another one since."""
        revision = self.revision_of(snapshot)
        return (
            revision is not None
            and snapshot.get("revision") == revision
            and version_number(snapshot.get("aggregateVersion")) is not None
        )

    def _tell(self, pair: _Pair) -> None:
        if reason := pair.incomparable():
            self.report.not_compared[reason] += 1
            return
        self.report.compared += 1
        if finding := pair.finding():
            self.report.add(finding)


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
        self.fold.take([read_event(event) for event in events if _is_in(event, until)])

    def incomparable(self) -> str | None:
        """Return why there is nothing to compare the state with, if so."""
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
    at = version_number(event["aggregateVersion"])
    return at is not None and at <= until
