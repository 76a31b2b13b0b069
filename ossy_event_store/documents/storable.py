"""
Storable values: check a value, and return it as MongoDB returns it.
"""

from __future__ import annotations

import copy
import datetime as dt
import math
import re
import uuid
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass, is_dataclass
from decimal import Decimal
from enum import Enum
from pathlib import PurePath
from typing import Any, Self

import bson
from bson import ObjectId
from bson.datetime_ms import DatetimeMS
from bson.decimal128 import Decimal128
from django.utils.functional import Promise

from .bson_types import Document


@dataclass(frozen=True)
class Limits:
    """The limits of a document: levels of nesting, bytes, NaN, characters of an id."""

    depth: int
    size: int
    nan: bool
    id_length: int


NEW = Limits(depth=64, size=4 * 1024 * 1024, nan=False, id_length=255)
# For a copy of an event that is already stored elsewhere: all that MongoDB can store,
# and an id made of the longest stream id and a version.
COPY = Limits(depth=178, size=16 * 1024 * 1024, nan=True, id_length=280)


@dataclass(slots=True)
class Walk:
    """
    One walk through a document: its limits, and its results.

    ``exact``: everything can be encoded, and MongoDB returns it just as
    ``stored_mapping()`` does. ``size``: the characters of all texts, plus
    ``SIZE_OF_VALUE`` for each value; encoded, the document has at most four times as
    many bytes.
    """

    limits: Limits
    exact: bool = True
    size: int = 0


_SURROGATE = re.compile("[\ud800-\udfff]")
HALF_A_SURROGATE = "contains half of a surrogate pair, which is not text"
SIZE_OF_VALUE = 8  # a quarter of the bytes of a value that is no text, with its header
_PATH_LENGTH = 80  # characters of a very deep path


