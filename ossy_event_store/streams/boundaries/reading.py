"""
Read the events of a query, in the order in which decisions depend on each other.

Each name that the query guards is read in pages by its dense numbers, and the names are
merged by tick. The token is taken before the events: what is appended meanwhile counts
as new.
"""

from __future__ import annotations

import datetime as dt
import heapq
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from dataclasses import dataclass

from ...conf import get_settings
from ...documents.boundaries.places import number_in, places_after
from ...documents.boundaries.query import Query
from ...documents.boundaries.tags import is_reserved
from ...documents.boundaries.token import Known, encode
from ...documents.bson_types import Document
from ...documents.event_document import read_whole_event
from ...documents.passed_over import is_event
from ...mongodb.connection import Store, database_name
from ...mongodb.deadline import in_time
from .guarding import chosen
from .heads import read_heads

NUMBERS_PER_PAGE = 500
_BY_TIME = [("created", 1), ("_id", 1)]

Order = tuple[int, dt.datetime, str]


@dataclass(frozen=True)
class BoundaryRead:
    """What ``read_boundary()`` returns."""

    #: What a condition takes as ``after``: what was there before the events were read.
    token: str
    #: The events, in pages while you iterate, once. Those that share a tag or a stream
    #: come in their order.
    events: Iterator[Document]


@dataclass(frozen=True)
class AwaitableBoundaryRead:
    """What ``aread_boundary()`` returns; see ``BoundaryRead``."""

    token: str
    events: AsyncIterator[Document]


@dataclass(frozen=True)
class Source:
    """The events in one name up to a number, as far as they match one of the items."""

    name: str
    number: int
    items: list[Document]

    def filter(self, after: int, until: int) -> Document:
        """Return the filter for those between two numbers."""
        return {**places_after(self.name, after, until), "$or": self.items}


@dataclass(frozen=True)
class Extent:
    """What there is to read of a query: the token, and the sources of the events."""

    token: str
    sources: list[Source]


async def extent_of(store: Store, query: Query) -> Extent:
    """
    Return what there is to read now; this is the moment that the token stands for.

    Raises:
        InvalidBoundary: an item has no tags, and its types are not declared.
    """
    guards = query.guards(get_settings().TYPE_BOUNDARIES)
    names = [name for guard in guards for name in guard.names]
    with in_time():
        heads = await read_heads(store, [], names)
    known: list[Known] = []
    items: dict[str, list[Document]] = {}
    for guard in guards:
        name = chosen(guard, heads)
        known.append(Known(name, heads.numbers.get(name, 0)))
        items.setdefault(name, []).append(guard.item.filter)
    token = encode(query, guards, known, database_name(store))
    sources = [Source(n, heads.numbers.get(n, 0), found) for n, found in items.items()]
    return Extent(token, sources)


async def each_event(store: Store, extent: Extent) -> AsyncGenerator[Document, None]:
    """Iterate over the events, each once, in the order of their ticks."""
    if _fits_in_a_page(extent):
        filters = [source.filter(0, source.number) for source in extent.sources]
        for event in sorted(await _page(store, filters), key=order):
            yield event
        return
    tagged = [s.items for s in extent.sources if not is_reserved(s.name)]
    elsewhere = [one for items in tagged for one in items]
    sources = [_each_of(store, source, elsewhere) for source in extent.sources]
    waiting: list[tuple[Order, int, Document]] = []
    last = None
    try:
        for index, source in enumerate(sources):
            await _push(waiting, index, source)
        while waiting:
            key, index, event = heapq.heappop(waiting)
            await _push(waiting, index, sources[index])
            if key != last:  # else another source had it, too
                yield event
            last = key
    finally:
        for source in sources:
            await source.aclose()


def _fits_in_a_page(extent: Extent) -> bool:
    if any(is_reserved(source.name) for source in extent.sources):
        return False
    return sum(source.number for source in extent.sources) <= NUMBERS_PER_PAGE


async def _push(
    waiting: list[tuple[Order, int, Document]],
    index: int,
    source: AsyncGenerator[tuple[Order, Document], None],
) -> None:
    async for key, event in source:
        heapq.heappush(waiting, (key, index, event))
        return


async def _each_of(
    store: Store, source: Source, elsewhere: list[Document]
) -> AsyncGenerator[tuple[Order, Document], None]:
    """
    Iterate over the events of one source, in the order of their numbers.

    Those that were stored before their type was declared have none, and come first;
    unless a source with a tag has them, ``elsewhere``, and knows their order.
    """
    if is_reserved(source.name):
        older: Document = {"places.t": {"$ne": source.name}, "$or": source.items}
        if elsewhere:
            older["$nor"] = elsewhere
        async for batch in store.events.batches(older, NUMBERS_PER_PAGE, sort=_BY_TIME):
            for event in map(read_whole_event, filter(is_event, batch)):
                yield order({**event, "tick": 0}), event
    after = 0
    while after < source.number:
        until = min(after + NUMBERS_PER_PAGE, source.number)
        for event in sorted(
            await _page(store, [source.filter(after, until)]),
            key=lambda event: number_in(event, source.name),
        ):
            yield order(event), event
        after = until


async def _page(store: Store, filters: list[Document]) -> list[Document]:
    with in_time():
        found = await store.events.find({"$or": filters})
    return [read_whole_event(event) for event in found if is_event(event)]


def order(event: Document) -> Order:
    """
    Return the key by which the events of a boundary are sorted.

    A tick is higher than those of all earlier events that share a tag or a stream. The
    rest of the key decides between events that have nothing in common.
    """
    created = event.get("created")
    if not isinstance(created, dt.datetime):  # by the Node package, beyond all dates
        created = dt.datetime.min.replace(tzinfo=dt.UTC)
    return event.get("tick") or 0, created, str(event["_id"])
