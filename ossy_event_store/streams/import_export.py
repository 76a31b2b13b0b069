"""
Bring events in and out: one JSON object a line, in flat memory.

An event that comes without an id gets one made of its stream and version, so that
importing a file twice, or into two stores, gives the same ids; an export leaves
such an id out again. A killed import is simply run again: what is stored already
is compared and passed over.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import math
import struct
import time
from collections import OrderedDict
from collections.abc import (
    AsyncGenerator,
    Callable,
    Coroutine,
    Iterable,
    Iterator,
    Sequence,
)
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import bson
from pymongo.errors import BulkWriteError

from ..documents.bson_types import CODEC, Document
from ..documents.event_document import (
    FIELDS,
    check_fields,
    checked_document,
    from_milliseconds,
)
from ..documents.extended_json import (
    Malformed,
    decode,
    dumps,
    encode,
    iso,
    loads,
    parse_date,
)
from ..documents.storable import COPY, is_text
from ..exceptions import InvalidEvent, InvalidLine
from ..mongodb.connection import Store
from ..mongodb.deadline import in_time
from ..mongodb.resumable_scan import scan
from ..mongodb.write_errors import FAILED_VALIDATION
from .gc_pause import fewer_collections

BATCH = 5000  # lines at a time, at most
LARGE = 4 * 1024 * 1024  # characters after which no further line is taken
REMEMBERED = 50_000  # streams whose last version is kept at hand

_INFINITE = struct.pack("<d", math.inf)
_MINUS_INFINITE = struct.pack("<d", -math.inf)
_REQUIRED = ("aggregateId", "aggregateType", "aggregateVersion", "type", "created")


@dataclass
class TransferReport:
    """What an import or export has done; passed to ``progress`` while it runs."""

    #: Events read from the file, or written to it.
    events: int = 0
    #: Events stored by this import.
    stored: int = 0
    #: Events that were stored already, with the same content.
    present: int = 0
    #: Seconds so far.
    seconds: float = 0.0

    @property
    def rate(self) -> float:
        """Events a second."""
        return self.events / self.seconds if self.seconds else 0.0


Progress = Callable[[TransferReport], None]


def derived_id(aggregate_id: str, version: int) -> str:
    """Return the id of an event that came without one."""
    return f"{aggregate_id}@{version}"


# --- out --------------------------------------------------------------------


async def export_events(
    store: Store, queries: Sequence[Document], progress: Progress | None = None
) -> AsyncGenerator[str, None]:
    """
    Yield the events as lines of JSON, stream by stream, in order of version.

    Args:
        store: one face of the store.
        queries: filters on ``aggregateType`` and ``aggregateId``, done in turn.
        progress: called with the report after every batch.
    """
    report, began = TransferReport(), time.monotonic()
    for query in queries:
        # A browser that downloads slowly must not hold one of the site's connections.
        async with aclosing(scan(store, query, pushed=False)) as batches:
            async for batch in batches:
                yield "".join(line_of(event) + "\n" for event in batch)
                report.events += len(batch)
                report.seconds = time.monotonic() - began
                if progress:
                    progress(report)


def line_of(event: Document) -> str:
    """Return the line of a stored event; ``read_line`` is the way back."""
    out = dict(event)
    if out["_id"] == derived_id(event["aggregateId"], event["aggregateVersion"]):
        del out["_id"]
    created = out.get("created")
    if isinstance(created, (int, float)):  # by the Node package
        with contextlib.suppress(OverflowError, ValueError):
            created = from_milliseconds(created)
    line = {key: encode(value) for key, value in out.items() if key != "created"}
    if "created" in out:
        line["created"] = (
            iso(created) if isinstance(created, dt.datetime) else encode(created)
        )
    # In the order in which the document has them.
    return dumps({key: line[key] for key in out})


# --- in ---------------------------------------------------------------------


def read_line(text: str) -> Document:
    """
    Return the event document of a line.

    Raises:
        Malformed: with path and reason.
        InvalidEvent: likewise.
    """
    line = _checked_names(loads(text))
    created = line.pop("created")
    try:
        if _is_plain(text) and _is_exact(event := _event_of(line, created)):
            check_fields(event, COPY)
            return event
        return checked_document(_event_of(decode(line), created), COPY)
    except InvalidEvent as error:
        path = "_id" if error.path == "id" else error.path
        raise InvalidEvent(path, error.reason) from None


def _is_plain(text: str) -> bool:
    """
    Whether the values of a line are those of its JSON, as nearly all lines' are.

    No type is spelled out ("$"), nothing escaped that could be one or no text ("\\"),
    and nothing nested too deep.
    """
    return (
        "$" not in text
        and "\\" not in text
        and text.count("{") + text.count("[") <= COPY.depth
        and is_text(text)
    )


def _is_exact(event: Document) -> bool:
    """Whether the event of a plain line can be stored; numbers may be too large."""
    try:
        encoded = bson.encode(event, codec_options=CODEC)
    except OverflowError:
        return False
    return (
        len(encoded) <= COPY.size
        and _INFINITE not in encoded
        and _MINUS_INFINITE not in encoded
    )


def _event_of(line: Document, created: Any) -> Document:
    """Return the event of a line's values, with every field in its place."""
    aggregate_id, version = line["aggregateId"], line["aggregateVersion"]
    event = {
        "_id": line["_id"] if "_id" in line else derived_id(aggregate_id, version),
        "aggregateId": aggregate_id,
        "aggregateType": line["aggregateType"],
        "aggregateVersion": version,
        "type": line["type"],
        "payload": line.get("payload", {}),
        "created": _created(created),
        "createdBy": line.get("createdBy"),
    }
    if "metadata" in line:
        event["metadata"] = line["metadata"]
    return event


