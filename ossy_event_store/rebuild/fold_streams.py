"""
The work of a rebuild: fold streams anew and write their snapshots.

A full rebuild is one ordered scan a type, folded stream by stream, written in
bulk: flat memory and no query a stream. A stale rebuild first merges two ordered
index scans, stream heads and snapshots, and folds only what is missing, behind,
ahead, or of another revision.
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
from ..documents.event_document import read_event
from ..exceptions import InvalidState, ReducerError
from ..mongodb.connection import Store
from ..mongodb.deadline import in_time
from ..mongodb.resumable_scan import scan
from ..streams.reducers import fold
from ..streams.snapshots import Snapshot, build_snapshot, write_snapshots
from .ranges import Partition, Span, ids_of
from .report import RebuildReport
from .stale import stale_ids
from .tallies import Tally

logger = logging.getLogger("ossy_event_store")

WRITE = 500  # snapshots a bulk write, at most
LONG = 5000  # events of one stream held at once
ASK = 200  # stale streams folded by one scan


class Refold:
    """
    The fold in progress: the stream at hand, and the snapshots not written yet.

    Args:
        store: one face of the store.
        progress: called after every batch.
        written: called when snapshots were written.
    """

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
        self.first: bool | None = None  # whether there was no snapshot to begin with
        self.last: str | None = None  # the last stream that was folded
        #: The stream up to which all snapshots are written.
        self.done: str | None = None

    def tick(self) -> None:
        """Tell how far it is."""
        self.report.seconds = time.monotonic() - self.began
        self.progress()

    async def run_ids(self, Root: Any, ids: Sequence[str]) -> None:
        """Fold these streams, some at a time, where they are of the type."""
        for at in range(0, len(ids), ASK):
            some = {"aggregateId": {"$in": list(ids[at : at + ASK])}}
            await self.run(Root, {**Span(Root.aggregate_type).query, **some})

    async def run(self, Root: Any, query: Document) -> None:
        """Fold every stream that the query gives, and write the snapshots."""
        stream = self.stream(Root)
        async with aclosing(scan(self.store, query)) as batches:
            async for batch in batches:
                await self.look(Root, batch)
                for aggregate_id, events in itertools.groupby(
                    batch, itemgetter("aggregateId")
                ):
                    if aggregate_id != stream.id:
                        self.finish(stream)
                        stream = self.stream(Root, aggregate_id)
                    stream.take([read_event(event) for event in events])
                if self.is_time_to_write():
                    await self.write()
                self.tick()
        self.finish(stream)
        await self.write()
        self.tick()

    def stream(self, Root: Any, aggregate_id: str | None = None) -> StreamFold:
        """Return the fold of a stream that begins."""
        return StreamFold(Root, aggregate_id)

    async def look(self, Root: Any, batch: list[Document]) -> None:
        """Read what is needed besides the events of a batch."""

    def is_time_to_write(self) -> bool:
        """Whether ``write()`` has enough to do."""
        # What is not written after a second would be lost to who resumes.
        late = time.monotonic() - self.wrote > 1
        return len(self.snapshots) >= WRITE or (late and bool(self.snapshots))

    def finish(self, stream: StreamFold) -> None:
        """Take the snapshot of a stream of which all events were taken."""
        if stream.id is None:
            return
        try:
            self.keep(stream, stream.snapshot())
        except ReducerError as error:
            self.report.fail(error)
            logger.error("Rebuild failed: %s", error)
        self.report.streams += 1
        self.report.events += stream.count
        self.last = stream.id

    def keep(self, stream: StreamFold, snapshot: Snapshot) -> None:
        """Take a snapshot to be written."""
        self.snapshots.append(snapshot)

    async def write(self) -> None:
        """Write the snapshots that were taken."""
        snapshots, self.snapshots = self.snapshots, []
        with in_time():
            if self.first is None:
                self.first = await self.store.snapshots.count() == 0
            saved = await write_snapshots(self.store, snapshots, first=self.first)
        self.report.saved += saved
        self.report.newer += len(snapshots) - saved
        self.wrote = time.monotonic()
        self.done = self.last
        if self.written:
            await self.written()


class StreamFold:
    """One stream while it is folded; ``error`` once its reducer has raised."""

    def __init__(self, Root: Any, aggregate_id: str | None = None) -> None:
        self.Root = Root
        self.id = aggregate_id
        self.state: Any = {}
        self.version = 0
        self.count = 0
        self.events: list[Document] = []
        self.error: ReducerError | None = None

    def take(self, events: list[Document]) -> None:
        """Fold some more events, or hold them for a while."""
        self.events += events
        if len(self.events) >= LONG:
            self.fold()

    def fold(self) -> None:
        """Fold what is held."""
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
        Return the snapshot of all events that were taken.

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


async def run_part(
    work: Refold,
    Root: Any,
    span: Span,
    partition: Partition | None = None,
    stale: bool = False,
    tally: Tally | None = None,
) -> None:
    """
    Fold a range of streams.

    Args:
        work: what folds them, and counts.
        Root: their class.
        span: which streams.
        partition: only those of this share.
        stale: only those whose snapshot is not current.
        tally: where to count all that are passed, with ``stale``.
    """
    if partition is None and not stale:
        await work.run(Root, span.query)
        return
    found = (
        stale_ids(work.store, Root, tally, span)
        if stale
        else ids_of(work.store, span, cast(Partition, partition))
    )
    async with aclosing(found) as pages:
        async for ids in pages:
            await work.run_ids(
                Root, [i for i in ids if not partition or i in partition]
            )
