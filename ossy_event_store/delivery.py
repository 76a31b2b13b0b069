"""
How an event reaches a handler: by itself, or together with the checkpoint.

An *effect* is one way of handing events on. Each says how many events it takes at a
time, where it knows the checkpoint to be, and whether the checkpoint moved with it.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any, Protocol

from asgiref.sync import sync_to_async
from django.db import DatabaseError, connections, transaction

from . import checkpoints, parking
from .checkpoints import Lost
from .faces import Document, drive
from .mongo import Store, in_time
from .subscriptions import Subscription
from .transactions import (
    HandlerFailed,
    Unreachable,
    in_transaction,
    is_away,
    is_overtaken,
)

Park = Callable[[Document, BaseException], Awaitable[None]]


class Effect(Protocol):
    """One way of handing events on, for a claim that holds ``fence``."""

    #: The most events that one call takes; None takes any number.
    size: int | None

    async def begin(self, claimed: Document) -> int:
        """Return the position behind which to go on."""

    async def deliver(
        self, events: Sequence[Document], after: int, fence: int, park: Park
    ) -> bool:
        """
        Hand events on, all or none.

        Args:
            events: in their order.
            after: where the checkpoint is to stand behind them.
            fence: that of the claim.
            park: called with an event that can be told from the others to fail, and
                why, before anything of this call has an effect.

        Returns:
            Whether the checkpoint in MongoDB has moved with it.

        Raises:
            HandlerFailed: one of them failed, and it cannot be told which.
            Lost: another process is at it.
        """

    async def redeliver(self, waits: Document, event: Document) -> None:
        """Hand on the event at which a parked stream waits, and let it go on."""

    async def settle(self, position: int) -> None:
        """Let no event up to a position come again, before a stream is let out."""


class AtLeastOnce:
    """The handler is called; the checkpoint follows."""

    size: int | None = 1

    def __init__(self, store: Store, declared: Subscription) -> None:
        self._store = store
        self._handle = declared.handle()
        self._is_async = declared.is_async

    async def begin(self, claimed: Document) -> int:
        position: int = claimed["position"]
        return position

    async def deliver(
        self, events: Sequence[Document], after: int, fence: int, park: Park
    ) -> bool:
        for event in events:
            await call(self._handle, self._is_async, event)
        return False

    async def settle(self, position: int) -> None:
        pass

    async def redeliver(self, waits: Document, event: Document) -> None:
        await call(self._handle, self._is_async, event)
        with in_time():
            if not await parking.advance(self._store, waits, event):
                raise Lost


class InTransaction:
    """The handler writes through a session, in which the checkpoint moves as well."""

    def __init__(self, store: Store, session: Any, declared: Subscription) -> None:
        self._store = store
        self._session = session
        self._name = declared.name
        self._handle = declared.handle()
        self._is_async = declared.is_async
        self.size: int | None = declared.batch

    async def begin(self, claimed: Document) -> int:
        position: int = claimed["position"]
        return position

    async def deliver(
        self, events: Sequence[Document], after: int, fence: int, park: Park
    ) -> bool:
        async def work() -> None:
            # First: who was overtaken does not begin, and a transaction that a killed
            # process left open holds the document that the next one has to claim.
            with in_time():
                await checkpoints.move(
                    self._store,
                    self._name,
                    fence,
                    {"position": after},
                    len(events),
                    self._session,
                )
            for event in events:
                await call(self._handle, self._is_async, event, self._session)

        async def again() -> None:
            await checkpoints.check(self._store, self._name, fence)

        await in_transaction(self._store, self._session, work, again)
        return True

    async def settle(self, position: int) -> None:
        pass

    async def redeliver(self, waits: Document, event: Document) -> None:
        async def work() -> None:
            await call(self._handle, self._is_async, event, self._session)
            with in_time():
                if not await parking.advance(self._store, waits, event, self._session):
                    raise Lost

        await in_transaction(self._store, self._session, work)


class InDatabase:
    """The handler writes through Django's ORM, with the checkpoint as a row there."""

    def __init__(self, store: Store, declared: Subscription) -> None:
        assert declared.using is not None  # noqa: S101 - for the type checker
        self._store = store
        self._name = declared.name
        self._handle = declared.handle()
        self._using = declared.using
        self._rows = checkpoints.rows()
        self._at = 0  # what the row says
        self.size: int | None = declared.batch

    async def begin(self, claimed: Document) -> int:
        # The row has the last word: what it says is stored with the effects.
        try:
            self._rows.begin(self._name, claimed["position"], self._using)
            self._at = self._rows.read(self._name, self._using)
        except DatabaseError as error:
            connections[self._using].close()
            raise Unreachable(f"The database {self._using!r}: {error}") from error
        return self._at

    async def deliver(
        self, events: Sequence[Document], after: int, fence: int, park: Park
    ) -> bool:
        with self._atomic():
            # First: of two that handle the same events, the second waits here.
            if not self._rows.advance(self._name, self._at, after, self._using):
                raise Lost
            for event in events:
                await call(self._handle, False, event)
        self._at = after
        return False

    async def settle(self, position: int) -> None:
        if not self._rows.advance(self._name, self._at, position, self._using):
            raise Lost
        self._at = position

    async def redeliver(self, waits: Document, event: Document) -> None:
        stream, rows, using = event["aggregateId"], self._rows, self._using
        rows.begin(self._name, 0, using, stream)
        stands = rows.read(self._name, using, stream)
        if stands < event["position"]:
            with self._atomic():
                if not rows.advance(
                    self._name, stands, event["position"], using, stream
                ):
                    raise Lost
                await call(self._handle, False, event)
        with in_time():
            if not await parking.advance(self._store, waits, event):
                raise Lost

    def _atomic(self) -> _Atomic:
        return _Atomic(self._using)