def _checked_names(line: Any) -> dict[str, Any]:
    if not isinstance(line, dict):
        raise Malformed(f"expected a JSON object, not {type(line).__name__}")
    for name in _REQUIRED:
        if line.get(name) is None:
            raise Malformed("missing", name)
    for name in line:
        if name not in FIELDS:
            raise Malformed(f"not a field of an event: {', '.join(FIELDS)}", name)
    return line


def _created(value: Any) -> Any:
    try:
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return from_milliseconds(value)
        return decode(value) if isinstance(value, dict) else parse_date(value)
    except (OverflowError, ValueError) as error:
        if isinstance(error, Malformed):
            raise error.inside("created") from None
        raise Malformed("beyond the years that a date can have", "created") from None


@dataclass(slots=True)
class _Head:
    """How far a stream has come: in the store, and with the lines of the file."""

    stored: int
    reached: int
    type: str


async def import_events(
    store: Store,
    lines: Iterable[tuple[int, str]],
    *,
    dry_run: bool = False,
    report: TransferReport | None = None,
    progress: Progress | None = None,
) -> TransferReport:
    """
    Store the events of numbered lines, as they are.

    Ids, versions and ``created`` are kept. Each stream's versions must follow on
    what is stored; streams may interleave.

    Args:
        store: one face of the store.
        lines: number and text of each line.
        dry_run: check every line against the store, and store nothing. What two
            lines of the file far apart do to each other is not seen.
        report: is kept up to date meanwhile; a new one by default.
        progress: called with the report after every batch.

    Raises:
        InvalidLine: with number, path and reason; some or all of the lines before
            it are stored, and nothing after it.
    """
    work = _Import(store, dry_run, report or TransferReport())
    began = time.monotonic()
    batches = _batches(lines)
    with fewer_collections():
        batch = next(batches, None)
        while batch:
            work.report.events += len(batch)
            # The server is busy with one batch while the next is read.
            async with _done(store, work.take(batch)):
                batch = next(batches, None)
            work.report.seconds = time.monotonic() - began
            if progress:
                progress(work.report)
    return work.report


@contextlib.asynccontextmanager
async def _done(
    store: Store, work: Coroutine[Any, Any, None]
) -> AsyncGenerator[None, None]:
    """Do some work meanwhile; what it raises comes before what the block raises."""
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
    lines: Iterable[tuple[int, str]],
) -> Iterator[list[tuple[int, Document]]]:
    batch: list[tuple[int, Document]] = []
    size = 0
    for number, text in lines:
        if not text.strip():
            continue
        size += len(text)
        try:
            batch.append((number, read_line(text)))
        except (Malformed, InvalidEvent) as error:
            raise InvalidLine(number, error.path, error.reason) from None
        if len(batch) == BATCH or size > LARGE:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


