"""What a run has shown, for people and as JSON."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from .checker import Violations, check
from .database import Database
from .history import ACKNOWLEDGED, History, Operation

SHOWN = 10  # violations of a kind in the text


class Facts:
    """The fields of a report, one a line, and what is wrong."""

    violations: Violations

    @property
    def ok(self) -> bool:
        return not self.violations

    def as_dict(self) -> dict[str, Any]:
        return {"ok": self.ok, **vars(self)}

    def __str__(self) -> str:
        lines = [f"{name.replace('_', ' ')}: {_text(v)}" for name, v in self._facts()]
        for name, texts in self.violations.items():
            lines.append(f"VIOLATION, {name}: {len(texts)}")
            lines += [f"  {text}" for text in texts[:SHOWN]]
        return "\n".join([*lines, "ok" if self.ok else "FAILED"])

    def _facts(self) -> list[tuple[str, Any]]:
        return [(name, v) for name, v in vars(self).items() if name != "violations"]


@dataclass
class Report(Facts):
    seed: int
    seconds: float
    acknowledged: int
    streams: int
    lost: int
    doubled: int
    holes: int
    phantoms: int
    #: Operations by outcome.
    operations: dict[str, int]
    #: Acknowledged events by the call that appended them.
    ways: dict[str, int]
    #: Times a writer was told "unknown"; and what the operations turned out to be.
    unknowns: int
    resolved: dict[str, int]
    #: What the nemesis did.
    nemesis: dict[str, int]
    #: Seconds of the longest single call, and until an outcome was known.
    longest_append: float
    longest_decision: float
    #: Errors by class.
    errors: dict[str, int]
    #: What was compared.
    readings: int
    states: int
    snapshots: int
    snapshot_writes: int
    violations: Violations


def _text(value: Any) -> str:
    if isinstance(value, dict):
        counts = sorted(value.items(), key=lambda item: -item[1])
        return ", ".join(f"{name} {count:,}" for name, count in counts) or "none"
    if isinstance(value, str):
        return value
    return f"{value:,.1f}" if isinstance(value, float) else f"{value:,}"


def report(
    history: History,
    database: Database,
    *,
    seed: int = 0,
    seconds: float = 0.0,
    nemesis: dict[str, int] | None = None,
) -> Report:
    violations = check(history, database)
    operations = history.operations
    return Report(
        seed=seed,
        seconds=seconds,
        acknowledged=sum(ways(operations).values()),
        streams=len({event["aggregateId"] for event in database.events}),
        **{
            name: len(violations.get(kind, ()))
            for name, kind in (
                ("lost", "lost"),
                ("doubled", "doubled"),
                ("holes", "hole"),
                ("phantoms", "phantom"),
            )
        },
        operations=Counter(o.outcome for o in operations),
        ways=ways(operations),
        unknowns=sum(o.unknowns for o in operations),
        resolved=Counter(o.resolved for o in operations if o.resolved),
        nemesis=nemesis or {},
        longest_append=max((o.longest for o in operations), default=0.0),
        longest_decision=max((o.seconds for o in operations), default=0.0),
        errors=Counter(failure.error for failure in history.failures),
        readings=len(history.readings),
        states=len(history.observations),
        snapshots=len(database.snapshots),
        snapshot_writes=sum(w.collection == "aggregates" for w in database.writes),
        violations=violations,
    )


def ways(operations: list[Operation]) -> Counter[str]:
    counts: Counter[str] = Counter()
    for operation in operations:
        if operation.outcome == ACKNOWLEDGED:
            counts[operation.how] += len(operation.tokens)
    return counts
