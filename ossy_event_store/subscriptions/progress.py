"""
How far a consumer has come, and when it writes that to the checkpoint.

A kind of delivery that has no transaction around the checkpoint leaves it to this one:
it is written now and then, and before anything that must not see an older one.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import Lock

from ..mongodb.connection import Store
from .claim import Claim, Timings
from .delivery import Delivery


class Progress:
    """
    The position of one claim: what was delivered, and what the checkpoint says.

    Args:
        store: one face of the store.
        claim: the claim.
        delivery: settles a checkpoint outside of MongoDB.
        position: what the checkpoint says.
        seen: up to where all events are delivered.
        rate: counts the events.
    """

    def __init__(
        self,
        store: Store,
        claim: Claim,
        delivery: Delivery,
        position: int,
        seen: int,
        rate: Rate,
    ) -> None:
        self._store = store
        self._claim = claim
        self._delivery = delivery
        #: What the checkpoint says.
        self.position = position
        #: Up to where all events are delivered or passed over.
        self.seen = seen
        self._rate = rate
        rate.unwritten = 0
        self._written = claim.clock()

    def count(self, events: int, *, written: bool = False) -> None:
        """Count delivered events; ``written`` if the checkpoint counts them already."""
        self._rate.add(events, written=written)

    def move(self, after: int, *, moved: bool) -> None:
        """Take note of a position, and whether the checkpoint has moved there."""
        self.seen = after
        if moved:
            self.position = after
            self._written = self._claim.clock()

    async def write_if_due(self, *, idle: bool = False) -> None:
        """Write the checkpoint if it is time; ``idle`` if there is nothing to do."""
        since = self._claim.clock() - self._written
        if since > seconds_between_writes(
            self._claim.timings, idle=idle, has_delivered=self._rate.unwritten > 0
        ):
            await self.write()

    async def write(self) -> None:
        """Write the checkpoint, unless it says so already."""
        count, done = self._rate.unwritten, self._delivery.done_up_to(self.seen)
        if done == self.position and not count:
            return
        await self._delivery.settle(done)
        changes = {"position": done, "rate": self._rate.value}
        await self._claim.move(self._store, changes, count)
        self.position = done
        self._rate.unwritten -= count
        self._written = self._claim.clock()


def seconds_between_writes(
    timings: Timings, *, idle: bool, has_delivered: bool
) -> float:
    """Return how long a checkpoint may be older than what was delivered."""
    if not idle:
        return timings.write_seconds
    if has_delivered:
        return min(timings.idle_write_seconds, timings.write_seconds)
    return timings.poll_seconds  # only events of others: that can wait longer


class Rate:
    """Events a second, over the last seconds; several threads may add."""

    SPAN_SECONDS = 10.0

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = Lock()
        self._began = clock()
        self._now = 0
        self._last: tuple[int, float] = (0, 0.0)
        #: Events that the checkpoint does not count yet.
        self.unwritten = 0

    def add(self, count: int, *, written: bool = False) -> None:
        """Take note of some events."""
        with self._lock:
            spent = self._clock() - self._began
            if spent > self.SPAN_SECONDS:
                self._last = (self._now, spent)
                self._now, self._began = 0, self._clock()
            self._now += count
            if not written:
                self.unwritten += count

    @property
    def value(self) -> float:
        """Events a second."""
        spent = self._clock() - self._began
        count, seconds = self._last
        both = spent + seconds
        return round((self._now + count) / both, 1) if both > 0 else 0.0
