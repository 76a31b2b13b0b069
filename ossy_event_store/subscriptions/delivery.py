"""
How an event reaches a handler: by itself, or together with the checkpoint.

An *effect* is one way of delivering events. Each keeps its checkpoint, and which
streams are parked, in the database that holds what the events led to, and decides by
that one.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from secrets import token_hex
from threading import Barrier
from typing import Any, NamedTuple

from asgiref.sync import sync_to_async
from django.db import (
    Error,
    InterfaceError,
    OperationalError,
    connections,
    transaction,
)

from ..documents.bson_types import Document
from ..exceptions import CheckpointMissing
from ..mongodb.connection import Store
from ..mongodb.deadline import in_time
from ..mongodb.ports import drive
from ..positions.reader import head_position
from . import checkpoints, parked_streams
from .checkpoints import ClaimLost
from .declaration import Subscription
from .parked_streams import Failed
from .transactions import (
    DatabaseAway,
    HandlerFailed,
    in_transaction,
    is_away,
    is_overtaken,
)


class TooLarge(Exception):
    """What the events led to does not fit into one transaction; deliver fewer."""


class Delivered(NamedTuple):
    """What a delivery has done besides its effects."""

    #: Whether the checkpoint in MongoDB moved in the same transaction.
    moved: bool
    #: The events at which a stream was parked.
    parked: Sequence[Failed] = ()


class Delivery:
    """
    One way of delivering events, for one claim; its checkpoint is in MongoDB.

    Args:
        store: one face of the store.
        session: that of the claim's transactions.
        declared: the subscription.
    """

    #: The most events that one delivery takes; None takes any number.
    size: int | None = None

    def __init__(self, store: Store, session: Any, declared: Subscription) -> None:
        self._store = store
        self._session = session
        self._declared = declared
        self._name = declared.name
        self._fence = 0

    async def begin(self, claimed: Document) -> int:
        """Return the position after which to start."""
        self._fence = claimed["fence"]
        if claimed.get("using") is not None:
            await self._keep_in(None)  # it no longer writes to an SQL database
        position: int = claimed["position"]
        return position

    async def _keep_in(self, using: str | None) -> None:
        """Note which SQL database has the checkpoint, if one has."""
        with in_time():
            changes = {"using": using}
            await checkpoints.move(self._store, self._name, self._fence, changes)

    async def parked(self) -> dict[str, int]:
        """Return the streams that wait, and since which position."""
        return await parked_streams.parked_streams(
            self._store, self._name, self._session
        )

    async def deliver(self, events: Sequence[Document], after: int) -> Delivered:
        """
        Deliver events, all or none.

        Args:
            events: in their order.
            after: the position of the checkpoint once they are delivered.

        Raises:
            HandlerFailed: one of them failed, and it is not known which.
            TooLarge: they are too many for one delivery.
            ClaimLost: another process has claimed the subscription.
        """
        raise NotImplementedError

    async def redeliver(self, waits: Document, event: Document, seen: int) -> None:
        """
        Deliver the event at which a parked stream waits, and move the stream past it.

        Args:
            waits: the parked stream.
            event: its next event.
            seen: the position of the checkpoint.

        Raises:
            HandlerFailed: it failed again.
            ClaimLost: the stream no longer waits there.
        """
        raise NotImplementedError

    async def park(self, failed: Failed, after: int | None) -> bool:
        """
        Park a stream, and move the checkpoint to ``after`` unless that is None.

        Returns:
            Whether the checkpoint in MongoDB moved in the same transaction.
        """
        changes = {} if after is None else {"position": after}
        await parked_streams.park(
            self._store, self._session, self._name, self._fence, failed, changes
        )
        return after is not None

    async def resume(self, waits: Document) -> Document:
        """Return a parked stream as it is to be retried."""
        return waits

    async def release(self, waits: Document, seen: int) -> bool:
        """
        End the parking of a stream all of whose events up to ``seen`` are delivered.

        Returns:
            False if an operator has moved it meanwhile, and it still waits.
        """
        return await parked_streams.leave(
            self._store, self._session, self._name, self._fence, waits, seen
        )

    async def settle(self, position: int) -> None:
        """Move a checkpoint outside of MongoDB, before the one there moves."""


class AtLeastOnce(Delivery):
    """The handler is called; the checkpoint follows."""

    size = 1

    def __init__(self, store: Store, session: Any, declared: Subscription) -> None:
        super().__init__(store, session, declared)
        self._handle = declared.handle()
        self._is_async = declared.is_async

    async def deliver(self, events: Sequence[Document], after: int) -> Delivered:
        """Call the handler with each event."""
        for event in events:
            await call(self._handle, self._is_async, event)
        return Delivered(moved=False)

    async def redeliver(self, waits: Document, event: Document, seen: int) -> None:
        """Call the handler, then move the stream."""
        await call(self._handle, self._is_async, event)
        with in_time():
            if not await parked_streams.advance(self._store, waits, event):
                raise ClaimLost


class InTransaction(Delivery):
    """The handler writes through a session, in which the checkpoint moves as well."""

    def __init__(self, store: Store, session: Any, declared: Subscription) -> None:
        super().__init__(store, session, declared)
        self._handle = declared.handle()
        self._is_async = declared.is_async
        self.size = declared.batch

    async def deliver(self, events: Sequence[Document], after: int) -> Delivered:
        """Call the handler with each event, in one transaction."""

        async def work() -> None:
            # First: a process that was overtaken does not begin, and a transaction
            # that a killed one left open holds the document that the next has to
            # claim.
            with in_time():
                await checkpoints.move(
                    self._store,
                    self._name,
                    self._fence,
                    {"position": after},
                    len(events),
                    self._session,
                )
            for event in events:
                await call(self._handle, self._is_async, event, self._session)

        async def again() -> None:
            await checkpoints.check(self._store, self._name, self._fence)

        await in_transaction(self._store, self._session, work, again, handler=True)
        return Delivered(moved=True)

    async def redeliver(self, waits: Document, event: Document, seen: int) -> None:
        """Call the handler and move the stream, in one transaction."""

        async def work() -> None:
            await call(self._handle, self._is_async, event, self._session)
            with in_time():
                if not await parked_streams.advance(
                    self._store, waits, event, self._session
                ):
                    raise ClaimLost

        await in_transaction(self._store, self._session, work, handler=True)


class InDatabase(Delivery):
    """
    The handler writes through Django's ORM, and that database decides.

    A row for the subscription says up to where all is handled, and which claim may
    move it; a row for each parked stream says up to where that one is. Each moves in
    the transaction with the effects, after the subscription's row was locked. What
    MongoDB says beside them is for people: it is written before a stream is parked and
    after it is released, so a parked stream without a row is not parked.
    """

    def __init__(self, store: Store, session: Any, declared: Subscription) -> None:
        assert declared.using is not None  # noqa: S101 - for the type checker
        super().__init__(store, session, declared)
        self._handle = declared.handle()
        self._using = declared.using
        self._rows = checkpoints.rows()
        self._claim = token_hex(16)
        self._at = 0  # what the row says
        self._streams: dict[str, int] = {}
        self.size = declared.batch

    async def begin(self, claimed: Document) -> int:
        """Claim the row, and make what MongoDB says of parked streams agree with it."""
        self._fence = claimed["fence"]
        listed = await parked_streams.places(self._store, self._name, self._session)
        decides = claimed.get("using") == self._using
        with self._reached():
            at = self._rows.claim(self._name, self._claim, self._using)
        if at is not None and not decides and await self._counts(at, claimed):
            await self._keep_in(self._using)
        elif not decides:
            await self._adopt(at := claimed["position"], listed)
        if at is None:
            raise CheckpointMissing(self._name, self._using, claimed["position"])
        self._at = at
        with self._reached():
            self._streams = self._rows.streams(self._name, self._using)
        extra = listed.keys() - self._streams.keys()
        missing = {
            stream: stands
            for stream, stands in self._streams.items()
            if stream not in listed
        }
        if extra or missing:
            await parked_streams.replace(
                self._store,
                self._session,
                self._declared,
                self._fence,
                remove=extra,
                add=missing,
            )
        return self._at

    async def _counts(self, at: int, claimed: Document) -> bool:
        """Whether a row counts though MongoDB does not say so."""
        # The document is a new one: the earlier was lost. Or the alias has a new name.
        before = claimed.get("using", "")
        if before is None or before in connections.settings:
            return False
        # Not one of a MongoDB that was emptied since: it would pass over new events.
        return at <= await head_position(self._store, self._session)

    async def _adopt(self, position: int, listed: Mapping[str, int]) -> None:
        """Let this database decide from now on, where another one did until now."""
        # After the claim there: a process that was overtaken in MongoDB before it goes
        # no further, and one that is overtaken from now on has lost the row as well.
        await checkpoints.check(self._store, self._name, self._fence)
        with self._reached():
            place = position, listed, self._claim
            self._rows.adopt(self._name, *place, self._using)
        await self._keep_in(self._using)

    async def parked(self) -> dict[str, int]:
        """Return the streams that have a row; all that comes of them waits."""
        return dict.fromkeys(self._streams, 0)

    async def deliver(self, events: Sequence[Document], after: int) -> Delivered:
        """Call the handler with each event, and move the row with them."""
        with _Atomic(self._using):
            self._hold(after)
            for event in events:
                await call(self._handle, False, event)
        self._at = after
        return Delivered(moved=False)

    async def park(self, failed: Failed, after: int | None) -> bool:
        """Park a stream in both databases."""
        assert after is not None  # noqa: S101 - one lane
        await super().park(failed, None)
        with _Atomic(self._using):
            self._hold(after)
            self._rows.part(
                self._name,
                failed.event["aggregateId"],
                failed.event["position"] - 1,
                self._using,
            )
        self._at = after
        return False

    async def resume(self, waits: Document) -> Document:
        """Start where the row stands: that database may have been restored."""
        with self._reached():
            stands = self._rows.read(self._name, self._using, waits["aggregateId"])
        if stands is None:
            raise ClaimLost
        if stands + 1 >= waits["position"]:
            return waits
        return await parked_streams.move_back(
            self._store, self._session, self._declared, waits, stands
        )

    async def redeliver(self, waits: Document, event: Document, seen: int) -> None:
        """Call the handler and move the stream's row, unless that was done before."""
        stream, position = event["aggregateId"], event["position"]
        with _Atomic(self._using):
            self._hold(self._at)
            if self._rows.advance(self._name, stream, position, self._using):
                await call(self._handle, False, event)
            elif self._rows.read(self._name, self._using, stream) is None:
                raise ClaimLost
        with in_time():
            if not await parked_streams.advance(self._store, waits, event):
                raise ClaimLost

    async def release(self, waits: Document, seen: int) -> bool:
        """Delete the stream's row, and with it move that of the subscription."""
        with _Atomic(self._using):
            self._hold(seen)
            self._rows.join(self._name, waits["aggregateId"], self._using)
        self._at = seen
        await super().release(waits, seen)
        return True

    async def settle(self, position: int) -> None:
        """Move the row past events that had no effect."""
        if position == self._at:
            return
        with self._reached():
            self._hold(position)
        self._at = position

    def _hold(self, position: int) -> None:
        """
        Lock the subscription's row for this transaction, and move it.

        First in each: of two processes that deliver the same events the second waits
        here.
        """
        held = self._name, self._claim, self._at, position
        if not self._rows.hold(*held, self._using):
            raise ClaimLost

    @contextmanager
    def _reached(self) -> Iterator[None]:
        try:
            yield
        except Error as error:
            connections[self._using].close()
            raise DatabaseAway(f"The database {self._using!r}: {error}") from error


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
            raise DatabaseAway(str(error)) from error

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if error is None and (cause := self._broken()) is not None:
            failed = HandlerFailed(cause)
            self._atomic.__exit__(HandlerFailed, failed, None)
            self._close_if_away(cause)
            raise failed from cause
        try:
            self._atomic.__exit__(kind, error, trace)
        except (OperationalError, InterfaceError) as late:
            # Perhaps it was committed; the row will tell.
            connections[self._using].close()
            raise DatabaseAway(f"The database {self._using!r}: {late}") from late
        except Exception as late:  # deferred constraints, or what runs on a commit
            self._close_if_away(late)
            raise HandlerFailed(late) from late
        if error is not None:
            self._close_if_away(error)

    def _broken(self) -> BaseException | None:
        """Return why a transaction would be rolled back though nothing was raised."""
        connection = connections[self._using]
        try:
            if connection.vendor == "postgresql":
                # After any error, also one that was caught, it refuses all but that.
                with connection.cursor() as cursor:
                    cursor.execute("SELECT 1")
        except Error as error:
            cause: BaseException = error
        else:
            if not connection.needs_rollback:
                return None
            cause = transaction.TransactionManagementError("It asked for a rollback.")
        caught = transaction.TransactionManagementError(
            "The handler caught a database error, or asked for a rollback, and "
            "returned: nothing that it wrote would be stored. Put an atomic() block "
            "inside of the try that catches the error."
        )
        caught.__cause__ = cause
        return caught

    def _close_if_away(self, error: BaseException | None = None) -> None:
        connection = connections[self._using]
        try:
            usable = connection.connection is not None and connection.is_usable()
        except Exception:
            usable = False
        if not usable:
            connection.close()
            raise DatabaseAway(f"The database {self._using!r} is away.") from error


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
