"""
Import events from lines of JSON, in flat memory and safe to repeat.

A line without an id gets one derived from its stream and version, so importing a
file twice, or into two stores, gives the same ids; an export omits such ids. To
continue a killed import, run it again: events stored already are compared and
skipped.
"""

from __future__ import annotations

import contextlib
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, Coroutine, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import bson
from pymongo.errors import BulkWriteError

from ..conf import get_settings
from ..documents.boundaries.places import assign
from ..documents.boundaries.tags import names_of_places
from ..documents.bson_types import CODEC, Document
from ..documents.event_document import FIELDS, from_milliseconds, version_number
from ..documents.extended_json import Malformed
from ..exceptions import InvalidEvent, InvalidLine
from ..mongodb.connection import Store
from ..mongodb.deadline import in_time
from ..mongodb.indexes import STREAM_VERSIONS, TAG_PLACES, look
from ..mongodb.write_errors import DUPLICATE_KEY, FAILED_VALIDATION, foreign_index
from .boundaries.heads import read_heads
from .event_lines import read_line
from .transfer_report import Progress, TransferReport

NumberedEvent = tuple[int, Document]


@dataclass(frozen=True)
class ImportLimits:
    """How much of a file an import holds in memory."""

    #: Lines a batch, at most.
    lines: int = 5000
    #: Characters after which a batch takes no further line.
    characters: int = 4 * 1024 * 1024
    #: Streams whose last version is remembered from batch to batch.
    streams: int = 50_000


LIMITS = ImportLimits()


@dataclass(slots=True)
class _Head:
    """The last version of a stream: in the store, and with the lines so far."""

    stored: int
    with_lines: int
    type: str


async def import_events(
    store: Store,
    lines: Iterable[tuple[int, str]],
    *,
    dry_run: bool = False,
    report: TransferReport | None = None,
    progress: Progress | None = None,
    limits: ImportLimits = LIMITS,
) -> TransferReport:
    """
    Store the events of numbered lines, unchanged.

    Ids, versions and ``created`` are kept. The versions of each stream must follow
    the last one that is stored; streams may interleave.

    Args:
        store: one face of the store.
        lines: number and text of each line.
        dry_run: check every line against the store, and store nothing. Two lines
            that contradict each other are only noticed within one batch.
        report: is kept up to date meanwhile; a new one by default.
        progress: called with the report after every batch.
        limits: how much is held in memory.

    Raises:
        InvalidLine: with number, path and reason; some or all of the lines before
            it are stored, and none after it.
    """
    work = _Import(store, dry_run, report or TransferReport(), limits)
    began = time.monotonic()
    batches = _batches(lines, limits)
    batch = next(batches, None)
    while batch:
        work.report.events += len(batch)
        # The server works on one batch while the next is read.
        async with _alongside(store, work.store_batch(batch)):
            batch = next(batches, None)
        work.report.seconds = time.monotonic() - began
        if progress:
            progress(work.report)
    return work.report


@contextlib.asynccontextmanager
async def _alongside(
    store: Store, work: Coroutine[Any, Any, None]
) -> AsyncGenerator[None, None]:
    """Do some work while the block runs; its error comes before the block's."""
    failed: Exception | None = None
    async with store.client.meanwhile(work) as done:
        try:
            yield
        except Exception as error:
            failed = error
    done.result()
    if failed is not None:
        raise failed


def _batches(
    lines: Iterable[tuple[int, str]], limits: ImportLimits
) -> Iterator[list[NumberedEvent]]:
    batch: list[NumberedEvent] = []
    size = 0
    for number, text in lines:
        if not text.strip():
            continue
        size += len(text)
        try:
            batch.append((number, read_line(text)))
        except (Malformed, InvalidEvent) as error:
            raise InvalidLine(number, error.path, error.reason) from None
        if len(batch) == limits.lines or size > limits.characters:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


