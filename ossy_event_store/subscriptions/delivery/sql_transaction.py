"""
Delivery in a transaction of an SQL database, where the checkpoint is a row.
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from secrets import token_hex
from typing import Any

from django.db import (
    Error,
    InterfaceError,
    OperationalError,
    connections,
    transaction,
)

from ...documents.bson_types import Document
from ...exceptions import CheckpointMissing
from ...mongodb.connection import Store
from ...positions.reader import head_position
from .. import checkpoints, parked_streams
from ..checkpoints import ClaimLost
from ..declaration import Subscription
from ..parked_streams import Failed
from ..transactions import DatabaseAway, HandlerFailed
from .base import Delivered, Delivery
from .handler_call import call

# The codes of databases for a full disk, an error of the disk, or too little memory.
POSTGRESQL_RESOURCES = ("53", "58")
SQLITE_RESOURCES = (sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL)


class InSQLTransaction(Delivery):
    """
    Calls the handler in a transaction of an SQL database, which decides.

    The row of the subscription says up to where all events are handled, and which claim
    may move it; the row of each parked stream says up to where that stream is handled.
    They move in the transaction with the effects, after it locked the subscription's
    row. The documents in MongoDB are for people: they are written before a stream is
    parked and after it is released, so a stream without a row is not parked.
    """

    def __init__(self, store: Store, session: Any, declared: Subscription) -> None:
        assert declared.using is not None  # noqa: S101 - for the type checker
        super().__init__(store, session, declared)
        self._handle = declared.handle()
        self._using = declared.using
        self._rows = checkpoints.sql_checkpoints()
        self._claim = token_hex(16)
        self.held_parked = math.inf  # its rows decide
        self._position = 0  # the position in the row
        self._streams: dict[str, int] = {}
        self.size = self.retry_size = declared.batch

    async def begin(self, claimed: Document) -> int:
        """Claim the row, and make the parked streams in MongoDB agree with the rows."""
        self._fence = claimed["fence"]
        listed = await parked_streams.next_positions(
            self._store, self._name, self._session
        )
        decides = claimed.get("using") == self._using
        with self._reached():
            at = self._rows.claim(self._name, self._claim, self._using)
        if at is not None and not decides and await self._counts(at, claimed):
            await self._keep_in(self._using)
        elif not decides:
            await self._adopt(at := claimed["position"], listed)
        if at is None:
            raise CheckpointMissing(self._name, self._using, claimed["position"])
        self._position = at
        with self._reached():
            self._streams = self._rows.streams(self._name, self._using)
        extra = listed.keys() - self._streams.keys()
        missing = {
            stream: handled
            for stream, handled in self._streams.items()
            if stream not in listed
        }
        if extra or missing:
            await parked_streams.reconcile(
                self._store,
                self._session,
                self._declared,
                self._fence,
                remove=extra,
                add=missing,
            )
        return self._position

    async def _counts(self, at: int, claimed: Document) -> bool:
        """Whether the row counts though MongoDB does not say that it does."""
        # The document was lost and created again, or the alias was renamed.
        before = claimed.get("using", "")
        if before is None or before in connections.settings:
            return False
        # Not if MongoDB was emptied since: the row would pass over new events.
        return at <= await head_position(self._store, self._session)

    async def _adopt(self, position: int, listed: Mapping[str, int]) -> None:
        """Let this database decide from now on, instead of another one."""
        # After claiming the row: a process that had lost its claim in MongoDB before
        # stops here, and one that loses it from now on loses the row as well.
        await checkpoints.check_fence(self._store, self._name, self._fence)
        with self._reached():
            self._rows.adopt(self._name, position, listed, self._claim, self._using)
        await self._keep_in(self._using)

    async def parked(self) -> dict[str, int]:
        """Return the streams that have a row; all their events are left to a retry."""
        return dict.fromkeys(self._streams, 0)

    async def deliver(self, events: Sequence[Document], after: int) -> Delivered:
        """Call the handler with each event, and move the row, in one transaction."""
        with _Atomic(self._using):
            self._hold(after)
            for event in events:
                await call(self._declared, self._handle, False, event)
        self._position = after
        return Delivered(moved=False)

    async def park(self, failed: Failed, after: int | None) -> bool:
        """Park a stream in both databases."""
        assert after is not None  # noqa: S101 - one lane
        await super().park(failed, None)
        with _Atomic(self._using):
            self._hold(after)
            self._rows.park(
                self._name,
                failed.event["aggregateId"],
                failed.event["position"] - 1,
                self._using,
            )
        self._position = after
        return False

    async def resume(self, parked: Document) -> Document:
        """Start after the position in its row: the database may have been restored."""
        with self._reached():
            handled = self._rows.read(self._name, self._using, parked["aggregateId"])
        if handled is None:
            raise ClaimLost
        if handled + 1 >= parked["position"]:
            return parked
        return await parked_streams.move_back(
            self._store, self._session, self._declared, parked, handled
        )

    async def _redeliver(
        self, parked: Document, events: Sequence[Document], seen: int
    ) -> None:
        """Call the handler and move the stream's row, unless that is done already."""
        stream, last = events[-1]["aggregateId"], events[-1]
        with _Atomic(self._using):
            self._hold(self._position)
            handled = self._rows.read(self._name, self._using, stream)
            if handled is None:
                raise ClaimLost
            self._rows.advance(self._name, stream, last["position"], self._using)
            for event in events:
                if event["position"] > handled:
                    await call(self._declared, self._handle, False, event)
        await self._advance(parked, last)

    async def release(self, parked: Document, seen: int) -> bool:
        """Delete the stream's row, and move the row of the subscription with it."""
        with _Atomic(self._using):
            self._hold(seen)
            self._rows.release(self._name, parked["aggregateId"], self._using)
        self._position = seen
        await super().release(parked, seen)
        return True

    async def settle(self, position: int) -> None:
        """Move the row past events that have no effect."""
        if position == self._position:
            return
        with self._reached():
            self._hold(position)
        self._position = position

    def _hold(self, position: int) -> None:
        """
        Lock the subscription's row for this transaction, and move it.

        Each transaction does this first: of two processes that deliver the same
        events, the second waits here.
        """
        held = self._name, self._claim, self._position, position
        if not self._rows.hold(*held, self._using):
            raise ClaimLost

    @contextmanager
    def _reached(self) -> Iterator[None]:
        try:
            yield
        except Error as error:
            connections[self._using].close()
            raise _away(self._using, error) from error


