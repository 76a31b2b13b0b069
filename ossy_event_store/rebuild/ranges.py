"""
Divide streams: into ranges of ids with about as many events each, or shares by a hash.

The coordinator makes the ranges. Shares need no coordinator: a stream's share follows
from its id alone, whatever is appended meanwhile.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from typing import Any
from zlib import crc32

from ..documents.arguments import check_number
from ..documents.bson_types import Document
from ..exceptions import ReducerError
from ..mongodb.connection import Store
from ..mongodb.deadline import in_time
from ..mongodb.indexes import TYPE_VERSIONS
from .report import RebuildReport
from .tallies import NAMED_FAILURES

MIN_RANGE_EVENTS = 1000  # about; a shorter range is not worth a process
IDS_PAGE_SIZE = 10_000  # ids a round trip

_SORT = list(TYPE_VERSIONS.keys)


@dataclass(frozen=True)
class Partition:
    """
    One of ``of`` shares of all streams; ``index`` is from 0 to ``of - 1``.

    Raises:
        ValueError: no such share exists.
    """

    index: int
    of: int

    def __post_init__(self) -> None:
        check_number(self.index, "partition[0]")
        if check_number(self.of, "partition[1]") < 1 or self.index >= self.of:
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
    """A range of a type's streams: ids after one and up to another; None is open."""

    aggregate_type: str
    after: str | None = None
    until: str | None = None

    @property
    def ids(self) -> Document:
        """The condition on an id; each bound also excludes ids that are not strings."""
        bounds = {"$gt": self.after, "$lte": self.until}
        return {name: bound for name, bound in bounds.items() if bound is not None}

    @property
    def query(self) -> Document:
        """The query for the events."""
        ids = {"aggregateId": self.ids} if self.ids else {}
        return {"aggregateType": {"$eq": self.aggregate_type}, **ids}

    def __str__(self) -> str:
        text = self.aggregate_type
        if self.after is not None:
            text += f" after {self.after!r}"
        if self.until is not None:
            text += f" up to {self.until!r}"
        return text


@dataclass
class Part:
    """A range of streams, and how much of it is folded and written."""

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
        """The streams that are left to do."""
        span = self.span
        return (
            span
            if self.done is None
            else Span(span.aggregate_type, self.done, span.until)
        )

    def count(self, report: RebuildReport, done: str | None) -> None:
        """Record what is done so far."""
        self.done = done
        self.streams, self.events = report.streams, report.events
        self.failed, self.failures = report.failed, report.failures[:NAMED_FAILURES]

    def divided(self, spans: Sequence[Span]) -> list[Part]:
        """Return a part for what is done, and one for each of ``spans``, the rest."""
        rest = [Part(span) for span in spans]
        if self.done is None:
            return rest
        span = Span(self.span.aggregate_type, self.span.after, self.done)
        done = (self.streams, self.events, self.failed, self.failures)
        return [Part(span, self.done, True, *done), *rest]


async def split(store: Store, span: Span, number: int) -> list[Span]:
    """
    Split ``span`` into up to ``number`` ranges of about as many events each.

    Counts and skips along an index and reads no event, without a time limit. It does
    not name the index: without one, a rebuild is slow but works. A stream is in one
    range, however long it is.
    """
    count = await store.events.count_where(span.query, unbounded=True)
    number = min(number, count // MIN_RANGE_EVENTS) or 1
    spans, after = [], span.after
    for _ in range(number - 1):
        found = await store.events.find_one(
            Span(span.aggregate_type, after, span.until).query,
            projection={"_id": 0, "aggregateId": 1},
            sort=_SORT,
            skip=count // number - 1,
            unbounded=True,
        )
        if found is None or not isinstance(found["aggregateId"], str):
            break
        spans.append(Span(span.aggregate_type, after, found["aggregateId"]))
        after = found["aggregateId"]
    return [*spans, Span(span.aggregate_type, after, span.until)]


async def ids_of(
    store: Store, span: Span, partition: Partition
) -> AsyncGenerator[list[str], None]:
    """Yield the ids of a share's streams, in order; reads one index key per stream."""
    after = span.after
    while True:
        some = Span(span.aggregate_type, after, span.until)
        with in_time():
            page = await _page_of_ids(store, some)
        if any(type(one) is not str for one in page) or page != sorted(page):
            # An id that is a list, by another program, takes the order from the index,
            # as its absence does. Lists come after all strings in the server's order.
            found = await _page_of_ids(store, some, is_sorted=True)
            page = [one for one in found if type(one) is str]
        yield [aggregate_id for aggregate_id in page if aggregate_id in partition]
        if len(page) < IDS_PAGE_SIZE:
            return
        after = page[-1]


async def _page_of_ids(
    store: Store, span: Span, *, is_sorted: bool = False
) -> list[Any]:
    """
    Return the next ids of a range of streams, in one round trip.

    A cursor would time out while these are folded.

    Args:
        store: one face of the store.
        span: the streams.
        is_sorted: let the server sort, if no index gives it the order. It then reads
            every event of the range, for as long as that takes.
    """
    pipeline: list[Document] = [
        {"$match": {**span.query, "aggregateId": {"$gte": "", **span.ids}}},
        {"$sort": dict(_SORT)},
        {"$group": {"_id": "$aggregateId", "v": {"$first": "$aggregateVersion"}}},
    ]
    if is_sorted:
        pipeline[1:] = [{"$group": {"_id": "$aggregateId"}}, {"$sort": {"_id": 1}}]
    pipeline.append({"$limit": IDS_PAGE_SIZE})
    pages = store.events.aggregate(
        pipeline, IDS_PAGE_SIZE + 1, unbounded=is_sorted, allowDiskUse=is_sorted
    )
    page: list[Any] = []
    async for batch in pages:
        page += [head["_id"] for head in batch]
    return page
