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
from collections.abc import Sequence

from pymongo.errors import PyMongoError

from . import leases, mongo, sequence, subscriptions
from .consumer import LEASE, Consumer, lease_of
from .exceptions import StoreUnavailable, UnknownSubscription
from .faces import drive
from .follow import follower
from .mongo import in_time
from .subscriptions import Subscription

logger = logging.getLogger("ossy_event_store")

JOIN = 0.2  # seconds in which the main thread notices a signal


class Runner:
    """
    Runs some subscriptions, or all, and gives positions.

    Args:
        names: of subscriptions; None means all that are declared.

    Raises:
        UnknownSubscription: one of them is not declared.
    """

    def __init__(self, names: Sequence[str] | None = None) -> None:
        self.stop = threading.Event()
        self.owner = leases.new_owner()
        self.consumers = [
            Consumer(declared, self.owner, self.stop) for declared in chosen(names)
        ]

    def run(self) -> None:
        """Work until ``stop`` is set; then finish what is at hand."""
        threads = [
            threading.Thread(
                target=sequence.keep_giving,
                args=(mongo.blocking, self.stop, self.owner),
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
            for thread in threads:
                while thread.is_alive():
                    thread.join(JOIN)
        finally:
            self.stop.set()
            # Leases are renewed until the last event at hand is done.
            for thread in threads:
                if thread.ident is not None:
                    thread.join()
            ended.set()
            renewing.join()
            follower.close()

    def _consume(self, consumer: Consumer) -> None:
        try:
            if consumer.declared.is_async:
                asyncio.run(_consume_awaitable(consumer))
            else:
                drive(consumer.run(mongo.blocking()))
        except Exception:
            logger.exception("Subscription %s is not run.", consumer.name)

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
            kept = drive(leases.acquire(mongo.blocking(), name, self.owner, LEASE))
        if consumer.renewed:  # it may have given it back meanwhile
            # From before it was asked: the server's time began after that.
            consumer.renewed = began if kept else -LEASE


async def _consume_awaitable(consumer: Consumer) -> None:
    await consumer.run(await mongo.awaitable())


def chosen(names: Sequence[str] | None) -> list[Subscription]:
    """Return the declared subscriptions of these names, or all."""
    declared = subscriptions.registered()
    if names is None:
        return list(declared.values())
    for name in names:
        if name not in declared:
            raise UnknownSubscription(name, list(declared))
    return [declared[name] for name in dict.fromkeys(names)]
