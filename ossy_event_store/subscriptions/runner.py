"""
The process that runs subscriptions, in a thread for each.

Another thread assigns positions, one renews the leases, and one relays the outbox of
each SQL database that has one. Any number of such processes may run; leases decide
which one does what.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable, Sequence

from django.db import connections
from pymongo.errors import PyMongoError

from ..exceptions import StoreUnavailable, UnexpectedState, UnknownSubscription
from ..mongodb import connection, leases
from ..mongodb.connection import Store
from ..mongodb.deadline import in_time
from ..mongodb.ports import drive
from ..positions.event_pages import PAGE_BYTES
from ..positions.head_watcher import watcher
from ..positions.leased_sequencer import run_sequencer
from ..positions.reader import head_position
from ..positions.sequencer import Sequencer
from ..relational import outbox
from ..relational.relay import run_relay
from . import declaration
from .claim import DEFAULT_TIMINGS
from .consumer import Consumer, Reach
from .declaration import Subscription

logger = logging.getLogger("ossy_event_store")

SIGNAL_CHECK_SECONDS = 0.2  # after which the main thread notices a signal
LEAST_PAGE_BYTES = 1_000_000  # that a subscription reads, however many there are
LAST_SECONDS = 3.0  # for the current batch of positions when the process is to stop


class Runner:
    """
    Runs some subscriptions, or all, and assigns positions.

    Args:
        which: the subscriptions, or their names; None means all that are declared.

    Raises:
        UnknownSubscription: one of the names is not declared.
    """

    #: How long its consumers wait for what.
    timings = DEFAULT_TIMINGS

    def __init__(self, which: Sequence[str | Subscription] | None = None) -> None:
        self.stop = threading.Event()
        self.owner = leases.new_owner()
        every = chosen(which)
        # Together they hold about as much as one that runs alone.
        each = max(LEAST_PAGE_BYTES, PAGE_BYTES // max(1, len(every)))
        self.consumers = [
            Consumer(declared, self.owner, self.stop, self.timings, page_bytes=each)
            for declared in every
        ]

    def run(self, until: Callable[[], bool] | None = None) -> None:
        """
        Work until ``stop`` is set; then finish the current event.

        Args:
            until: called again and again; a true result ends the work as well.
        """
        consuming = [
            threading.Thread(
                target=self._consume,
                args=(consumer,),
                name=f"ossy_event_store.{consumer.name}",
            )
            for consumer in self.consumers
        ]
        assigning = threading.Thread(
            target=run_sequencer,
            args=(connection.blocking, self.stop, self.owner, watcher.notify),
            name="ossy_event_store.sequence",
            daemon=True,
        )
        renewing = threading.Thread(
            target=self._renew, name="ossy_event_store.renew", daemon=True
        )
        relaying = [self._relaying(alias) for alias in outbox.candidates()]
        threads = [assigning, *relaying, *consuming]
        self._ended = threading.Event()
        renewing.start()
        try:
            for thread in threads:
                thread.start()
            while not self.stop.wait(SIGNAL_CHECK_SECONDS):
                if until is not None and until():
                    break
                are_alive = all(thread.is_alive() for thread in [*threads, renewing])
                if not are_alive and not self.stop.is_set():
                    # They retry whatever happens, so this process is broken.
                    raise UnexpectedState(
                        "A subscription thread ended unexpectedly; see the log. "
                        "Restart the process."
                    )
        finally:
            self.stop.set()
            self._join(consuming, [assigning, renewing, *relaying])

    def _relaying(self, alias: str) -> threading.Thread:
        return threading.Thread(
            target=run_relay,
            args=(alias, self.stop),
            name=f"ossy_event_store.outbox.{alias}",
            daemon=True,
        )

    def _join(
        self, consuming: Sequence[threading.Thread], daemons: Sequence[threading.Thread]
    ) -> None:
        end = time.monotonic() + LAST_SECONDS
        # Leases are renewed until each thread has finished its event.
        for thread in consuming:
            if thread.ident is not None:
                thread.join()
        self._ended.set()
        # These leave nothing undone if they are still waiting for a frozen server.
        for thread in daemons:
            if thread.ident is not None:
                thread.join(max(0.0, end - time.monotonic()))

    def _consume(self, consumer: Consumer) -> None:
        try:
            if consumer.declared.is_async:
                asyncio.run(_consume(consumer, connection.awaitable))
            else:
                drive(_consume(consumer, _blocking))
        except Exception:
            logger.exception("Subscription %s could not start.", consumer.name)
        finally:
            connections.close_all()

    def _renew(self) -> None:
        while not self._ended.wait(self.timings.lease_seconds / 5):
            for consumer in self.consumers:
                if consumer.claim.renewed and not self._ended.is_set():
                    try:
                        drive(consumer.claim.renew_lease(connection.blocking()))
                    except (PyMongoError, StoreUnavailable):
                        pass  # the consumer sees it as well
                    except Exception:
                        logger.exception(
                            "Cannot renew the lease of subscription %s, retrying.",
                            consumer.name,
                        )


async def _consume(consumer: Consumer, reach: Reach) -> None:
    await consumer.run(await reach(), reach)


async def _blocking() -> Store:
    return connection.blocking()


def chosen(which: Sequence[str | Subscription] | None) -> list[Subscription]:
    """Return the subscriptions of these names, or all that are declared."""
    declared = declaration.registered_subscriptions()
    if which is None:
        return list(declared.values())
    found: dict[str, Subscription] = {}
    for one in which:
        if isinstance(one, str):
            if one not in declared:
                raise UnknownSubscription(one, list(declared))
            one = declared[one]
        found[one.name] = one
    return list(found.values())


class UntilCaughtUp:
    """
    Whether some subscriptions have all events that exist when this is created.

    Pass it to ``Runner.run()`` as ``until``. It does not wait for a subscription that
    stopped at a failure or is paused, nor for parked streams, which wait for an
    operator: what is left there, ``wait_for()`` and the health report. While the server
    is away, it is false.

    Args:
        names: the subscriptions.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._names = list(names)
        with in_time():
            #: The position that they have to reach.
            self.target = drive(head_position(connection.blocking()))
        #: The position of the one that lags most.
        self.position = 0

    def __call__(self) -> bool:
        """Check how far they are."""
        with contextlib.suppress(PyMongoError, StoreUnavailable):
            return self._check()
        return False

    def _check(self) -> bool:
        named = {"_id": {"$in": self._names}}
        query = {**named, "stopped": None, "paused": None}
        stopped = {
            **named,
            "$or": [{"stopped": {"$ne": None}}, {"paused": {"$ne": None}}],
        }
        fields = {"position": 1}
        store = connection.blocking()
        with in_time():
            found = drive(store.subscriptions.find(query, projection=fields))
            ended = drive(store.subscriptions.find(stopped, projection=fields))
        if len(found) + len(ended) < len(self._names):
            return False
        self.position = min((one["position"] for one in found), default=self.target)
        return self.position >= self.target


def assign_positions(stop: threading.Event, wait: float | None = None) -> int:
    """
    Assign positions to all events, even if another process does so too.

    Args:
        stop: ends this early.
        wait: seconds without a new event after which there is none; a replica set of
            one member has no event on its way that is acknowledged.

    Returns:
        The last position.
    """
    sequencer = Sequencer(connection.blocking())
    try:
        while not (sequencer.is_caught_up or stop.is_set()):
            sequencer.advance(wait)
    finally:
        sequencer.close()
    return sequencer.last
