"""
Load several aggregates at once.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Self

from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.client_session import ClientSession

from ..documents.arguments import check_flag
from ..mongodb.deadline import in_time
from ..mongodb.ports import drive
from ..streams.load_many import check_ids, load_many
from ..streams.reducers import check_reducer
from ..streams.transactions.joining import awaitable_store, blocking_store, origin_of
from .ending import TakingPart


class Several(TakingPart):
    """The part of ``Aggregate`` that loads several at once."""

    @classmethod
    def of_many(
        cls,
        Root: Any,
        aggregate_ids: Iterable[str],
        *,
        skip_missing: bool = False,
        session: ClientSession | None = None,
    ) -> dict[str, Self]:
        """
        Load several aggregates in two round trips.

        One reads all snapshots, one all events since. Each reply has 16 MB at most; a
        larger one takes more round trips.

        Args:
            Root: the aggregate class of all of them.
            aggregate_ids: their ids, 1,000 at most; an id counts once.
            skip_missing: leave out ids without a stream instead of raising.
            session: see ``of()``.

        Returns:
            The aggregates by their ids, in the order of ``aggregate_ids``. Each is as
            ``of()`` would load it, but they were not all read at one moment: use a
            transaction for that.

        Raises:
            AggregatesNotFound: names the ids without a stream.
            AggregateTypeMismatch: a stream is of another type than ``Root``.
            InvalidTransaction, StoreUnavailable: see ``of()``.
        """
        check_reducer(Root)
        ids = check_ids(aggregate_ids)
        check_flag(skip_missing, "skip_missing")
        with in_time():
            store = blocking_store(session)
            found = drive(load_many(cls, store, Root, ids, skip_missing))
        for aggregate in found.values():
            aggregate.origin = origin_of(session, store)
        return found

    @classmethod
    async def aof_many(
        cls,
        Root: Any,
        aggregate_ids: Iterable[str],
        *,
        skip_missing: bool = False,
        session: AsyncClientSession | None = None,
    ) -> dict[str, Self]:
        """See ``of_many()``."""
        check_reducer(Root)
        ids = check_ids(aggregate_ids)
        check_flag(skip_missing, "skip_missing")
        with in_time():
            store = await awaitable_store(session)
            found = await load_many(cls, store, Root, ids, skip_missing)
        for aggregate in found.values():
            aggregate.origin = origin_of(session, store)
        return found
