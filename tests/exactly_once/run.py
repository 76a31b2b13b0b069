"""Examples of one kind, for some time, and what they did."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest
from django.conf import settings as django_settings
from django.db import connections
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.internal.conjecture import engine
from hypothesis.stateful import run_state_machine_as_test

from .kinds import KINDS, SQL, make_tables
from .machine import Happenings
from .model import Violation

EXAMPLES = 6  # with one seed
STEPS = 15  # of an example
SHRINKING = 60.0  # seconds in which a smaller example is looked for
PATIENCE = 6  # times as long, until all has happened that is needed
#: What has to happen in a run, or it proves nothing.
NEEDED = ("parked", "retried", "skipped", "killed", "taken over", "woken up")


@dataclass
class Report:
    """What the examples of one kind did."""

    kind: str
    seconds: float = 0.0
    counts: Counter[str] = field(default_factory=Counter)
    #: Seconds until the first violation, and the seed that has it.
    found: tuple[float, int] | None = None
    #: The smallest example that was found, if there is any.
    violation: Exception | None = None

    @property
    def missing(self) -> list[str]:
        """What never happened."""
        return [what for what in NEEDED if not self.counts[what]]

    def __str__(self) -> str:
        rate = self.counts["examples"] / max(self.seconds, 0.001)
        counts = ", ".join(f"{n} {what}" for what, n in self.counts.most_common())
        text = f"{self.kind}: {rate:.1f} examples/s; {counts}"
        if self.found:
            text += f"; VIOLATED after {self.found[0]:.1f} s with seed {self.found[1]}"
        return text


def run(
    kind: str,
    seconds: float,
    first: int,
    say: Callable[[str], object] = str,
    *,
    shrinks: bool = True,
) -> Report:
    """
    Run examples with one seed after the other, until the time is over.

    Args:
        kind: one of ``KINDS``.
        seconds: how long; a violation ends it, and is made smaller first.
        first: the first seed.
        say: called with the first violation as it is found.
        shrinks: whether to look for a smaller example, which takes minutes.
    """
    report = Report(kind)
    began = time.monotonic()

    class Own(Happenings):
        kind_of = KINDS[kind]
        counts = report.counts

        def refuse(self, problems):
            try:
                super().refuse(problems)
            except Violation as violation:
                if report.found is None:
                    report.found = time.monotonic() - began, number
                    name = type(violation).__name__
                    say(f"{name}, {kind}, seed {number}: {violation}\nMade smaller:")
                raise

    Own.__name__ = Happenings.__name__
    chosen = settings(
        deadline=None,
        database=None,
        max_examples=EXAMPLES,
        stateful_step_count=STEPS,
        report_multiple_bugs=False,
        phases=(Phase.generate, *([Phase.shrink] if shrinks else [])),
        suppress_health_check=list(HealthCheck),
    )
    number = first
    with quiet(), pytest.MonkeyPatch.context() as patch:
        # Its own are five minutes; not all of its versions have the constant.
        patch.setattr(engine, "MAX_SHRINKING_SECONDS", SHRINKING, raising=False)
        while (spent := time.monotonic() - began) < seconds or (
            report.missing and spent < PATIENCE * seconds
        ):
            try:
                run_state_machine_as_test(seed(number)(Own), settings=chosen)
            except Exception as error:
                report.violation = error
                break
            number += 1
    report.seconds = spent if report.violation is None else time.monotonic() - began
    return report


@contextmanager
def quiet() -> Iterator[None]:
    """Log nothing: the handlers fail all the time."""
    logger = logging.getLogger("ossy_event_store")
    before = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(before)


@contextmanager
def database() -> Iterator[None]:
    """Have an alias for effects in an SQL database, in memory."""
    engine = {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:", "OPTIONS": {}}
    known = {**django_settings.DATABASES, SQL: engine}
    connections.settings[SQL] = connections.configure_settings(known)[SQL]
    make_tables()
    try:
        yield
    finally:
        connection = connections[SQL].connection
        connections[SQL].connection = None
        connection.close()
        del connections[SQL]
        del connections.settings[SQL]
