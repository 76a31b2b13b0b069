"""
The lazy query that ``EventStore.query()`` returns, with both faces on one object.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from dataclasses import dataclass, replace
from typing import Any, Self, overload

from ...documents.arguments import check_number
from ...documents.bson_types import Document
from ...exceptions import InvalidQuery
from ...mongodb import connection
from ...mongodb.connection import Store
from ...mongodb.ports import drive, drive_each
from . import cursor as cursors
from . import reading
from .building import BuiltQuery
from .plan import Order, Plan, plan
from .reading import SPARE_KEYS
from .rows import Place

MOST_EVENTS = 1000  # of a page or a batch, which are held in memory


@dataclass(frozen=True)
class EventsPage:
    """What ``page()`` returns."""

    #: The events.
    events: list[Document]
    #: What ``page()`` takes for the next page; None if this is the last one.
    cursor: str | None


@dataclass(frozen=True)
class EventQuery(BuiltQuery):
    """
    Which events to read, and in which order. Nothing is read until you iterate.

    Each method returns a new query or reads; those that read have an awaitable twin
    with an ``a`` in front. The events are dicts, as ``EventStore.find_events()``
    returns them; in order of position, each has its ``position``.
    """

    def __iter__(self) -> Iterator[Document]:
        """Iterate over the events, which are fetched in pages."""
        return drive_each(self._each(connection.blocking(), self._plan()))

    def __aiter__(self) -> AsyncIterator[Document]:
        """Iterate over the events with ``async for``."""
        return self._aeach(self._plan())

    @overload
    def __getitem__(self, index: slice) -> Self: ...
    @overload
    def __getitem__(self, index: int) -> Document: ...
    def __getitem__(self, index: int | slice) -> Self | Document:
        """
        Return some of the events as a query, or read the one at an index.

        Raises:
            IndexError: there are not so many events.
            InvalidQuery: it would read many events to leave them out; see ``page()``.
        """
        if isinstance(index, slice):
            return self._sliced(index)
        check_number(index, "index")
        for event in self._sliced(slice(index, index + 1)):
            return event
        raise IndexError(f"index is {index}; the query finds no more than that.")

    def first(self) -> Document | None:
        """Return the first event; None if there is none."""
        return drive(self._first(connection.blocking(), self._plan()))

    async def afirst(self) -> Document | None:
        """See ``first()``."""
        wanted = self._plan()
        return await self._first(await connection.awaitable(), wanted)

    def last(self) -> Document | None:
        """Return the last event; None if there is none."""
        return drive(self._last(connection.blocking()))

    async def alast(self) -> Document | None:
        """See ``last()``."""
        return await self._last(await connection.awaitable())

    def count(self) -> int:
        """Return how many events there are, counted in the index if it can be."""
        return drive(self._count(connection.blocking(), self._plan()))

    async def acount(self) -> int:
        """See ``count()``."""
        wanted = self._plan()
        return await self._count(await connection.awaitable(), wanted)

    def exists(self) -> bool:
        """Whether there is an event."""
        return self.first() is not None

    async def aexists(self) -> bool:
        """See ``exists()``."""
        return await self.afirst() is not None

    def in_batches(self, size: int = 100) -> Iterator[list[Document]]:
        """Iterate over the events in lists of ``size``, 1,000 at most."""
        _check_size(size)
        store = connection.blocking()
        return drive_each(_in_batches(self._each(store, self._plan()), size))

    def ain_batches(self, size: int = 100) -> AsyncIterator[list[Document]]:
        """Iterate with ``async for``; see ``in_batches()``."""
        _check_size(size)
        return _in_batches(self._aeach(self._plan()), size)

    def page(self, size: int, cursor: str | None = None) -> EventsPage:
        """
        Return some events and a cursor for the next ones.

        A page is found by its key, so the last one costs as much as the first one.

        Args:
            size: events of the page, 1,000 at most.
            cursor: of the page before; it may go through a URL. It is signed with the
                setting ``SECRET_KEY``. Begin without one.

        Raises:
            InvalidQuery: the cursor was changed, or made in another order.
        """
        self._refuse_a_slice("page")
        wanted = _page_of(self._plan(), size, cursor)
        return drive(_page(connection.blocking(), *wanted))

    async def apage(self, size: int, cursor: str | None = None) -> EventsPage:
        """See ``page()``."""
        self._refuse_a_slice("page")
        wanted = _page_of(self._plan(), size, cursor)
        return await _page(await connection.awaitable(), *wanted)

    def explain(self) -> dict[str, Any]:
        """
        Return how the query is read, without reading anything.

        A dict: ``order`` and ``reverse``; ``collection`` and ``index``; ``searches``,
        how often it is searched at first; ``filters``, the conditions that the index
        does not meet; ``scan``, whether it may read any number of events.

        Raises:
            InvalidQuery: no index answers it.
        """
        return self._plan().explained()

    # --- shared -------------------------------------------------------------

    def _plan(self, *, backwards: bool = False) -> Plan:
        return plan(
            self._conditions,
            self._order,
            backwards=self._backwards != backwards,
            may_scan=self._may_scan,
        )

    async def _each(self, store: Store, wanted: Plan) -> AsyncGenerator[Document, None]:
        limit = None if self._stop is None else self._stop - self._start
        found = reading.each_event(store, wanted, skip=self._start, limit=limit)
        try:
            async for event, _, _ in found:
                yield event
        finally:
            await found.aclose()

    async def _aeach(self, wanted: Plan) -> AsyncGenerator[Document, None]:
        events = self._each(await connection.awaitable(), wanted)
        try:
            async for event in events:
                yield event
        finally:
            await events.aclose()

    async def _first(self, store: Store, wanted: Plan) -> Document | None:
        events = self[:1]._each(store, wanted)
        try:
            return await anext(events, None)
        finally:
            await events.aclose()

    async def _last(self, store: Store) -> Document | None:
        if not self._start and self._stop is None:
            return await self._first(store, self._plan(backwards=True))
        last = None
        async for event in self._each(store, self._plan()):
            last = event
        return last

    async def _count(self, store: Store, wanted: Plan) -> int:
        found = await reading.count(store, wanted, self._stop)
        return max(0, found - self._start)

    def _sliced(self, index: slice) -> Self:
        if index.step is not None:
            raise InvalidQuery("index", "a slice of a query has no step")
        for end in (index.start, index.stop):
            if end is not None:
                check_number(end, "index")
        start = self._start + (index.start or 0)
        stop = self._stop
        if index.stop is not None:
            stop = self._start + index.stop
            stop = stop if self._stop is None else min(stop, self._stop)
            stop = max(stop, start)
        if start > SPARE_KEYS and not self._may_scan:
            raise InvalidQuery(
                "index",
                f"{start} events would be read and left out; use page(), or conditions "
                "on versions, positions or times. scan() before the slice allows it",
            )
        return replace(self, _start=start, _stop=stop)


def _page_of(wanted: Plan, size: Any, cursor: Any) -> tuple[Plan, int, Place]:
    _check_size(size)
    return wanted, size, {} if cursor is None else cursors.decode(wanted, cursor)


def plan_of(query: EventQuery, order: Order) -> Plan:
    """Return how a query is read in an order, for what reads it in its own way."""
    return plan(query._conditions, order, may_scan=query._may_scan)


def _check_size(size: Any) -> None:
    check_number(size, "size", 1)
    if size > MOST_EVENTS:
        raise InvalidQuery("size", f"is {size}; at most {MOST_EVENTS} are allowed")


async def _in_batches(
    events: AsyncGenerator[Document, None], size: int
) -> AsyncGenerator[list[Document], None]:
    batch: list[Document] = []
    try:
        async for event in events:
            batch.append(event)
            if len(batch) == size:
                yield batch
                batch = []
        if batch:
            yield batch
    finally:
        await events.aclose()


async def _page(store: Store, wanted: Plan, size: int, place: Place) -> EventsPage:
    events: list[Document] = []
    is_more = False
    found = reading.each_event(store, wanted, place=place, limit=size + 1)
    try:
        async for event, number, key in found:
            is_more = len(events) == size
            if not is_more:
                events.append(event)
                # Of times, the last one says where every source is.
                others = {} if wanted.order == "created" else place
                place = {**others, number: key}
    finally:
        await found.aclose()
    return EventsPage(events, cursors.encode(wanted, place) if is_more else None)
