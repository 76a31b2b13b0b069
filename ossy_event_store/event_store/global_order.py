"""
Read events in global order, and wait for their positions.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

from ..documents.arguments import check_number
from ..documents.bson_types import Document
from ..mongodb import connection
from ..mongodb.ports import drive, drive_each
from ..positions import reader


class GlobalOrder:
    """The methods of ``EventStore`` that use positions."""

    @classmethod
    def read_all(
        cls,
        after: int = 0,
        *,
        types: Sequence[str] | None = None,
        aggregate_types: Sequence[str] | None = None,
        tags: Sequence[str] | None = None,
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
            tags: only events that have all of these tags; None means all.
            limit: the most to return; None means all, fetched in pages.

        Raises:
            PositionsBroken: an event was deleted outside of the event store, and the
                loss is not accepted.
        """
        wanted = _checked_range(after, limit, types, aggregate_types, tags)
        return drive_each(reader.read_all(connection.blocking(), *wanted))

    @classmethod
    async def aread_all(
        cls,
        after: int = 0,
        *,
        types: Sequence[str] | None = None,
        aggregate_types: Sequence[str] | None = None,
        tags: Sequence[str] | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[Document]:
        """Iterate with ``async for``; see ``read_all()``."""
        wanted = _checked_range(after, limit, types, aggregate_types, tags)
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


def _checked_range(
    after: Any, limit: Any, types: Any, aggregate_types: Any, tags: Any
) -> tuple[int, Document, int | None]:
    """Return what ``reader.read_all()`` takes, before anything connects."""
    check_number(after, "after")
    if limit is not None:
        check_number(limit, "limit")
    return after, reader.wanted(types, aggregate_types, tags), limit
