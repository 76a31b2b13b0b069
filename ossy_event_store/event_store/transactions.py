"""
Several streams at once, all or none.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import Any, TypeVar

from ..documents.bson_types import Document
from ..mongodb import connection
from ..mongodb.deadline import in_time
from ..mongodb.ports import drive
from ..streams.transactions.append_streams import StreamsAppend
from ..streams.transactions.repeating import Work
from ..streams.transactions.transaction import (
    AwaitableTransaction,
    BlockingTransaction,
    Transaction,
)

T = TypeVar("T")


class Transactions:
    """The methods of ``EventStore`` for several streams at once."""

    @classmethod
    def transaction(cls) -> AbstractContextManager[Transaction]:
        """
        Begin a transaction: ``with EventStore.transaction() as t``.

        Calls inside the block take part with ``session=t.session``, and so do your own
        writes through ``t.database``. The block runs once. It commits at its end, or
        rolls back if it raises; ``in_transaction()`` runs a function again after a
        lost race.

        Raises:
            ConcurrencyError: at the end: another writer has appended to streams that
                the block wrote, or that ``t.unchanged()`` names.
            TransactionAborted: it conflicted with another transaction, or the primary
                changed; run all of it again.
            InvalidTransaction: it is inside another transaction, or inside
                ``atomic()`` of django-mongodb-backend.
            OutcomeUnknown: the time ran out during the commit.
            TransactionsUnavailable: the server is not a member of a replica set.
            StoreUnavailable: no server answered in time; nothing was stored.
        """
        return BlockingTransaction()

    @classmethod
    def atransaction(cls) -> AbstractAsyncContextManager[Transaction]:
        """Begin with ``async with``; see ``transaction()``."""
        return AwaitableTransaction()

    @classmethod
    def in_transaction(
        cls, work: Callable[[Transaction], T], *, attempts: int | None = None
    ) -> T:
        """
        Return ``work(t)``, run in a transaction; after a lost race, run it again.

        Args:
            work: a plain function that gets the open transaction. It may run several
                times, so it must have no side effects but writes through the
                transaction; what it raises passes through, and nothing is stored.
            attempts: how often to run it at most; by default until the setting
                ``TIMEOUT`` is used up, which bounds the whole call.

        Raises:
            ConcurrencyError, TransactionAborted: the last attempt lost its race too.
            InvalidTransaction, OutcomeUnknown, TransactionsUnavailable,
            StoreUnavailable: see ``transaction()``.
        """
        run = Work(work, attempts, is_async=False)
        with in_time():
            result: T = drive(run.run(connection.blocking()))
        return result

    @classmethod
    async def ain_transaction(
        cls,
        work: Callable[[Transaction], Coroutine[Any, Any, T]],
        *,
        attempts: int | None = None,
    ) -> T:
        """See ``in_transaction()``; ``work`` is a coroutine function here."""
        run = Work(work, attempts, is_async=True)
        with in_time():
            result: T = await run.run(await connection.awaitable())
        return result

    @classmethod
    def append_streams(
        cls,
        streams: Mapping[str, Sequence[Mapping[str, Any]]],
        *,
        expected: Mapping[str, int] | None = None,
        unchanged: Mapping[str, int] | None = None,
    ) -> dict[str, list[Document]]:
        """
        Append events to several streams, all or none, and return them as stored.

        Args:
            streams: for each stream its events in order; see ``append_event()``. The
                events need no ``aggregateId``.
            expected: the version that a stream has to be at, 0 if it must not exist
                yet. Events of other streams are appended at the end.
            unchanged: the versions of streams that get no event, and that must not
                have changed either; 0 if such a stream must not exist.

        Returns:
            The stored events of each stream. If all are stored under their ids
            already, nothing is appended.

        Raises:
            ConcurrencyError: streams are not at their versions; ``conflicts`` names
                all of them.
            InvalidEvent: before anything was sent, with path and reason.
            AggregateTypeMismatch: a stream belongs to another type.
            IdempotencyConflict: an id is stored with other content.
            StreamClosed: a stream has ended.
            TransactionAborted: it conflicted with other transactions until the time
                was up.
            InvalidTransaction, OutcomeUnknown, TransactionsUnavailable,
            StoreUnavailable: see ``transaction()``.
        """
        request = StreamsAppend(streams, expected, unchanged)
        with in_time():
            return drive(request.run(connection.blocking()))

    @classmethod
    async def aappend_streams(
        cls,
        streams: Mapping[str, Sequence[Mapping[str, Any]]],
        *,
        expected: Mapping[str, int] | None = None,
        unchanged: Mapping[str, int] | None = None,
    ) -> dict[str, list[Document]]:
        """See ``append_streams()``."""
        request = StreamsAppend(streams, expected, unchanged)
        with in_time():
            return await request.run(await connection.awaitable())
