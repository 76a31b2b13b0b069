"""
Raw event I/O: append, read streams, find events.

Most code uses ``Aggregate``; this is what it stands on. Every method has a
blocking and, with an ``a`` in front, an awaitable face.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence
from typing import Any, Literal, cast

from django.utils.functional import classproperty
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.collection import Collection

from .conf import get_settings
from .documents.bson_types import Document
from .documents.event_document import (
    build_event,
    check_event,
    check_id,
    check_version,
    read_event,
)
from .documents.query_guard import check_pipeline, check_query
from .exceptions import EventNotFound, InvalidEvent
from .mongodb import connection
from .mongodb.connection import Store
from .mongodb.deadline import in_time
from .mongodb.ports import drive, drive_each
from .positions import reader
from .streams.append import append_at

Sort = Sequence[tuple[str, Literal[1, -1]]]

PAGE = 1000
_STREAM = [("aggregateVersion", 1)]


class EventStore:
    """The ``eventstore`` collection: every event ever appended, never changed."""

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
            event: ``type``, ``aggregateId`` and ``aggregateType``; optional are
                ``payload``, ``createdBy``, ``metadata``, ``id`` (the idempotency
                key), ``created`` (an aware datetime) and ``aggregateVersion``
                (the same as ``expected_version`` plus one).
            expected_version: 0 if the stream must not exist yet, n if it must end
                there; None appends wherever it ends.

        Raises:
            InvalidEvent: before anything was sent, with path and reason.
            ConcurrencyError: the stream is not at the expected version.
            AggregateTypeMismatch: the stream belongs to another type.
            IdempotencyConflict: the id is stored with other content.
            OutcomeUnknown: the time ran out; try again with the same ``id``.
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
        Append several events of one stream, all or none; see ``append_event()``.

        Raises:
            TransactionsUnavailable: the server is not a member of a replica set.
        """
        documents, expected = _documents(events, expected_version)
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
        documents, expected = _documents(events, expected_version)
        with in_time():
            return await append_at(await connection.awaitable(), documents, expected)

    # --- streams

    @classmethod
    def get_event_stream(
        cls, aggregate_id: str, from_version: int = 0
    ) -> list[Document]:
        """
        Return the events of a stream after ``from_version``, ascending.

        An id without events gives an empty list.
        """
        check_id(aggregate_id)
        _check_version(from_version, "from_version")
        with in_time():
            return drive(load_stream(connection.blocking(), aggregate_id, from_version))

    @classmethod
    async def aget_event_stream(
        cls, aggregate_id: str, from_version: int = 0
    ) -> list[Document]:
        """See ``get_event_stream()``."""
        check_id(aggregate_id)
        _check_version(from_version, "from_version")
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

        The streams are fetched in pages while you iterate, so a store of any size
        can be walked; wrap it in ``list()`` if you want them all at once.
        """
        return drive_each(_streams(connection.blocking(), aggregate_type))

    @classmethod
    async def aget_event_streams(
        cls, aggregate_type: str | None = None
    ) -> AsyncIterator[dict[str, str]]:
        """Iterate with ``async for``; see ``get_event_streams()``."""
        async for stream in _streams(await connection.awaitable(), aggregate_type):
            yield stream

    # --- queries

    @classmethod
    def find_event(
        cls, query: Mapping[str, Any], *, sort: Sort | None = None
    ) -> Document:
        """
        Return the first event that answers a MongoDB query.

        Write values that come from outside as ``{"$eq": value}``; operators that
        run code are refused.

        Raises:
            EventNotFound: there is none.
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
        Return the events that answer a MongoDB query; see ``find_event()``.

        Args:
            query: a filter over the documents.
            sort: pairs of field and 1 or -1.
            limit: the most to return; 0 means all of them, in memory.

        Raises:
            EventNotFound: there is none.
            InvalidQuery: the query runs code.
        """
        check_query(query)
        with in_time():
            return drive(_find(connection.blocking(), query, sort, limit))

    @classmethod
    async def afind_events(
        cls, query: Mapping[str, Any], *, sort: Sort | None = None, limit: int = 0
    ) -> list[Document]:
        """See ``find_events()``."""
        check_query(query)
        with in_time():
            return await _find(await connection.awaitable(), query, sort, limit)

    @classmethod
    def aggregate(cls, pipeline: Sequence[Mapping[str, Any]]) -> list[Document]:
        """
        Run a MongoDB aggregation pipeline over the events and return its results.

        Only stages that read the store are run; others, nested ones too, are
        ``InvalidQuery``.
        """
        pipeline = check_pipeline(pipeline)
        with in_time():
            return drive(_aggregate(connection.blocking(), pipeline))

    @classmethod
    async def aaggregate(cls, pipeline: Sequence[Mapping[str, Any]]) -> list[Document]:
        """See ``aggregate()``."""
        pipeline = check_pipeline(pipeline)
        with in_time():
            return await _aggregate(await connection.awaitable(), pipeline)

    # --- one order over all

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
        Iterate over the events of all streams, in the order of their positions.

        Each event has its ``position`` beside its fields: 1, 2, 3, … without gaps,
        given after the commit. It ends at the last event that has one.

        Args:
            after: the position behind which to begin; 0 begins at the first event.
            types: only events of these types; None means all.
            aggregate_types: only those of streams of these types; None means all.
            limit: the most to return; None means all, fetched in pages on the way.

        Raises:
            PositionsBroken: an event was deleted past the store.
        """
        _check_reading(after, limit)
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
        _check_reading(after, limit)
        store = await connection.awaitable()
        async for event in reader.read_all(store, after, types, aggregate_types, limit):
            yield event

    @classmethod
    def head_position(cls) -> int:
        """Return the position of the last event that has one, 0 if none has."""
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
        Wait until an event has its position, and return whether it has.

        Args:
            event: an event as stored, an ``Aggregate`` (its last event), or a
                position.
            timeout: seconds; None takes the setting ``TIMEOUT``.
            subscription: the name of one that is to have come that far as well.
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
        timeout: float | None = None,  # noqa: ASYNC109 - as its twin has
        *,
        subscription: str | None = None,
    ) -> bool:
        """See ``wait_for()``."""
        seconds = get_settings().TIMEOUT if timeout is None else timeout
        store = await connection.awaitable()
        return await reader.wait_for(store, event, seconds, subscription=subscription)


