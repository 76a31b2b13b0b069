"""
Execute a decision on a boundary: read, decide, append, and again after a conflict.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pymongo.errors import PyMongoError

from ...conf import get_settings
from ...documents.arguments import check_function, check_number
from ...documents.boundaries.condition import Condition
from ...documents.boundaries.model import Boundary, check_boundary
from ...documents.boundaries.query import Item, Query
from ...documents.bson_types import Document
from ...documents.catalogue.catalogue import current
from ...documents.catalogue.objects import stored_events
from ...documents.catalogue.reading import current_events
from ...exceptions import BoundaryConflict
from ...mongodb.connection import Store
from ..append import append_at
from ..execute import Decision, decided_events
from ..new_events import raw_events
from ..races.repeating import attempts, pause_before
from .placing import placing_of
from .reading import each_event, extent_of, order
from .turns import TagTurn


def stored_query(query: Query) -> Query:
    """Return the query for the stored events of which events of a query are made."""
    stored_types = current().stored_types
    return Query(
        tuple(
            Item(tuple(sorted(stored_types(one.types) or ())), one.tags)
            for one in query.items
        )
    )


class LoadedBoundary:
    """
    The events of a boundary as they were read, for one decision.

    ``EventStore.execute()`` gives it to ``decide``, and returns it with the new events.
    """

    def __init__(self, boundary: Boundary, events: list[Document], token: str) -> None:
        #: The decision model with its parameters.
        self.boundary = boundary
        #: The events that match its query, as stored, in the order of their ticks;
        #: also those of which an upcaster makes events that may match.
        self.events = events
        #: What a condition takes as ``after``.
        self.token = token
        #: The events that were decided and stored.
        self.appended: list[Document] = []

    def __repr__(self) -> str:
        return f"<LoadedBoundary {self.boundary!r}, {len(self.events)} events>"

    def view(self) -> Any:
        """
        Return the state: ``view(events, {})`` of the decision model.

        The events are ``self.events`` at the versions that the code knows.
        """
        model = type(self.boundary)
        matches = self.boundary.bounds.matches
        events = [e for e in current().upcasted(self.events) if matches(e)]
        found = current_events(model, events)
        with stored_events(found):
            return model.view(found, {})


class BoundaryExecution:
    """One call of ``EventStore.execute()``: its checked arguments and its attempts."""

    def __init__(
        self,
        boundary: Boundary,
        decide: Callable[[LoadedBoundary], Decision],
        most: int | None,
    ) -> None:
        self.boundary = check_boundary(boundary)
        self.decide = check_function(decide, "decide")
        if most is not None:
            check_number(most, "attempts", 1)
        self.most = most

    async def run(self, store: Store) -> LoadedBoundary:
        """Return the boundary with the events that were decided and appended."""
        query = stored_query(self.boundary.bounds)
        guards = query.guards(get_settings().TYPE_BOUNDARIES)
        names = [name for guard in guards for name in guard.names]
        lost: BoundaryConflict | None = None
        async with TagTurn(store, names) as turn:
            for attempt in attempts():
                try:
                    return await self._attempt(store)
                except BoundaryConflict as conflict:
                    if store.outside or attempt == self.most:
                        raise
                    lost = conflict
                except PyMongoError as error:
                    if lost is not None and error.timeout:
                        raise lost from None
                    raise
                if not await turn.take(lost.tags[0]):  # the rivals are elsewhere
                    await pause_before(store, attempt)
        raise AssertionError("unreachable")  # pragma: no cover

    async def _attempt(self, store: Store) -> LoadedBoundary:
        query = stored_query(self.boundary.bounds)
        extent = await extent_of(store, query)
        events = [event async for event in each_event(store, extent)]
        loaded = LoadedBoundary(self.boundary, events, extent.token)
        decided = decided_events(self.decide(loaded))
        if decided:
            documents, expected = raw_events(decided, None)
            condition = Condition(query, after=extent.token)
            placing = placing_of(store, documents, condition)
            loaded.appended = await append_at(store, documents, expected, placing)
            known = {event["_id"] for event in events}
            new = [event for event in loaded.appended if event["_id"] not in known]
            loaded.events = sorted([*events, *filter(query.matches, new)], key=order)
        return loaded
