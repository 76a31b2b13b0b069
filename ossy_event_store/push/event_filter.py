"""
The filter that says which events a client wants. Pure, no I/O.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..documents.arguments import check_all_of, check_names
from ..documents.bson_types import Document
from ..documents.catalogue.catalogue import current
from ..documents.event_document import check_id

#: The index key of a listener that no field of an event can find.
ANY_EVENT = ()


@dataclass(frozen=True, slots=True)
class EventFilter:
    """Which events a client wants; every condition that is set must hold."""

    #: The id of a stream.
    stream: str | None = None
    #: Event types, as the code knows them.
    types: frozenset[str] | None = None
    #: Aggregate types.
    aggregate_types: frozenset[str] | None = None
    #: Tags, all of which the event has.
    tags: frozenset[str] | None = None
    #: An event is sent once the projection of this name has applied it.
    projection: str | None = None
    #: The key of the event in the projection.
    key: str | None = None
    #: The names of these types, without aliases.
    names: frozenset[str] | None = field(
        default=None, init=False, repr=False, compare=False
    )
    #: The stored types of which events of them are made.
    stored_types: frozenset[str] | None = field(
        default=None, init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        for name in ("types", "aggregate_types"):
            names = check_names(getattr(self, name), name)
            chosen = None if names is None else frozenset(names)
            object.__setattr__(self, name, chosen)
        if self.types is not None:
            selection = current().selection(sorted(self.types))
            object.__setattr__(self, "names", selection.names)
            object.__setattr__(self, "stored_types", selection.stored)
        tags = check_all_of(self.tags, "tags")
        object.__setattr__(self, "tags", None if tags is None else frozenset(tags))
        for name in ("stream", "projection", "key"):
            if (value := getattr(self, name)) is not None:
                check_id(value, name)

    def matches(self, event: Mapping[str, Any]) -> bool:
        """Whether an event as stored, or its entry in the positions, may match."""
        return (
            (self.stream is None or _text(event, "aggregateId") == self.stream)
            and (self.stored_types is None or _text(event, "type") in self.stored_types)
            and (
                self.aggregate_types is None
                or _text(event, "aggregateType") in self.aggregate_types
            )
            and (self.tags is None or self.tags <= set(_tags(event)))
        )

    def accepts(self, event: Mapping[str, Any], keys: Collection[str] = ()) -> bool:
        """
        Whether an event matches that was made of a stored event that may match.

        Args:
            event: at the version that the code knows.
            keys: its keys in the projection.
        """
        has_type = self.names is None or event["type"] in self.names
        return has_type and (self.key is None or self.key in keys)

    def query(self) -> Document:
        """Return the same conditions as a query over the positions."""
        query: Document = {}
        if self.stream is not None:
            query["aggregateId"] = {"$eq": self.stream}
        if self.stored_types is not None:
            query["type"] = {"$in": sorted(self.stored_types)}
        if self.aggregate_types is not None:
            query["aggregateType"] = {"$in": sorted(self.aggregate_types)}
        if self.tags is not None:
            query["tags"] = {"$all": sorted(self.tags)}
        return query

    def index_keys(self) -> list[Hashable]:
        """Return the keys under which a feed indexes listeners with this filter."""
        if self.projection is not None:
            return [ANY_EVENT if self.key is None else projection_key(self.key)]
        if self.stream is not None:
            return [("aggregateId", self.stream)]
        if self.stored_types is not None:
            return [("type", name) for name in self.stored_types]
        if self.aggregate_types is not None:
            return [("aggregateType", name) for name in self.aggregate_types]
        if self.tags is not None:
            return [("tags", min(self.tags))]
        return [ANY_EVENT]


def index_keys_of(event: Mapping[str, Any]) -> list[Hashable]:
    """Return the index keys under which an event finds its listeners."""
    fields = ("aggregateId", "aggregateType", "type")
    tags = [("tags", tag) for tag in _tags(event)]
    return [ANY_EVENT, *((name, _text(event, name)) for name in fields), *tags]


def projection_key(key: str) -> Hashable:
    """Return the index key for a key of a projection."""
    return ("key", key)


def _tags(event: Mapping[str, Any]) -> list[str]:
    """Return the tags of an event, in which another program may store anything."""
    tags = event.get("tags")
    return [t for t in tags if isinstance(t, str)] if isinstance(tags, list) else []


def _text(event: Mapping[str, Any], name: str) -> str | None:
    """Return a field; None if another program stored something else in it."""
    value = event.get(name)
    return value if isinstance(value, str) else None