# --- the operations, once ---------------------------------------------------


async def load_stream(
    store: Store, aggregate_id: str, from_version: int
) -> list[Document]:
    """Return the events of a stream after a version, majority-read on the primary."""
    query = {
        "aggregateId": {"$eq": aggregate_id},
        "aggregateVersion": {"$gt": from_version},
    }
    events = await store.events.find(query, sort=_STREAM)
    for event in events:
        read_event(event)
    return events


async def _streams(
    store: Store, aggregate_type: str | None
) -> AsyncGenerator[dict[str, str], None]:
    """Page through the first events, of which every stream has exactly one."""
    query: dict[str, Any] = {"aggregateVersion": 1}
    if aggregate_type is not None:
        query["aggregateType"] = {"$eq": check_id(aggregate_type, "aggregate_type")}
    last = ""
    while True:
        with in_time():
            page = await store.events.find(
                {**query, "aggregateId": {"$gt": last}},
                projection={"_id": 0, "aggregateId": 1, "aggregateType": 1},
                sort=[("aggregateId", 1)],
                limit=PAGE,
            )
        for stream in page:
            yield stream
        if len(page) < PAGE:
            return
        last = page[-1]["aggregateId"]


async def _find(
    store: Store, query: Mapping[str, Any], sort: Sort | None, limit: int
) -> list[Document]:
    events = await store.events.find(query, sort=sort, limit=limit)
    if not events:
        raise EventNotFound(query)
    return [read_event(event) for event in events]


async def _aggregate(
    store: Store, pipeline: Sequence[Mapping[str, Any]]
) -> list[Document]:
    results: list[Document] = []
    async for batch in store.events.aggregate(pipeline, PAGE):
        results += batch
    return results


def _documents(
    events: Sequence[Mapping[str, Any]], expected_version: int | None
) -> tuple[list[Document], int | None]:
    """Return the documents of raw events of one stream, and the version expected."""
    allowed = ("aggregateId", "aggregateType", "aggregateVersion", "created")
    if not events:
        raise InvalidEvent("", "no event was given")
    now = dt.datetime.now(dt.UTC)
    checked = [check_event(event, allowed) for event in events]
    first = checked[0]
    expected = _expected(checked, expected_version)
    documents = []
    for index, event in enumerate(checked):
        for name in ("aggregateId", "aggregateType"):
            if event.get(name) != first.get(name):
                raise InvalidEvent(name, "the events are of more than one stream")
        documents.append(
            build_event(
                event,
                aggregate_id=cast(str, event.get("aggregateId")),
                aggregate_type=cast(str, event.get("aggregateType")),
                version=(expected or 0) + index + 1,
                created=now if event.get("created") is None else event["created"],
            )
        )
    return documents, expected


def _check_version(value: object, name: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be a whole number, not {type(value).__name__}.")
    if value < 0:
        raise ValueError(f"{name} is {value}; it must be 0 or more.")


def _check_reading(after: object, limit: object) -> None:
    _check_version(after, "after")
    if limit is not None:
        _check_version(limit, "limit")


def _expected(
    events: Sequence[Mapping[str, Any]], expected_version: int | None
) -> int | None:
    if expected_version is not None:
        _check_version(expected_version, "expected_version")
    for index, event in enumerate(events):
        if event.get("aggregateVersion") is None:
            continue
        expected = check_version(event["aggregateVersion"]) - index - 1
        if expected_version not in (None, expected):
            raise InvalidEvent(
                "aggregateVersion",
                f"is {event['aggregateVersion']}, but the expected version makes it "
                f"{expected_version + index + 1}",
            )
        expected_version = expected
    if expected_version is not None and expected_version < 0:
        raise InvalidEvent("aggregateVersion", "the versions of the events fall")
    return expected_version
