"""
Parts of a rebuild: ranges of stream ids with about as many events each, and shares of
all streams by a hash of their ids.

Ranges are made once, by whoever hands them out. Shares need nobody: which one a stream
is in follows from its id alone, whatever is appended meanwhile.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from typing import Any
from zlib import crc32

from ..documents.bson_types import Document
from ..exceptions import ReducerError
from ..mongodb.connection import Store
from ..mongodb.deadline import in_time
from ..mongodb.indexes import TYPE_VERSIONS
from .report import RebuildReport
from .tallies import NAMED

LEAST = 1000  # events in a range, about; of fewer a process would see none
PAGE = 10_000  # ids a round trip

_KEYS = list(TYPE_VERSIONS.keys)


@dataclass(frozen=True)
class Partition:
    """
    One of ``of`` shares of all streams; ``index`` is from 0 to ``of - 1``.

    Raises:
        ValueError: there is no such share.
    """

    index: int
    of: int

    def __post_init__(self) -> None:
        if self.of < 1 or not 0 <= self.index < self.of:
            raise ValueError(
                f"partition {self.index}/{self.of}: expected I/N with I from 0 to N-1, "
                "as 0/4, 1/4, 2/4, 3/4"
            )

    def __contains__(self, aggregate_id: str) -> bool:
        return crc32(aggregate_id.encode()) % self.of == self.index

    def __str__(self) -> str:
        return f"{self.index}/{self.of}"


@dataclass(frozen=True)
class Span:
    """The streams of a type whose ids are after one and up to another; None is open."""

    kind: str
    after: str | None = None
    until: str | None = None

    @property
    def ids(self) -> Document:
        """The condition on an id; a bound keeps what is no string out."""
        bounds = {"$gt": self.after, "$lte": self.until}
        return {name: bound for name, bound in bounds.items() if bound is not None}

    @property
    def query(self) -> Document:
        """The query for the events."""
        ids = {"aggregateId": self.ids} if self.ids else {}
        return {"aggregateType": {"$eq": self.kind}, **ids}

    def __str__(self) -> str:
        text = self.kind
        if self.after is not None:
            text += f" after {self.after!r}"
        if self.until is not None:
            text += f" up to {self.until!r}"
        return text


@dataclass
class Part:
    """A range of streams, and what is done of it: folded and written."""

    span: Span
    #: The last stream that is done.
    done: str | None = None
    ended: bool = False
    streams: int = 0
    events: int = 0
    failed: int = 0
    failures: list[ReducerError] = field(default_factory=list)

    @property
    def rest(self) -> Span:
        """What is left to do."""
        span = self.span
        return span if self.done is None else Span(span.kind, self.done, span.until)

    def count(self, report: RebuildReport, done: str | None) -> None:
        """Take in what is done of it by now."""
        self.done = done
        self.streams, self.events = report.streams, report.events
        self.failed, self.failures = report.failed, report.failures[:NAMED]

    def divided(self, spans: Sequence[Span]) -> list[Part]:
        """Return what is done as a part of its own, and ``spans``, the rest."""
        rest = [Part(span) for span in spans]
        if self.done is None:
            return rest
        span = Span(self.span.kind, self.span.after, self.done)
        done = (self.streams, self.events, self.failed, self.failures)
        return [Part(span, self.done, True, *done), *rest]


async def split(store: Store, span: Span, number: int) -> list[Span]:
    """
    Return ``span`` as up to ``number`` ranges of about as many events each.

    Counts and skips along an index and reads no event, for as long as it takes. (It
    names no index: where there is none yet, a rebuild is slow, but works.) A stream is
    in one range, however long it is.
    """
    count = await store.events.count_where(span.query, unbounded=True)
    number = min(number, count // LEAST) or 1
    spans, after = [], span.after
    for _ in range(number - 1):
        found = await store.events.find_one(
            Span(span.kind, after, span.until).query,
            projection={"_id": 0, "aggregateId": 1},
            sort=_KEYS,
            skip=count // number - 1,
            unbounded=True,
        )
        if found is None or not isinstance(found["aggregateId"], str):
            break
        spans.append(Span(span.kind, after, found["aggregateId"]))
        after = found["aggregateId"]
    return [*spans, Span(span.kind, after, span.until)]


async def ids_of(
    store: Store, span: Span, partition: Partition
) -> AsyncGenerator[list[str], None]:
    """Yield the ids of a share's streams in order; reads an index, a key a stream."""
    after = span.after
    while True:
        some = Span(span.kind, after, span.until)
        pipeline: list[Document] = [
            {"$match": {**some.query, "aggregateId": {"$gte": "", **some.ids}}},
            {"$sort": dict(_KEYS)},
            {"$group": {"_id": "$aggregateId", "v": {"$first": "$aggregateVersion"}}},
            {"$limit": PAGE},
        ]
        page: list[Any] = []
        with in_time():
            # One round trip: a cursor would be gone by the time these are folded.
            async for batch in store.events.aggregate(pipeline, PAGE + 1):
                page += [head["_id"] for head in batch]
        if page != sorted(page) or (page and after is not None and page[0] <= after):
            raise RuntimeError(
                "The server gave streams out of order: is an index missing? See "
                "manage.py ensure_event_store."
            )
        yield [aggregate_id for aggregate_id in page if aggregate_id in partition]
        if len(page) < PAGE:
            return
        after = page[-1]
