"""
The head of the one order, followed by one thread for all of a process.

Whoever waits for a new event waits here, so that a thousand of them cost the server no
more than one. What is told is a hint: readers read the positions themselves.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import threading
import time
from contextlib import closing, suppress

from ..mongodb import connection
from ..mongodb.ports import drive
from ..mongodb.write_errors import short_reason
from .reader import head_position
from .sequencer import ChangeStream, HistoryLost

logger = logging.getLogger("ossy_event_store")

WAIT = 1.0  # seconds that the server holds a question without an answer
PAUSE, LONGEST_PAUSE = 0.5, 5.0  # seconds, while there is no change stream
TOLD = 2.0  # seconds for which a sequencer of this process is relied on
UNUSED = 60.0  # seconds without a reader after which the thread ends


class Follower:
    """
    Knows the last position, and wakes whoever waits for one beyond it.

    Its thread begins with the first who waits and ends when nobody has waited for a
    while. ``follower`` of this module is the process's own.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._head = 0
        self._thread: threading.Thread | None = None
        self._end = threading.Event()
        self._asked = 0.0
        self._told = -TOLD
        self._loops: set[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = set()

    @property
    def head(self) -> int:
        """The last position that was seen; it may be behind."""
        return self._head

    def wait(self, after: int, seconds: float) -> int:
        """
        Wait until there is a position beyond ``after``, or ``seconds`` are over.

        Returns:
            The last position that was seen, which may still be ``after`` or less.
        """
        self._run()
        with self._changed:
            self._changed.wait_for(lambda: self._head > after, seconds)
        return self._head

    async def await_(self, after: int, seconds: float) -> int:
        """See ``wait()``; other tasks of the loop go on meanwhile."""
        end = time.monotonic() + seconds
        mine = (asyncio.get_running_loop(), asyncio.Event())
        self._loops.add(mine)
        try:
            self._run()
            while self._head <= after and (left := end - time.monotonic()) > 0:
                mine[1].clear()
                if self._head > after:
                    break
                with suppress(TimeoutError):
                    await asyncio.wait_for(mine[1].wait(), left)
        finally:
            self._loops.discard(mine)
        return self._head

    def tell(self, position: int) -> None:
        """
        Take note of a position; for the sequencer of this process.

        While it does so, again and again, the server need not be asked.
        """
        self._told = time.monotonic()
        self._saw(position)

    def _saw(self, position: int) -> None:
        with self._changed:
            if position <= self._head:
                return
            self._head = position
            self._changed.notify_all()
            waiting = list(self._loops)
        for loop, event in waiting:
            with suppress(RuntimeError):  # the loop was closed meanwhile
                loop.call_soon_threadsafe(event.set)

    # --- the thread

    def _run(self) -> None:
        self._asked = time.monotonic()
        if self._thread is not None and self._thread.is_alive():
            return
        with self._changed:
            if self._thread is None or not self._thread.is_alive():
                self._end = threading.Event()
                self._thread = threading.Thread(
                    target=self._follow,
                    args=(self._end,),
                    name="ossy_event_store.follow",
                    daemon=True,
                )
                self._thread.start()

    def close(self) -> None:
        """Let the thread end, and wait until it has; a ``wait()`` begins it anew."""
        thread = self._thread
        if thread is not None and thread.is_alive():
            self._end.set()
            thread.join(2 * WAIT)

    def _goes_on(self, end: threading.Event) -> bool:
        is_used = bool(self._loops) or time.monotonic() - self._asked < UNUSED
        return is_used and not end.is_set()

    def _is_told(self) -> bool:
        return time.monotonic() - self._told < TOLD

    def _follow(self, end: threading.Event) -> None:
        pause, said = PAUSE, ""
        while self._goes_on(end):
            if self._is_told():
                end.wait(PAUSE)
                continue
            began = time.monotonic()
            try:
                self._until_it_breaks(end)
            except HistoryLost:
                continue  # dropped or renamed: from the beginning
            except Exception as error:
                # Whatever it is, those who wait look for themselves now and then.
                if time.monotonic() - began > LONGEST_PAUSE:
                    pause, said = PAUSE, ""  # it had worked
                if (reason := short_reason(error)) != said:
                    logger.warning("New events are not seen: %s", reason)
                    said = reason
                end.wait(pause)
                pause = min(2 * pause, LONGEST_PAUSE)

    def _until_it_breaks(self, end: threading.Event) -> None:
        store = connection.blocking()
        with closing(
            ChangeStream(connection.raw(store.positions), fields=())
        ) as changes:
            # It may have fallen: positions can be dropped, and given anew.
            self._head = 0
            self._saw(drive(head_position(store)))
            while self._goes_on(end) and not self._is_told():
                found = changes.fetch(WAIT)
                if found:  # the last alone: who waits is woken once
                    self._saw(found[-1][0]["_id"])


follower = Follower()
atexit.register(follower.close)
if hasattr(os, "register_at_fork"):
    # A child has neither the thread nor those who waited.
    os.register_at_fork(after_in_child=follower.__init__)  # type: ignore[misc]
