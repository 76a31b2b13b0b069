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

from .documents.arguments import check_number
from .documents.bson_types import Document
from .documents.event_document import check_id
from .documents.query_guard import check_pipeline
from .exceptions import EventNotFound
from .mongodb import connection
from .mongodb.deadline import in_time
from .mongodb.ports import drive, drive_each
from .positions import reader
from .streams import lookup
from .streams.append import append_at
from .streams.load import load_stream
from .streams.lookup import Sort
from .streams.new_events import raw_events


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
        cls,
        event: Mapping[str, Any],
        *,
        expected_version: int | None = None,
        wait: bool = False,
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
            wait: also wait until the event has its position, at most the setting
                ``TIMEOUT``, and return it as ``position``. That is None if no process
                assigned one in time; the event is stored all the same.

        Raises:
            InvalidEvent: before anything was sent, with path and reason.
            ConcurrencyError: the stream is not at the expected version.
            AggregateTypeMismatch: the stream belongs to another type.
            IdempotencyConflict: the id is stored with other content.
            OutcomeUnknown: the time ran out; append it again with the same ``id``.
            StoreUnavailable: no server answered in time; nothing was stored.
        """
        expected = expected_version
        return cls.append_events([event], expected_version=expected, wait=wait)[0]

    @classmethod
    async def aappend_event(
        cls,
        event: Mapping[str, Any],
        *,
        expected_version: int | None = None,
        wait: bool = False,
    ) -> Document:
        """See ``append_event()``."""
        expected = expected_version
        return (
            await cls.aappend_events([event], expected_version=expected, wait=wait)
        )[0]

    @classmethod
    def append_events(
        cls,
        events: Sequence[Mapping[str, Any]],
        *,
        expected_version: int | None = None,
        wait: bool = False,
    ) -> list[Document]:
        """
        Append several events to one stream, all or none; see ``append_event()``.

        Raises:
            TransactionsUnavailable: the server is not a member of a replica set.
        """
        documents, expected = raw_events(events, expected_version)
        store = reader.check_wait(wait, connection.blocking())
        with in_time():
            stored = drive(append_at(store, documents, expected))
        return drive(reader.with_positions(store, stored)) if wait else stored

    @classmethod
    async def aappend_events(
        cls,
        events: Sequence[Mapping[str, Any]],
        *,
        expected_version: int | None = None,
        wait: bool = False,
    ) -> list[Document]:
        """See ``append_events()``."""
        documents, expected = raw_events(events, expected_version)
        store = reader.check_wait(wait, await connection.awaitable())
        with in_time():
            stored = await append_at(store, documents, expected)
        return await reader.with_positions(store, stored) if wait else stored

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
        _check_optional(aggregate_type, "aggregate_type")
        return drive_each(lookup.each_stream(connection.blocking(), aggregate_type))

    @classmethod
    async def aget_event_streams(
        cls, aggregate_type: str | None = None
    ) -> AsyncIterator[dict[str, str]]:
        """Iterate with ``async for``; see ``get_event_streams()``."""
        _check_optional(aggregate_type, "aggregate_type")
        store = await connection.awaitable()
        async for stream in lookup.each_stream(store, aggregate_type):
            yield stream

    @classmethod
    def exists(cls, aggregate_id: str) -> bool:
        """Whether a stream has events."""
        check_id(aggregate_id)
        return drive(lookup.stream_exists(connection.blocking(), aggregate_id))

    @classmethod
    async def aexists(cls, aggregate_id: str) -> bool:
        """See ``exists()``."""
        check_id(aggregate_id)
        return await lookup.stream_exists(await connection.awaitable(), aggregate_id)

    @classmethod
    def count(cls, aggregate_id: str | None = None) -> int:
        """
        Return how many events a stream has, counted in its index; 0 without a stream.

        With None, return how many the store has: MongoDB's own figure, which may be
        off after a crash of the server.
        """
        _check_optional(aggregate_id, "aggregate_id")
        return drive(lookup.count(connection.blocking(), aggregate_id))

    @classmethod
    async def acount(cls, aggregate_id: str | None = None) -> int:
        """See ``count()``."""
        _check_optional(aggregate_id, "aggregate_id")
        return await lookup.count(await connection.awaitable(), aggregate_id)

    @classmethod
    def get_stream_info(cls, aggregate_id: str) -> Document | None:
        """
        Return what a stream is, without reading it; None if it does not exist.

        A dict: ``aggregateId``, ``aggregateType``, ``aggregateVersion`` (of the last
        event), ``firstCreated`` and ``lastCreated`` (of the first and last event).
        """
        check_id(aggregate_id)
        return drive(lookup.stream_info(connection.blocking(), aggregate_id))

    @classmethod
    async def aget_stream_info(cls, aggregate_id: str) -> Document | None:
        """See ``get_stream_info()``."""
        check_id(aggregate_id)
        return await lookup.stream_info(await connection.awaitable(), aggregate_id)

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
        cls,
        query: Mapping[str, Any],
        *,
        sort: Sort | None = None,
        limit: int = 0,
        default: list[Document] | None = None,
    ) -> list[Document]:
        """
        Return the events that match a MongoDB query; see ``find_event()``.

        Args:
            query: a filter on the event documents. A datetime for ``created`` also
                finds events of the Node package, which store a number.
            sort: pairs of field and 1 or -1.
            limit: the most to return; 0 means all, which are held in memory.
            default: what to return if no event matches, as ``[]``; None raises.

        Raises:
            EventNotFound: no event matches, and there is no ``default``.
            InvalidQuery: the query runs code, or is malformed.
        """
        lookup.check_search(query, sort, limit, default)
        with in_time():
            found = drive(lookup.find_events(connection.blocking(), query, sort, limit))
        return _found(found, query, default)

    @classmethod
    async def afind_events(
        cls,
        query: Mapping[str, Any],
        *,
        sort: Sort | None = None,
        limit: int = 0,
        default: list[Document] | None = None,
    ) -> list[Document]:
        """See ``find_events()``."""
        lookup.check_search(query, sort, limit, default)
        with in_time():
            store = await connection.awaitable()
            found = await lookup.find_events(store, query, sort, limit)
        return _found(found, query, default)

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
        wanted = _checked_range(after, limit, types, aggregate_types)
        return drive_each(reader.read_all(connection.blocking(), *wanted))

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
        wanted = _checked_range(after, limit, types, aggregate_types)
        async for event in reader.read_all(await connection.awaitable(), *wanted):
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
    def position_of(cls, event: Any) -> int | None:
        """
        Return the position of an event; None if it has none yet.

        Args:
            event: a stored event, an ``Aggregate`` (its last event), or the id of an
                event.

        Raises:
            EventNotFound: no event has the id.
        """
        return drive(reader.position_of(connection.blocking(), event))

    @classmethod
    async def aposition_of(cls, event: Any) -> int | None:
        """See ``position_of()``."""
        return await reader.position_of(await connection.awaitable(), event)

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
        store = connection.blocking()
        return drive(reader.wait_for(store, event, timeout, subscription=subscription))

    @classmethod
    async def await_for(
        cls,
        event: Any,
        timeout: float | None = None,  # noqa: ASYNC109 - like its twin
        *,
        subscription: str | None = None,
    ) -> bool:
        """See ``wait_for()``."""
        store = await connection.awaitable()
        return await reader.wait_for(store, event, timeout, subscription=subscription)


def _found(
    events: list[Document], query: Mapping[str, Any], default: list[Document] | None
) -> list[Document]:
    if not events and default is None:
        raise EventNotFound(query)
    return events or list(default or ())


def _check_optional(value: object, name: str) -> None:
    if value is not None:
        check_id(value, name)


def _checked_range(
    after: Any, limit: Any, types: Any, aggregate_types: Any
) -> tuple[int, Document, int | None]:
    """Return what ``reader.read_all()`` takes, before anything connects."""
    check_number(after, "after")
    if limit is not None:
        check_number(limit, "limit")
    return after, reader.wanted(types, aggregate_types), limit
