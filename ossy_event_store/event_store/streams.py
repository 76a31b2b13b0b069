"""
Read streams, and which there are.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.client_session import ClientSession

from ..documents.arguments import check_number
from ..documents.bson_types import Document
from ..documents.event_document import check_id
from ..mongodb import connection
from ..mongodb.deadline import in_time
from ..mongodb.ports import drive, drive_each
from ..streams import lookup
from ..streams.closing import history
from ..streams.load import load_stream
from ..streams.transactions.joining import awaitable_store, blocking_store


class Streams:
    """The methods of ``EventStore`` that read streams."""

    @classmethod
    def get_event_stream(
        cls,
        aggregate_id: str,
        from_version: int = 0,
        *,
        session: ClientSession | None = None,
    ) -> list[Document]:
        """
        Return the events of a stream after ``from_version``, ascending.

        The list is empty if the stream does not exist. With the session of an open
        transaction, such as ``t.session``, it is read inside of that.
        """
        check_id(aggregate_id)
        check_number(from_version, "from_version")
        with in_time():
            store = blocking_store(session)
            return drive(load_stream(store, aggregate_id, from_version))

    @classmethod
    async def aget_event_stream(
        cls,
        aggregate_id: str,
        from_version: int = 0,
        *,
        session: AsyncClientSession | None = None,
    ) -> list[Document]:
        """See ``get_event_stream()``."""
        check_id(aggregate_id)
        check_number(from_version, "from_version")
        with in_time():
            store = await awaitable_store(session)
            return await load_stream(store, aggregate_id, from_version)

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
    def get_history(cls, aggregate_id: str) -> Iterator[Document]:
        """
        Iterate over the events of a stream and of those that it continues, in order.

        It begins with the oldest stream. ``Aggregate.continue_as()`` continues one.
        """
        check_id(aggregate_id)
        return drive_each(history.each_event(connection.blocking(), aggregate_id))

    @classmethod
    async def aget_history(cls, aggregate_id: str) -> AsyncIterator[Document]:
        """Iterate with ``async for``; see ``get_history()``."""
        check_id(aggregate_id)
        store = await connection.awaitable()
        async for event in history.each_event(store, aggregate_id):
            yield event

    @classmethod
    def exists(cls, aggregate_id: str, *, session: ClientSession | None = None) -> bool:
        """Whether a stream has events."""
        check_id(aggregate_id)
        return drive(lookup.stream_exists(blocking_store(session), aggregate_id))

    @classmethod
    async def aexists(
        cls, aggregate_id: str, *, session: AsyncClientSession | None = None
    ) -> bool:
        """See ``exists()``."""
        check_id(aggregate_id)
        return await lookup.stream_exists(await awaitable_store(session), aggregate_id)

    @classmethod
    def count(
        cls, aggregate_id: str | None = None, *, session: ClientSession | None = None
    ) -> int:
        """
        Return how many events a stream has, counted in its index; 0 without a stream.

        A document of another program that has the stream's id and a version counts too.

        With None, return how many the store has: MongoDB's own figure, which may be
        off after a crash of the server.
        """
        _check_optional(aggregate_id, "aggregate_id")
        return drive(lookup.count(blocking_store(session), aggregate_id))

    @classmethod
    async def acount(
        cls,
        aggregate_id: str | None = None,
        *,
        session: AsyncClientSession | None = None,
    ) -> int:
        """See ``count()``."""
        _check_optional(aggregate_id, "aggregate_id")
        return await lookup.count(await awaitable_store(session), aggregate_id)

    @classmethod
    def get_stream_info(
        cls, aggregate_id: str, *, session: ClientSession | None = None
    ) -> Document | None:
        """
        Return what a stream is, without reading it; None if it does not exist.

        A dict: ``aggregateId``, ``aggregateType``, ``aggregateVersion`` (of the last
        event), ``firstCreated`` and ``lastCreated`` (of the first and last event),
        ``isClosed``, and ``predecessor`` and ``successor``: the ids of the streams that
        it continues and that continue it, or None.
        """
        check_id(aggregate_id)
        return drive(lookup.stream_info(blocking_store(session), aggregate_id))

    @classmethod
    async def aget_stream_info(
        cls, aggregate_id: str, *, session: AsyncClientSession | None = None
    ) -> Document | None:
        """See ``get_stream_info()``."""
        check_id(aggregate_id)
        return await lookup.stream_info(await awaitable_store(session), aggregate_id)


def _check_optional(value: object, name: str) -> None:
    if value is not None:
        check_id(value, name)
