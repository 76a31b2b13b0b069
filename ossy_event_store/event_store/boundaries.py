"""
Read the events of a query, and decide on them.
"""

from __future__ import annotations

from collections.abc import Callable

from ..documents.boundaries.model import Boundary
from ..documents.boundaries.query import Query, check_query
from ..mongodb import connection
from ..mongodb.deadline import in_time
from ..mongodb.ports import drive, drive_each
from ..streams.boundaries.execute import BoundaryExecution, LoadedBoundary
from ..streams.boundaries.reading import (
    AwaitableBoundaryRead,
    BoundaryRead,
    each_event,
    extent_of,
)
from ..streams.execute import Decision


class Boundaries:
    """The methods of ``EventStore`` on boundaries: rules that reach across streams."""

    @classmethod
    def read_boundary(cls, query: Query) -> BoundaryRead:
        """
        Return the events that match a query, and a token for ``Condition``.

        The token is read before the events. It stands for the moment of the call, and
        so do the events: those that are appended meanwhile are not returned, and make
        a condition with the token fail.

        Args:
            query: what ``any_of()``, ``item()`` or ``all_events()`` returned.

        Raises:
            InvalidBoundary: an item has no tags, and its types are not declared in the
                setting ``TYPE_BOUNDARIES``.
        """
        checked = check_query(query)
        store = connection.blocking()
        extent = drive(extent_of(store, checked))
        return BoundaryRead(extent.token, drive_each(each_event(store, extent)))

    @classmethod
    async def aread_boundary(cls, query: Query) -> AwaitableBoundaryRead:
        """See ``read_boundary()``; iterate over its events with ``async for``."""
        checked = check_query(query)
        store = await connection.awaitable()
        extent = await extent_of(store, checked)
        return AwaitableBoundaryRead(extent.token, each_event(store, extent))

    @classmethod
    def execute(
        cls,
        boundary: Boundary,
        decide: Callable[[LoadedBoundary], Decision],
        *,
        attempts: int | None = None,
    ) -> LoadedBoundary:
        """
        Read a boundary, decide and append; after a conflict, read and decide again.

        Args:
            boundary: a decision model with its parameters.
            decide: a plain function that gets the loaded boundary and returns one
                event, several events of one stream (stored all or none), or None or an
                empty list. It may run several times, so it must have no side effects;
                what it raises passes through, and nothing is stored. The events are
                those of ``append_event()``.
            attempts: how often to decide at most; by default until the setting
                ``TIMEOUT`` is used up, which bounds the whole call.

        Returns:
            The boundary with the new events, and these as ``appended``.

        Raises:
            BoundaryConflict: in the last attempt too, another writer appended events
                that match the query.
            InvalidBoundary: a type is not declared.
            TypeError: ``decide`` is not a plain function, or returned something
                other than events.
            AggregateTypeMismatch, InvalidEvent, IdempotencyConflict,
            OutcomeUnknown, TransactionsUnavailable, StoreUnavailable: see
                ``append_event()``.
        """
        execution = BoundaryExecution(boundary, decide, attempts)
        with in_time():
            return drive(execution.run(connection.blocking()))

    @classmethod
    async def aexecute(
        cls,
        boundary: Boundary,
        decide: Callable[[LoadedBoundary], Decision],
        *,
        attempts: int | None = None,
    ) -> LoadedBoundary:
        """See ``execute()``; ``decide`` is a plain function here too."""
        execution = BoundaryExecution(boundary, decide, attempts)
        with in_time():
            return await execution.run(await connection.awaitable())
