"""
A listener: the queue of one open connection, and its place in the feed.

A listener that does not keep up loses its queue, and then reads from the store what
it missed until it is up to date again.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from typing import ClassVar, Protocol

from .event_filter import EventFilter
from .feed_reads import raise_if_cancelled
from .limits import FeedLimits
from .notification import Notification


class Upstream(Protocol):
    """What a listener needs of its feed."""

    #: All events up to here are delivered; None until the store has answered.
    position: int | None
    #: How many times late events were announced.
    late_count: int
    #: The checkpoint of a projection when it last applied an event late.
    late_at: int
    limits: ClassVar[FeedLimits]

    def join(self, listener: Listener) -> None:
        """Offer the listener every event after the feed's position."""

    def part(self, listener: Listener) -> None:
        """Offer the listener nothing for now."""

    async def lacks(self, position: int) -> bool:
        """Whether no event has this position, nor gets it soon."""

    async def missed(
        self, wanted: EventFilter, after: int, upto: int
    ) -> tuple[list[Notification], int]:
        """Return a page of matching events, and the position that it reaches."""


class Listener:
    """One open connection; ``listening()`` makes it."""

    def __init__(
        self,
        feed: Upstream,
        wanted: EventFilter,
        after: int | None,
        *,
        reconnects: bool = False,
    ) -> None:
        self.wanted = wanted
        #: Every matching event up to here was received; None while that is unknown.
        self.position = after
        #: Set when the feed or the server ends.
        self.is_ended = False
        self._feed = feed
        self._queue: deque[Notification] = deque()
        self._bytes = 0  # of the events in the queue
        self._wakes = asyncio.Event()
        self._is_joined = False
        self._is_checked = after is None
        self._reconnects = reconnects
        self._late_count = 0  # that of the feed, when the queue was last emptied

    async def receive(self, seconds: float) -> list[Notification]:
        """
        Return the next notifications; an empty list if none arrives in time.

        Args:
            seconds: how long to wait for one.

        Raises:
            PyMongoError, StoreUnavailable: the missed events could not be read.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._wakes.wait()
        self._wakes.clear()
        if not self._is_joined and (missed := await self._catch_up()):
            self._wakes.set()  # there may be more
            return missed
        if not self._is_joined:
            return []
        here = self.position or 0
        received = [
            # Ids never go back: the feed may be behind its listener.
            one.at(here) if one.position < here else one
            for one in self._queue
            if one.is_late or one.position > here
        ]
        self._empty()
        self.position = max(here, self._feed.position or 0)
        self._late_count = self._feed.late_count
        return received

    async def _catch_up(self) -> list[Notification]:
        """Return a page of missed events; join the feed when none is left."""
        feed = self._feed
        while (upto := feed.position) is not None and not self.is_ended:
            if self.position is None:
                self.position, self._late_count = upto, feed.late_count
            elif not self._is_checked:
                if lost := await self._check(self.position):
                    return lost
                continue
            if self._late_count != feed.late_count:
                return self._reset(max(self.position, upto))
            if self.position >= upto:
                # Nothing was awaited since ``upto`` was read: no event slips through.
                feed.join(self)
                self._is_joined = True
                return []
            missed, self.position = await feed.missed(self.wanted, self.position, upto)
            raise_if_cancelled()
            if missed:
                return missed
        return []

    async def _check(self, position: int) -> list[Notification]:
        """Return a reset if reading on from a position would lose events."""
        feed = self._feed
        is_unknown = position > (feed.position or 0) and await feed.lacks(position)
        raise_if_cancelled()
        self._is_checked = True
        upto = feed.position or 0
        if is_unknown:
            return self._reset(upto)
        # At the same position, a client that reconnects may have left before the late
        # event or after it. Fetching the page once too often does no harm; a page that
        # lacks an event does. A page that was just loaded has the event, and would
        # reload for ever.
        if position < feed.late_at or (self._reconnects and position == feed.late_at):
            return self._reset(max(position, upto))
        self._late_count = feed.late_count
        return []

    def _reset(self, position: int) -> list[Notification]:
        """Continue after a position; the events before it are lost."""
        self.position, self._late_count = position, self._feed.late_count
        return [Notification(position)]

    # --- for the feed

    def offer(self, notification: Notification) -> None:
        """Queue a notification; if the queue is full, read the events later."""
        limits = self._feed.limits
        has_room = len(self._queue) < limits.queue_size
        if has_room and (self._bytes < limits.queue_bytes or not self._queue):
            self._queue.append(notification)
            self._bytes += notification.size
        else:
            self._feed.part(self)
            self._is_joined = False
            self._empty()
        self._wakes.set()

    def _empty(self) -> None:
        self._queue.clear()
        self._bytes = 0

    def wake(self) -> None:
        """Check whether there is something to read."""
        self._wakes.set()

    def end(self) -> None:
        """End the connection."""
        self.is_ended = True
        self._wakes.set()
