"""
Fold streams from their events, and write the snapshots in bulk.

A full rebuild is one ordered scan of each type, folded stream by stream: flat memory,
and no query per stream. A stale rebuild first merges two ordered index scans, stream
heads and snapshots, and folds only streams whose snapshot is missing, older or newer
than its stream, or of another revision.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from operator import itemgetter
from typing import Any, cast

from ..documents.bson_types import Document
from ..documents.event_document import read_whole_event
from ..exceptions import InvalidState, ReducerError
from ..mongodb.connection import Store
from ..mongodb.deadline import in_time
from ..mongodb.resumable_scan import BATCH, scan
from ..streams.reducers import fold
from ..streams.snapshots import Snapshot, build_snapshot, write_snapshots
from .ranges import Partition, Span, ids_of
from .report import RebuildReport
from .stale import stale_ids
from .tallies import Tally

logger = logging.getLogger("ossy_event_store")

IDS_PER_SCAN = 200  # streams chosen by id that one scan folds


class SnapshotBuilder:
    """
    Folds streams and writes their snapshots.

    Args:
        store: one face of the store.
        progress: called after every batch.
        written: called after snapshots were written.
    """

    #: Snapshots that one bulk write takes, at most.
    write_batch = 500
    #: And their bytes, about.
    write_bytes = 8_000_000
    #: What is folded and not written would be lost to a resumed rebuild.
    write_seconds = 1.0

    def __init__(
        self,
        store: Store,
        progress: Callable[[], None] = lambda: None,
        written: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self.store = store
        self.progress = progress
        self.written = written
        self.report = RebuildReport()
        self.began = self.wrote = time.monotonic()
        self.snapshots: list[Snapshot] = []
        self.is_first: bool | None = None  # whether no snapshot existed at the start
        self.last: str | None = None  # the last stream that was folded
        #: The stream up to which all snapshots are written.
        self.done: str | None = None

    def tick(self) -> None:
        """Call ``progress`` with the time taken so far."""
        self.report.seconds = time.monotonic() - self.began
        self.progress()

    async def fold_ids(self, Root: Any, ids: Sequence[str]) -> None:
        """Fold those of these streams that are of the type, some at a time."""
        for at in range(0, len(ids), IDS_PER_SCAN):
            some = {"aggregateId": {"$in": list(ids[at : at + IDS_PER_SCAN])}}
            await self.fold(Root, {**Span(Root.aggregate_type).query, **some})

    async def fold(self, Root: Any, query: Document) -> None:
        """Fold every stream that matches a query, and write the snapshots."""
        stream, is_large = self.stream(Root), False
        found = scan(self.store, query, passed_over=self.report.passed_over)
        async with aclosing(found) as batches:
            async for batch in batches:
                if is_large:
                    stream.fold()
                is_large = len(batch) < BATCH  # or it is the last one
                await self.prepare(Root, batch)
                for aggregate_id, events in itertools.groupby(
                    batch, itemgetter("aggregateId")
                ):
                    if aggregate_id != stream.id:
                        self.finish(stream)
                        stream = self.stream(Root, aggregate_id)
                    stream.take([read_whole_event(event) for event in events])
                if self.is_time_to_write():
                    await self.write()
                self.tick()
        self.finish(stream)
        await self.write()
        self.tick()

    def stream(self, Root: Any, aggregate_id: str | None = None) -> StreamFold:
        """Return the fold of a stream that begins."""
        return StreamFold(Root, aggregate_id)

    async def prepare(self, Root: Any, batch: list[Document]) -> None:
        """Read what is needed besides the events of a batch."""

    def is_time_to_write(self) -> bool:
        """Whether ``write()`` has enough to do."""
        is_late = time.monotonic() - self.wrote > self.write_seconds
        size = sum(len(one.encoded.raw) for one in self.snapshots)
        is_full = len(self.snapshots) >= self.write_batch or size > self.write_bytes
        return is_full or (is_late and bool(self.snapshots))

    def finish(self, stream: StreamFold) -> None:
        """Keep the snapshot of a stream whose events are all folded."""
        if stream.id is None:
            return
        try:
            self.keep(stream, stream.snapshot())
        except ReducerError as error:
            self._fail(error)
        self.report.streams += 1
        self.report.events += stream.count
        self.last = stream.id

    def _fail(self, error: ReducerError) -> None:
        self.report.fail(error)
        logger.error("Cannot rebuild a snapshot; the old one stays: %s", error)

    def keep(self, stream: StreamFold, snapshot: Snapshot) -> None:
        """Keep a snapshot until ``write()``."""
        self.snapshots.append(snapshot)

    async def write(self) -> None:
        """Write the snapshots kept so far."""
        snapshots, self.snapshots = self.snapshots, []
        with in_time():
            if self.is_first is None:
                self.is_first = await self.store.snapshots.count() == 0
            done = await write_snapshots(self.store, snapshots, first=self.is_first)
        self.report.saved += done.saved
        self.report.newer += len(snapshots) - done.saved - len(done.refused)
        for snapshot, error in done.refused:
            self._fail(
                ReducerError(
                    snapshot["aggregateType"],
                    snapshot["_id"],
                    snapshot["aggregateVersion"],
                    str(error),
                )
            )
        self.wrote = time.monotonic()
        self.done = self.last
        if self.written:
            await self.written()


class StreamFold:
    """The fold of one stream; ``error`` once its reducer has raised."""

    #: Events that are held before they are folded.
    held_events = 1000

    def __init__(self, Root: Any, aggregate_id: str | None = None) -> None:
        self.Root = Root
        self.id = aggregate_id
        self.state: Any = {}
        self.version = 0
        self.count = 0
        self.events: list[Document] = []
        self.error: ReducerError | None = None

    def take(self, events: list[Document]) -> None:
        """Take some more events; fold them now or later."""
        self.events += events
        if len(self.events) >= self.held_events:
            self.fold()

    def fold(self) -> None:
        """Fold the events that are held."""
        events, self.events = self.events, []
        if not events:
            return
        self.count += len(events)
        self.version = events[-1]["aggregateVersion"]
        if self.error is None:
            try:
                self.state = fold(self.Root, events, self.state)
            except ReducerError as error:
                self.error = error.with_traceback(None)

    def snapshot(self) -> Snapshot:
        """
        Return the snapshot of all events taken.

        Raises:
            ReducerError: the reducer raised, or its state cannot be stored.
        """
        self.fold()
        if self.error is not None:
            raise self.error
        assert self.id is not None  # noqa: S101 - for the type checker
        try:
            return build_snapshot(self.Root, self.id, self.version, self.state)
        except InvalidState as error:
            raise ReducerError(
                self.Root.aggregate_type, self.id, self.version, str(error)
            ) from None


async def fold_range(
    builder: SnapshotBuilder,
    Root: Any,
    span: Span,
    partition: Partition | None = None,
    stale: bool = False,
    tally: Tally | None = None,
) -> None:
    """
    Fold a range of streams.

    Args:
        builder: folds and counts them.
        Root: their class.
        span: the range.
        partition: only the streams of this share.
        stale: only streams whose snapshot is not current.
        tally: with ``stale``, counts all streams of the range.
    """
    if partition is None and not stale:
        await builder.fold(Root, span.query)
        return
    found = (
        stale_ids(builder.store, Root, tally, span)
        if stale
        else ids_of(builder.store, span, cast(Partition, partition))
    )
    async with aclosing(found) as pages:
        async for ids in pages:
            await builder.fold_ids(
                Root, [i for i in ids if not partition or i in partition]
            )