class _Import:
    """One import: its options, its report, and the heads of the streams so far."""

    def __init__(
        self,
        store: Store,
        dry_run: bool,
        report: TransferReport,
        limits: ImportLimits,
    ) -> None:
        self.store = store
        self.dry_run = dry_run
        self.report = report
        self.limits = limits
        self.heads: OrderedDict[str, _Head] = OrderedDict()

    async def store_batch(self, batch: list[NumberedEvent]) -> None:
        """Store the new events of a batch and compare the others."""
        with in_time():
            await self._look_up({event["aggregateId"] for _, event in batch})
            new: list[NumberedEvent] = []
            present: list[NumberedEvent] = []
            for number, event in batch:
                (new if self._is_new(number, event) else present).append(
                    (number, event)
                )
            pending = {event["_id"]: event for _, event in new}
            await self._compare(present, pending)
            await self._insert(new)
        # In a dry run, a forgotten stream cannot be looked up: nothing was stored.
        while len(self.heads) > self.limits.streams and not self.dry_run:
            self.heads.popitem(last=False)

    async def _look_up(self, ids: set[str]) -> None:
        """Look up the heads of those streams of a batch that are not remembered."""
        for known in ids & self.heads.keys():
            self.heads.move_to_end(known)
        unknown = sorted(ids - self.heads.keys())
        if not unknown:
            return
        for aggregate_id in unknown:
            self.heads[aggregate_id] = _Head(0, 0, "")
        some = {
            "aggregateId": {"$in": unknown},
            "aggregateVersion": {"$type": "number"},  # else it is no event
        }
        # Indexes alone answer both queries.
        async for heads in self.store.events.aggregate(
            _last_versions(some), self.limits.lines
        ):
            for head in heads:
                found = self.heads[head["_id"]]
                found.stored = found.with_lines = version_number(head["version"]) or 0
        for first in await self.store.events.find(
            {**some, "aggregateVersion": 1},
            projection={"_id": 0, "aggregateId": 1, "aggregateType": 1},
        ):
            self.heads[first["aggregateId"]].type = first.get("aggregateType", "")

    def _is_new(self, number: int, event: Document) -> bool:
        head = self.heads[event["aggregateId"]]
        version = event["aggregateVersion"]
        head.type = head.type or event["aggregateType"]
        if event["aggregateType"] != head.type:
            raise InvalidLine(
                number,
                "aggregateType",
                f"is {event['aggregateType']!r}, but stream {event['aggregateId']!r} "
                f"is of type {head.type!r}",
            )
        if version > head.with_lines + 1:
            raise InvalidLine(
                number,
                "aggregateVersion",
                f"{version} does not follow {head.with_lines}, the last version of "
                f"stream {event['aggregateId']!r}",
            )
        is_new: bool = version == head.with_lines + 1
        head.with_lines = max(head.with_lines, version)
        return is_new

    async def _compare(
        self, present: list[NumberedEvent], pending: dict[Any, Document]
    ) -> None:
        """Make sure that events stored already equal those of the lines."""
        if not present:
            return
        ids = [event["_id"] for _, event in present if event["_id"] not in pending]
        found = await self.store.events.find({"_id": {"$in": ids}})
        known = {event["_id"]: event for event in found} | pending
        for number, event in present:
            other = known.get(event["_id"])
            if other is None and self._is_only_in_this_file(event):
                continue
            if other is None or not _is_same(other, event):
                raise InvalidLine(
                    number,
                    "aggregateVersion",
                    f"stream {event['aggregateId']!r} has another event at version "
                    f"{event['aggregateVersion']}",
                )
        self.report.present += len(present)

    def _is_only_in_this_file(self, event: Document) -> bool:
        # A dry run stores nothing, so an earlier line cannot be looked up.
        stored = self.heads[event["aggregateId"]].stored
        return self.dry_run and event["aggregateVersion"] > stored

    async def _check_ids(self, new: list[NumberedEvent]) -> None:
        """Refuse ids that exist, as the unique index would when events are stored."""
        ids = [event["_id"] for _, event in new]
        found = await self.store.events.find(
            {"_id": {"$in": ids}}, projection={"_id": 1}
        )
        known = {event["_id"] for event in found}
        for number, event in new:
            if event["_id"] in known:
                raise InvalidLine(number, *_refusal(event, {"keyPattern": {"_id": 1}}))
            known.add(event["_id"])

    async def _insert(self, new: list[NumberedEvent]) -> None:
        if self.dry_run:
            await self._check_ids(new)
        if self.dry_run or not new:
            return
        await look(self.store, STREAM_VERSIONS)
        numbered = {event["_id"] for _, event in new if "places" in event}
        while new:
            await self._number([event for _, event in new], numbered)
            stored, failure = await self._send([event for _, event in new])
            self.report.stored += stored
            for _, event in new[:stored]:
                self.heads[event["aggregateId"]].stored = event["aggregateVersion"]
            new = new[stored:]
            if failure is None:
                continue
            number, event = new[0]
            if not _is_of_places(failure) or event["_id"] in numbered:
                raise InvalidLine(number, *_refusal(event, failure))
            # Another writer took the number meanwhile: the rest is numbered again.

    async def _send(self, events: list[Document]) -> tuple[int, Document | None]:
        """Insert events; return how many, and why the one after them was refused."""
        try:
            # In order: nothing after a refused line is sent, so no stream gets a hole.
            await self.store.events.insert_many(events)
        except BulkWriteError as error:
            failures = (error.details or {}).get("writeErrors")
            if not failures:
                raise
            return failures[0]["index"], failures[0]
        return len(events), None

    async def _number(self, events: list[Document], numbered: set[Any]) -> None:
        """Give events their next places, but for those of lines that have places."""
        declared = get_settings().TYPE_BOUNDARIES
        names = [
            () if event["_id"] in numbered else names_of_places(event, declared)
            for event in events
        ]
        if numbered:
            await look(self.store, TAG_PLACES)
        if not any(names):
            return
        streams = [event["aggregateId"] for event in events]
        flat = [name for own in names for name in own]
        heads = await read_heads(self.store, streams, flat)
        placed = [pair for pair in zip(events, names, strict=True) if pair[1]]
        assign([event for event, _ in placed], [own for _, own in placed], heads)


