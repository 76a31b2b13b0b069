"""
Watch the head of the global order, with one thread a process.

Everything that waits for a new event waits here, so that a thousand waiting threads
or tasks cost the server no more than one. What they learn is a hint: readers read the
positions themselves.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import threading
import time
from contextlib import closing, suppress

from pymongo.errors import PyMongoError

from ..mongodb import connection
from ..mongodb.connection import Store
from ..mongodb.ports import drive
from ..mongodb.write_errors import short_reason
from .change_stream import ChangeStream, HistoryLost
from .reader import head_position

logger = logging.getLogger("ossy_event_store")


class HeadWatcher:
    """
    Knows the last position, and wakes those that wait for a later one.

    Its thread starts with the first call that waits, and ends when nothing has waited
    for a while. ``watcher`` of this module is the process's own.
    """

    #: How long the server holds a request for changes while there are none.
    wait_seconds = 1.0
    #: Pauses between attempts while there is no change stream, doubled each time.
    first_pause_seconds = 0.5
    longest_pause_seconds = 5.0
    #: How long a notification of this process's sequencer spares asking the server.
    notified_seconds = 2.0
    #: How long the thread lives on while nothing waits.
    unused_seconds = 60.0

    def __init__(self) -> None:
        self._process = os.getpid()
        self._changed = threading.Condition()
        self._head = 0
        self._thread: threading.Thread | None = None
        self._end = threading.Event()
        self._used_at = 0.0
        self._notified_at = -self.notified_seconds
        self._loops: set[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = set()

    @property
    def head(self) -> int:
        """The last position that was seen; the store may have later ones."""
        return self._head

    def wait(self, after: int, seconds: float) -> int:
        """
        Wait until there is a position after ``after``, or ``seconds`` are over.

        Returns:
            The last position that was seen, which may still be ``after`` or less.
        """
        self._use()
        with self._changed:
            self._changed.wait_for(lambda: self._head > after, seconds)
        return self._head

    async def await_(self, after: int, seconds: float) -> int:
        """See ``wait()``; other tasks of the loop continue meanwhile."""
        end = time.monotonic() + seconds
        mine = (asyncio.get_running_loop(), asyncio.Event())
        self._use()
        self._loops.add(mine)
        try:
            while self._head <= after and (left := end - time.monotonic()) > 0:
                mine[1].clear()
                if self._head > after:
                    break
                with suppress(TimeoutError):
                    await asyncio.wait_for(mine[1].wait(), left)
        finally:
            self._loops.discard(mine)
        return self._head

    def notify(self, position: int) -> None:
        """
        Note a position; for the sequencer of this process.

        While the sequencer keeps calling, the thread does not ask the server.
        """
        self._notified_at = time.monotonic()
        self._note(position)

    def _note(self, position: int) -> None:
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

    def _use(self) -> None:
        """Note that something waits, and start the thread if it does not run."""
        if self._process != os.getpid():
            # A forked child has neither the thread nor those that waited. Not by
            # os.register_at_fork(): uWSGI forks without telling Python.
            HeadWatcher.__init__(self)
        self._used_at = time.monotonic()
        if self._thread is not None and self._thread.is_alive():
            return
        with self._changed:
            if self._thread is None or not self._thread.is_alive():
                self._end = threading.Event()
                self._thread = threading.Thread(
                    target=self._watch,
                    args=(self._end,),
                    name="ossy_event_store.head_watcher",
                    daemon=True,
                )
                self._thread.start()

    def close(self) -> None:
        """Stop the thread and wait for its end; the next ``wait()`` starts another."""
        thread = self._thread
        if thread is None or self._process != os.getpid():
            return
        if thread.is_alive():
            self._end.set()
            thread.join(2 * self.wait_seconds)

    def _is_needed(self, end: threading.Event) -> bool:
        unused = time.monotonic() - self._used_at
        return (bool(self._loops) or unused < self.unused_seconds) and not end.is_set()

    def _is_notified(self) -> bool:
        return time.monotonic() - self._notified_at < self.notified_seconds

    def _watch(self, end: threading.Event) -> None:
        pause, logged = self.first_pause_seconds, ""
        while self._is_needed(end):
            if self._is_notified():
                end.wait(self.first_pause_seconds)
                continue
            began = time.monotonic()
            try:
                self._read_changes(end)
            except HistoryLost:
                continue  # dropped or renamed: start again
            except Exception as error:
                if end.is_set():
                    return  # the process ends, and closes the client
                # Whatever it is: those that wait also read on their own, now and then.
                if time.monotonic() - began > self.longest_pause_seconds:
                    pause, logged = self.first_pause_seconds, ""  # it had worked
                if (reason := short_reason(error)) != logged:
                    logger.warning("Cannot watch for new events, retrying: %s", reason)
                    logged = reason
                end.wait(pause)
                pause = min(2 * pause, self.longest_pause_seconds)

    def _read_changes(self, end: threading.Event) -> None:
        store = connection.blocking()
        try:
            self._read_changes_of(store, end)
        except PyMongoError:
            # Mongo.connect(url) or Mongo.close() closes a client that is in use.
            if connection.blocking() is store:
                raise

    def _read_changes_of(self, store: Store, end: threading.Event) -> None:
        with closing(ChangeStream(connection.raw(store.positions))) as changes:
            # The head may have fallen: somebody dropped the positions.
            self._head = 0
            self._note(drive(head_position(store)))
            while self._is_needed(end) and not self._is_notified():
                found = changes.fetch(self.wait_seconds)
                if found:  # only the last, so that each waiting thread wakes once
                    self._note(found[-1][0]["_id"])


watcher = HeadWatcher()
atexit.register(watcher.close)
