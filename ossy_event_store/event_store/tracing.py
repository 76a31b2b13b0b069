"""
Which events belong together, and which led to which.
"""

from __future__ import annotations

from bson import ObjectId

from ..mongodb import connection
from ..mongodb.deadline import in_time
from ..mongodb.ports import drive
from ..streams.context import traces
from ..streams.context.tree import CauseChain, Trace


class Tracing:
    """The methods of ``EventStore`` that follow correlations and causes."""

    @classmethod
    def trace(cls, correlation_id: str, *, limit: int = traces.MOST_EVENTS) -> Trace:
        """
        Return the events of a correlation, as trees of causes and effects.

        Args:
            correlation_id: the events' ``metadata.correlationId``.
            limit: the most events; of more, the oldest.

        Raises:
            IndexMissing: the index for it does not exist; see ``ADMIN_INDEXES``.
        """
        traces.check_correlation_id(correlation_id)
        traces.check_limit(limit)
        with in_time():
            return drive(traces.trace(connection.blocking(), correlation_id, limit))

    @classmethod
    async def atrace(
        cls, correlation_id: str, *, limit: int = traces.MOST_EVENTS
    ) -> Trace:
        """See ``trace()``."""
        traces.check_correlation_id(correlation_id)
        traces.check_limit(limit)
        with in_time():
            store = await connection.awaitable()
            return await traces.trace(store, correlation_id, limit)

    @classmethod
    def causes(
        cls, event_id: ObjectId | str, *, limit: int = traces.MOST_CAUSES
    ) -> CauseChain:
        """
        Return the events that led to an event: its cause, the cause of that, and so on.

        Args:
            event_id: its id; that of an ``ObjectId`` may be text.
            limit: the most events.

        Raises:
            EventNotFound: no event has this id.
        """
        traces.check_event_id(event_id)
        traces.check_limit(limit)
        with in_time():
            return drive(traces.causes(connection.blocking(), event_id, limit))

    @classmethod
    async def acauses(
        cls, event_id: ObjectId | str, *, limit: int = traces.MOST_CAUSES
    ) -> CauseChain:
        """See ``causes()``."""
        traces.check_event_id(event_id)
        traces.check_limit(limit)
        with in_time():
            return await traces.causes(await connection.awaitable(), event_id, limit)

    @classmethod
    def effects(
        cls, event_id: ObjectId | str, *, limit: int = traces.MOST_EVENTS
    ) -> Trace:
        """
        Return an event and all that it led to, as one tree.

        Args:
            event_id: its id; that of an ``ObjectId`` may be text.
            limit: the most events, this one included.

        Raises:
            EventNotFound: no event has this id.
            IndexMissing: the index for it does not exist; see ``ADMIN_INDEXES``.
        """
        traces.check_event_id(event_id)
        traces.check_limit(limit)
        with in_time():
            return drive(traces.effects(connection.blocking(), event_id, limit))

    @classmethod
    async def aeffects(
        cls, event_id: ObjectId | str, *, limit: int = traces.MOST_EVENTS
    ) -> Trace:
        """See ``effects()``."""
        traces.check_event_id(event_id)
        traces.check_limit(limit)
        with in_time():
            return await traces.effects(await connection.awaitable(), event_id, limit)
