"""
Take part in transactions, and end streams.
"""

from __future__ import annotations

from typing import Any, Self

from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.client_session import ClientSession

from ..documents.bson_types import Document
from ..exceptions import PastAggregate
from ..mongodb.deadline import in_time
from ..mongodb.ports import drive
from ..streams.closing.documents import closing_event, continuing_events
from ..streams.load import append_to, last_tick
from ..streams.new_events import Event, NewEvents
from ..streams.transactions.continuing import continue_in
from ..streams.transactions.joining import (
    Origin,
    awaitable_store,
    blocking_store,
    origin_of,
)


class TakingPart:
    """The part of ``Aggregate`` that knows the transaction in which it was loaded."""

    Root: Any
    id: str
    events: list[Document]
    #: Whether it was loaded as of the past, so that it cannot be changed.
    is_past: bool = False
    #: Whether the stream has ended; see ``close()``.
    is_closed: bool = False
    unsure_of: Any = None
    saved_tick: int | None = None
    origin: Origin | None = None

    @property
    def version(self) -> int:
        """Version of the last event; the next event gets the version after it."""
        raise NotImplementedError

    def _session(self, session: Any) -> Any:
        """Return the session in which to continue, or None."""
        own = self.origin.session() if self.origin is not None else None
        return own if session is None else session

    def _refuse_past(self) -> None:
        if self.is_past:
            raise PastAggregate(self.Root.aggregate_type, self.id, self.version)

    def _append(self, documents: NewEvents, session: Any) -> Self:
        session = self._session(session)
        with in_time():
            store = blocking_store(session)
            drive(append_to(store, self, documents))
        self.origin = origin_of(session, store)
        return self

    async def _aappend(self, documents: NewEvents, session: Any) -> Self:
        session = self._session(session)
        with in_time():
            store = await awaitable_store(session)
            await append_to(store, self, documents)
        self.origin = origin_of(session, store)
        return self


class Ending(TakingPart):
    """The part of ``Aggregate`` that ends streams."""

    def close(
        self,
        reason: str | None = None,
        *,
        created_by: str | None = None,
        session: ClientSession | None = None,
    ) -> Self:
        """
        End the stream: nothing can be appended to it any more.

        It ends with an event of the type ``$StreamClosed``, which the reducer gets as
        well.

        Args:
            reason: why, for people.
            created_by: who, as ``createdBy`` of the event.
            session: see ``add()``.

        Raises:
            ConcurrencyError: another writer has appended since it was loaded.
            StreamClosed: the stream has ended already.
            InvalidEvent, InvalidTransaction, OutcomeUnknown,
            StoreUnavailable: see ``add()``.
        """
        return self._append(self._closing(reason, created_by), session)

    async def aclose(
        self,
        reason: str | None = None,
        *,
        created_by: str | None = None,
        session: AsyncClientSession | None = None,
    ) -> Self:
        """See ``close()``."""
        return await self._aappend(self._closing(reason, created_by), session)

    def _closing(self, reason: Any, created_by: Any) -> NewEvents:
        self._refuse_past()
        return closing_event(
            self.Root,
            self.id,
            self.version,
            last_tick(self),
            reason=reason,
            created_by=created_by,
        )

    def continue_as(
        self,
        successor_id: str,
        *summary: Event,
        reason: str | None = None,
        created_by: str | None = None,
        session: ClientSession | None = None,
    ) -> Self:
        """
        End the stream, and continue it in a new one, all or none.

        The new stream begins with an event of the type ``$StreamContinued``, which
        names its predecessor, and the summary.

        Args:
            successor_id: the id of the new stream.
            summary: events that carry over what is still needed, such as a balance.
            reason: why, for people.
            created_by: who, as ``createdBy`` of both events of the store.
            session: see ``add()``.

        Returns:
            The new aggregate.

        Raises:
            ConcurrencyError: another writer has appended since this aggregate was
                loaded, or the new stream exists.
            StreamClosed: the stream has ended already; ``successor`` continues it.
            InvalidEvent, InvalidTransaction, OutcomeUnknown, TransactionAborted,
            TransactionsUnavailable, StoreUnavailable: see ``add()``.
        """
        documents = self._continuing(successor_id, summary, reason, created_by)
        session = self._session(session)
        with in_time():
            store = blocking_store(session)
            new = drive(continue_in(store, self, documents))
        new.origin = origin_of(session, store)
        return new

    async def acontinue_as(
        self,
        successor_id: str,
        *summary: Event,
        reason: str | None = None,
        created_by: str | None = None,
        session: AsyncClientSession | None = None,
    ) -> Self:
        """See ``continue_as()``."""
        documents = self._continuing(successor_id, summary, reason, created_by)
        session = self._session(session)
        with in_time():
            store = await awaitable_store(session)
            new = await continue_in(store, self, documents)
        new.origin = origin_of(session, store)
        return new

    def _continuing(
        self, successor_id: Any, summary: Any, reason: Any, created_by: Any
    ) -> NewEvents:
        self._refuse_past()
        return continuing_events(
            self.Root,
            self.id,
            self.version,
            last_tick(self),
            successor_id,
            summary,
            reason=reason,
            created_by=created_by,
        )
