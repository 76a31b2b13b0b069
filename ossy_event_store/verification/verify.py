"""
Verification: prove that the store is sound, and write nothing.

Of the whole store each fact is read the cheapest way: versions and heads from indexes
alone; the fields of events by the server, which sends only those that are not whole.
That is enough to clear a stream, but not to accuse one, since the site appends
meanwhile: a stream that looks odd is read once more, by itself. Chosen streams are
read that way at once.
"""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence
from contextlib import aclosing, nullcontext
from dataclasses import dataclass

from ..documents.bson_types import Document
from ..documents.collections import EVENTS, SNAPSHOTS
from ..documents.event_document import check_id
from ..mongodb import connection
from ..mongodb.connection import Store
from ..mongodb.deadline import explained, in_time
from ..mongodb.indexes import (
    FIRST_EVENTS,
    SNAPSHOT_HEADS,
    STREAM_VERSIONS,
    TYPE_VERSIONS,
    Index,
    missing,
)
from ..mongodb.ports import drive
from ..mongodb.resumable_scan import walk
from ..streams.gc_pause import fewer_collections
from ..streams.lookup import types_in
from .projection_comparison import ProjectionComparison
from .report import AHEAD, EVENT_ID, INDEX, ORPHAN, UNSOUND, Finding, VerifyReport
from .rules import BROKEN, SHAPE, Heads, StreamCheck, event_findings, snapshot_finding
from .snapshot_comparison import Comparison

SAMPLE = 1000  # snapshots compared, if nothing else is asked for
PAGE = 1000  # streams and snapshots at a time
REMEMBERED = 100_000  # odd streams, so that none is told twice

# The server is silent while it finds nothing, and a silent server may be a dead one:
# so one event in a thousand comes back though nothing is wrong with it.
BEAT = 1000
_HEARTBEAT: Document = {"$sampleRate": 1 / BEAT}
_BEATS = 25  # a round trip; on a slow disk they must come within the time-out

_IDS = Index(EVENTS, [("_id", 1)], "MongoDB's own.")
_HEADS = {"aggregateType": 1, "aggregateVersion": 1, "revision": 1}

Progress = Callable[[VerifyReport], None]


@dataclass(frozen=True)
class VerifyOptions:
    """Which streams to verify; None chooses all of them."""

    types: Sequence[str] | None = None
    ids: Sequence[str] | None = None
    since: dt.datetime | None = None

    def __post_init__(self) -> None:
        for kind in self.types or ():
            check_id(kind, "types")
        for aggregate_id in self.ids or ():
            check_id(aggregate_id, "ids")
        if self.since is not None and self.since.utcoffset() is None:
            raise ValueError("since must have a time zone.")

    @property
    def query(self) -> Document:
        """The filter over events that goes with the choice."""
        query: Document = self._with("aggregateId")
        if self.since is not None:
            # As a date, and as the Node package writes it.
            times = (self.since, self.since.timestamp() * 1000)
            query["$or"] = [{"created": {"$gte": when}} for when in times]
        return query

    @property
    def of_snapshots(self) -> Document:
        """The filter over snapshots that goes with the choice, but for ``since``."""
        return self._with("_id")

    def _with(self, key: str) -> Document:
        query: Document = {}
        if self.types is not None:
            query["aggregateType"] = {"$in": list(self.types)}
        if self.ids is not None:
            query[key] = {"$in": list(self.ids)}
        return query


def verify_event_store(
    *,
    types: Sequence[str] | None = None,
    ids: Sequence[str] | None = None,
    since: dt.datetime | None = None,
    sample: int | None = SAMPLE,
    projections: bool = False,
    progress: Progress | None = None,
) -> VerifyReport:
    """
    Look for whatever is wrong with the events, the snapshots and the indexes.

    Nothing is written, and live appends meanwhile are not mistaken for findings.

    Args:
        types: only streams that have an event of one of these types, or a snapshot.
        ids: only these streams.
        since: only streams that got an event since; an aware datetime.
        sample: how many snapshots, chosen at random, to compare with a fresh fold
            of their events; None compares every one. About as many documents of each
            projection are compared.
        projections: compare the documents of every registered projection as well.
        progress: called with the report after every batch.

    Raises:
        ValueError: ``since`` has no time zone, ``sample`` is negative, a name
            cannot be one, or streams are chosen together with ``projections``.
        StoreUnavailable: no server was reached.
    """
    choice = VerifyOptions(types, ids, since)
    _check_sample(sample)
    _check_projections(projections, choice)
    with explained():
        return drive(
            verify(connection.blocking(), choice, sample, progress, projections)
        )


