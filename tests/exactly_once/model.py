"""What a subscription promises, as functions of plain values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from math import inf


class Violation(AssertionError):
    """A promise was broken; a class for each, so that one is not taken for another."""


class Lost(Violation):
    """An event was passed, and has no effect."""


class Doubled(Violation):
    """An event has its effect more than once."""


class Unasked(Violation):
    """An event has an effect though it was skipped, or is before a reset."""


class OutOfOrder(Violation):
    """An event has its effect before an earlier one of its stream."""


class Restless(Violation):
    """A stream stays parked, or a build never comes into use."""


Effects = Mapping[str, Sequence[int]]  # positions in the order of their effects


@dataclass(frozen=True)
class Event:
    """An event, at the position that it has in global order."""

    position: int
    stream: str
    version: int
    #: The document it changes, for a projection; None if it changes none.
    key: str | None

    def __str__(self) -> str:
        return f"event {self.position} ({self.stream} v{self.version}, key {self.key})"


@dataclass
class Model:
    """
    What was appended and what an operator asked for.

    Args:
        exact: whether each event has its effect exactly once, else at least once.
        keyed: whether effects are grouped by the keys of the events.
    """

    exact: bool
    keyed: bool = False
    events: list[Event] = field(default_factory=list)
    #: Positions that an operator skipped since the last reset.
    skipped: set[int] = field(default_factory=set)
    #: The position of the last reset: later events are wanted (again).
    since: int = 0
    #: Whether a process from before a reset may still add effects.
    has_echo: bool = False

    def append(self, stream: str, key: str | None) -> Event:
        """Add an event to the end of a stream."""
        version = 1 + sum(event.stream == stream for event in self.events)
        event = Event(len(self.events) + 1, stream, version, key)
        self.events.append(event)
        return event

    def at(self, stream: str, version: int) -> Event:
        """Return the event of a stream with a version."""
        return next(
            e for e in self.events if (e.stream, e.version) == (stream, version)
        )

    def reset(self, position: int) -> None:
        """Want all events after a position again, skipped ones as well."""
        self.since = position
        self.skipped.clear()

    @property
    def wanted(self) -> list[Event]:
        """The events that have an effect, sooner or later."""
        return [
            event
            for event in self.events
            if event.position > self.since
            and event.position not in self.skipped
            and not (self.keyed and event.key is None)
        ]

    def is_skipped_after(self, event: Event) -> bool:
        """Whether a later event of its stream was skipped."""
        return any(
            later.stream == event.stream and later.position > event.position
            for later in self.events
            if later.position in self.skipped
        )

    # --- what must hold at any time

    def problems(
        self, effects: Effects, reached: int, waits: Mapping[str, int]
    ) -> Iterator[Violation]:
        """
        Say what is wrong with the effects since the last reset.

        Args:
            effects: positions in the order of their effects, by group.
            reached: the checkpoint.
            waits: the position from which a parked stream waits.
        """
        counted = Counter(chain.from_iterable(effects.values()))
        if self.exact:
            yield from self._too_many(counted)
        for event in self.wanted:
            passed = event.position <= reached
            if passed and not counted[event.position] and not waits_at(waits, event):
                yield Lost(f"{event}: checkpoint {reached}, parked {dict(waits)}")
        if not self.has_echo:
            for group, positions in effects.items():
                yield from self._out_of_order(group, positions)

    def _too_many(self, counted: Counter[int]) -> Iterator[Violation]:
        wanted = {event.position for event in self.wanted}
        for event in self.events:
            times = counted[event.position]
            if times > 1:
                yield Doubled(f"{event} has its effect {times} times")
            elif times and event.position in self.skipped:
                yield Unasked(f"{event} was skipped and has its effect")
            elif times and event.position not in wanted:
                yield Unasked(f"{event} has an effect again after a later reset")

    def _out_of_order(
        self, group: str, positions: Sequence[int]
    ) -> Iterator[Violation]:
        first = list(dict.fromkeys(positions))  # at least once: the first time counts
        if self.exact:
            first = list(positions)
        for stream in {event.stream for event in self.events}:
            mine = [e for e in self.wanted if e.stream == stream]
            if self.keyed:
                mine = [event for event in mine if event.key == group]
            due = [event.position for event in mine]
            got = [position for position in first if position in due]
            if got != due[: len(got)]:
                yield OutOfOrder(f"{stream} in {group!r}: effects {got} of {due}")

    # --- what must hold in the end

    def missing(self, effects: Effects) -> Iterator[Violation]:
        """Say which events have no effect, once nothing is parked any more."""
        counted = Counter(chain.from_iterable(effects.values()))
        for event in self.wanted:
            if not counted[event.position]:
                yield Lost(f"{event}: no effect, and nothing is parked any more")


def waits_at(waits: Mapping[str, int], event: Event) -> bool:
    """Whether an event waits for the retry of its stream."""
    return waits.get(event.stream, inf) <= event.position
