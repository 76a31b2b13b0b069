"""
Conditions of an append: unless other events match a query.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..arguments import check_number
from .query import Query, check_query
from .token import check_token


@dataclass(frozen=True)
class Condition:
    """
    Append unless events match ``query`` that the decision did not know.

    Args:
        query: what ``any_of()``, ``item()`` or ``all_events()`` returned.
        after: the token of the read on which the decision is based: events that it
            knew do not count. Or a position: events up to it do not count. None: no
            event may match.

    Raises:
        TypeError: an argument is of another type.
        InvalidBoundary: ``after`` is no token.
    """

    query: Query
    after: str | int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "query", check_query(self.query))
        if isinstance(self.after, int):
            check_number(self.after, "after")
            return
        after: object = self.after
        if after is not None and not isinstance(after, str):
            kind = type(after).__name__
            raise TypeError(f"after must be a token or a position, not {kind}.")
        if after is not None:
            check_token(after)


def check_condition(value: Any) -> Condition | None:
    """Return a condition, also from a query alone; None stays None."""
    if value is None or isinstance(value, Condition):
        return value
    return Condition(check_query(value, "unless"))