async def averify_event_store(
    *,
    types: Sequence[str] | None = None,
    ids: Sequence[str] | None = None,
    since: dt.datetime | None = None,
    sample: int | None = SAMPLE,
    projections: bool = False,
    progress: Progress | None = None,
) -> VerifyReport:
    """See ``verify_event_store()``; reducers run in the loop's thread."""
    choice = VerifyOptions(types, ids, since)
    _check_sample(sample)
    _check_projections(projections, choice)
    with explained():
        store = await connection.awaitable()
        return await verify(store, choice, sample, progress, projections)


def _check_sample(sample: int | None) -> None:
    if sample is not None and sample < 0:
        raise ValueError(f"sample is {sample}; it must be 0 or more.")


def _check_projections(projections: bool, choice: VerifyOptions) -> None:
    if projections and choice != VerifyOptions():
        raise ValueError(
            "projections=True does not go with types, ids or since: a document is "
            "made of events of many streams."
        )


async def verify(
    store: Store,
    choice: VerifyOptions,
    sample: int | None = SAMPLE,
    progress: Progress | None = None,
    projections: bool = False,
) -> VerifyReport:
    """Verify what is chosen; the coroutine behind both faces."""
    work = _Verification(store, sample, progress)
    with fewer_collections():
        await work.check_indexes()
        if choice == VerifyOptions():
            await work.check_all()
        else:
            await work.check_chosen(choice)
        await work.comparison.run()
        if projections:
            await ProjectionComparison(store, work.report, sample, work.tick).run()
    work.tick()
    return work.report


@dataclass(frozen=True)
class _Looked:
    """What reading some streams by themselves gave; the findings are told."""

    streams: int
    events: int
    snapshots: list[Document]
    unsound: set[str | None]


