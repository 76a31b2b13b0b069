"""
How a query is read: in which order, and from which index. Pure, no I/O.

One condition chooses the index, which finds the events in order. The other conditions
filter what it finds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from bson.datetime_ms import DatetimeMS
from bson.max_key import MaxKey
from bson.min_key import MinKey

from ...documents.arguments import LARGEST
from ...documents.bson_types import Document
from ...documents.collections import EVENTS, POSITIONS
from ...exceptions import InvalidQuery
from ...mongodb.indexes import (
    CAUSATION,
    CORRELATION,
    ENTRY_AGGREGATE_TYPES,
    ENTRY_TAGS,
    ENTRY_TYPES,
    ENTRY_VERSIONS,
    EVENT_TYPE_TIME,
    STREAM_VERSIONS,
    TAG_TIME,
    TIME,
    TYPE_TIME,
    WHO_TIME,
    Index,
)
from .conditions import OF_ENTRIES, OF_POSITIONS, Conditions, milliseconds_of

Order = Literal["version", "position", "created"]
ORDERS: tuple[Order, ...] = ("version", "position", "created")

# The conditions that an index finds, in each order: the one that probably leaves the
# fewest events comes first. None is the index on ``_id``.
_BY_POSITION: Mapping[str, Index | None] = {
    "streams": ENTRY_VERSIONS,
    "tags": ENTRY_TAGS,
    "any_tags": ENTRY_TAGS,
    "types": ENTRY_TYPES,
    "aggregate_types": ENTRY_AGGREGATE_TYPES,
}
_BY_TIME: Mapping[str, Index | None] = {
    "ids": None,
    "caused_by": CAUSATION,
    "correlation": CORRELATION,
    "tags": TAG_TIME,
    "any_tags": TAG_TIME,
    "by": WHO_TIME,
    "types": EVENT_TYPE_TIME,
    "aggregate_types": TYPE_TIME,
}
# Bounds of the index alone read in order whatever the BSON types of the ids are, but
# they take one value, and no field that may be a list.
_BY_BOUNDS = frozenset(("caused_by", "correlation", "by", "types", "aggregate_types"))

# MongoDB never compares a number with a date, and the Node package stores numbers.
_NUMBERS = (float("-inf"), float("inf"))
_DATES = (DatetimeMS(-(2**63)), DatetimeMS(2**63 - 1))

Bound = tuple[Any, ...]


@dataclass(frozen=True)
class Source:
    """A part of an index, in which the events of a query are in order."""

    collection: str
    #: The keys of the index.
    keys: tuple[tuple[str, int], ...]
    #: The condition on the fields before those of the order.
    equal: Document
    #: The fields by which the events are in order.
    order: tuple[str, ...]
    #: Values of these fields: the first, and the first after the last.
    low: Bound
    high: Bound
    #: The values of the fields before, if the bounds of the index are used.
    prefix: tuple[tuple[str, Any], ...] | None = None

    @property
    def is_of_dates(self) -> bool:
        """Whether it is in order of time, and its times are no numbers."""
        return not isinstance(self.low[0], (int, float))

    def find(self, low: Bound, high: Bound, *, backwards: bool) -> dict[str, Any]:
        """Return the arguments of a search between two bounds."""
        direction = -1 if backwards else 1
        options: dict[str, Any] = {"hint": list(self.keys)}
        if self.prefix is not None:
            start = dict((*self.prefix, *zip(self.order, low, strict=True)))
            end = dict((*self.prefix, *zip(self.order, high, strict=True)))
            options |= {"filter": {}, "min": start, "max": end}
            sort = [(key, direction) for key, _ in self.keys]
        else:
            options["filter"] = {**self.equal, **self.between(low, high)}
            sort = [(name, direction) for name in self.order]
        return {**options, "sort": sort}

    def between(self, low: Bound, high: Bound) -> Document:
        """Return the filter for what is between two bounds."""
        first = self.order[0]
        if len(self.order) == 1:
            return {first: {"$gte": low[0], "$lt": high[0]}}
        found: Document = {}
        after, before = low[1:] == (MaxKey(),), high[1:] == (MinKey(),)
        found[first] = {
            "$gt" if after else "$gte": low[0],
            "$lt" if before else "$lte": high[0],
        }
        ties = [
            beyond_bound(self.order, bound, beyond)
            for bound, beyond in ((low, "$gt"), (high, "$lt"))
            if not isinstance(bound[1], (MinKey, MaxKey))
        ]
        return {**found, "$expr": {"$and": ties}} if ties else found

    @property
    def searches(self) -> int:
        """How often the index is searched for the first events."""
        return sum(len(one.get("$in", "1")) for one in self.equal.values()) or 1

    @property
    def everything(self) -> Document:
        """The filter for all that is in it."""
        return {**self.equal, **self.between(self.low, self.high)}


def beyond_bound(order: tuple[str, ...], bound: Bound, beyond: str) -> Document:
    """
    Return an expression for what is beyond a bound of two fields, itself left out.

    An expression compares ids of any types, where a filter knows one.

    Args:
        order: the two fields.
        bound: their values.
        beyond: ``"$gt"`` or ``"$lt"``.
    """
    first, second = (f"${name}" for name in order)
    values = [{"$literal": value} for value in bound]
    same = {"$eq": [first, values[0]]}
    next_ids = {"$and": [same, {beyond: [second, values[1]]}]}
    return {"$or": [{beyond: [first, values[0]]}, next_ids]}


def index_name(source: Source) -> str:
    """Return the name of the index of a source."""
    return "_".join(f"{key}_{direction}" for key, direction in source.keys)


@dataclass(frozen=True)
class Plan:
    """How a query is read."""

    conditions: Conditions
    order: Order
    backwards: bool
    sources: tuple[Source, ...]
    #: The conditions that filter what the index finds.
    left: frozenset[str] = field(default_factory=frozenset)
    #: Whether it may read any number of events for each that it returns.
    is_scan: bool = False

    @property
    def is_of_entries(self) -> bool:
        """Whether the entries in the positions are read, and then their events."""
        return self.order == "position"

    @property
    def searches(self) -> int:
        """How often indexes are searched for the first events."""
        return sum(source.searches for source in self.sources)

    @property
    def asks_again(self) -> bool:
        """Whether the server is asked which of the events match; a scan did already."""
        return "match" in self.left and (self.is_of_entries or not self.is_scan)

    @property
    def is_exact(self) -> bool:
        """Whether the index finds the events, and no others."""
        return not self.left

    def explained(self) -> dict[str, Any]:
        """Return what a user may want to know of it."""
        first = self.sources[0]
        return {
            "order": self.order,
            "reverse": self.backwards,
            "collection": first.collection,
            "index": index_name(first),
            "searches": self.searches,
            "filters": sorted(self.left),
            "scan": self.is_scan,
        }


def plan(
    conditions: Conditions,
    order: Order | None,
    *,
    backwards: bool = False,
    may_scan: bool = False,
) -> Plan:
    """
    Return how a query is read.

    Raises:
        InvalidQuery: no index answers it, and it may not scan.
    """
    order = order or default_order(conditions)
    given = conditions.given
    if order == "version":
        return Plan(
            conditions,
            order,
            backwards,
            tuple(_versions(conditions, EVENTS, STREAM_VERSIONS)),
            given - {"streams", "after_version"},
            may_scan,
        )
    of_range = OF_POSITIONS if order == "position" else {"since", "until"}
    by_index = _BY_POSITION if order == "position" else _BY_TIME
    base = next(
        (one for one in by_index if one in given and _exists(by_index[one])), ""
    )
    if not base and given and not given & of_range and not may_scan:
        raise InvalidQuery("", _refusal(conditions, order, given))
    if order == "position":
        sources, met = _by_position(conditions, base)
    else:
        sources, met = _by_time(conditions, base)
    return Plan(
        conditions,
        order,
        backwards,
        tuple(sources),
        given - of_range - met,
        may_scan,
    )


def default_order(conditions: Conditions) -> Order:
    """Return the order of a query that names none."""
    given = conditions.given
    if given & OF_POSITIONS:
        return "position"
    if conditions.streams is not None and len(conditions.streams) == 1:
        return "version"
    return "position" if given <= OF_ENTRIES else "created"


def _exists(index: Index | None) -> bool:
    return index is None or index.is_wanted


# --- by version -------------------------------------------------------------


def _versions(conditions: Conditions, collection: str, index: Index) -> list[Source]:
    """Return a source for each stream, whose versions are in order."""
    low = (conditions.after_version or 0) + 1
    return [
        Source(
            collection,
            tuple(index.keys),
            {"aggregateId": {"$eq": stream}},
            ("aggregateVersion",),
            (low,),
            (LARGEST,),
        )
        for stream in conditions.streams or ()
    ]


# --- by position ------------------------------------------------------------


def _by_position(
    conditions: Conditions, base: str
) -> tuple[list[Source], frozenset[str]]:
    """Return the sources in order of position, and which conditions they meet."""
    if base == "streams":
        met = frozenset(("streams", "after_version"))
        return _versions(conditions, POSITIONS, ENTRY_VERSIONS), met
    index = _BY_POSITION[base] if base else None
    wanted: tuple[str, ...] = getattr(conditions, base) if base else ()
    equal: Document = {}
    met = frozenset((base,)) if base else frozenset()
    if base == "tags":
        equal = {"tags": {"$eq": wanted[0]}}
        met = met if len(wanted) == 1 else frozenset()
    elif index is not None:
        equal = {index.keys[0][0]: {"$in": list(wanted)}}
    low, high = bounds_of_positions(conditions)
    keys = tuple(index.keys) if index else (("_id", 1),)
    return [Source(POSITIONS, keys, equal, ("_id",), (low,), (high,))], met


def bounds_of_positions(conditions: Conditions) -> tuple[int, int]:
    """Return the first position, and the first one after the last."""
    until = conditions.until_position
    return (conditions.after or 0) + 1, LARGEST if until is None else until + 1


# --- by time ----------------------------------------------------------------


def _by_time(conditions: Conditions, base: str) -> tuple[list[Source], frozenset[str]]:
    """Return the sources in order of time, and which conditions they meet."""
    index = _BY_TIME[base] if base else TIME
    met = frozenset((base,)) if base else frozenset()
    wanted: Any = getattr(conditions, base) if base else ()
    values: tuple[Any, ...] = wanted if isinstance(wanted, tuple) else (wanted,)
    path = index.keys[0][0] if index else "_id"
    equal: Document = {}
    prefix: tuple[tuple[str, Any], ...] | None = None
    if base == "tags":
        equal = {path: {"$eq": values[0]}}
        met = met if len(values) == 1 else frozenset()
    elif base:
        equal = {path: {"$in": list(values)}}
        if index is not None and "$type" in str(index.partial):
            equal[path]["$type"] = "string"  # else the index would not be used
    if not base or (base in _BY_BOUNDS and len(values) == 1):
        prefix = ((path, values[0]),) if base else ()
    keys = tuple(index.keys) if index else (("_id", 1),)
    sources = [
        Source(EVENTS, keys, equal, ("created", "_id"), low, high, prefix)
        for low, high in _bounds_of_times(conditions)
    ]
    return sources, met


def _bounds_of_times(conditions: Conditions) -> list[tuple[Bound, Bound]]:
    since, until = map(milliseconds_of, (conditions.since, conditions.until))
    first, last = _NUMBERS
    numbers = (first if since is None else since, last if until is None else until)
    dates = (
        _DATES[0] if since is None else DatetimeMS(int(since)),
        _DATES[1] if until is None else DatetimeMS(int(until)),
    )
    return [((low, MinKey()), (high, MinKey())) for low, high in (numbers, dates)]


# --- refusals ---------------------------------------------------------------

_FIELDS = {
    "streams": "aggregateId",
    "types": "type",
    "aggregate_types": "aggregateType",
    "tags": "tags",
    "any_tags": "tags",
    "by": "createdBy",
    "correlation": "metadata.correlationId",
    "caused_by": "metadata.causationId",
    "ids": "_id",
}


def helpful_index(conditions: Conditions, order: Order) -> str:
    """Return the keys of an index that would find the events of a query in order."""
    names = [name for name in _FIELDS if name in conditions.given]
    keys = dict.fromkeys(_FIELDS[name] for name in names)
    for path in conditions.match or ():
        if not path.startswith("$"):
            keys[path] = None
    keys[{"version": "aggregateVersion", "position": "_id"}.get(order, order)] = None
    return "{" + ", ".join(f"{key}: 1" for key in keys) + "}"


def _refusal(conditions: Conditions, order: Order, given: frozenset[str]) -> str:
    asked = ", ".join(f"{name}()" for name in sorted(given)).replace("any_tags", "tags")
    unwanted = [
        index.name
        for name, index in (_BY_TIME if order == "created" else {}).items()
        if name in given and index is not None
    ]
    text = f"no index finds the events of {asked} in order of {order}. "
    if unwanted:
        text += (
            f"The index {unwanted[0]} would, and OSSY_EVENT_STORE['ADMIN_INDEXES'] = "
            "False leaves it out"
        )
    else:
        text += f"An index {helpful_index(conditions, order)} would help, and the "
        text += "store has none"
    others = [one for one in ORDERS if one != order and _can(conditions, one)]
    if others:
        text += f"; order({others[0]!r}) has an index"
    return f"{text}. Add a condition that has one, or scan() to read every event."


def _can(conditions: Conditions, order: Order) -> bool:
    """Whether a query has an index in another order."""
    given = conditions.given
    if order == "version":
        return len(conditions.streams or ()) == 1 and not given & OF_POSITIONS
    if order == "position":
        return any(one in given for one in _BY_POSITION)
    of_time = any(one in given and _exists(_BY_TIME[one]) for one in _BY_TIME)
    return of_time and not given & OF_POSITIONS
