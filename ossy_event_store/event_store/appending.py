"""
Append raw events.
"""

from __future__ import annotations

from collections.abc import Sequence

from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.client_session import ClientSession

from ..documents.boundaries.condition import Condition, check_condition
from ..documents.bson_types import Document
from ..mongodb.deadline import in_time
from ..mongodb.ports import drive
from ..positions import reader
from ..streams.append import append_at
from ..streams.boundaries.placing import placing_of
from ..streams.new_events import Event, raw_events
from ..streams.transactions.joining import awaitable_store, blocking_store


class Appending:
    """The methods of ``EventStore`` that append."""

    @classmethod
    def append_event(
        cls,
        event: Event,
        *,
        expected_version: int | None = None,
        wait: bool = False,
        session: ClientSession | None = None,
    ) -> Document:
        """
        Append one event and return it as stored.

        Args:
            event: a dict with ``type``, ``aggregateId`` and ``aggregateType``;
                optionally ``payload`` (a dict, or an object of a class with ``@event``,
                which says the ``type``), ``createdBy``, ``metadata``, ``id`` (the
                idempotency key), ``created`` (an aware datetime), ``tags`` (16 strings
                at most) and ``aggregateVersion`` (which then has to be
                ``expected_version`` plus one). With tags, ``aggregateId`` defaults to
                the first one, and ``aggregateType`` to the part of it before the colon;
                so an object whose class declares tags is enough.
            expected_version: 0 if the stream must not exist yet, n if it must end
                there; None appends at its end, wherever that is.
            wait: also wait until the event has its position, at most the setting
                ``TIMEOUT``, and return it as ``position``. That is None if no process
                assigned one in time; the event is stored all the same.
            session: of an open transaction to take part in, such as ``t.session``.

        Raises:
            InvalidEvent: before anything was sent, with path and reason.
            ConcurrencyError: the stream is not at the expected version.
            AggregateTypeMismatch: the stream belongs to another type.
            StreamClosed: the stream has ended.
            InvalidTransaction: the session is not one of an open transaction of the
                store's own client.
            IdempotencyConflict: the id is stored with other content.
            OutcomeUnknown: the time ran out; append it again with the same ``id``.
            StoreUnavailable: no server answered in time; nothing was stored.
        """
        expected = expected_version
        return cls.append_events(
            [event], expected_version=expected, wait=wait, session=session
        )[0]

    @classmethod
    async def aappend_event(
        cls,
        event: Event,
        *,
        expected_version: int | None = None,
        wait: bool = False,
        session: AsyncClientSession | None = None,
    ) -> Document:
        """See ``append_event()``."""
        expected = expected_version
        return (
            await cls.aappend_events(
                [event], expected_version=expected, wait=wait, session=session
            )
        )[0]

    @classmethod
    def append_events(
        cls,
        events: Sequence[Event],
        *,
        expected_version: int | None = None,
        unless: Condition | None = None,
        wait: bool = False,
        session: ClientSession | None = None,
    ) -> list[Document]:
        """
        Append several events to one stream, all or none; see ``append_event()``.

        Args:
            unless: a condition on the events of all streams. If one of the events is
                stored already, under its ``id``, the condition does not count.

        Raises:
            BoundaryConflict: events match the condition that the decision did not
                know; nothing was written.
            InvalidBoundary: the condition names a type that is not declared, or its
                token is not one of this query in this store.
            TransactionsUnavailable: the server is not a member of a replica set.
        """
        documents, expected = raw_events(events, expected_version)
        condition = check_condition(unless)
        store = reader.check_wait(wait, blocking_store(session))
        with in_time():
            placing = placing_of(store, documents, condition)
            stored = drive(append_at(store, documents, expected, placing))
        return drive(reader.with_positions(store, stored)) if wait else stored

    @classmethod
    async def aappend_events(
        cls,
        events: Sequence[Event],
        *,
        expected_version: int | None = None,
        unless: Condition | None = None,
        wait: bool = False,
        session: AsyncClientSession | None = None,
    ) -> list[Document]:
        """See ``append_events()``."""
        documents, expected = raw_events(events, expected_version)
        condition = check_condition(unless)
        store = reader.check_wait(wait, await awaitable_store(session))
        with in_time():
            placing = placing_of(store, documents, condition)
            stored = await append_at(store, documents, expected, placing)
        return await reader.with_positions(store, stored) if wait else stored
