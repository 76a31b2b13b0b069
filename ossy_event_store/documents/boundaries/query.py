"""
Queries over events, as the specification of dcb.events has them.

A query is a list of items, of which an event must match one. An item names types, of
which the event must have one, and tags, of which it must have all.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...exceptions import InvalidBoundary
from ..bson_types import Document
from ..event_document import check_id
from .tags import EVERYTHING, check_tags, type_place

MAX_ITEMS = 32
MAX_TYPES = 32  # of an item


@dataclass(frozen=True)
class Item:
    """One item of a query."""

    #: The event must be of one of these types; none means any.
    types: tuple[str, ...] = ()
    #: The event must have all of these tags; none means any.
    tags: tuple[str, ...] = ()

    @classmethod
    def of(cls, types: Sequence[str], tags: Sequence[str]) -> Item:
        """
        Return a checked item, its names sorted and each once.

        Raises:
            InvalidBoundary: neither types nor tags, or a tag is wrong.
        """
        checked = {check_id(one, "each of types") for one in types}
        names = check_tags(tags, "tags", InvalidBoundary)
        if not checked and not names:
            reason = "an item needs a type or a tag; see all_events()"
            raise InvalidBoundary("", reason)
        if len(checked) > MAX_TYPES:
            raise InvalidBoundary("types", f"has {len(checked)}; at most {MAX_TYPES}")
        return cls(tuple(sorted(checked)), tuple(sorted(names)))

    def matches(self, event: Mapping[str, Any]) -> bool:
        """Whether an event has one of the types and all of the tags."""
        has_type = not self.types or event.get("type") in self.types
        return has_type and set(self.tags) <= set(event.get("tags") or ())

    @property
    def filter(self) -> Document:
        """The same as a filter of MongoDB."""
        found: Document = {}
        if self.types:
            found["type"] = {"$in": list(self.types)}
        if self.tags:
            found["tags"] = {"$all": list(self.tags)}
        return found


@dataclass(frozen=True)
class Guard:
    """An item, and the names one of which every matching event takes a place in."""

    item: Item
    #: A place in any one of them is enough to meet each matching event.
    names: tuple[str, ...]


@dataclass(frozen=True)
class Query:
    """Which events belong to a decision; ``item()`` and ``any_of()`` make it."""

    items: tuple[Item, ...] = field(default=())

    def matches(self, event: Mapping[str, Any]) -> bool:
        """Whether an event matches one of the items."""
        return any(item.matches(event) for item in self.items)

    def guards(self, declared: Collection[str]) -> tuple[Guard, ...]:
        """
        Return what a condition on this query has to guard.

        Args:
            declared: the setting ``TYPE_BOUNDARIES``.

        Raises:
            InvalidBoundary: an item has no tags, and its types are not declared.
        """
        return tuple(
            guard
            for index, item in enumerate(self.items)
            for guard in _guards(item, declared, f"items[{index}]")
        )


def _guards(item: Item, declared: Collection[str], path: str) -> Iterator[Guard]:
    if item.tags:
        yield Guard(item, item.tags)
        return
    if not item.types:
        if EVERYTHING not in declared:
            raise InvalidBoundary(path, _UNDECLARED.format(EVERYTHING))
        yield Guard(item, (EVERYTHING,))
    for one in item.types:
        if one not in declared:
            raise InvalidBoundary(path, _UNDECLARED.format(one))
        yield Guard(Item((one,)), (type_place(one),))


_UNDECLARED = (
    "has no tags, so {0!r} must be declared before events are appended: add it to "
    "OSSY_EVENT_STORE['TYPE_BOUNDARIES'], deploy that everywhere, and use it then. To "
    "only read such events, use EventStore.read_all()"
)


def item(*types: str, tags: Sequence[str] = ()) -> Query:
    """
    Return a query for events of one of these types that have all of these tags.

    Args:
        types: event types; none means any type.
        tags: a list of tags; none means any tags. An item without tags needs types
            that are declared in the setting ``TYPE_BOUNDARIES``.

    Raises:
        InvalidBoundary: neither types nor tags, or a tag is wrong.
    """
    return Query((Item.of(types, tags),))


def any_of(*items: Query) -> Query:
    """
    Return the query for events that match one of some queries, of 32 items in all.

    Raises:
        InvalidBoundary: no item, or too many.
    """
    found = {one for query in items for one in check_query(query, "items").items}
    if not found:
        raise InvalidBoundary("items", "a query needs an item; see all_events()")
    if len(found) > MAX_ITEMS:
        raise InvalidBoundary("items", f"has {len(found)}; at most {MAX_ITEMS}")
    # Sorted, so that a token fits however the query was written.
    return Query(tuple(sorted(found, key=lambda one: (one.types, one.tags))))


def all_events() -> Query:
    """Return the query for every event; the setting must declare ``"*"``."""
    return Query((Item(),))


def check_query(query: Any, name: str = "query") -> Query:
    """Return a query, or raise ``TypeError``."""
    if not isinstance(query, Query):
        kind = type(query).__name__
        raise TypeError(f"{name} must be made by item() or any_of(), not {kind}.")
    return query
