"""
Set the time that the store stamps: ``created`` of events, ``saved`` of snapshots.

Leases, deadlines and pauses measure real time, so nothing that waits is disturbed.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ..documents.context import clock
from .database import check_test_run


@contextmanager
def at(moment: dt.datetime) -> Iterator[None]:
    """
    Let the store stamp one moment, in all threads, as long as the block runs.

    Args:
        moment: with a time zone.

    Raises:
        TypeError, ValueError: it is no datetime, or has no time zone.
        ImproperlyConfigured: no tests run in this process.
    """
    if not isinstance(moment, dt.datetime):
        raise TypeError(f"moment must be a datetime, not {type(moment).__name__}.")
    if moment.utcoffset() is None:
        raise ValueError(
            "moment must have a time zone: datetime(2030, 1, 1, tzinfo=UTC)."
        )
    moment = moment.astimezone(dt.UTC)
    with _replaced("at()", lambda _: moment):
        yield


@contextmanager
def travel(
    by: dt.timedelta | None = None,
    /,
    *,
    weeks: float = 0,
    days: float = 0,
    hours: float = 0,
    minutes: float = 0,
    seconds: float = 0,
) -> Iterator[None]:
    """
    Move the time that the store stamps, in all threads, as long as the block runs.

    It moves on from there. Inside of ``at()`` or another ``travel()`` it is that time
    which is moved.

    Args:
        by: how far; negative into the past.
        weeks, days, hours, minutes, seconds: the same as numbers.

    Raises:
        ImproperlyConfigured: no tests run in this process.
    """
    by = (by or dt.timedelta()) + dt.timedelta(
        weeks=weeks, days=days, hours=hours, minutes=minutes, seconds=seconds
    )
    with _replaced("travel()", lambda before: before() + by):
        yield


@contextmanager
def _replaced(what: str, moved: Callable[[clock.Clock], dt.datetime]) -> Iterator[None]:
    check_test_run(what)
    before = clock.replace(lambda: moved(before))
    try:
        yield
    finally:
        clock.replace(before)
