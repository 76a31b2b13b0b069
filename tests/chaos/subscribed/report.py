"""What a run of positions and subscriptions has shown, for people and as JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from .. import checker
from .. import report as appends
from ..checker import Violations
from ..database import Database
from ..history import History
from .checker import all_done, check
from .effects import Effects

ORDER = ("against the stream", "out of order", "rows out of order")


@dataclass
class Report(appends.Facts):
    seed: int
    seconds: float
    acknowledged: int
    #: All that are there, also those whose writer was killed before he was told.
    events: int
    streams: int
    lost: int
    missed: int
    doubled: int
    out_of_order: int
    #: Events with a position, and whether those are 1, 2, 3 ...
    positions: int
    gaps: int
    #: By subscription: events that were delivered, and those that came once more.
    delivered: dict[str, int]
    again: dict[str, int]
    #: What was done to the servers, and how often they elected another primary.
    nemesis: dict[str, int]
    fail_overs: int
    #: What was done to the processes.
    crew: dict[str, int]
    #: What operators saw parked, and did.
    operated: dict[str, int]
    #: Times a sequencer was overtaken, or was told that the history is lost: by code.
    met: dict[str, int]
    #: Decisions by what became of them.
    operations: dict[str, int]
    errors: dict[str, int]
    #: Seconds from the end of all harm until all subscriptions had come to the end.
    settled: float
    violations: Violations

    @property
    def history_lost(self) -> int:
        """How often a sequencer was told that the history is lost."""
        return sum(count for what, count in self.met.items() if what.isdigit())


def report(
    history: History,
    database: Database,
    effects: Effects,
    *,
    met: dict[str, int],
    operated: dict[str, int],
    **facts: Any,
) -> Report:
    found = {**checker.check(history, database), **check(effects)}
    if idle := list(not_shown(met, operated)):
        found["nothing shown"] = idle
    count = {name: len(texts) for name, texts in found.items()}
    done = all_done(effects)
    different = {name: len(set(some)) for name, some in done.items()}
    return Report(
        acknowledged=sum(appends.ways(history.operations).values()),
        events=len(effects.events),
        streams=len({event["aggregateId"] for event in effects.events}),
        lost=count.get("lost", 0),
        missed=count.get("missed", 0) + count.get("without a position", 0),
        doubled=count.get("doubled", 0),
        out_of_order=sum(count.get(name, 0) for name in ORDER),
        positions=len(effects.entries),
        gaps=count.get("gap", 0),
        delivered=different,
        again={name: len(some) - different[name] for name, some in done.items()},
        operations=Counter(o.outcome for o in history.operations),
        errors=Counter(failure.error for failure in history.failures),
        met=met,
        operated=operated,
        violations=found,
        **facts,
    )


def not_shown(met: dict[str, int], operated: dict[str, int]) -> Iterator[str]:
    """Yield what did not happen in a run that is to show that all is well with it."""
    if not any(what.isdigit() for what in met):
        yield "no server has said that the history is lost"
    for what in ("parked", "retried", "skipped"):
        if not operated.get(what):
            yield f"no stream was {what}"
