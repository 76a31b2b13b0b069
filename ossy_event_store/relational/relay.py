"""
The relay: append what waits in the outbox, in the process of ``run_subscriptions``.

Any number of processes may relay the same database.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from threading import Event

from django.db import connections

from ..mongodb.write_errors import short_reason
from . import outbox
from .append_waiting import Outcome, try_to_append

logger = logging.getLogger("ossy_event_store")

ROWS_PER_TURN = 100  # of one stream, before the next one has its turn


@dataclass(frozen=True)
class RelayTimings:
    """How long a relay waits for what, in seconds."""

    #: Between two looks for rows, when there is nothing to do.
    poll: float = 0.2
    #: After a failure; doubled with each one that follows.
    first_pause: float = 0.2
    longest_pause: float = 5.0


DEFAULT_TIMINGS = RelayTimings()


def run_relay(using: str, stop: Event, timings: RelayTimings = DEFAULT_TIMINGS) -> None:
    """Append what waits in the outbox of a database, until ``stop`` is set."""
    pause = timings.first_pause
    try:
        while not stop.is_set():
            try:
                has_table = outbox.has_table(using)
                relayed = relay(using, stop) if has_table else 0
            except Exception as error:
                logger.warning(
                    "Cannot relay the outbox of %s, retrying: %s",
                    using,
                    short_reason(error),
                )
                connections[using].close()
                relayed = None
            if relayed is None or not has_table:
                stop.wait(pause)
                pause = min(2 * pause, timings.longest_pause)
                continue
            pause = timings.first_pause
            if not relayed:
                stop.wait(timings.poll)
    finally:
        connections[using].close()


def relay(using: str, stop: Event) -> int | None:
    """
    Append what waits in the outbox of a database, some rows of each stream.

    Returns:
        How many events were appended; None if a pause is due: MongoDB is away, or
        every event that was tried has to be tried again later.
    """
    relayed, is_delayed = 0, False
    for number, stream in outbox.first_rows(using):
        following: int | None = number
        for _ in range(ROWS_PER_TURN):
            if following is None or stop.is_set():
                break
            outcome = try_to_append(using, following)
            if outcome is Outcome.AWAY:
                logger.warning("The outbox of %s waits for MongoDB, retrying.", using)
                return None
            is_delayed = is_delayed or outcome is Outcome.DELAYED
            if outcome is not Outcome.APPENDED:
                break
            relayed += 1
            following = outbox.next_row(using, stream)
    return relayed if relayed or not is_delayed else None


def relay_all(stop: Event, timings: RelayTimings = DEFAULT_TIMINGS) -> None:
    """Append all that waits in any outbox, apart from what parked rows hold up."""
    for using in outbox.candidates():
        while not stop.is_set() and outbox.has_table(using):
            relayed = relay(using, stop)
            if relayed is None:
                stop.wait(timings.longest_pause)
            elif not relayed:
                if not outbox.first_rows(using):
                    break
                stop.wait(timings.poll)  # another process is at work on them