class _Atomic:
    """``transaction.atomic`` that tells a bad event from a database that is away."""

    def __init__(self, using: str) -> None:
        self._using = using
        self._atomic = transaction.atomic(using, durable=False)

    def __enter__(self) -> None:
        try:
            self._atomic.__enter__()
        except Exception as error:
            self._close_if_away(error)
            raise _away(self._using, error) from error

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if error is None and (cause := self._broken()) is not None:
            failed = HandlerFailed(cause)
            self._atomic.__exit__(HandlerFailed, failed, None)
            self._close_if_away(cause)
            raise failed from cause
        try:
            self._atomic.__exit__(kind, error, trace)
        except (OperationalError, InterfaceError) as late:
            # It may have been committed; the next claim finds out from the row.
            connections[self._using].close()
            raise _away(self._using, late) from late
        except Exception as late:  # deferred constraints, or an on_commit() callback
            self._close_if_away(late)
            raise HandlerFailed(late) from late
        if error is not None:
            self._close_if_away(error)
            cause = error.error if isinstance(error, HandlerFailed) else error
            if _lacks_resources(cause):
                raise _away(self._using, cause) from error

    def _broken(self) -> BaseException | None:
        """Return why the transaction would be rolled back though nothing was raised."""
        connection = connections[self._using]
        try:
            if connection.vendor == "postgresql":
                # After any error, even a caught one, it refuses all but a rollback.
                with connection.cursor() as cursor:
                    cursor.execute("SELECT 1")
        except Error as error:
            cause: BaseException = error
        else:
            if not connection.needs_rollback:
                return None
            cause = transaction.TransactionManagementError(
                "The handler called set_rollback()."
            )
        caught = transaction.TransactionManagementError(
            "The handler caught a database error, or called set_rollback(), and then "
            "returned, so nothing that it wrote would be stored. Put an atomic() block "
            "inside the try statement that catches the error."
        )
        caught.__cause__ = cause
        return caught

    def _close_if_away(self, error: BaseException) -> None:
        connection = connections[self._using]
        try:
            usable = connection.connection is not None and connection.is_usable()
        except Exception:
            usable = False
        if not usable:
            connection.close()
            raise _away(self._using, error) from error


def _lacks_resources(error: BaseException) -> bool:
    """Whether a database has no disk or memory left; the event is not to blame."""
    cause: Any = error.__cause__ if isinstance(error, Error) else None
    state = getattr(cause, "sqlstate", None) or getattr(cause, "pgcode", None) or ""
    if state.startswith(POSTGRESQL_RESOURCES):
        return True
    return getattr(cause, "sqlite_errorcode", 0) & 0xFF in SQLITE_RESOURCES


def _away(using: str, error: object) -> DatabaseAway:
    return DatabaseAway(f"The SQL database {using!r} is not available: {error}")
