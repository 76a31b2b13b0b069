"""
Queries over events as they are read. Pure.

The Node package stores ``created`` as milliseconds, and MongoDB never compares a
number with a date. So a condition on ``created`` asks for both.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any

from .bson_types import Document
from .storable import milliseconds

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MILLISECOND = dt.timedelta(milliseconds=1)
_LOGICAL = ("$and", "$or", "$nor")
_NEGATIVE = ("$ne", "$nin", "$not")  # these have to hold for both


def as_stored(query: Mapping[str, Any]) -> Mapping[str, Any]:
    """
    Return a checked query that also finds the events of the Node package by time.

    A query without a date at ``created`` stays as it is, so it keeps its plan.
    """
    nested = {
        name: [as_stored(one) if isinstance(one, Mapping) else one for one in clauses]
        for name in _LOGICAL
        if isinstance(clauses := query.get(name), (list, tuple))
    }
    rest: Document = {**query, **nested}
    condition = rest.pop("created", None)
    if _as_number(condition) == condition:
        return {**query, **nested} if nested else query
    return {"$and": [*([rest] if rest else ()), *_for_both(condition)]}


def later_than(time: dt.datetime) -> Document:
    """Return the query for events that were created after a time, as they are read."""
    # Read, a number loses its fraction; a date has none.
    least = _as_number(time) + 1
    return {"$or": [{"created": {"$gt": time}}, {"created": {"$gte": least}}]}


def _for_both(condition: Any) -> list[Document]:
    """Return the clauses for a condition on the time, as a date or as a number."""
    if not _has_operators(condition):
        return [_either(condition)]
    positive = {name: v for name, v in condition.items() if name not in _NEGATIVE}
    negative = [{name: condition[name]} for name in _NEGATIVE if name in condition]
    clauses = [_either(positive)] if positive else []
    for one in negative:
        clauses += [{"created": one}, {"created": _as_number(one)}]
    return clauses


def _either(condition: Any) -> Document:
    return {"$or": [{"created": condition}, {"created": _as_number(condition)}]}


def _has_operators(condition: Any) -> bool:
    return isinstance(condition, Mapping) and any(
        str(name).startswith("$") for name in condition
    )


def _as_number(condition: Any) -> Any:
    """Return a condition with milliseconds in place of its dates."""
    if isinstance(condition, dt.datetime):
        return (milliseconds(condition) - _EPOCH) // _MILLISECOND
    if isinstance(condition, Mapping):
        return {name: _as_number(value) for name, value in condition.items()}
    if isinstance(condition, (list, tuple)):
        return [_as_number(value) for value in condition]
    return condition
