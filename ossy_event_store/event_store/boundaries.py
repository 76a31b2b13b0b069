"""
Read the events of a query, and decide on them.
"""

from __future__ import annotations

from ..documents.boundaries.query import Query, check_query
from ..mongodb import connection
from ..mongodb.ports import drive, drive_each
from ..streams.boundaries.reading import (
    AwaitableBoundaryRead,
    BoundaryRead,
    each_event,
    extent_of,
)


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
