"""
What time it is, for what the store writes into documents; tests can set it.

Leases, deadlines and pauses do not ask it: they measure how long something takes.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable

Clock = Callable[[], dt.datetime]


def real() -> dt.datetime:
    """Return the real time in UTC."""
    return dt.datetime.now(dt.UTC)


# Another one for the whole process, not for a context: what a test starts in other
# threads has to see the same time.
_clock: Clock = real


def now() -> dt.datetime:
    """Return the current time in UTC."""
    return _clock()


def replace(clock: Clock) -> Clock:
    """Let ``now()`` ask another clock from now on; return the one before."""
    global _clock
    before, _clock = _clock, clock
    return before
