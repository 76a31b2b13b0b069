"""
Store Python values by what they are, for classes that check their own fields. Pure.

The stored forms are those of ``leaves.py``: a library that reads them back knows the
types of its fields.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

from bson.decimal128 import Decimal128

from ...storable import Unstorable
from .leaves import LEAVES
from .ordering import ordered
from .rules import each

_CONVERTED = (dt.datetime, dt.date, dt.time, dt.timedelta, Decimal)
_AS_THEY_ARE = frozenset(LEAVES) - {*_CONVERTED}


def plain(value: Any, other: Callable[[Any], Any]) -> Any:
    """
    Return a value as it is stored.

    Args:
        value: what a field holds.
        other: returns the value that stands for one of a type that is not known here.

    Raises:
        Unstorable: with path and reason.
    """
    if type(value) in _AS_THEY_ARE:
        return value
    if isinstance(value, Mapping):
        return _mapping(value, other)
    if isinstance(value, (list, tuple)):
        return each(lambda one: plain(one, other), value)
    if isinstance(value, (set, frozenset)):
        return ordered(each(lambda one: plain(one, other), value))
    for known in _CONVERTED:
        if isinstance(value, known):
            return LEAVES[known].encode(value)
    return plain(_simpler(value, other), other)


def _simpler(value: Any, other: Callable[[Any], Any]) -> Any:
    """Return what stands for an object."""
    if isinstance(value, enum.Enum):
        return value.value
    simple: Any
    for simple in (str, int, float, bytes):  # a class of the project's own
        if isinstance(value, simple):
            return simple(value)
    names: list[str] = []
    if dataclasses.is_dataclass(value):
        names = [one.name for one in dataclasses.fields(value)]
    elif hasattr(type(value), "__attrs_attrs__"):
        names = [one.name for one in type(value).__attrs_attrs__]
    else:
        return other(value)
    return {name: getattr(value, name) for name in names}


def _mapping(value: Mapping[Any, Any], other: Callable[[Any], Any]) -> dict[str, Any]:
    found = {}
    for key, one in value.items():
        try:
            found[key if type(key) is str else _text_of_key(key, other)] = plain(
                one, other
            )
        except Unstorable as error:
            raise error.inside(key if isinstance(key, str) else repr(key)) from None
    return found


def _text_of_key(key: Any, other: Callable[[Any], Any]) -> str:
    stored = plain(key, other)
    if isinstance(stored, bool) or not isinstance(stored, (str, int)):
        stored = str(key) if type(key).__name__ == "UUID" else stored
    if isinstance(stored, bool) or not isinstance(stored, (str, int)):
        raise Unstorable(f"a key must be a string, not {type(key).__name__}")
    return str(stored)


def unpacked(value: Any) -> Any:
    """Return a copy of a stored value, with each decimal as Python has it."""
    kind = type(value)
    if kind is dict:
        return {name: unpacked(one) for name, one in value.items()}
    if kind is list:
        return [unpacked(one) for one in value]
    return value.to_decimal() if kind is Decimal128 else value
