"""
Refuse to wait by a clock that stands still: a test has replaced ``time.monotonic``.

freezegun does that. Time-outs would never end then, neither ours nor the driver's, or
all would be over at once where only one of the two packages is left out.
"""

from __future__ import annotations

import time
from types import FunctionType

from django.core.exceptions import ImproperlyConfigured

# freezegun decides by the modules of the last few callers.
_CALLERS = 8
# In a tuple, as freezegun replaces what it finds in the names of a module.
_REAL = (time.monotonic,)


def check_clock() -> None:
    """
    Check that the clock moves, and is the same for the driver and for us.

    Called only while ``time.monotonic`` is no built-in function.

    Raises:
        ImproperlyConfigured: it stands still, or differs.
    """
    ours, driver = _seen_by("ossy_event_store.probe"), _seen_by("pymongo.probe")
    if abs(ours - driver) < 1 and (
        abs(ours - _REAL[0]()) < 1 or _seen_by("ossy_event_store.probe") != ours
    ):
        return
    raise ImproperlyConfigured(
        "The clock by which the event store and PyMongo measure how long they wait "
        "stands still or differs between them: time.monotonic() is replaced, as "
        "freezegun does. Leave them out: freeze_time(moment, ignore=['pymongo', "
        "'ossy_event_store']). Or set only what the store stamps: with "
        "ossy_event_store.testing.at(moment)."
    )


def _probe(callers: int) -> float:
    return time.monotonic() if callers == 0 else _probe(callers - 1)


def _seen_by(module: str) -> float:
    """Return what the clock says to a module."""
    scope = {"__name__": module, "time": time}
    scope["_probe"] = probe = FunctionType(_probe.__code__, scope)
    found: float = probe(_CALLERS)
    return found