class _Atomic:
    """``transaction.atomic`` that tells a database that is away from a bad event."""

    def __init__(self, using: str) -> None:
        self._using = using
        self._atomic = transaction.atomic(using, durable=False)

    def __enter__(self) -> None:
        try:
            self._atomic.__enter__()
        except Exception as error:
            self._close_if_away()
            raise Unreachable(str(error)) from error

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        try:
            self._atomic.__exit__(kind, error, trace)
        except Exception as late:  # deferred constraints, or the connection is gone
            self._close_if_away(late)
            raise HandlerFailed(late) from late
        if error is not None:
            self._close_if_away(error)

    def _close_if_away(self, error: BaseException | None = None) -> None:
        connection = connections[self._using]
        try:
            usable = connection.connection is not None and connection.is_usable()
        except Exception:
            usable = False
        if not usable:
            connection.close()
            raise Unreachable(f"The database {self._using!r} is away.") from error


# --- calling ----------------------------------------------------------------


async def call(handle: Callable[..., Any], is_async: bool, *arguments: Any) -> None:
    """
    Call a handler.

    Raises:
        HandlerFailed: with what it raised.
        PyMongoError, StoreUnavailable: MongoDB is away, whatever the event is.
    """
    try:
        result = handle(*arguments)
        if is_async:
            await result
        elif inspect.iscoroutine(result) or inspect.isgenerator(result):
            result.close()
            raise TypeError(
                f"The handler returned a {type(result).__name__}, which was not run. "
                "Make it a coroutine function itself, or a function that does its work."
            )
    except (Exception, SystemExit, asyncio.CancelledError) as error:
        if _is_cancelled(error):
            raise
        await _drop_broken_connections(is_async)
        # Inside of a transaction one may meet another, and is tried again as a whole.
        if is_away(error) or (len(arguments) > 1 and is_overtaken(error)):
            raise
        raise HandlerFailed(error) from error


def _is_cancelled(error: BaseException) -> bool:
    """Whether our own task is to end, and not one that the handler waited for."""
    if not isinstance(error, asyncio.CancelledError):
        return False
    try:
        task = asyncio.current_task()
    except RuntimeError:  # no loop runs in this thread
        return False
    return task is not None and task.cancelling() > 0


async def _drop_broken_connections(is_async: bool) -> None:
    """Let the next try have a new connection to a database that was restarted."""
    if is_async:
        # Where Django's ORM works for coroutines.
        await sync_to_async(_close_broken)()
    else:
        _close_broken()


def _close_broken() -> None:
    for connection in connections.all(initialized_only=True):
        if not connection.in_atomic_block:  # else that would be broken off
            connection.close_if_unusable_or_obsolete()


async def side_by_side(
    works: Sequence[Callable[[], Any]], many: int, is_async: bool, pool: Any
) -> list[Any]:
    """Run several coroutines at a time; return what each raised, or None."""
    if is_async:
        limit = asyncio.Semaphore(many)

        async def limited(work: Callable[[], Any]) -> Any:
            async with limit:
                return await work()

        return await asyncio.gather(*map(limited, works), return_exceptions=True)
    return list(pool.map(_driven, works))


def close_pool(pool: ThreadPoolExecutor, many: int) -> None:
    """End the threads of a pool that is idle, and close what each had open."""
    together = Barrier(many)

    def close(_: int) -> None:
        together.wait()  # so each thread does it once
        connections.close_all()

    list(pool.map(close, range(many)))
    pool.shutdown()


def _driven(work: Callable[[], Any]) -> Any:
    try:
        return drive(work())
    except Exception as error:
        return error
    finally:
        _close_broken()


def streams_of(events: Sequence[Mapping[str, Any]]) -> list[list[Any]]:
    """Return the events stream by stream, each in its order."""
    streams: dict[str, list[Any]] = {}
    for event in events:
        streams.setdefault(event["aggregateId"], []).append(event)
    return list(streams.values())
