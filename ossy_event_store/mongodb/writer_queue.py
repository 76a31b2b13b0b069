"""
Turns: the writers of one process that met on a stream go on one after another.

Each would lose most races against the others and read the stream again for nothing.
Turns are advice, never a lock that something rests on: whoever waits too long goes
on without, other processes know nothing of them, and a writer that meets nobody
takes none.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any
from weakref import WeakValueDictionary

# Of this thread or task: two that each had a turn, and asked for the other's, would
# wait for each other.
_has_turn = ContextVar("has_turn", default=False)


class Turns:
    """The queues of one process, or of one event loop, by name of the stream."""

    def __init__(
        self,
        new_lock: Callable[[], Any],
        acquire: Callable[[Any, float], Awaitable[bool]],
    ) -> None:
        self.new_lock = new_lock
        self.acquire = acquire
        # A queue lives as long as somebody stands in it.
        self.locks: WeakValueDictionary[str, Any] = WeakValueDictionary()

    def place(self, name: str, patience: float) -> Ticket:
        """Return a place for one writer, who waits at most ``patience`` seconds."""
        return Ticket(self, name, patience)


class Ticket:
    """One writer's place in a queue; he stands in it from the first ``take()``."""

    def __init__(self, turns: Turns, name: str, patience: float) -> None:
        self.turns = turns
        self.name = name
        self.patience = patience
        self.lock: Any = None
        self.has_turn = False

    @property
    def is_wanted(self) -> bool:
        """Whether others stand there."""
        return self.name in self.turns.locks

    async def take(self) -> bool:
        """Wait for the turn; False when that would help nobody."""
        if self.lock is not None or _has_turn.get():
            return False
        self.lock = self.turns.locks.setdefault(self.name, self.turns.new_lock())
        self.has_turn = await self.turns.acquire(self.lock, self.patience)
        _has_turn.set(self.has_turn)
        return True

    def leave(self) -> None:
        """Let the next one go on."""
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
    """Return the turns of the blocking face: of the threads of this process."""
    return Turns(threading.Lock, _block)


def awaitable_turns() -> Turns:
    """Return the turns of the awaitable face: of the tasks of one loop."""
    return Turns(asyncio.Lock, _wait)
