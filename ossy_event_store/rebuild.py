"""
Rebuild: fold streams anew and write their snapshots.

A full rebuild is one ordered scan a type, folded stream by stream, written in
bulk: flat memory and no query a stream. A stale rebuild first merges two ordered
index scans, stream heads and snapshots, and folds only what is missing, behind,
ahead, or of another revision.
"""

from __future__ import annotations

import gc
import itertools
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any

from . import mongo
from .events import check_id, read_event
from .exceptions import AggregateNotFound, InvalidState, ReducerError
from .faces import Document, drive
from .folding import fold
from .mongo import Store, explained, in_time
from .overview import Tally, save_tally
from .registry import register_aggregate, registered, root_of
from .scan import scan
from .snapshots import Snapshot, build_snapshot, write_snapshots
from .stale import stale_ids

logger = logging.getLogger("ossy_event_store")

WRITE = 500  # snapshots a bulk write, at most
LONG = 5000  # events of one stream held at once
ASK = 200  # stale streams folded by one scan
ALLOCATIONS = 50_000  # between two looks for cyclic garbage
KEPT = 1000  # failures kept in a report


@dataclass
class RebuildReport:
    """What a rebuild has done; passed to ``progress`` while it runs."""

    #: Streams folded, the failed ones among them.
    streams: int = 0
    #: Events folded.
    events: int = 0
    #: Snapshots written.
    saved: int = 0
    #: Streams whose snapshot was newer already, written by a live append.
    newer: int = 0
    #: Streams whose reducer or state failed; the first 1,000 are in ``failures``.
    failed: int = 0
    failures: list[ReducerError] = field(default_factory=list)
    #: Seconds so far.
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether no stream failed."""
        return self.failed == 0

    def __str__(self) -> str:
        rate = self.events / self.seconds if self.seconds else 0
        text = (
            f"{self.streams:,} streams, {self.events:,} events in {self.seconds:.1f} s "
            f"({rate:,.0f} events/s); {self.saved:,} snapshots written"
        )
        if self.newer:
            text += f", {self.newer:,} newer ones left"
        return text + (f", {self.failed:,} FAILED" if self.failed else "")


Progress = Callable[[RebuildReport], None]


class AggregateRebuild:
    """The registered aggregate classes, and the rebuild of their snapshots."""

    #: Register a class; also a class decorator.
    register_aggregate = staticmethod(register_aggregate)

    @classmethod
    def build_and_save_all(
        cls,
        *,
        types: Sequence[str] | None = None,
        ids: Sequence[str] | None = None,
        stale: bool = False,
        progress: Progress | None = None,
    ) -> RebuildReport:
        """
        Fold every stream of every registered type and save the snapshots.

        A stream whose reducer raises is reported and keeps its old snapshot; the
        others go on. Live appends meanwhile do no harm.

        Args:
            types: only these types.
            ids: only these streams.
            stale: only snapshots that are missing, behind, ahead of their stream,
                or of another revision of the reducer.
            progress: called with the report after every batch.

        Raises:
            UnknownAggregateType: a type is not registered.
            StoreUnavailable: no server was reached.
        """
        roots = _roots(types)
        with explained():
            work = rebuild(mongo.blocking(), roots, ids, stale, progress)
            return drive(work)

    @classmethod
    async def abuild_and_save_all(
        cls,
        *,
        types: Sequence[str] | None = None,
        ids: Sequence[str] | None = None,
        stale: bool = False,
        progress: Progress | None = None,
    ) -> RebuildReport:
        """See ``build_and_save_all()``; reducers run in the loop's thread."""
        roots = _roots(types)
        with explained():
            store = await mongo.awaitable()
            return await rebuild(store, roots, ids, stale, progress)

    @classmethod
    def build_and_save(cls, aggregate_type: str, aggregate_id: str) -> Document:
        """
        Fold one stream from its beginning, save its snapshot and return it.

        Raises:
            UnknownAggregateType: the type is not registered.
            AggregateNotFound: there is no such stream of this type.
            ReducerError: the reducer raised, or its state cannot be stored; the
                old snapshot is as it was.
        """
        Root = root_of(aggregate_type)
        check_id(aggregate_id)
        with explained():
            return drive(_rebuild_one(mongo.blocking(), Root, aggregate_id))

    @classmethod
    async def abuild_and_save(cls, aggregate_type: str, aggregate_id: str) -> Document:
        """See ``build_and_save()``."""
        Root = root_of(aggregate_type)
        check_id(aggregate_id)
        with explained():
            return await _rebuild_one(await mongo.awaitable(), Root, aggregate_id)


def _roots(types: Sequence[str] | None) -> list[Any]:
    if types is None:
        return list(registered().values())
    return [root_of(kind) for kind in types]


async def _rebuild_one(store: Store, Root: Any, aggregate_id: str) -> Document:
    report = await rebuild(store, [Root], [aggregate_id], False, None)
    for failure in report.failures:
        raise failure
    if not report.streams:
        raise AggregateNotFound(Root.aggregate_type, aggregate_id)
    with in_time():
        snapshot = await store.snapshots.find_one({"_id": {"$eq": aggregate_id}})
    if snapshot is None:  # discarded by somebody else in between
        raise AggregateNotFound(Root.aggregate_type, aggregate_id)
    return snapshot


