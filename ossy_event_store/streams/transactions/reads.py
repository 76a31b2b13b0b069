"""
Reads inside of a transaction, which have to find what it has appended itself.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Protocol

from ...documents.bson_types import Document, Filter
from ...mongodb.ports import Documents


class Collecting(Protocol):
    """A transaction that collects events before it sends them."""

    ends: dict[str, Document]

    async def flush(self) -> None:
        """Send them."""


class EventsAfterFlush:
    """
    The events inside of a transaction: each read first sends what it has to find.

    Args:
        unit: the transaction.
        events: its collection of events.
    """

    def __init__(self, unit: Collecting, events: Documents) -> None:
        self._unit = unit
        self._events = events

    def __getattr__(self, name: str) -> Any:
        return getattr(self._events, name)

    async def find_one(self, query: Filter, **options: Any) -> Document | None:
        """Find a document; see ``Documents``."""
        await self._flush_for(query)
        return await self._events.find_one(query, **options)

    async def find(self, query: Filter, **options: Any) -> list[Document]:
        """Find documents; see ``Documents``."""
        await self._flush_for(query)
        return await self._events.find(query, **options)

    async def batches(
        self, query: Filter, size: int, **options: Any
    ) -> AsyncGenerator[list[Document], None]:
        """Find documents in batches; see ``Documents``."""
        await self._flush_for(query)
        async with aclosing(self._events.batches(query, size, **options)) as batches:
            async for batch in batches:
                yield batch

    async def count_where(self, query: Filter, **options: Any) -> int:
        """Count documents; see ``Documents``."""
        await self._flush_for(query)
        return await self._events.count_where(query, **options)

    async def aggregate(
        self, pipeline: Sequence[Filter], size: int, **options: Any
    ) -> AsyncGenerator[list[Document], None]:
        """Run a pipeline; see ``Documents``."""
        await self._unit.flush()
        async for batch in self._events.aggregate(pipeline, size, **options):
            yield batch

    async def _flush_for(self, query: Filter) -> None:
        """Send the pending events, unless a query is of another stream."""
        condition = query.get("aggregateId")
        stream = condition.get("$eq") if isinstance(condition, Mapping) else None
        if not isinstance(stream, str) or stream in self._unit.ends:
            await self._unit.flush()
