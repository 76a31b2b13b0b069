"""
Read streams, and which there are.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

from ..documents.arguments import check_number
from ..documents.bson_types import Document
from ..documents.event_document import check_id
from ..mongodb import connection
from ..mongodb.deadline import in_time
from ..mongodb.ports import drive, drive_each
from ..streams import lookup
from ..streams.load import load_stream


class Streams:
    """The methods of ``EventStore`` that read streams."""

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

        A document of another program that has the stream's id and a version counts too.

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


def _check_optional(value: object, name: str) -> None:
    if value is not None:
        check_id(value, name)
