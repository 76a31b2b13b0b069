"""
A moment in the history of a stream: a version, a time, or a position. Pure.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Any

from ...documents.arguments import check_moment, check_number
from ...documents.storable import milliseconds


@dataclass(frozen=True, slots=True)
class Moment:
    """The moment as of which to load a stream; one of the three is set."""

    at_version: int | None = None
    at: dt.datetime | None = None
    at_position: int | None = None

    @property
    def argument(self) -> str:
        """The name of the argument that says when."""
        return next(name for name in _NAMES if getattr(self, name) is not None)


_NAMES = ("at_version", "at", "at_position")


def check_moments(at_version: Any, at: Any, at_position: Any) -> Moment | None:
    """Return the moment that the arguments name; None if they name none."""
    moment = Moment(at_version, at, at_position)
    given = [name for name in _NAMES if getattr(moment, name) is not None]
    if not given:
        return None
    if len(given) > 1:
        raise ValueError(
            f"Only one of at_version, at and at_position can be given, not "
            f"{' and '.join(given)}."
        )
    if at_version is not None:
        check_number(at_version, "at_version", 1)
    if at_position is not None:
        check_number(at_position, "at_position")
    if at is not None:
        try:
            milliseconds(check_moment(at, "at"))
        except OverflowError:
            raise ValueError("at must be within the years 1 to 9999 in UTC.") from None
    return moment