async def rebuild(
    store: Store,
    roots: Iterable[Any],
    ids: Sequence[str] | None = None,
    stale: bool = False,
    progress: Progress | None = None,
) -> RebuildReport:
    """Rebuild the streams of ``roots``; the coroutine behind both faces."""
    work = _Rebuild(store, progress)
    with fewer_collections():
        for Root in roots:
            if ids is None:
                await _rebuild_type(work, Root, stale)
            elif stale:
                await _rebuild_stale(work, Root, ids)
            else:
                await work.run_ids(Root, ids)
    work.tick()
    return work.report


async def _rebuild_type(work: _Rebuild, Root: Any, stale: bool) -> None:
    """Rebuild a whole type, and keep what was seen of it for the overview."""
    tally, before = Tally(Root.aggregate_type), work.report
    counts = before.streams, before.events, before.failed, len(before.failures)
    if stale:
        await _rebuild_stale(work, Root, None, tally)
    else:
        await work.run(Root, _of_type(Root))
        tally.streams = work.report.streams - counts[0]
        tally.events = work.report.events - counts[1]
    failed = work.report.failed - counts[2]
    tally.note(work.report.failures[counts[3] :], failed)
    await save_tally(work.store, tally)


async def _rebuild_stale(
    work: _Rebuild, Root: Any, ids: Sequence[str] | None, tally: Tally | None = None
) -> None:
    chosen = None if ids is None else set(ids)
    async with aclosing(stale_ids(work.store, Root, tally)) as found:
        async for some in found:
            await work.run_ids(Root, [i for i in some if chosen is None or i in chosen])


@contextmanager
def fewer_collections() -> Iterator[None]:
    """
    Look for cyclic garbage less often meanwhile.

    Events come by the hundred thousand and hold no cycles; to look for some again
    and again took a seventh of a rebuild's time.
    """
    before = gc.get_threshold()
    if not 0 < before[0] < ALLOCATIONS:  # switched off, or raised already
        yield
        return
    gc.set_threshold(ALLOCATIONS, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)


def _of_type(Root: Any) -> Document:
    return {"aggregateType": {"$eq": Root.aggregate_type}}


class _Rebuild:
    """The fold in progress: the stream at hand, and the snapshots not written yet."""

    def __init__(self, store: Store, progress: Progress | None) -> None:
        self.store = store
        self.progress = progress
        self.report = RebuildReport()
        self.began = time.monotonic()
        self.snapshots: list[Snapshot] = []
        self.first: bool | None = None  # whether there was no snapshot to begin with

    def tick(self) -> None:
        self.report.seconds = time.monotonic() - self.began
        if self.progress:
            self.progress(self.report)

    async def run_ids(self, Root: Any, ids: Sequence[str]) -> None:
        """Fold these streams, some at a time, where they are of the type."""
        for at in range(0, len(ids), ASK):
            some = {"aggregateId": {"$in": list(ids[at : at + ASK])}}
            await self.run(Root, {**_of_type(Root), **some})

    async def run(self, Root: Any, query: Document) -> None:
        """Fold every stream that the query gives, and write the snapshots."""
        stream = StreamFold(Root)
        async with aclosing(scan(self.store, query)) as batches:
            async for batch in batches:
                for aggregate_id, events in itertools.groupby(
                    batch, itemgetter("aggregateId")
                ):
                    if aggregate_id != stream.id:
                        self._finish(stream)
                        stream = StreamFold(Root, aggregate_id)
                    stream.take([read_event(event) for event in events])
                if len(self.snapshots) >= WRITE:
                    await self._write()
                self.tick()
        self._finish(stream)
        await self._write()
        self.tick()

    def _finish(self, stream: StreamFold) -> None:
        if stream.id is None:
            return
        try:
            self.snapshots.append(stream.snapshot())
        except ReducerError as error:
            self.report.failed += 1
            if len(self.report.failures) < KEPT:
                self.report.failures.append(error)
            logger.error("Rebuild failed: %s", error)
        self.report.streams += 1
        self.report.events += stream.count

    async def _write(self) -> None:
        snapshots, self.snapshots = self.snapshots, []
        with in_time():
            if self.first is None:
                self.first = await self.store.snapshots.count() == 0
            saved = await write_snapshots(self.store, snapshots, first=self.first)
        self.report.saved += saved
        self.report.newer += len(snapshots) - saved


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
            self._fold()

    def _fold(self) -> None:
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
        self._fold()
        if self.error is not None:
            raise self.error
        assert self.id is not None  # noqa: S101 - for the type checker
        try:
            return build_snapshot(self.Root, self.id, self.version, self.state)
        except InvalidState as error:
            raise ReducerError(
                self.Root.aggregate_type, self.id, self.version, str(error)
            ) from None
