"""
Delivery in a transaction of an SQL database, in which the checkpoint is a row.
"""

from __future__ import annotations

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
from ...mongodb.connection import Store, in_time
from ...positions.reader import head_position
from .. import checkpoints, parked_streams
from ..checkpoints import ClaimLost
from ..declaration import Subscription
from ..parked_streams import Failed
from ..transactions import DatabaseAway, HandlerFailed
from .base import Delivered, Delivery
from .handler_call import call


class InSQLTransaction(Delivery):
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
