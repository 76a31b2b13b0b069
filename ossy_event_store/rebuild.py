"""
Rebuild: fold streams anew and write their snapshots.

A full rebuild is one ordered scan a type, folded stream by stream, written in
bulk: flat memory and no query a stream. A stale rebuild first merges two ordered
index scans, stream heads and snapshots, and folds only what is missing, behind,
ahead, or of another revision.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any

import pymongo
from pymongo import InsertOne, ReplaceOne
from pymongo.errors import BulkWriteError, CursorNotFound, PyMongoError

from . import mongo
from .append import head
from .conf import get_settings
from .events import check_id, read_event
from .exceptions import AggregateNotFound, InvalidState, ReducerError
from .faces import Document, drive
from .faults import Fault, classify, key_pattern
from .folding import fold, revision_of
from .mongo import Store, explained, in_time
from .registry import register_aggregate, registered, root_of
from .snapshots import build_snapshot, discard, save_snapshot

logger = logging.getLogger("ossy_event_store")

BATCH = 1000  # events a round trip
WRITE = 500  # snapshots a bulk write, at most
LONG = 5000  # events of one stream held at once
ASK = 200  # stale streams folded by one scan
KEPT = 1000  # failures kept in a report

_IN_ORDER = [("aggregateId", 1), ("aggregateVersion", 1)]


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
    for Root in roots:
        if stale:
            chosen = None if ids is None else set(ids)
            async with aclosing(_stale_ids(store, Root)) as found:
                async for some in found:
                    await work.run_ids(
                        Root, [i for i in some if chosen is None or i in chosen]
                    )
        elif ids is not None:
            await work.run_ids(Root, ids)
        else:
            await work.run(Root, _of_type(Root))
    work.tick()
    return work.report


def _of_type(Root: Any) -> Document:
    return {"aggregateType": {"$eq": Root.aggregate_type}}


class _Rebuild:
    """The fold in progress: the stream at hand, and the snapshots not written yet."""

    def __init__(self, store: Store, progress: Progress | None) -> None:
        self.store = store
        self.progress = progress
        self.report = RebuildReport()
        self.began = time.monotonic()
        self.snapshots: list[Document] = []

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
        stream = _Stream(Root)
        async with aclosing(scan(self.store, query)) as batches:
            async for batch in batches:
                for aggregate_id, events in itertools.groupby(
                    batch, itemgetter("aggregateId")
                ):
                    if aggregate_id != stream.id:
                        self._finish(stream)
                        stream = _Stream(Root, aggregate_id)
                    stream.take([read_event(event) for event in events])
                if len(self.snapshots) >= WRITE:
                    await self._write()
                self.tick()
        self._finish(stream)
        await self._write()
        self.tick()

    def _finish(self, stream: _Stream) -> None:
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
            saved = await _write_snapshots(self.store, snapshots)
        self.report.saved += saved
        self.report.newer += len(snapshots) - saved


class _Stream:
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

    def snapshot(self) -> Document:
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


# --- read -------------------------------------------------------------------


async def scan(store: Store, query: Document) -> AsyncGenerator[list[Document], None]:
    """
    Yield the events of a query in batches, in order of stream and version.

    A connection that breaks, or a primary that goes, does not end the scan: it is
    opened again where it stood, until the time-out passes without a batch.
    """
    last: tuple[str, int] | None = None
    since = time.monotonic()
    while True:
        try:
            async with aclosing(_batches(store, _from(query, last))) as batches:
                async for batch in batches:
                    rest = _after(batch, last)
                    if rest:
                        last = rest[-1]["aggregateId"], rest[-1]["aggregateVersion"]
                        yield rest
                    since = time.monotonic()
            return
        except PyMongoError as error:
            broken = classify(error) in (Fault.UNKNOWN, Fault.UNSENT, Fault.TRANSIENT)
            if not broken and not isinstance(error, CursorNotFound):
                raise
            if time.monotonic() - since > get_settings().TIMEOUT:
                raise
            logger.warning("The scan broke off (%s); resuming.", type(error).__name__)
        await store.client.pause(0.2)


async def _batches(
    store: Store, query: Document
) -> AsyncGenerator[list[Document], None]:
    """Yield batches, each within the time-out."""
    async with aclosing(store.events.batches(query, BATCH, sort=_IN_ORDER)) as batches:
        while True:
            with pymongo.timeout(get_settings().TIMEOUT):
                batch = await anext(batches, None)
            if batch is None:
                return
            yield batch


def _from(query: Document, last: tuple[str, int] | None) -> Document:
    if last is None:
        return query
    return {**query, "aggregateId": {**query.get("aggregateId", {}), "$gte": last[0]}}


def _after(batch: list[Document], last: tuple[str, int] | None) -> list[Document]:
    """Leave out what a scan that was opened again has given before."""
    if last is None or batch[0]["aggregateId"] != last[0]:
        return batch
    return [
        event
        for event in batch
        if (event["aggregateId"], event["aggregateVersion"]) > last
    ]


async def _stale_ids(store: Store, Root: Any) -> AsyncGenerator[list[str], None]:
    """Yield the ids of streams whose snapshot is not current; reads indexes only."""
    kind = _of_type(Root)
    heads = _each(store.events.aggregate(_heads(kind), BATCH * 10))
    snapshots = _each(
        store.snapshots.batches(
            kind,
            BATCH * 10,
            projection=["aggregateVersion", "revision"],
            sort=[("_id", -1)],
            hint=[
                ("aggregateType", 1),
                ("_id", 1),
                ("aggregateVersion", 1),
                ("revision", 1),
            ],
        )
    )
    revision = revision_of(Root)
    stale: list[str] = []
    async with aclosing(heads), aclosing(snapshots):
        async for stream, snapshot in _merge(heads, snapshots):
            if stream is None:
                await _discard_if_ahead(store, snapshot["_id"])
            elif not _is_current(stream, snapshot, revision):
                stale.append(stream["_id"])
            if len(stale) >= BATCH:
                yield stale
                stale = []
    yield stale


def _heads(kind: Document) -> list[Document]:
    """Return the pipeline that skips from stream to stream on the type's index."""
    return [
        {"$match": kind},
        {"$sort": {"aggregateType": -1, "aggregateId": -1, "aggregateVersion": -1}},
        {"$group": {"_id": "$aggregateId", "version": {"$first": "$aggregateVersion"}}},
    ]


