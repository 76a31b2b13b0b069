"""
Which events a handler cannot take now.

A file in the run's folder names classes of events, and all processes read it again
when it has changed. Each subscription has its own bad events: what one of them cannot
take, the others can. They are in few streams, several in each: parked streams are
released slowly, and all of them have to be by the end.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterable
from pathlib import Path

from ..database import Document

BAD = "bad"
CLASSES = 12
ONE_IN = 6  # streams that ever have a bad event


def may_fail(subscription: str, stream: str) -> bool:
    """Whether a stream may have bad events, for this subscription."""
    return zlib.crc32(f"{subscription} {stream}".encode()) % ONE_IN == 0


class Bad(Exception):
    """A handler cannot take this event, for now."""


def class_of(subscription: str, event: Document) -> int:
    token = event["payload"]["token"]
    return zlib.crc32(f"{subscription} {token}".encode()) % CLASSES


def write_bad(folder: Path, classes: Iterable[int]) -> None:
    """Let the events of these classes fail from now on, and no others."""
    new = folder / f"{BAD}.{os.getpid()}"
    new.write_text(json.dumps(list(classes)))
    new.replace(folder / BAD)


class Failing:
    """Raises at the events that are bad now."""

    def __init__(self, folder: str | Path) -> None:
        self._path = Path(folder) / BAD
        self._read: tuple[int, int] | None = None
        self._classes: frozenset[int] = frozenset()

    def __call__(self, subscription: str, event: Document) -> None:
        if class_of(subscription, event) in self.classes() and may_fail(
            subscription, event["aggregateId"]
        ):
            raise Bad(event["payload"]["token"])

    def classes(self) -> frozenset[int]:
        try:
            stat = self._path.stat()
            read = stat.st_ino, stat.st_mtime_ns
            if read != self._read:
                self._classes = frozenset(json.loads(self._path.read_text()))
                self._read = read
        except FileNotFoundError:
            return frozenset()
        return self._classes
