"""
The filters of the command line as a query. Pure, without I/O.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from ...documents.arguments import LARGEST
from ...documents.display import brief
from ...event_store import EventStore
from ...event_store.query.lazy_query import EventQuery
from .times import Times

#: Each filter with the method of the query that it calls.
FILTERS: Mapping[str, str] = {
    "types": "types",
    "aggregate_types": "aggregate_types",
    "streams": "streams",
    "tags": "tags",
    "user": "by",
    "since": "since",
    "until": "until",
    "after_version": "after_version",
    "after": "after",
    "until_position": "until_position",
    "correlation": "correlation",
    "caused_by": "caused_by",
    "where": "match",
}
#: The options by the methods of the query that its errors name.
_OPTIONS = {
    "types": "--type",
    "aggregate_types": "--aggregate-type",
    "stream": "--stream",
    "streams": "--stream",
    "tags": "--tag",
    "by": "--user",
    "since": "--since",
    "until": "--until",
    "after_version": "--after-version",
    "after": "--after",
    "until_position": "--until-position",
    "correlation": "--correlation",
    "caused_by": "--caused-by",
    "match": "--where",
    "scan": "--scan",
    "order": "--order",
}
_CALL = re.compile(r"\b(" + "|".join(_OPTIONS) + r")\((?:'(\w+)')?\)")
_NAMED = re.compile(r"^(" + "|".join(_OPTIONS) + r"): ")
_NUMBER = re.compile(r"-?(?:0|[1-9]\d{0,30})(?:\.\d{1,30})?(?:[eE][-+]?\d{1,3})?")
_WORDS = {"true": True, "false": False, "null": None}
_BETTER = {
    "metadata.correlationId": "--correlation",
    "metadata.causationId": "--caused-by",
}
_SEARCHED = ("payload", "metadata")


def query_of(options: Mapping[str, Any], times: Times) -> EventQuery:
    """
    Return the query of some options.

    Raises:
        ValueError, TypeError, EventStoreError: a value is wrong, and why.
    """
    query = EventStore.query()
    for name, method in FILTERS.items():
        given = options.get(name)
        if given is None:
            continue
        if name in ("since", "until"):
            query = getattr(query, method)(times.parsed(given, f"--{name}"))
        elif name == "where":
            query = query.match(condition_of(given))
        elif name == "streams" and len(set(given)) == 1:
            query = query.stream(given[0])
        elif isinstance(given, list):
            query = getattr(query, method)(*given)
        else:
            query = getattr(query, method)(given)
    if order := options.get("order"):
        query = query.order(order)
    return query.scan() if options.get("scan") else query


def given_filters(options: Mapping[str, Any]) -> list[str]:
    """Return the names of the filters that some options give."""
    return [name for name in FILTERS if options.get(name) is not None]


def in_options(message: str) -> str:
    """Return the message of a query with options in place of its methods."""

    def option(match: re.Match[str]) -> str:
        value = f" {match[2]}" if match[2] else ""
        return f"{_OPTIONS[match[1]]}{value}"

    return _CALL.sub(option, _NAMED.sub(lambda m: f"{_OPTIONS[m[1]]} ", message))


# --- --where ------------------------------------------------------------------


def condition_of(given: list[str]) -> dict[str, Any]:
    """
    Return the filter for some conditions ``path=value``; all of them have to be met.

    No operator comes from outside: a path is a name, and a value is a scalar.
    """
    clauses = [_clause(one) for one in given]
    paths = [path for clause in clauses for path in clause]
    if len(set(paths)) < len(paths):
        return {"$and": clauses}
    return {path: value for clause in clauses for path, value in clause.items()}


def _clause(text: str) -> dict[str, Any]:
    path, equals, value = text.partition("=")
    names = path.split(".")
    if not equals or not all(names) or len(names) < 2 or names[0] not in _SEARCHED:
        raise ValueError(
            f"--where must be a path and a value, such as payload.to=ann, not "
            f"{brief(text)}. Paths begin with {' or '.join(_SEARCHED)}."
        )
    if any(name.startswith("$") or "\0" in name for name in names):
        raise ValueError(f"--where {brief(text)}: a name must not begin with a $.")
    if option := _BETTER.get(path):
        raise ValueError(f"--where {path}=…: write {option}, which has an index.")
    return {path: {"$in": _values(value)}}


def _values(text: str) -> list[Any]:
    """Return what a text may stand for: itself, and a number or a word of JSON."""
    if len(text) > 1 and text[0] == text[-1] == '"':
        try:
            quoted = json.loads(text)
        except ValueError:
            return [text]
        return [quoted]
    if text in _WORDS:
        return [text, _WORDS[text]]
    if _NUMBER.fullmatch(text):
        number = json.loads(text)
        if isinstance(number, float) or -LARGEST <= number <= LARGEST:
            return [text, number]
    return [text]


# --- --text -------------------------------------------------------------------


def has_text(event: Mapping[str, Any], text: str) -> bool:
    """Whether a text is in a value of an event, in capitals or not."""
    wanted = text.casefold()
    names = ("type", "aggregateId", "aggregateType", "createdBy", "tags", *_SEARCHED)
    pending: list[Any] = [event.get(name) for name in names]
    while pending:
        value = pending.pop()
        if isinstance(value, Mapping):
            pending += value.values()
        elif isinstance(value, (list, tuple)):
            pending += value
        elif not isinstance(value, (bytes, type(None))) and (
            wanted in str(value).casefold()
        ):
            return True
    return False
