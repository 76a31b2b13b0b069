"""A rule: how the values of one type are stored, and made again. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from ...storable import Unstorable


class Undecodable(Unstorable):
    """The stored value at ``path`` does not fit the type that a class declares."""


class Undeclarable(TypeError):
    """
    A class declares a type that has no stored form.

    ``place`` is built while the error propagates, as a path in the class.
    """

    def __init__(self, reason: str, place: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.place = place

    def inside(self, name: str) -> Undeclarable:
        """Put a field in front of the place."""
        self.place = f"{name}.{self.place}" if self.place else name
        return self

    def __str__(self) -> str:
        return f"field {self.place}: {self.reason}" if self.place else self.reason


@dataclass(frozen=True)
class Rule:
    """How the values of one type are stored."""

    #: The type, for messages: "a date".
    expected: str
    #: The types of its stored values; None if they may have any.
    forms: frozenset[type] | None
    #: Whether a value is one of the type, as far as its own type tells.
    accepts: Callable[[Any], bool]
    #: Returns the stored value, or raises ``Unstorable``.
    encode: Callable[[Any], Any]
    #: Returns the value of a stored one, or raises ``Undecodable``.
    decode: Callable[[Any], Any]
    #: All stored values, if they can be listed.
    values: frozenset[tuple[type, Any]] | None = None

    def is_distinct(self, other: Rule) -> bool:
        """Whether no stored value can be one of both."""
        if self.forms is None or other.forms is None:
            return False
        if self.values is not None and other.values is not None:
            return not self.values & other.values
        return not self.forms & other.forms


def name_of_type(value: object) -> str:
    """Return the name of a value's type, for messages."""
    return "None" if value is None else type(value).__name__


def refused(expected: str, value: object) -> Unstorable:
    """Return the error of a value that has another type than declared."""
    return Unstorable(f"must be {expected}, not {name_of_type(value)}")


def misfit(expected: str, value: object) -> Undecodable:
    """Return the error of a stored value that has another type than declared."""
    return Undecodable(f"must be {expected}, not {name_of_type(value)}")


def each(function: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
    """Return the results of a function, with the index of an item in its error."""
    found: list[Any] = []
    try:
        for item in items:
            found.append(function(item))
    except Unstorable as error:
        raise error.inside(len(found)) from None
    return found