class Unstorable(ValueError):
    """
    The value at ``path`` cannot be stored, for ``reason``.

    The path is built while the error propagates, so that it costs nothing otherwise.
    """

    #: Whether a class of events may declare the type of the value.
    is_declarable = False

    def __init__(self, reason: str, path: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.path = path

    def inside(self, key: object) -> Self:
        """Put ``key``, a name or an index of a list, in front of the path."""
        place = f"[{key}]" if isinstance(key, int) else str(key)
        joint = "" if not self.path or self.path.startswith("[") else "."
        self.path = f"{place}{joint}{self.path}"
        if len(self.path) > 2 * _PATH_LENGTH:
            self.path = f"{self.path[:_PATH_LENGTH]}…"
        return self


def is_text(value: str) -> bool:
    """Whether a string can be encoded: it contains no half of a surrogate pair."""
    return value.isascii() or not _SURROGATE.search(value)


def _string(value: str, walk: Walk) -> str:
    if not is_text(value):
        raise Unstorable(HALF_A_SURROGATE)
    walk.size += len(value)
    return str.__str__(value)


def _bytes(value: bytes, walk: Walk) -> bytes:
    walk.size += len(value)
    return value


def _integer(value: int, walk: Walk) -> int:
    # A comparison, not `in range()`: that would iterate for a subclass of int.
    if not -(2**63) <= value < 2**63:
        raise Unstorable("MongoDB stores integers of up to 64 bits; use a string")
    return value if type(value) is bson.Int64 else int(value)


def _float(value: float, walk: Walk) -> float:
    if not walk.limits.nan and not math.isfinite(value):
        raise Unstorable(f"{value} is not allowed; use None")
    return float(value)


def milliseconds(value: dt.datetime) -> dt.datetime:
    """Return an aware datetime as MongoDB stores it: UTC, whole milliseconds."""
    value = value.astimezone(dt.UTC)
    return value.replace(microsecond=value.microsecond // 1000 * 1000)


def storable_datetime(value: dt.datetime, walk: Walk) -> dt.datetime:
    """Return a datetime with a time zone, as MongoDB stores it."""
    if value.utcoffset() is None:
        raise Unstorable(
            "this datetime has no time zone; use datetime.now(datetime.UTC), or "
            "django.utils.timezone.make_aware(value)"
        )
    try:
        return milliseconds(value)
    except OverflowError:
        raise Unstorable(
            "this datetime is outside the years 1 to 9999 in UTC"
        ) from None


def _same(value: Any, walk: Walk) -> Any:
    return value


def _code(value: bson.Code, walk: Walk, depth: int) -> bson.Code:
    if value.scope is None:
        return value
    return bson.Code(str(value), _mapping(value.scope, walk, depth + 1))


def _dbref(value: bson.DBRef, walk: Walk, depth: int) -> bson.DBRef:
    _mapping(value.as_doc(), walk, depth + 1)
    return value


def _list(value: Any, walk: Walk, depth: int) -> list[Any]:
    _check_depth(depth, walk)
    items = []
    for item in value:
        walk.size += SIZE_OF_VALUE
        if type(item) is str and item.isascii():
            walk.size += len(item)
            items.append(item)
            continue
        try:
            items.append(_stored(item, walk, depth + 1))
        except Unstorable as error:
            raise error.inside(len(items)) from None
    return items


# A value of exactly such a type finds its rule in one look-up. A subclass, such as an
# enum member or Django's SafeString, is stored as the plain value.
_RULES: dict[type, Callable[[Any, Walk], Any]] = {
    str: _string,
    bool: _same,
    int: _integer,
    float: _float,
    type(None): _same,
    dt.datetime: storable_datetime,
    uuid.UUID: _same,
    bytes: _bytes,
    ObjectId: _same,
    Decimal128: _same,
    DatetimeMS: _same,
    bson.Int64: _integer,
    bson.Binary: _same,
    bson.MaxKey: _same,
    bson.MinKey: _same,
    bson.Regex: _same,
    bson.Timestamp: _same,
    re.Pattern: _same,
}

_NESTED: dict[type, Callable[[Any, Walk, int], Any]] = {
    bson.Code: _code,
    bson.DBRef: _dbref,
}

_INSTEAD = (
    (Decimal, "use bson.Decimal128 or a string"),
    (dt.datetime, "use a datetime with a time zone"),
    (dt.date, "use an ISO 8601 string or a datetime"),
    (dt.time, "use an ISO 8601 string"),
    (dt.timedelta, "use a number of seconds"),
    ((set, frozenset), "use a list"),
    (Enum, "use its .value"),
    (PurePath, "use str(value)"),
    (Promise, "a lazy string; use str(value)"),
    (Coroutine, "a coroutine; await it first"),
)
# What a class with @event may have in its fields.
_DECLARABLE = (Decimal, dt.date, dt.time, dt.timedelta, set, frozenset, Enum)
# Of pydantic, msgspec and attrs, none of which is imported for that.
_SIGNS_OF_CLASSES = ("__pydantic_validator__", "__struct_fields__", "__attrs_attrs__")
# Of objects of other packages: the method that returns plain values.
_METHODS = ("model_dump", "isoformat", "tolist", "item", "to_dict", "as_dict")


# Classes derived from these are stored as these. Named here, not at each call: while
# freezegun is active, the module datetime has another class, which is derived from it.
_BASES = (str, bson.Int64, bool, int, float, bytes, dt.datetime, uuid.UUID)


def _rule(kind: type) -> Callable[[Any, Walk], Any] | None:
    for known in _BASES:
        if issubclass(kind, known):
            return _RULES[known]
    return None


# The types that MongoDB returns as they are; other values come back as another type.
_EXACT = frozenset(
    (str, bool, float, type(None), dt.datetime, uuid.UUID, bytes, ObjectId)
)


def _stored(value: Any, walk: Walk, depth: int) -> Any:
    kind = type(value)
    if kind is int and -(2**31) <= value < 2**31:
        return value
    if kind is dict or (kind not in _RULES and isinstance(value, Mapping)):
        return _mapping(value, walk, depth)
    if kind is list or kind is tuple:
        return _list(value, walk, depth)
    if kind not in _EXACT:
        walk.exact = False
    if kind in _NESTED:
        return _NESTED[kind](value, walk, depth)
    rule = _RULES.get(kind) or _rule(kind)
    if rule is None:
        raise _unsupported(value)
    return rule(value, walk)


def stored_mapping(
    value: Mapping[Any, Any], walk: Walk | Limits, depth: int = 0
) -> Document:
    """
    Return a mapping as a dict of plain values, as MongoDB returns them.

    Args:
        value: the mapping.
        walk: the limits, or the walk through its document.
        depth: how deeply it is nested in its document.

    Raises:
        Unstorable: with path and reason.
    """
    return _mapping(value, Walk(walk) if isinstance(walk, Limits) else walk, depth)


def _mapping(value: Mapping[Any, Any], walk: Walk, depth: int) -> Document:
    _check_depth(depth, walk)
    stored = {}
    size = 0
    for key, item in value.items():
        try:
            if not (type(key) is str and key.isascii() and "\0" not in key):
                key = _checked_key(key, walk)
            if key == "$ref":  # it may be read as a DBRef
                walk.exact = False
            # Nearly all values are plain text, a small integer or None, with nothing
            # to check.
            kind = type(item)
            if kind is str and item.isascii():
                size += len(item)
            elif not (item is None or (kind is int and -(2**31) <= item < 2**31)):
                item = _stored(item, walk, depth + 1)
            size += len(key)
        except Unstorable as error:
            raise error.inside(key if isinstance(key, str) else repr(key)) from None
        stored[key] = item
    walk.size += size + SIZE_OF_VALUE * len(stored)
    return stored


def _checked_key(key: object, walk: Walk) -> str:
    if not isinstance(key, str):
        raise Unstorable(f"a key must be a string, not {type(key).__name__}")
    if "\0" in key:
        raise Unstorable("a key must not contain a NUL character")
    return _string(key, walk)


def _check_depth(depth: int, walk: Walk) -> None:
    if depth > walk.limits.depth:
        raise Unstorable(f"nested more than {walk.limits.depth} levels deep")


def _unsupported(value: object) -> Unstorable:
    error = Unstorable(f"MongoDB has no type for {_kind(value)}; {_instead(value)}")
    error.is_declarable = isinstance(value, _DECLARABLE) or is_object(value)
    return error


def _kind(value: object) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"


def _instead(value: object) -> str:
    for unsupported, instead in _INSTEAD:
        if isinstance(value, unsupported):
            return instead
    if is_dataclass(value) and not isinstance(value, type):
        return "use dataclasses.asdict(value)"
    for method in _METHODS:
        if callable(getattr(value, method, None)):
            return f"use its .{method}()"
    if isinstance(value, Iterable):
        return "use list(value)"
    return "use strings, numbers, lists and dicts"


def is_object(value: object) -> bool:
    """Whether a value is an object of a kind of class that can declare events."""
    return not isinstance(value, type) and (
        is_dataclass(value)
        or any(hasattr(type(value), name) for name in _SIGNS_OF_CLASSES)
    )


# Most of a stored state consists of these, and none of them can be changed.
_IMMUTABLE = frozenset((str, int, float, bool, type(None), dt.datetime, ObjectId))


def copied(value: Any) -> Any:
    """Return a deep copy; of plain dicts and lists in a third of deepcopy's time."""
    kind = type(value)
    if kind in _IMMUTABLE:
        return value
    if kind is dict:
        own = value.copy()
        for key, item in value.items():
            if type(item) not in _IMMUTABLE:
                own[key] = copied(item)
        return own
    if kind is list:
        return [item if type(item) in _IMMUTABLE else copied(item) for item in value]
    return copy.deepcopy(value)
