"""
The claim of a process on a subscription: a lease, a fence and a session.

The lease keeps other processes away as long as it is renewed. The fence is what counts:
writes under an older one are refused. All transactions of a claim are in its session.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from threading import Event, Lock
from typing import Any

from pymongo.errors import PyMongoError

from ..documents.bson_types import Document
from ..documents.collections import subscription_lease
from ..exceptions import StoreUnavailable
from ..mongodb import leases
from ..mongodb.connection import Store
from ..mongodb.deadline import in_time
from ..mongodb.ports import END_SECONDS
from . import checkpoints
from .checkpoints import ClaimLost


@dataclass(frozen=True)
class Timings:
    """How long a consumer waits for what, in seconds."""

    #: A lease that is not renewed ends after this; another process takes over.
    lease_seconds: float = 5.0
    #: Between two looks for requests of operators.
    poll_seconds: float = 0.5
    #: Between two writes of a checkpoint that does not move in a transaction.
    write_seconds: float = 0.5
    #: The same if there is nothing else to do: a caller may wait for the checkpoint.
    idle_write_seconds: float = 0.1
    #: A pause ends within this once the process is told to stop.
    stop_seconds: float = 0.1
    #: Before a subscription that failed runs again: the first time, and at most.
    first_pause_seconds: float = 0.2
    longest_pause_seconds: float = 5.0


DEFAULT_TIMINGS = Timings()


class Claim:
    """
    The claim of one process on one subscription.

    Args:
        name: the subscription.
        owner: this process.
        stop: set when the process is to stop.
        timings: how long to wait for what.
        clock: a monotonic clock, in seconds.
    """

    def __init__(
        self,
        name: str,
        owner: str,
        stop: Event,
        timings: Timings = DEFAULT_TIMINGS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self.owner = owner
        self.stop = stop
        self.timings = timings
        self.clock = clock
        #: When the lease was renewed last; 0 without one.
        self.renewed = 0.0
        self.fence = 0
        self.session: Any = None
        self._leasing = Lock()
        self._checked = 0.0  # when the stored claim was checked

    # --- the lease

    async def acquire_lease(self, store: Store) -> bool:
        """Acquire the lease; False if another process has it."""
        began = self.clock()
        if not await self._lease(store):
            return False
        self.renewed = began  # the server counts from later, so it gives it longer
        return True

    async def _lease(self, store: Store) -> bool:
        name, seconds = subscription_lease(self.name), self.timings.lease_seconds
        with in_time():
            return bool(await leases.acquire(store, name, self.owner, seconds))

    async def renew_lease(self, store: Store) -> None:
        """Renew the lease, from another thread; the owner notices if it is lost."""
        began = self.clock()
        kept = await self._lease(store)
        # The server counts from later than ``began``, so it gives the lease longer.
        renewed = began if kept else -self.timings.lease_seconds
        with self._leasing:
            if self.renewed:  # else it was given back meanwhile
                self.renewed = renewed

    def give_back(self) -> None:
        """Have no lease from now on, whatever a renewal on its way returns."""
        with self._leasing:
            self.renewed = 0.0

    async def release_lease(self, store: Store) -> None:
        """Let another process acquire the lease at once."""
        with suppress(PyMongoError, StoreUnavailable), in_time(END_SECONDS):
            await leases.release(store, subscription_lease(self.name), self.owner)

    def check(self) -> None:
        """
        Check that the lease is still valid, by our clock.

        Raises:
            ClaimLost: it could not be renewed, and another process may have it.
        """
        if self.clock() - self.renewed > self.timings.lease_seconds:
            raise ClaimLost

    async def check_stored(self, store: Store) -> None:
        """
        Check the lease, and now and then whether an operator has ended the claim.

        Raises:
            ClaimLost: the subscription was reset or paused, or another process has it.
        """
        self.check()
        now = self.clock()
        if now - self._checked >= self.timings.poll_seconds:
            self._checked = now
            await checkpoints.check_fence(store, self.name, self.fence)

    # --- the fence and the session

    async def take_over(self, store: Store, session: Any) -> Document:
        """
        Claim the subscription, and return its document with the new fence.

        Raises:
            ClaimLost: another process was faster.
        """
        claimed = await checkpoints.claim(
            store, self.name, self.owner, session.session_id["id"]
        )
        self.fence, self.session = claimed["fence"], session
        self._checked = self.clock()
        return claimed

    async def move(
        self,
        store: Store,
        changes: Mapping[str, Any],
        delivered: int = 0,
        *,
        back: bool = False,
    ) -> None:
        """Write the checkpoint under the fence; see ``checkpoints.move()``."""
        with in_time():
            await checkpoints.move(
                store, self.name, self.fence, changes, delivered, back=back
            )

    async def leave(self, store: Store) -> None:
        """Note that no transaction is open: the session is used again elsewhere."""
        expected = (PyMongoError, StoreUnavailable, ClaimLost)
        with suppress(*expected), in_time(END_SECONDS):
            await self.move(store, {"session": None})

    async def read_what_is_stored(self, store: Store) -> None:
        """
        Let the session read everything that was acknowledged to any process.

        A new primary has it, and for a while does not know that a majority has it too.
        A read in that time would miss events, and they would be taken for delivered.
        """
        with in_time():
            await store.client.command("ping", session=self.session)

    # --- pauses

    async def pause(
        self, store: Store, seconds: float, *, leased: bool = False
    ) -> None:
        """
        Pause, until the process is to stop at the latest.

        Raises:
            ClaimLost: ``leased``, and the lease could not be renewed meanwhile.
        """
        end = self.clock() + seconds
        while not self.stop.is_set() and (left := end - self.clock()) > 0:
            await store.client.pause(min(left, self.timings.stop_seconds))
            if leased:
                await self.check_stored(store)
