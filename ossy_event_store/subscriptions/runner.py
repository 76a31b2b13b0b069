"""
The process that runs subscriptions: threads for all that has to go on at a time.

One gives positions, one renews the leases, and each subscription has its own. Any
number of such processes may run; leases decide who does what.
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

from ..exceptions import StoreUnavailable, UnknownSubscription
from ..mongodb import connection, leases
from ..mongodb.deadline import in_time
from ..mongodb.ports import drive
from ..positions.head_watcher import watcher
from ..positions.leased_sequencer import run_sequencer
from ..positions.reader import head_position
from ..positions.sequencer import Sequencer
from ..streams.gc_pause import fewer_collections
from . import declaration
from .consumer import LEASE, Consumer, lease_of
from .declaration import Subscription

logger = logging.getLogger("ossy_event_store")

JOIN = 0.2  # seconds in which the main thread notices a signal


class Runner:
    """
    Runs some subscriptions, or all, and gives positions.

    Args:
        which: the subscriptions, or their names; None means all that are declared.

    Raises:
        UnknownSubscription: one of the names is not declared.
    """

    def __init__(self, which: Sequence[str | Subscription] | None = None) -> None:
        self.stop = threading.Event()
        self.owner = leases.new_owner()
        self.consumers = [
            Consumer(declared, self.owner, self.stop) for declared in chosen(which)
        ]

    def run(self, until: Callable[[], bool] | None = None) -> None:
        """
        Work until ``stop`` is set; then finish what is at hand.

        Args:
            until: asked again and again; true ends it as well.
        """
        with fewer_collections():  # events come by the thousand, without cycles
            self._work(until)

    def _work(self, until: Callable[[], bool] | None) -> None:
        threads = [
            threading.Thread(
                target=run_sequencer,
                args=(connection.blocking, self.stop, self.owner, watcher.notify),
                name="ossy_event_store.sequence",
            ),
            *(
                threading.Thread(
                    target=self._consume,
                    args=(consumer,),
                    name=f"ossy_event_store.{consumer.name}",
                )
                for consumer in self.consumers
            ),
        ]
        renewing = threading.Thread(
            target=self._renew, name="ossy_event_store.renew", daemon=True
        )
        ended = self._ended = threading.Event()
        renewing.start()
        try:
            for thread in threads:
                thread.start()
            while not self.stop.wait(JOIN):
                if until is not None and until():
                    break
                if not all(thread.is_alive() for thread in threads):
                    # They go on whatever happens: who starts the process sees more.
                    raise RuntimeError("A thread of the subscriptions has ended.")
        finally:
            self.stop.set()
            # Leases are renewed until the last event at hand is done.
            for thread in threads:
                if thread.ident is not None:
                    thread.join()
            ended.set()
            renewing.join()

    def _consume(self, consumer: Consumer) -> None:
        try:
            if consumer.declared.is_async:
                asyncio.run(_consume_awaitable(consumer))
            else:
                drive(consumer.run(connection.blocking()))
        except Exception:
            logger.exception("Subscription %s is not run.", consumer.name)
        finally:
            connections.close_all()

    def _renew(self) -> None:
        while not self._ended.wait(LEASE / 5):
            for consumer in self.consumers:
                if consumer.renewed:
                    with contextlib.suppress(PyMongoError, StoreUnavailable):
                        self._renew_one(consumer)

    def _renew_one(self, consumer: Consumer) -> None:
        began = time.monotonic()
        with in_time():
            name = lease_of(consumer.name)
            kept = drive(leases.acquire(connection.blocking(), name, self.owner, LEASE))
        # From before it was asked: the server's time began after that.
        consumer.renew(began if kept else -LEASE)


async def _consume_awaitable(consumer: Consumer) -> None:
    await consumer.run(await connection.awaitable())


def chosen(which: Sequence[str | Subscription] | None) -> list[Subscription]:
    """Return the declared subscriptions of these names, or all."""
    declared = declaration.registered()
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
    Whether some subscriptions have come as far as the events reach now.

    Called again and again, as ``until`` of ``Runner.run()``; one that a failure has
    stopped is not waited for. A server that is away has to come back first.

    Args:
        names: of the subscriptions.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._names = list(names)
        with in_time():
            #: The position up to which they are to come.
            self.target = drive(head_position(connection.blocking()))
        #: How far the last of them is.
        self.position = 0

    def __call__(self) -> bool:
        """Look how far they are."""
        with contextlib.suppress(PyMongoError, StoreUnavailable):
            return self._ask()
        return False

    def _ask(self) -> bool:
        query = {"_id": {"$in": self._names}, "stopped": None}
        stopped = {"_id": {"$in": self._names}, "stopped": {"$ne": None}}
        fields = {"position": 1}
        store = connection.blocking()
        with in_time():
            found = drive(store.subscriptions.find(query, projection=fields))
            ended = drive(store.subscriptions.find(stopped, projection=fields))
        if len(found) + len(ended) < len(self._names):
            return False
        self.position = min((one["position"] for one in found), default=self.target)
        return self.position >= self.target


def give_positions(stop: threading.Event) -> None:
    """Give positions to all events that there are, whoever else does."""
    sequencer = Sequencer(connection.blocking())
    try:
        while not (sequencer.is_caught_up or stop.is_set()):
            sequencer.advance()
    finally:
        sequencer.close()
