"""
Raw event I/O: append events, read streams, find events.

Most code uses ``Aggregate``, which is built on this. Every method is blocking and
has an awaitable twin with an ``a`` in front of its name.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any

from django.utils.functional import classproperty
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.collection import Collection

from .conf import get_settings
from .documents.bson_types import Document
from .documents.event_document import check_id
from .documents.query_guard import check_pipeline, check_query
from .mongodb import connection
from .mongodb.deadline import in_time
from .mongodb.ports import drive, drive_each
from .positions import reader
from .streams import lookup
from .streams.append import append_at
from .streams.load import load_stream
from .streams.lookup import Sort
from .streams.new_events import check_number, raw_events


class EventStore:
    """The ``eventstore`` collection: all events ever appended, none ever changed."""

    @classproperty
    def collection(cls) -> Collection[Document]:  # noqa: N805
        """The PyMongo collection itself, with majority concerns set."""
        return connection.raw(connection.blocking().events)

    @classmethod
    async def acollection(cls) -> AsyncCollection[Document]:
        """Return the asynchronous PyMongo collection of the running loop."""
        return connection.async_raw((await connection.awaitable()).events)

    # --- append

    @classmethod
    def append_event(
        cls, event: Mapping[str, Any], *, expected_version: int | None = None
    ) -> Document:
        """
        Append one event and return it as stored.

        Args:
            event: ``type``, ``aggregateId`` and ``aggregateType``; optionally
                ``payload``, ``createdBy``, ``metadata``, ``id`` (the idempotency
                key), ``created`` (an aware datetime) and ``aggregateVersion``
                (which then has to be ``expected_version`` plus one).
            expected_version: 0 if the stream must not exist yet, n if it must end
                there; None appends at its end, wherever that is.

        Raises:
            InvalidEvent: before anything was sent, with path and reason.
            ConcurrencyError: the stream is not at the expected version.
            AggregateTypeMismatch: the stream belongs to another type.
            IdempotencyConflict: the id is stored with other content.
            OutcomeUnknown: the time ran out; append it again with the same ``id``.
            StoreUnavailable: no server answered in time; nothing was stored.
        """
        return cls.append_events([event], expected_version=expected_version)[0]

    @classmethod
    async def aappend_event(
        cls, event: Mapping[str, Any], *, expected_version: int | None = None
    ) -> Document:
        """See ``append_event()``."""
        events = await cls.aappend_events([event], expected_version=expected_version)
        return events[0]

    @classmethod
    def append_events(
        cls,
        events: Sequence[Mapping[str, Any]],
        *,
        expected_version: int | None = None,
    ) -> list[Document]:
        """
        Append several events to one stream, all or none; see ``append_event()``.

        Raises:
            TransactionsUnavailable: the server is not a member of a replica set.
        """
        documents, expected = raw_events(events, expected_version)
        with in_time():
            return drive(append_at(connection.blocking(), documents, expected))

    @classmethod
    async def aappend_events(
        cls,
        events: Sequence[Mapping[str, Any]],
        *,
        expected_version: int | None = None,
    ) -> list[Document]:
        """See ``append_events()``."""
        documents, expected = raw_events(events, expected_version)
        with in_time():
            return await append_at(await connection.awaitable(), documents, expected)

    # --- streams

    @classmethod
    def get_event_stream(
        cls, aggregate_id: str, from_version: int = 0
    ) -> list[Document]:
        """
        Return the events of a stream after ``from_version``, ascending.

        The list is empty if the stream does not exist.
        """
        check_id(aggregate_id)
        check_number(from_version, "from_version")
        with in_time():
            return drive(load_stream(connection.blocking(), aggregate_id, from_version))

    @classmethod
    async def aget_event_stream(
        cls, aggregate_id: str, from_version: int = 0
    ) -> list[Document]:
        """See ``get_event_stream()``."""
        check_id(aggregate_id)
        check_number(from_version, "from_version")
        with in_time():
            return await load_stream(
                await connection.awaitable(), aggregate_id, from_version
            )

    @classmethod
    def get_event_streams(
        cls, aggregate_type: str | None = None
    ) -> Iterator[dict[str, str]]:
        """
        Iterate over ``{aggregateId, aggregateType}`` of every stream, by id.

        The streams are fetched in pages while you iterate, so a store may be of any
        size. Use ``list()`` to get them all at once.
        """
        return drive_each(lookup.each_stream(connection.blocking(), aggregate_type))

    @classmethod
    async def aget_event_streams(
        cls, aggregate_type: str | None = None
    ) -> AsyncIterator[dict[str, str]]:
        """Iterate with ``async for``; see ``get_event_streams()``."""
        store = await connection.awaitable()
        async for stream in lookup.each_stream(store, aggregate_type):
            yield stream

    # --- queries

    @classmethod
    def find_event(
        cls, query: Mapping[str, Any], *, sort: Sort | None = None
    ) -> Document:
        """
        Return the first event that matches a MongoDB query.

        Write values from outside as ``{"$eq": value}``. Operators that run code are
        refused.

        Raises:
            EventNotFound: no event matches.
            InvalidQuery: the query runs code.
        """
        return cls.find_events(query, sort=sort, limit=1)[0]

    @classmethod
    async def afind_event(
        cls, query: Mapping[str, Any], *, sort: Sort | None = None
    ) -> Document:
        """See ``find_event()``."""
        return (await cls.afind_events(query, sort=sort, limit=1))[0]

    @classmethod
    def find_events(
        cls, query: Mapping[str, Any], *, sort: Sort | None = None, limit: int = 0
    ) -> list[Document]:
        """
        Return the events that match a MongoDB query; see ``find_event()``.

        Args:
            query: a filter on the event documents.
            sort: pairs of field and 1 or -1.
            limit: the most to return; 0 means all, which are held in memory.

        Raises:
            EventNotFound: no event matches.
            InvalidQuery: the query runs code.
        """
        check_query(query)
        with in_time():
            return drive(lookup.find_events(connection.blocking(), query, sort, limit))

    @classmethod
    async def afind_events(
        cls, query: Mapping[str, Any], *, sort: Sort | None = None, limit: int = 0
    ) -> list[Document]:
        """See ``find_events()``."""
        check_query(query)
        with in_time():
            return await lookup.find_events(
                await connection.awaitable(), query, sort, limit
            )

    @classmethod
    def aggregate(cls, pipeline: Sequence[Mapping[str, Any]]) -> list[Document]:
        """
        Run a MongoDB aggregation pipeline over the events and return its results.

        Only stages that read are allowed. Others, even nested ones, raise
        ``InvalidQuery``.
        """
        pipeline = check_pipeline(pipeline)
        with in_time():
            return drive(lookup.run_pipeline(connection.blocking(), pipeline))

    @classmethod
    async def aaggregate(cls, pipeline: Sequence[Mapping[str, Any]]) -> list[Document]:
        """See ``aggregate()``."""
        pipeline = check_pipeline(pipeline)
        with in_time():
            return await lookup.run_pipeline(await connection.awaitable(), pipeline)

    # --- global order

    @classmethod
    def read_all(
        cls,
        after: int = 0,
        *,
        types: Sequence[str] | None = None,
        aggregate_types: Sequence[str] | None = None,
        limit: int | None = None,
    ) -> Iterator[Document]:
        """
        Iterate over the events of all streams in global order.

        Each event has a ``position`` in addition to its fields: 1, 2, 3, … without
        gaps, assigned after the commit. The iteration ends at the last event that
        has a position.

        Args:
            after: begin after this position; 0 begins with the first event.
            types: only events of these types; None means all.
            aggregate_types: only events of streams of these types; None means all.
            limit: the most to return; None means all, fetched in pages.

        Raises:
            PositionsBroken: an event was deleted outside of the event store, and the
                loss is not accepted.
        """
        _check_range(after, limit)
        return drive_each(
            reader.read_all(connection.blocking(), after, types, aggregate_types, limit)
        )

    @classmethod
    async def aread_all(
        cls,
        after: int = 0,
        *,
        types: Sequence[str] | None = None,
        aggregate_types: Sequence[str] | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[Document]:
        """Iterate with ``async for``; see ``read_all()``."""
        _check_range(after, limit)
        store = await connection.awaitable()
        async for event in reader.read_all(store, after, types, aggregate_types, limit):
            yield event

    @classmethod
    def head_position(cls) -> int:
        """Return the last position that was assigned to an event, or 0."""
        return drive(reader.head_position(connection.blocking()))

    @classmethod
    async def ahead_position(cls) -> int:
        """See ``head_position()``."""
        return await reader.head_position(await connection.awaitable())

    @classmethod
    def wait_for(
        cls,
        event: Any,
        timeout: float | None = None,
        *,
        subscription: str | None = None,
    ) -> bool:
        """
        Wait until an event has its position, and return whether it has one.

        Args:
            event: a stored event, an ``Aggregate`` (its last event), or a position.
            timeout: seconds; None means the setting ``TIMEOUT``.
            subscription: also wait until the subscription of this name has
                processed the event, or every event up to the position. An event of a
                parked stream is not processed.
        """
        seconds = get_settings().TIMEOUT if timeout is None else timeout
        return drive(
            reader.wait_for(
                connection.blocking(), event, seconds, subscription=subscription
            )
        )

    @classmethod
    async def await_for(
        cls,
        event: Any,
        timeout: float | None = None,  # noqa: ASYNC109 - like its twin
        *,
        subscription: str | None = None,
    ) -> bool:
        """See ``wait_for()``."""
        seconds = get_settings().TIMEOUT if timeout is None else timeout
        store = await connection.awaitable()
        return await reader.wait_for(store, event, seconds, subscription=subscription)


def _check_range(after: object, limit: object) -> None:
    check_number(after, "after")
    if limit is not None:
        check_number(limit, "limit")
