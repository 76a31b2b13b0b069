"""What operators saw and did, written down as it happens."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

# A file: only parked streams are to have events, and to be retried.
# Seconds for an operator to retry until nothing is parked: a long run has parked much.
ENDING = 300.0
ASKED = "quiet"

SKIPPED = "skipped"  # a record was returned
NOTHING = "nothing"  # nothing waited there, said the store
UNKNOWN = "unknown"  # the call failed, or its process was killed


class Skip(NamedTuple):
    """An event that an operator skipped, or may have."""

    subscription: str
    event: str
    stream: str
    version: int
    #: Whether the operator was told that it is skipped.
    certain: bool = True


@dataclass
class Seen:
    """A stream that an operator saw parked, and since which position."""

    subscription: str
    stream: str
    parked_at: int


@dataclass
class Retry:
    """How many streams are to be retried, as an operator was told."""

    subscription: str
    count: int


@dataclass
class Attempt:
    """A skip: a line before it is asked for, and one with what became of it."""

    number: int
    subscription: str
    event: str
    stream: str
    version: int
    outcome: str = UNKNOWN


@dataclass
class Quiet:
    """Streams that are to be retried while no other event moves a checkpoint."""

    streams: int
    #: Whether the release was seen to begin.
    has_begun: bool


Entry = Seen | Retry | Attempt | Quiet
KINDS: dict[str, Any] = {kind.__name__: kind for kind in (Seen, Retry, Attempt, Quiet)}


@dataclass
class Operated:
    skips: list[Skip] = field(default_factory=list)
    #: By what it is: how often it happened.
    counts: dict[str, int] = field(default_factory=dict)


def read(paths: Iterable[Path]) -> Operated:
    """Return what the operators of a run have written."""
    entries = [(path, entry) for path in paths for entry in _entries(path)]
    seen = {
        (e.subscription, e.stream, e.parked_at) for _, e in entries if type(e) is Seen
    }
    # The last line of an attempt says what became of it.
    attempts = {(path, e.number): e for path, e in entries if type(e) is Attempt}
    certain = {_of(e) for e in attempts.values() if e.outcome == SKIPPED}
    unknown = {_of(e) for e in attempts.values() if e.outcome == UNKNOWN} - certain
    counts = {
        "parked": len(seen),
        "retried": sum(e.count for _, e in entries if type(e) is Retry),
        "retried in the quiet": sum(
            e.has_begun for _, e in entries if type(e) is Quiet
        ),
        "skipped": len(certain),
        "maybe skipped": len(unknown),
    }
    skips = [Skip(*of) for of in sorted(certain)]
    return Operated(
        skips + [Skip(*of, certain=False) for of in sorted(unknown)], counts
    )


def _entries(path: Path) -> Iterator[Entry]:
    for line in path.read_text().splitlines(keepends=True):
        if line.endswith("\n"):  # else its operator was killed
            fields = json.loads(line)
            yield KINDS[fields.pop("kind")](**fields)


def _of(attempt: Attempt) -> tuple[str, str, str, int]:
    return attempt.subscription, attempt.event, attempt.stream, attempt.version
