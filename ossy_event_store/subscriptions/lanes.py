"""
Deliver a page of events in one lane, or each stream in a lane of its own.

In one lane all events are delivered in global order, several in one transaction where
the delivery has one. Lanes run side by side: the order holds within a stream.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Barrier
from typing import Any, NamedTuple, Protocol

from django.db import connections

from ..documents.bson_types import Document
from ..mongodb.connection import Store
from ..mongodb.ports import drive
from ..positions.reader import LostEvent
from .attempts import Attempts, GaveUp, StoppedAt
from .claim import Claim
from .delivery import Delivery, TooLarge, by_stream
from .delivery.handler_call import close_broken_connections
from .progress import Progress
from .transactions import HandlerFailed


class Page(NamedTuple):
    """Some events, and the position up to which the subscription wants no other."""

    events: list[Document]
    reach: int
    #: Whether there may be more events.
    is_full: bool = False


class Lanes(Protocol):
    """A way to deliver a page."""

    async def deliver(self, page: Page) -> None:
        """Deliver the events of a page, or some of them if the process is to stop."""


class OneLane:
    """
    Delivers all events one after the other, or several in one transaction.

    Args:
        store: one face of the store.
        claim: the claim.
        delivery: says how many events one delivery takes.
        progress: moves with them.
        attempts: delivers them.
    """

    def __init__(
        self,
        store: Store,
        claim: Claim,
        delivery: Delivery,
        progress: Progress,
        attempts: Attempts,
    ) -> None:
        self._store = store
        self._claim = claim
        self._stop = claim.stop
        self._delivery = delivery
        self._progress = progress
        self._attempts = attempts

    async def deliver(self, page: Page) -> None:
        """Deliver the events of a page in global order."""
        await self._attempts.look_up(page.events)
        last = page.events[-1]["position"]
        for chunk in chunks(page.events, self._delivery.size):
            if self._stop.is_set():
                return
            await self._claim.check_stored(self._store)
            end: int = chunk[-1]["position"]
            await self._deliver_chunk(chunk, page.reach if end == last else end)
            await self._progress.write_if_due()
        if not self._stop.is_set():
            self._progress.seen = page.reach

    async def _deliver_chunk(self, chunk: Sequence[Document], after: int) -> None:
        events = self._attempts.without_parked(chunk)
        if len(events) > 1 and await self._deliver_together(events, after):
            return
        for number, event in enumerate(events, 1):
            if self._stop.is_set():
                return
            if self._attempts.is_parked(event):
                continue
            end = after if number == len(events) else event["position"]
            try:
                if not await self._attempts.deliver_one(event, end):
                    return
            except GaveUp as gave_up:
                await self._attempts.park(gave_up.failed, end)
        self._progress.seen = after

    async def _deliver_together(self, events: Sequence[Document], after: int) -> bool:
        """Deliver several events; False if one of them failed, not known which."""
        try:
            await self._attempts.deliver(events, after)
        except HandlerFailed:
            return False
        except TooLarge:
            half = len(events) // 2
            between = events[half - 1]["position"]
            await self._deliver_chunk(events[:half], between)
            if not self._stop.is_set():
                await self._deliver_chunk(events[half:], after)
        return True


def chunks(events: list[Document], size: int | None) -> Iterator[list[Document]]:
    """Yield events that are delivered together; one that was lost is by itself."""
    start = 0
    for at, event in enumerate(events):
        is_lost = isinstance(event, LostEvent)
        if start < at and (is_lost or at - start == size):
            yield events[start:at]
            start = at
        if is_lost:
            yield [event]
            start = at + 1
    if start < len(events):
        yield events[start:]


class LanePerStream:
    """
    Delivers the events of several streams at a time, those of each in order.

    Args:
        store: one face of the store.
        claim: the claim.
        progress: moves to the first event that is not done.
        attempts: delivers the events.
        side_by_side: runs the lanes.
    """

    def __init__(
        self,
        store: Store,
        claim: Claim,
        progress: Progress,
        attempts: Attempts,
        side_by_side: SideBySide,
    ) -> None:
        self._store = store
        self._claim = claim
        self._stop = claim.stop
        self._progress = progress
        self._attempts = attempts
        self._side_by_side = side_by_side

    async def deliver(self, page: Page) -> None:
        """Deliver the events of a page, stream by stream."""
        await self._attempts.look_up(page.events)
        done: set[int] = set()
        works = [partial(self._lane, events, done) for events in by_stream(page.events)]
        raised = await self._side_by_side.run(works)
        for error in raised:
            if isinstance(error, GaveUp):
                await self._attempts.park(error.failed, None)
        self._progress.seen = done_up_to(
            page.events, done, self._attempts.is_parked, self._progress.seen
        )
        problem = first_problem(raised, is_stopping=self._stop.is_set())
        if problem is not None:
            raise problem
        if not self._stop.is_set():
            self._progress.seen = page.reach

    async def _lane(self, events: Sequence[Document], done: set[int]) -> None:
        """Deliver the events of one stream, and note which are done."""
        for event in events:
            if self._stop.is_set():
                return
            if not self._attempts.is_parked(event):
                await self._claim.check_stored(self._store)
                if not await self._attempts.deliver_one(event, self._progress.seen):
                    return
            done.add(event["position"])


def done_up_to(
    events: Iterable[Document],
    done: Container[int],
    is_parked: Callable[[Document], bool],
    seen: int,
) -> int:
    """Return the position before the first event to be delivered again."""
    for event in events:
        if event["position"] not in done and not is_parked(event):
            break
        seen = event["position"]
    return seen


def first_problem(raised: Sequence[Any], *, is_stopping: bool) -> BaseException | None:
    """Return what ends the work of all lanes, if anything does."""
    stopped: list[StoppedAt] = []
    for error in raised:
        if isinstance(error, StoppedAt):
            stopped.append(error)
        elif isinstance(error, BaseException) and not isinstance(error, GaveUp):
            return error
    if is_stopping or not stopped:
        return None  # some lanes may not have come to their events
    # A skip of that event resumes after it, so all before it has to be done.
    return min(stopped, key=lambda error: error.event["position"])


class SideBySide:
    """
    Runs coroutines side by side: on the event loop, or in threads.

    Args:
        name: of the subscription; the threads are called after it.
        many: how many at a time.
        is_async: whether they run on the event loop.
    """

    def __init__(self, name: str, many: int, *, is_async: bool) -> None:
        self._name = name
        self._many = many
        self._is_async = is_async
        self._pool: ThreadPoolExecutor | None = None

    async def run(self, works: Sequence[Callable[[], Any]]) -> list[Any]:
        """Run all; return what each raised, or None."""
        if self._is_async:
            limit = asyncio.Semaphore(self._many)

            async def limited(work: Callable[[], Any]) -> Any:
                async with limit:
                    return await work()

            return await asyncio.gather(*map(limited, works), return_exceptions=True)
        if self._pool is None:
            name = f"ossy_event_store.{self._name}"
            self._pool = ThreadPoolExecutor(self._many, name)
        return list(self._pool.map(_driven, works))

    def close(self) -> None:
        """End the threads, which are idle, and close their database connections."""
        if self._pool is None:
            return
        together = Barrier(self._many)

        def close(_: int) -> None:
            together.wait()  # so each thread does it once
            connections.close_all()

        list(self._pool.map(close, range(self._many)))
        self._pool.shutdown()
        self._pool = None


def _driven(work: Callable[[], Any]) -> Any:
    try:
        return drive(work())
    except BaseException as error:  # whatever it is, the other lanes end first
        return error
    finally:
        close_broken_connections()