async def _each(
    batches: AsyncGenerator[list[Document], None],
) -> AsyncGenerator[Document, None]:
    last = None
    async with aclosing(batches):
        async for batch in batches:
            for document in batch:
                if last is not None and document["_id"] >= last:
                    raise RuntimeError(
                        "The server gave stream heads out of order; run a full rebuild."
                    )
                last = document["_id"]
                yield document


async def _merge(
    heads: AsyncGenerator[Document, None], snapshots: AsyncGenerator[Document, None]
) -> AsyncGenerator[tuple[Any, Any], None]:
    """Yield pairs of head and snapshot of one stream, by descending id."""
    stream, snapshot = await anext(heads, None), await anext(snapshots, None)
    while stream is not None or snapshot is not None:
        if snapshot is None or (stream is not None and stream["_id"] > snapshot["_id"]):
            yield stream, None
            stream = await anext(heads, None)
        elif stream is None or stream["_id"] < snapshot["_id"]:
            yield None, snapshot
            snapshot = await anext(snapshots, None)
        else:
            yield stream, snapshot
            stream, snapshot = await anext(heads, None), await anext(snapshots, None)


def _is_current(stream: Document, snapshot: Document | None, revision: str) -> bool:
    return (
        snapshot is not None
        and snapshot.get("aggregateVersion") == stream["version"]
        and snapshot.get("revision") == revision
    )


# --- write ------------------------------------------------------------------


async def _write_snapshots(store: Store, snapshots: list[Document]) -> int:
    """Write snapshots unless newer ones are there; return how many were written."""
    if not snapshots:
        return 0
    there = {
        found["_id"]: found.get("aggregateVersion")
        for found in await store.snapshots.find(
            {"_id": {"$in": [snapshot["_id"] for snapshot in snapshots]}},
            projection=["aggregateVersion"],
        )
    }
    requests = [_request(s, s["_id"] in there) for s in snapshots]
    try:
        saved = await store.snapshots.bulk_write(requests, ordered=False)
    except BulkWriteError as error:
        if key_pattern(error) is None:
            raise
        # Somebody saved one of them for the first time just now: one by one, then.
        return sum([await save_snapshot(store, snapshot) for snapshot in snapshots])
    if saved < len(snapshots):
        for snapshot in snapshots:
            version = there.get(snapshot["_id"])
            ahead = isinstance(version, int) and version > snapshot["aggregateVersion"]
            if ahead and await _discard_if_ahead(store, snapshot["_id"]):
                saved += await save_snapshot(store, snapshot)
    return saved


def _request(
    snapshot: Document, exists: bool
) -> InsertOne[Document] | ReplaceOne[Document]:
    # An insert is twice as fast as an upsert, and a first rebuild has only inserts.
    if not exists:
        return InsertOne(snapshot)
    # A rebuild replaces its own version as well: the state may be what was wrong.
    newer = {"aggregateVersion": {"$gt": snapshot["aggregateVersion"]}}
    return ReplaceOne({"_id": snapshot["_id"], "$nor": [newer]}, snapshot)


async def _discard_if_ahead(store: Store, aggregate_id: str) -> bool:
    """Delete a snapshot that leads its stream; a live append only seems to lead."""
    with in_time():
        snapshot = await store.snapshots.find_one({"_id": {"$eq": aggregate_id}})
        last = await head(store, aggregate_id)
        version = last["aggregateVersion"] if last else 0
        if snapshot is None or not snapshot.get("aggregateVersion", 0) > version:
            return False
        await discard(store, snapshot, version)
    return True