class _Verification:
    """The work at hand: what is missing, what is odd, and what is to be compared."""

    def __init__(
        self, store: Store, sample: int | None, progress: Progress | None
    ) -> None:
        self.store = store
        self.progress = progress
        self.report = VerifyReport()
        self.began = time.monotonic()
        self.missing: list[Index] = []
        # Streams that were read by themselves, and whether anything was found.
        self.odd: dict[str, bool] = {}
        self.comparison = Comparison(store, self.report, sample)

    def tick(self) -> None:
        self.report.seconds = time.monotonic() - self.began
        if self.progress:
            self.progress(self.report)

    async def check_indexes(self) -> None:
        self.missing = await missing(self.store)
        for index in self.missing:
            expected = "a unique index on " if index.unique else "an index on "
            self.report.add(
                Finding(
                    INDEX,
                    subject=f"{index.collection}.{index.name}",
                    expected=expected + ", ".join(key for key, _ in index.keys),
                    found="none, or one with other options",
                )
            )

    # --- everything

    async def check_all(self) -> None:
        await self._check_ids()
        await self._check_events({}, _IDS)
        for kind in await self._all_types():
            await self._check_type(kind)
        if STREAM_VERSIONS in self.missing:
            await self._check_first_events()

    async def _all_types(self) -> list[str]:
        by_index = not any(i in self.missing for i in (TYPE_VERSIONS, SNAPSHOT_HEADS))
        with in_time() if by_index else nullcontext():
            events = await types_in(self.store.events, unbounded=not by_index)
            snapshots = await types_in(self.store.snapshots, unbounded=not by_index)
        return sorted({*events, *snapshots})

    async def _check_ids(self) -> None:
        """Look for an id on two shards; on one server MongoDB has each once."""
        with in_time():
            hello = await self.store.client.command("hello")
        if hello.get("msg") != "isdbgrid":
            return
        last: object = None
        async with aclosing(self._walk(_IDS, {}, {"_id": 1})) as batches:
            async for batch in batches:
                for event in batch:
                    if event["_id"] == last:
                        self.report.add(
                            Finding(
                                EVENT_ID,
                                subject=f"event {last}",
                                expected="one of this id",
                                found="another one",
                            )
                        )
                    last = event["_id"]
                self.tick()

    async def _check_events(self, query: Document, index: Index) -> None:
        """Let the server look at every field; only what is not whole is told."""
        query = {**query, "$or": [_HEARTBEAT, BROKEN]}
        async with aclosing(self._walk(index, query, SHAPE, _BEATS)) as batches:
            async for batch in batches:
                for event in batch:
                    found = list(event_findings(event))
                    for finding in found:
                        self.report.add(finding)
                    self.report.reads += 0 if found else BEAT
                self.tick()

    async def _check_type(self, kind: str) -> None:
        """Read versions from the index, and the snapshots beside them."""
        heads = Heads()
        # What is no string or no number is told by the look at its fields.
        query = {
            **_of_type(kind),
            "aggregateId": {"$gte": ""},
            "aggregateVersion": {"$gte": float("-inf")},
        }
        fields = {"_id": 0, **{key: 1 for key, _ in TYPE_VERSIONS.keys}}
        after: str | None = None
        async with aclosing(self._walk(TYPE_VERSIONS, query, fields)) as batches:
            async for batch in batches:
                heads.take(batch)
                self.report.events += len(batch)
                self.report.reads += len(batch)
                if len(heads.ended) >= PAGE:
                    after = await self._pair(kind, heads, after)
                self.tick()
        heads.end()
        await self._pair(kind, heads, after, last=True)

    async def _pair(
        self, kind: str, heads: Heads, after: str | None, *, last: bool = False
    ) -> str | None:
        """Look at the snapshots of some streams, and again at what is odd."""
        ended, heads.ended = heads.ended, {}
        until = None if last else next(reversed(ended))
        self.report.streams += len(ended)
        await self._look_again([i for i, head in ended.items() if head is None])
        async for page in self._snapshots_between(kind, after, until):
            self.report.snapshots += len(page)
            odd = [s["_id"] for s in page if self._is_odd(kind, s, ended)]
            await self._look_again(odd)
            await self._offer(page, {i for i, found in self.odd.items() if found})
        return until

    def _is_odd(
        self, kind: str, snapshot: Document, heads: Mapping[str, int | None]
    ) -> bool:
        head, version = heads.get(snapshot["_id"], 0), snapshot.get("aggregateVersion")
        if head is None:
            return True
        if type(version) is int and 1 <= version <= head:  # nearly all of them
            return False
        revision = self.comparison.revision_of(snapshot)
        of = kind if head else None
        return snapshot_finding(snapshot, of, head, revision) is not None

    async def _snapshots_between(
        self, kind: str, after: str | None, until: str | None
    ) -> AsyncGenerator[list[Document], None]:
        there = SNAPSHOT_HEADS not in self.missing
        options = {"hint": list(SNAPSHOT_HEADS.keys)} if there else {}
        while True:
            ids: Document = {"$gte": ""} if after is None else {"$gt": after}
            if until is not None:
                ids["$lte"] = until
            with in_time() if there else nullcontext():
                page = await self.store.snapshots.find(
                    {**_of_type(kind), "_id": ids},
                    projection=_HEADS,
                    sort=[("_id", 1)],
                    limit=PAGE,
                    batch_size=PAGE + 1,  # one round trip
                    unbounded=not there,
                    **options,
                )
            yield page
            if len(page) < PAGE:
                return
            after = page[-1]["_id"]

    async def _check_first_events(self) -> None:
        """Without the unique index two types may each have a whole stream of one id."""
        query = {"aggregateVersion": 1, "aggregateId": {"$gte": ""}}
        fields = {"_id": 0, **{key: 1 for key, _ in FIRST_EVENTS.keys}}
        last: object = None
        async with aclosing(self._walk(FIRST_EVENTS, query, fields)) as batches:
            async for batch in batches:
                twice = set()
                for event in batch:
                    # A list that holds an id answers the query too.
                    if event["aggregateId"] == last and isinstance(last, str):
                        twice.add(last)
                    last = event["aggregateId"]
                await self._look_again(sorted(twice))
                self.tick()

    async def _look_again(self, ids: Sequence[str]) -> None:
        """Read odd streams by themselves, which tells what is wrong, if anything."""
        new = [aggregate_id for aggregate_id in ids if aggregate_id not in self.odd]
        if len(self.odd) > REMEMBERED:
            self.odd.clear()
        for at in range(0, len(new), PAGE):
            some = new[at : at + PAGE]
            looked = await self._check_streams(some)
            self.odd |= {i: i in looked.unsound for i in some}

    # --- some streams

    async def check_chosen(self, choice: VerifyOptions) -> None:
        report = self.report
        async with aclosing(_chosen_ids(self.store, choice)) as found:
            async for ids in found:
                await self._check_events(_of_ids(ids), STREAM_VERSIONS)
                looked = await self._check_streams(ids)
                report.streams += looked.streams
                report.events += looked.events
                report.reads += looked.events
                report.snapshots += len(looked.snapshots)
                await self._offer(looked.snapshots, looked.unsound)
                self.tick()

    async def _check_streams(self, ids: Sequence[str]) -> _Looked:
        """Read these streams and their snapshots, and tell what is wrong with them."""
        # Snapshots first: what is appended in between is seen with the events.
        with in_time():
            snapshots = await self.store.snapshots.find(
                {"_id": {"$in": list(ids)}}, projection=_HEADS, batch_size=len(ids) + 1
            )
        checks = {aggregate_id: StreamCheck(aggregate_id) for aggregate_id in ids}
        fields = {key: 1 for key, _ in TYPE_VERSIONS.keys}
        some = self._walk(STREAM_VERSIONS, _of_ids(ids), fields)
        async with aclosing(some) as batches:
            async for batch in batches:
                for event in batch:
                    # A list that holds the id answers the query too.
                    if isinstance(event["aggregateId"], str):
                        checks[event["aggregateId"]].take(event)
                self.tick()
        found = [finding for check in checks.values() for finding in check.end()]
        for snapshot in snapshots:
            wrong = await self._wrong_with(snapshot, checks[snapshot["_id"]])
            found += [wrong] if wrong else []
        for finding in found:
            self.report.add(finding)
        return _Looked(
            sum(check.events > 0 for check in checks.values()),
            sum(check.events for check in checks.values()),
            snapshots,
            {finding.aggregate_id for finding in found},
        )

    async def _wrong_with(
        self, snapshot: Document, check: StreamCheck
    ) -> Finding | None:
        revision = self.comparison.revision_of(snapshot)
        wrong = snapshot_finding(snapshot, check.type, check.head, revision)
        return wrong if wrong and await self._is_so(wrong, snapshot) else None

    async def _offer(
        self, snapshots: Sequence[Document], unsound: Collection[str | None]
    ) -> None:
        """Have states compared; those of streams with findings say nothing."""
        for snapshot in snapshots:
            if snapshot["_id"] in unsound:
                self.report.not_compared[UNSOUND] += 1
            else:
                await self.comparison.offer(snapshot)

    async def _is_so(self, finding: Finding, snapshot: Document) -> bool:
        """Whether a snapshot leads its stream, or has none, by all that is written."""
        if finding.kind not in (AHEAD, ORPHAN):
            return True
        # A snapshot is seen as soon as it is written, an event once a majority has
        # it: what one transaction wrote may not be seen at one time.
        with in_time():
            events = await self.store.client.find_after_all_writes(
                self.store.events,
                {
                    "aggregateId": {"$eq": snapshot["_id"]},
                    "aggregateVersion": {"$gte": snapshot["aggregateVersion"]},
                },
            )
        return not events

    def _walk(
        self,
        index: Index,
        query: Document,
        projection: Document,
        size: int | None = None,
    ) -> AsyncGenerator[list[Document], None]:
        return walk(
            self.store,
            self.store.events,
            index.keys,
            query,
            projection,
            size=size,
            indexed=index not in self.missing,
        )


