"""Run a sequencer in the one process that holds its lease."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from math import exp, inf
from threading import Event
from time import monotonic

from pymongo.errors import PyMongoError

from ..documents.collections import SEQUENCER_LEASE
from ..exceptions import IndexMissing, StoreUnavailable
from ..mongodb.connection import Store
from ..mongodb.indexes import ENTRY_VERSIONS, look
from ..mongodb.leases import acquire, release
from ..mongodb.ports import drive
from ..mongodb.write_errors import short_reason
from .sequencer import Sequencer

logger = logging.getLogger("ossy_event_store")


@dataclass(frozen=True)
class SequencerTimings:
    """How long a running sequencer holds its lease, pauses and rests, in seconds."""

    #: After so long another process takes over from one that is gone.
    lease: float = 5.0
    #: After a failure; doubled with each one that follows.
    first_pause: float = 0.2
    longest_pause: float = 5.0
    # An event that comes alone gets its position at once. Events that come fast share
    # the writes of the sequencer and of all subscriptions: each write waits for the
    # disks of a majority, as an append does, and slows appends down. So the sequencer
    # rests the longer the more events arrive.
    #: Between two batches, for each event of about the last second that shared its
    #: batch with another.
    rest: float = 0.005
    longest_rest: float = 0.25


DEFAULT_TIMINGS = SequencerTimings()


def run_sequencer(
    store: Callable[[], Store],
    stop: Event,
    owner: str,
    notify: Callable[[int], None] = lambda position: None,
    timings: SequencerTimings = DEFAULT_TIMINGS,
) -> None:
    """
    Assign positions until ``stop`` is set, unless another process does.

    The lease only saves duplicate work. Two sequencers may work at the same time
    without harm, so a process that dies leaves nothing to clean up.

    Args:
        store: returns the blocking face; called again after every failure.
        stop: ends this function within ``Sequencer.wait_seconds``.
        owner: the name of this process, from ``leases.new_owner()``.
        notify: called with the last position, after each batch.
        timings: how long it waits.
    """
    pause = timings.first_pause
    while not stop.is_set():
        began = monotonic()
        try:
            _while_leased(store(), stop, owner, notify, timings)
        except (PyMongoError, StoreUnavailable, IndexMissing) as error:
            if monotonic() - began > timings.longest_pause:
                pause = timings.first_pause  # it had worked
            logger.warning(
                "Cannot assign positions (no subscription advances): %s",
                short_reason(error),
            )
            stop.wait(pause)
            pause = min(2 * pause, timings.longest_pause)


def _while_leased(
    store: Store,
    stop: Event,
    owner: str,
    notify: Callable[[int], None],
    timings: SequencerTimings,
) -> None:
    drive(look(store, ENTRY_VERSIONS))
    sequencer, renewed, pace = Sequencer(store), -inf, Pace(timings)
    try:
        while not stop.is_set():
            if (began := monotonic()) - renewed > timings.lease / 3:
                if not drive(acquire(store, SEQUENCER_LEASE, owner, timings.lease)):
                    stop.wait(timings.lease / 5)
                    return
                renewed = began  # the server counts from later
            assigned = sequencer.advance()
            notify(sequencer.last)
            rest = pace.after(assigned)
            if assigned < sequencer.batch_size:
                stop.wait(rest)
    finally:
        sequencer.close()
        with suppress(PyMongoError, StoreUnavailable):
            drive(release(store, SEQUENCER_LEASE, owner))


class Pace:
    """How long a sequencer rests between two batches, by how many events arrive."""

    def __init__(
        self,
        timings: SequencerTimings = DEFAULT_TIMINGS,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._timings = timings
        self._clock = clock
        self._at = clock()
        self._rate = 0.0  # events that shared a batch in about the last second

    def after(self, assigned: int) -> float:
        """Return for how many seconds to rest after a batch of so many events."""
        now = self._clock()
        # A writer that waits for each position finds every batch without company,
        # however fast it is: a rest would only make it slower.
        self._rate = self._rate * exp(self._at - now) + max(0, assigned - 1)
        self._at = now
        rest, longest = self._timings.rest, self._timings.longest_rest
        return min(rest * self._rate, longest) if assigned else 0.0