class _Import:
    def __init__(self, store: Store, dry_run: bool, report: TransferReport) -> None:
        self.store = store
        self.dry_run = dry_run
        self.report = report
        self.heads: OrderedDict[str, _Head] = OrderedDict()

    async def take(self, batch: list[tuple[int, Document]]) -> None:
        """Store those events of a batch that are new."""
        with in_time():
            await self._take(batch)

    async def _take(self, batch: list[tuple[int, Document]]) -> None:
        await self._look_up({event["aggregateId"] for _, event in batch})
        new: list[tuple[int, Document]] = []
        present: list[tuple[int, Document]] = []
        for number, event in batch:
            where = new if self._is_new(number, event) else present
            where.append((number, event))
        pending = {event["_id"]: event for _, event in new}
        await self._compare(present, pending)
        await self._insert(new)
        # A dry run stores nothing to look a forgotten stream up in.
        while len(self.heads) > REMEMBERED and not self.dry_run:
            self.heads.popitem(last=False)

    async def _look_up(self, ids: set[str]) -> None:
        """Learn how far the streams of a batch have come, where it is not known."""
        for known in ids & self.heads.keys():
            self.heads.move_to_end(known)
        unknown = sorted(ids - self.heads.keys())
        if not unknown:
            return
        for aggregate_id in unknown:
            self.heads[aggregate_id] = _Head(0, 0, "")
        some = {"aggregateId": {"$in": unknown}}
        # Both are answered by indexes alone.
        async for heads in self.store.events.aggregate(_heads(some), BATCH):
            for head in heads:
                found = self.heads[head["_id"]]
                found.stored = found.reached = head["version"]
        for first in await self.store.events.find(
            {**some, "aggregateVersion": 1},
            projection={"_id": 0, "aggregateId": 1, "aggregateType": 1},
        ):
            self.heads[first["aggregateId"]].type = first["aggregateType"]

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
        if version > head.reached + 1:
            raise InvalidLine(
                number,
                "aggregateVersion",
                f"{version} does not follow on {head.reached}, the last version of "
                f"stream {event['aggregateId']!r}",
            )
        is_new: bool = version == head.reached + 1
        head.reached = max(head.reached, version)
        return is_new

    async def _compare(
        self, present: list[tuple[int, Document]], pending: dict[Any, Document]
    ) -> None:
        """Make sure that what is there already is the same."""
        if not present:
            return
        ids = [event["_id"] for _, event in present if event["_id"] not in pending]
        found = await self.store.events.find({"_id": {"$in": ids}})
        there = {event["_id"]: event for event in found} | pending
        for number, event in present:
            other = there.get(event["_id"])
            if other is None and self._only_in_this_file(event):
                continue
            if other is None or not _same(other, event):
                raise InvalidLine(
                    number,
                    "aggregateVersion",
                    f"stream {event['aggregateId']!r} has another event at version "
                    f"{event['aggregateVersion']}",
                )
        self.report.present += len(present)

    def _only_in_this_file(self, event: Document) -> bool:
        # A dry run stores nothing, so an earlier line cannot be looked up.
        stored = self.heads[event["aggregateId"]].stored
        return self.dry_run and event["aggregateVersion"] > stored

    async def _check_ids(self, new: list[tuple[int, Document]]) -> None:
        """Find ids that are taken, as the unique index would when they are stored."""
        ids = [event["_id"] for _, event in new]
        found = await self.store.events.find(
            {"_id": {"$in": ids}}, projection={"_id": 1}
        )
        taken = {event["_id"] for event in found}
        for number, event in new:
            if event["_id"] in taken:
                raise InvalidLine(number, *_refusal(event, {"keyPattern": {"_id": 1}}))
            taken.add(event["_id"])

    async def _insert(self, new: list[tuple[int, Document]]) -> None:
        if self.dry_run:
            await self._check_ids(new)
        if self.dry_run or not new:
            return
        try:
            # In order: what stands behind a refused line is not sent, so that no
            # stream gets a hole.
            await self.store.events.insert_many([event for _, event in new])
        except BulkWriteError as error:
            failures = (error.details or {}).get("writeErrors")
            if not failures:
                raise
            self.report.stored += failures[0]["index"]
            number, event = new[failures[0]["index"]]
            raise InvalidLine(number, *_refusal(event, failures[0])) from None
        for _, event in new:
            self.heads[event["aggregateId"]].stored = event["aggregateVersion"]
        self.report.stored += len(new)


def _refusal(event: Document, failure: Document) -> tuple[str, str]:
    if "_id" in failure.get("keyPattern", ()):
        return "_id", f"{event['_id']!r} is the id of another event"
    if failure.get("code") == 11000:
        return "aggregateVersion", "somebody else appended this version meanwhile"
    if failure.get("code") == FAILED_VALIDATION:
        return "", "the validator of eventstore refused it; see ensure_event_store"
    return "", f"the server refused it (code {failure.get('code')})"


def _heads(query: Document) -> list[Document]:
    return [
        {"$match": query},
        {"$sort": {"aggregateId": -1, "aggregateVersion": -1}},
        {"$group": {"_id": "$aggregateId", "version": {"$first": "$aggregateVersion"}}},
    ]


def _same(stored: Document, event: Document) -> bool:
    """Whether a stored event is the one of a line, to the byte."""
    stored = {"payload": {}, "createdBy": None, **stored}
    if isinstance(stored.get("created"), (int, float)):  # by the Node package
        with contextlib.suppress(OverflowError, ValueError):
            stored["created"] = from_milliseconds(stored["created"])
    ours = {field: stored[field] for field in FIELDS if field in stored}
    theirs = {field: event[field] for field in FIELDS if field in event}
    return bson.encode(ours, codec_options=CODEC) == bson.encode(
        theirs, codec_options=CODEC
    )
