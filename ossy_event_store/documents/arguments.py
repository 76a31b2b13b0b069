"""
Check the arguments of public functions, before anything is sent. Pure.

Each check returns its argument, or raises ``TypeError`` or ``ValueError`` with the
argument's name, what it must be and what it is.
"""

from __future__ import annotations

import datetime as dt
import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from .event_document import check_id

LARGEST = 2**63 - 1  # of the integers that MongoDB can hold


def check_items(values: Any, name: str, what: str = "strings") -> list[Any]:
    """
    Return the items of a list, or of another iterable that is no text and no dict.

    A string would be read letter by letter, a dict key by key.
    """
    is_text = hasattr(values, "encode") or hasattr(values, "decode")  # lazy ones too
    if is_text or isinstance(values, Mapping) or not isinstance(values, Iterable):
        raise TypeError(
            f"{name} must be a list of {what}, not {type(values).__name__}."
        )
    return list(values)


def check_names(values: Any, name: str) -> tuple[str, ...] | None:
    """Return types or ids as a tuple; None, which means all, stays None."""
    if values is None:
        return None
    return tuple(check_id(one, f"each of {name}") for one in check_items(values, name))


def check_all_of(values: Any, name: str) -> tuple[str, ...] | None:
    """Return names that an event must all have as a tuple; None, for none, stays."""
    names = check_names(values, name)
    if names == ():
        raise ValueError(f"{name} is empty; leave it out to get all events.")
    return names


def check_number(value: Any, name: str, lowest: int = 0) -> int:
    """Return a whole number that MongoDB can hold."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be a whole number, not {type(value).__name__}.")
    if value < lowest:
        raise ValueError(f"{name} is {value}; it must be {lowest} or more.")
    if value > LARGEST:
        raise ValueError(f"{name} is {value}; the largest possible is {LARGEST}.")
    return value


def check_seconds(value: Any, name: str) -> float:
    """Return a number of seconds from 0; infinity is one."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(
            f"{name} must be a number of seconds, not {type(value).__name__}."
        )
    if not (0 <= value <= LARGEST or value == math.inf):  # NaN, for one
        raise ValueError(f"{name} is {value}; it must be 0 or more seconds.")
    return value


def check_flag(value: Any, name: str) -> bool:
    """Return True or False; any other text or number would count as True."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, not {type(value).__name__}.")
    return value


def check_moment(value: Any, name: str) -> dt.datetime:
    """Return a datetime with a time zone."""
    if not isinstance(value, dt.datetime):
        raise TypeError(f"{name} must be a datetime, not {type(value).__name__}.")
    if value.utcoffset() is None:
        raise ValueError(f"{name} must have a time zone.")
    return value


def check_function(value: Any, name: str) -> Callable[..., Any]:
    """Return a function that is called, never awaited."""
    if not callable(value):
        raise TypeError(f"{name} must be a function, not {type(value).__name__}.")
    if inspect.iscoroutinefunction(value):
        raise TypeError(
            f"{name} must be a plain function, not a coroutine function: it is called, "
            "never awaited."
        )
    function: Callable[..., Any] = value
    return function
