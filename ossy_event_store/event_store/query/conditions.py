"""
What a query asks of events, and whether an event meets it. Pure.
"""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, fields
from typing import Any

from bson import ObjectId
from bson.datetime_ms import DatetimeMS
from bson.errors import InvalidId

from ...documents.arguments import check_items
from ...documents.bson_types import Document
from ...documents.catalogue.catalogue import current
from ...documents.event_document import check_id
from ...documents.event_query import as_stored
from ...exceptions import InvalidQuery

MOST_NAMES = 32  # the index is searched for each of them
MOST_IDS = 50  # each may be looked up twice: as text, and as an ObjectId

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MILLISECOND = dt.timedelta(milliseconds=1)


@dataclass(frozen=True)
class Conditions:
    """The conditions of a query, by their methods; None asks for nothing."""

    #: Stream ids; the event is of one of them.
    streams: tuple[str, ...] | None = None
    #: Stored types, of which the event has one.
    types: tuple[str, ...] | None = None
    aggregate_types: tuple[str, ...] | None = None
    #: Tags, all of which the event has.
    tags: tuple[str, ...] | None = None
    #: Tags, one of which the event has.
    any_tags: tuple[str, ...] | None = None
    by: str | None = None
    #: The first moment, and the first one after the last.
    since: dt.datetime | None = None
    until: dt.datetime | None = None
    #: The version, or position, after which the events are.
    after_version: int | None = None
    after: int | None = None
    #: The position of the last event.
    until_position: int | None = None
    correlation: str | None = None
    caused_by: str | None = None
    ids: tuple[Any, ...] | None = None
    #: A checked filter of MongoDB.
    match: Mapping[str, Any] | None = None

    @property
    def given(self) -> frozenset[str]:
        """The names of the conditions that are set."""
        return frozenset(
            one.name for one in fields(self) if getattr(self, one.name) is not None
        )

    def admits(self, document: Mapping[str, Any], names: Collection[str]) -> bool:
        """
        Whether an event, or its entry in the positions, meets some conditions.

        ``match`` is left to the server.
        """
        return all(_MEETS[one](document, getattr(self, one)) for one in names)

    def filter(self, names: Collection[str]) -> Document:
        """Return some conditions as a filter over the events, or over their entries."""
        clauses: list[Document] = []
        for name in sorted(names):
            value = getattr(self, name)
            if name == "match":
                clauses.append(dict(as_stored(value)))
            elif name in _FILTERS:
                path, operator = _FILTERS[name]
                value = list(value) if isinstance(value, tuple) else value
                clauses.append(dict(as_stored({path: {operator: value}})))
        return {"$and": clauses} if clauses else {}


# Conditions of which the entries in the positions know enough.
OF_ENTRIES = frozenset(
    ("streams", "types", "aggregate_types", "tags", "any_tags", "after_version")
)
#: Conditions on the position, which only the order by position meets.
OF_POSITIONS = frozenset(("after", "until_position"))

_FILTERS = {
    "streams": ("aggregateId", "$in"),
    "types": ("type", "$in"),
    "aggregate_types": ("aggregateType", "$in"),
    "tags": ("tags", "$all"),
    "any_tags": ("tags", "$in"),
    "by": ("createdBy", "$eq"),
    "since": ("created", "$gte"),
    "until": ("created", "$lt"),
    "after_version": ("aggregateVersion", "$gt"),
    "correlation": ("metadata.correlationId", "$eq"),
    "caused_by": ("metadata.causationId", "$eq"),
    "ids": ("_id", "$in"),
}


def milliseconds_of(created: Any) -> float | None:
    """Return a stored time in milliseconds since 1970; None if it is no time."""
    if isinstance(created, dt.datetime):
        return (created - _EPOCH) // _MILLISECOND
    if isinstance(created, DatetimeMS):
        return int(created)
    if isinstance(created, (int, float)) and not isinstance(created, bool):
        return created
    return None


def _is_since(event: Mapping[str, Any], moment: dt.datetime) -> bool:
    created, since = milliseconds_of(event.get("created")), milliseconds_of(moment)
    return created is not None and since is not None and created >= since


def _is_until(event: Mapping[str, Any], moment: dt.datetime) -> bool:
    created, until = milliseconds_of(event.get("created")), milliseconds_of(moment)
    return created is not None and until is not None and created < until


def _tags(document: Mapping[str, Any]) -> list[Any]:
    tags = document.get("tags")
    return tags if isinstance(tags, list) else []


def _is_linked(key: str) -> Callable[[Mapping[str, Any], Any], bool]:
    def is_linked(event: Mapping[str, Any], wanted: str) -> bool:
        metadata = event.get("metadata")
        return isinstance(metadata, Mapping) and metadata.get(key) == wanted

    return is_linked


_MEETS: Mapping[str, Callable[[Mapping[str, Any], Any], bool]] = {
    "streams": lambda event, ids: event.get("aggregateId") in ids,
    "types": lambda event, types: event.get("type") in types,
    "aggregate_types": lambda event, types: event.get("aggregateType") in types,
    "tags": lambda event, tags: all(tag in _tags(event) for tag in tags),
    "any_tags": lambda event, tags: any(tag in _tags(event) for tag in tags),
    "by": lambda event, who: event.get("createdBy") == who,
    "since": _is_since,
    "until": _is_until,
    "after_version": lambda event, version: event["aggregateVersion"] > version,
    "correlation": _is_linked("correlationId"),
    "caused_by": _is_linked("causationId"),
    "ids": lambda event, ids: event["_id"] in ids,
    "match": lambda event, query: True,
}


# --- the arguments of the methods -------------------------------------------


def check_some(values: Any, name: str, most: int = MOST_NAMES) -> tuple[str, ...]:
    """Return names or ids, each once; at least one."""
    names = dict.fromkeys(check_id(one, f"each of {name}") for one in values)
    return _bounded(tuple(names), name, most)


def check_list(values: Any, name: str) -> tuple[str, ...]:
    """Return the same of one argument that must be a list."""
    return check_some(check_items(values, name), name)


def check_types(values: Any) -> tuple[str, ...]:
    """Return the stored types for names, aliases, and classes declared as events."""
    declared = current().of_class
    names = [
        declared[one].name if isinstance(one, type) and one in declared else one
        for one in values
    ]
    for one in names:
        if isinstance(one, type):
            raise TypeError(
                f"each of types must be a string or a class that @event declares, and "
                f"{one.__name__} is not declared."
            )
    return current().stored_types(check_some(names, "types")) or ()


def check_ids(values: Any) -> tuple[Any, ...]:
    """Return ids of events; 24 hex digits stand for an ``ObjectId`` as well."""
    found: dict[Any, None] = {}
    for one in values:
        if not isinstance(one, ObjectId):
            check_id(one, "each of ids")
            with contextlib.suppress(InvalidId):
                found[ObjectId(one)] = None
        found[one] = None
    _bounded(tuple(values), "ids", MOST_IDS)
    return tuple(found)


def _bounded(values: tuple[Any, ...], name: str, most: int) -> tuple[Any, ...]:
    if not values:
        raise InvalidQuery(name, "is empty; give one at least, or leave it out")
    if len(values) > most:
        raise InvalidQuery(name, f"has {len(values)}; at most {most} are allowed")
    return values
