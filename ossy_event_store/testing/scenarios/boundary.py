"""Rules across streams, without a store."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ...conf import get_settings
from ...documents.boundaries.model import Boundary, check_boundary
from ...documents.boundaries.query import Item
from ...documents.bson_types import Document
from ...documents.display import counted, visible
from ...documents.storable import copied
from ...streams.boundaries.execute import LoadedBoundary, stored_query
from ...streams.boundaries.reading import order
from ...streams.execute import decided_events
from ...streams.new_events import raw_events
from .events import appended, given_events
from .scenario import Scenario


class BoundaryScenario(Scenario):
    """
    The events of a boundary, and decisions on them; ``given(Seats(…), …)`` returns it.

    Args:
        boundary: the decision model with its parameters.
        events: as a test gives them. Each must be one that the boundary selects.

    Raises:
        AssertionError: the boundary would not select an event, so that no decision
            would see it.
    """

    def __init__(self, boundary: Boundary, events: Sequence[Any]) -> None:
        __tracebackhide__ = True
        self.boundary = check_boundary(boundary)
        self._query = stored_query(boundary.bounds)
        # As a decision does: it refuses types that are not declared.
        self._query.guards(get_settings().TYPE_BOUNDARIES)
        documents = given_events(events, {})
        super().__init__(
            f"given({boundary!r}, {counted(len(documents), 'event')})", documents
        )
        for number, document in enumerate(documents, 1):
            if not self._query.matches(document):
                self._refuse(number, document)

    def _refuse(self, number: int, event: Document) -> None:
        __tracebackhide__ = True
        lines = [
            f"gets event {number}, {visible(event['type'])} with the tags "
            f"{event.get('tags', [])}, but its query does not select it"
        ]
        for item in self._query.items:
            lines.append(f"  {_text(item)}: {_why_not(item, event)}")
        self._fail("\n".join(lines))

    def _loaded(self) -> LoadedBoundary:
        events: list[Document] = copied(self.events)
        return LoadedBoundary(self.boundary, sorted(events, key=order), "")

    def _decided(self, decide: Callable[[Any], Any]) -> list[Document]:
        events = decided_events(decide(self._loaded()))
        if not events:
            return []
        documents, _ = raw_events(events, None)
        return appended(self.events, documents)

    def _view(self) -> Any:
        loaded = self._loaded()
        loaded.events = [one for one in loaded.events if self._query.matches(one)]
        return loaded.view()


def _text(item: Item) -> str:
    types, tags = ", ".join(item.types) or "any type", ", ".join(item.tags)
    return visible(f"item of {types}" + (f" with {tags}" if tags else ""))


def _why_not(item: Item, event: Document) -> str:
    """Return why an item does not select an event."""
    if item.types and event["type"] not in item.types:
        return "it is of another type"
    missing = sorted(set(item.tags) - set(event.get("tags") or ()))
    return visible(f"it lacks the tag {', '.join(missing)}")
