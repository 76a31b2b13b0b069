"""
The site's local time: pages show times in it, and read dates in it.

It is the current time zone, whether or not ``USE_TZ`` is set. Django's own filters and
``localtime()`` leave aware times in UTC where it is not, and fail at the first and the
last day that Python knows.
"""

from __future__ import annotations

import datetime as dt

from django.utils import timezone


def today() -> dt.date:
    """Return the day on which the site is now."""
    return local(dt.datetime.now(dt.UTC)).date()


def local(time: dt.datetime) -> dt.datetime:
    """Return an aware time as the site's; as it is if Python has no such time."""
    try:
        return time.astimezone(timezone.get_current_timezone())
    except OverflowError:
        return time


def in_utc(time: dt.datetime) -> dt.datetime:
    """
    Return a time that somebody entered; without a zone, it is the site's.

    Raises:
        OverflowError: Python has no such time.
    """
    if timezone.is_naive(time):
        # Of two times that are displayed alike, when clocks go back, the later one.
        time = timezone.make_aware(time.replace(fold=1))
    return time.astimezone(dt.UTC)