def _of_type(kind: str) -> Document:
    return {"aggregateType": {"$eq": kind}}


def _of_ids(ids: Sequence[str]) -> Document:
    return {"aggregateId": {"$in": list(ids)}}


async def _chosen_ids(
    store: Store, choice: VerifyOptions
) -> AsyncGenerator[list[str], None]:
    """Yield the ids of the streams that are chosen, each once."""
    if choice.since is None and choice.types is None:
        ids = list(dict.fromkeys(choice.ids or ()))
        for at in range(0, len(ids), PAGE):
            yield ids[at : at + PAGE]
        return
    # Grouped by the server, which may use its disk for it. It answers when it has
    # seen every event that is chosen, and so this is not bounded in time.
    pipeline = [{"$match": choice.query}, {"$group": {"_id": "$aggregateId"}}]
    if choice.since is None:
        own = {"pipeline": [{"$match": choice.of_snapshots}, {"$project": {"_id": 1}}]}
        pipeline += [
            {"$unionWith": {"coll": SNAPSHOTS, **own}},
            {"$group": {"_id": "$_id"}},
        ]
    found = store.events.aggregate(pipeline, PAGE, allowDiskUse=True, unbounded=True)
    async with aclosing(found) as batches:
        async for batch in batches:
            yield [group["_id"] for group in batch if isinstance(group["_id"], str)]
