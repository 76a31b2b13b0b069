"""
Run subscriptions to their end in a test, one after the other, without a sleep.

The code is that of ``manage.py run_subscriptions``: its sequencer, claims, deliveries
and checkpoints. Only what waits for other processes or for time is left out.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Iterable
from dataclasses import replace
from threading import Event
from typing import Any, TypeVar

from asgiref.sync import async_to_sync, sync_to_async

from ..documents.arguments import check_number
from ..exceptions import UnexpectedState
from ..mongodb import connection, leases
from ..mongodb.connection import Store
from ..mongodb.ports import drive
from ..positions.reader import position_of
from ..subscriptions.claim import Claim, Timings
from ..subscriptions.consumer import Consumer
from ..subscriptions.declaration import Subscription
from ..subscriptions.delivery import Delivery
from ..subscriptions.parked_streams import Failed
from ..subscriptions.progress import Progress
from ..subscriptions.runner import assign_positions, chosen
from .database import check_test_run

ROUNDS = 100  # in which handlers may append events that others handle
# Nothing renews the leases of a test, which may stand in a debugger for long.
TIMINGS = Timings(lease_seconds=86_400.0)

T = TypeVar("T")


def run_subscriptions(*names: str, until: Any = None, park: bool = False) -> None:
    """
    Deliver all events to subscriptions, projections and snapshots, and return.

    Everything happens in this thread, in order of position, one subscription after the
    other; a handler that is a coroutine function gets an event loop, and what it calls
    by ``sync_to_async`` runs in this thread. Events that handlers append are delivered
    too. A subscription that has stopped or is paused stays so.

    Args:
        names: the subscriptions; all that are declared by default.
        until: deliver no event after this one: an event as stored, an ``Aggregate``
            (its last event) or a position.
        park: do what a process does with an event that fails: try it again, here
            without a pause, then park its stream or stop the subscription. By default
            the first error is raised, and the event is delivered again by the next
            call.

    Raises:
        UnknownSubscription: no subscription has one of these names; it says which
            exist.
        UnexpectedState: handlers append new events without end, or another process
            runs a subscription.
        ImproperlyConfigured: no tests run in this process.
        BaseException: what a handler or a reducer raised.
    """

    async def here(work: Callable[[], T]) -> T:
        return work()

    async def on_a_loop(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        return async_to_sync(work)()

    drive(_run(names, until, park, here, on_a_loop))


async def arun_subscriptions(
    *names: str, until: Any = None, park: bool = False
) -> None:
    """
    See ``run_subscriptions()``.

    Coroutine functions are awaited on the running loop, plain functions called in the
    thread in which Django's ORM works for coroutines.
    """

    async def in_thread(work: Callable[[], T]) -> T:
        return await sync_to_async(work)()

    async def here(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        return await work()

    await _run(names, until, park, in_thread, here)


async def _run(
    names: tuple[str, ...],
    until: Any,
    park: bool,
    plain: Callable[[Callable[[], Any]], Awaitable[Any]],
    awaited: Callable[[Callable[[], Coroutine[Any, Any, Any]]], Awaitable[Any]],
) -> None:
    check_test_run("run_subscriptions()")
    every = chosen(names or None)
    head = await plain(_assign)
    last = None if until is None else await plain(lambda: _position(until, head))
    for _ in range(ROUNDS):
        for declared in every:
            consumer = ConsumerInTest(declared, last, park=park)
            if declared.is_async:
                await awaited(consumer.awaited)
            else:
                await plain(consumer.plain)
            if consumer.failed is not None:
                raise consumer.failed
        before, head = head, await plain(_assign)
        if head == before or last is not None:
            return
    raise UnexpectedState(
        f"After {ROUNDS} rounds, handlers still append events that others handle. Pass "
        "until= to stop at an event."
    )


def _assign() -> int:
    return assign_positions(Event(), wait=0.0)


def _position(until: Any, head: int) -> int:
    if isinstance(until, int) and not isinstance(until, bool):
        position: int | None = check_number(until, "until")
    else:
        position = drive(position_of(connection.blocking(), until))
    if position is None or position > head:
        raise ValueError(
            f"until={until!r} has no position; the last event has position {head}."
        )
    return position


class NotParked(BaseException):
    """The stream of an event would be parked, but the test wants the error."""

    # No Exception: what delivers events takes those for failures, and tries again.

    def __init__(self, error: BaseException) -> None:
        super().__init__(error)
        self.error = error


def _refuse(failed: Iterable[Failed]) -> list[Failed]:
    for one in failed:
        raise NotParked(one.error)
    return []


class ClaimInTest(Claim):
    """A claim that never pauses."""

    async def pause(
        self, store: Store, seconds: float, *, leased: bool = False
    ) -> None:
        """Go on at once."""


class ConsumerInTest(Consumer):
    """
    Runs one subscription until there is no event left.

    Args:
        declared: the subscription.
        until: the last position to deliver; None for all.
        park: whether streams may be parked.
    """

    def __init__(
        self, declared: Subscription, until: int | None, *, park: bool
    ) -> None:
        # In one lane, the order of the calls is the same in each run.
        declared = replace(declared, concurrency=1)
        if not park:
            # Of several events in one transaction, those before the failed one would be
            # tried again with it, and a handler that fails once would pass.
            declared = replace(declared, retries=0, on_error="park", batch=1)
        self.end = Event()
        owner = leases.new_owner()
        super().__init__(declared, owner, self.end, TIMINGS)
        self.claim = ClaimInTest(declared.name, owner, self.end, TIMINGS)
        self.until = until
        self.failed: BaseException | None = None
        self._may_park = park

    def plain(self) -> None:
        """Run it with a plain handler."""
        drive(self._catch_up(connection.blocking()))

    async def awaited(self) -> None:
        """Run it with a coroutine function."""
        await self._catch_up(await connection.awaitable())

    async def _catch_up(self, store: Store) -> None:
        if not await self._may_run(store):
            return
        try:
            is_ours = await self._once(store)
        except NotParked as refused:
            self.failed = refused.error
            return
        if not is_ours:
            raise UnexpectedState(
                f"Another process or thread runs the subscription {self.name}. End it, "
                "or use another database for this test run."
            )

    def _delivery(self, store: Store, session: Any) -> Delivery:
        delivery = super()._delivery(store, session)
        if not self._may_park:
            delivery.before_parking = _refuse
        return delivery

    async def _wait(self, store: Store, progress: Progress) -> None:
        self.end.set()
