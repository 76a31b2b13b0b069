"""Keep code that must be pure from the store, and see whether it asks for the time."""

from __future__ import annotations

import datetime as dt
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from ...mongodb import connection

_OF_TIME = {time.time, time.time_ns}
_OF_DATES = ("now", "utcnow", "today")


@contextmanager
def without_store(what: str) -> Iterator[None]:
    """
    Refuse to reach for the store in a block.

    Args:
        what: runs in it, for the error.
    """
    own = threading.get_ident()
    faces = {name: getattr(connection, name) for name in ("blocking", "awaitable")}

    def refusing(face: Any) -> Any:
        def refuse() -> Any:
            if threading.get_ident() != own:  # a server in another thread goes on
                return face()
            raise AssertionError(
                f"{what} reached for the store, but given() runs without one. Let the "
                "function get what it needs as an argument or from its events; or test "
                "it with the fixture event_store."
            )

        return refuse

    for name, face in faces.items():
        setattr(connection, name, refusing(face))
    try:
        yield
    finally:
        for name, face in faces.items():
            setattr(connection, name, face)


@contextmanager
def watched_for_clocks() -> Iterator[set[str]]:
    """
    Note in a set which clocks a block asks for the time.

    Two calls of ``date.today()`` nearly always agree, so comparing results does not
    tell. Nothing is noted while a profiler runs.
    """
    asked: set[str] = set()

    def note(frame: FrameType, event: str, called: Any) -> None:
        if event != "c_call" or frame.f_globals.get("__name__") == "logging":
            return
        owner, name = getattr(called, "__self__", None), called.__name__
        if isinstance(owner, type) and issubclass(owner, dt.date) and name in _OF_DATES:
            asked.add(f"{owner.__name__}.{name}()")
        elif called in _OF_TIME:
            asked.add(f"time.{name}()")

    if sys.getprofile() is not None:
        yield asked
        return
    sys.setprofile(note)
    try:
        yield asked
    finally:
        sys.setprofile(None)