def _refusal(event: Document, failure: Document) -> tuple[str, str]:
    """Return path and reason of a line that the server refused."""
    pattern = failure.get("keyPattern", {})
    if set(pattern) == {"_id"}:
        return "_id", f"{event['_id']!r} is the id of another event"
    if set(pattern) == {name for name, _ in STREAM_VERSIONS.keys}:
        return "aggregateVersion", "another writer appended this version meanwhile"
    if _is_of_places(failure):
        value = failure.get("keyValue", {})
        return "places", (
            f"number {value.get('places.n')} in {value.get('places.t')!r} is taken by "
            "another event. Remove places and tick from the lines, and the events get "
            "the numbers after those that exist, in the order of the file"
        )
    if failure.get("code") == DUPLICATE_KEY:
        return foreign_index(pattern)
    if failure.get("code") == FAILED_VALIDATION:
        return "", "the validator of eventstore refused it; see ensure_event_store"
    return "", f"the server refused it (code {failure.get('code')})"


def _is_of_places(failure: Document) -> bool:
    keys = {name for name, _ in TAG_PLACES.keys}
    return set(failure.get("keyPattern", ())) == keys


def _last_versions(query: Document) -> list[Document]:
    """Return the pipeline that finds the last version of each stream."""
    return [
        {"$match": query},
        {"$sort": {"aggregateId": -1, "aggregateVersion": -1}},
        {"$group": {"_id": "$aggregateId", "version": {"$first": "$aggregateVersion"}}},
    ]


def _is_same(stored: Document, event: Document) -> bool:
    """Whether a stored event equals that of a line, to the byte."""
    stored = {"payload": {}, "createdBy": None, **stored}
    if isinstance(stored.get("aggregateVersion"), float):
        stored["aggregateVersion"] = version_number(stored["aggregateVersion"])
    if isinstance(stored.get("created"), (int, float)):  # by the Node package
        with contextlib.suppress(OverflowError, ValueError):
            stored["created"] = from_milliseconds(stored["created"])
    compared = (*FIELDS, "tags")
    ours = {field: stored[field] for field in compared if field in stored}
    theirs = {field: event[field] for field in compared if field in event}
    return bson.encode(ours, codec_options=CODEC) == bson.encode(
        theirs, codec_options=CODEC
    )
