"""
Queue the writers of one process that contend for a stream.

Without the queue each writer would lose most races against the others, and read the
stream again in vain. A turn is advice, not a lock: a writer that waits too long writes
without one, other processes do not take part, and a writer that meets no other one
takes no turn.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any
from weakref import WeakValueDictionary

# Of this thread or task. Two writers that each have a turn, and each wait for the
# other's, would wait for each other.
_has_turn = ContextVar("has_turn", default=False)


class Turns:
    """The queues of one process or event loop, one for each contended stream."""

    def __init__(
        self,
        new_lock: Callable[[], Any],
        acquire: Callable[[Any, float], Awaitable[bool]],
    ) -> None:
        self.new_lock = new_lock
        self.acquire = acquire
        # A queue exists as long as a writer is in it.
        self.locks: WeakValueDictionary[str, Any] = WeakValueDictionary()

    def place(self, name: str, patience: float) -> Ticket:
        """Return a ticket for a writer that waits at most ``patience`` seconds."""
        return Ticket(self, name, patience)


class Ticket:
    """One writer's place in a queue, from its first ``take()`` on."""

    def __init__(self, turns: Turns, name: str, patience: float) -> None:
        self.turns = turns
        self.name = name
        self.patience = patience
        self.lock: Any = None
        self.has_turn = False

    @property
    def is_wanted(self) -> bool:
        """Whether other writers are in the queue."""
        return self.name in self.turns.locks

    async def take(self) -> bool:
        """Wait for the turn; return False at once if waiting would not help."""
        if self.lock is not None or _has_turn.get():
            return False
        self.lock = self.turns.locks.setdefault(self.name, self.turns.new_lock())
        self.has_turn = await self.turns.acquire(self.lock, self.patience)
        _has_turn.set(self.has_turn)
        return True

    def leave(self) -> None:
        """Leave the queue, so that the next writer gets its turn."""
        if self.has_turn:
            _has_turn.set(False)
            self.lock.release()


async def _block(lock: threading.Lock, seconds: float) -> bool:
    return lock.acquire(timeout=seconds)  # this face blocks


async def _wait(lock: asyncio.Lock, seconds: float) -> bool:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            return await lock.acquire()
    return False


def blocking_turns() -> Turns:
    """Return the queues of the blocking face, for the threads of this process."""
    return Turns(threading.Lock, _block)


def awaitable_turns() -> Turns:
    """Return the queues of the awaitable face, for the tasks of one event loop."""
    return Turns(asyncio.Lock, _wait)
