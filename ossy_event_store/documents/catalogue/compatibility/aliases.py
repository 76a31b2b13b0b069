"""
Which type an event is read as: the one of its name, or the one with that alias.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, TypeVar


class HasAliases(Protocol):
    """A type that may have had other names."""

    @property
    def aliases(self) -> tuple[str, ...]:
        """The names under which its older events are stored."""


T = TypeVar("T", bound=HasAliases)


def owner_of(stored: str, types: Mapping[str, T]) -> T | None:
    """Return the one of ``types`` as which events of a stored type are read."""
    if stored in types:
        return types[stored]
    return next((one for one in types.values() if stored in one.aliases), None)
