"""
The feed: reads each new event once a process and delivers it to its listeners.

A feed is one task of an event loop. It reads the entries of new positions, fetches the
events that listeners want, and queues each for every listener that it concerns. A
listener that returns reads by itself what it missed, and then joins. Positions have no
gaps, so one number says all that a listener knows: it gets no event twice and misses
none.

The memory of a listener is bounded: one that does not keep up loses its queue, and
reads from the store where it left off.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import (
    AsyncIterator,
    Callable,
    Hashable,
    Iterable,
    Mapping,
    Sequence,
)
from contextlib import asynccontextmanager, nullcontext
from time import monotonic
from typing import Any, ClassVar

from pymongo.errors import PyMongoError

from ..documents.bson_types import Document
from ..documents.context import current as context
from ..exceptions import StoreUnavailable
from ..mongodb import connection
from ..mongodb.connection import Store
from ..mongodb.deadline import in_time
from ..mongodb.write_errors import short_reason
from ..positions.event_pages import PageLimit
from ..positions.head_watcher import watcher
from ..positions.reader import head_position
from .applied_events import NEVER
from .event_filter import EventFilter, index_keys_of
from .feed_reads import (
    has_change_streams,
    raise_if_cancelled,
    read_events,
    readings,
    version_at,
)
from .limits import FeedLimits
from .listener import Listener
from .notification import Notification, Result, chosen_of, notification_of
from .shutdown import server_is_stopping

logger = logging.getLogger("ossy_event_store")


def _results_of(event: Document) -> tuple[Sequence[Result], Document | None]:
    """Return the results of a stored event, or the event if nothing can read it."""
    found = readings(event)
    return ([], event) if found is None else ([(one, ()) for one in found], None)


class Feed:
    """
    The events of the store, as they get their positions.

    Args:
        on_end: called with the feed when its task ends.
    """

    limits: ClassVar[FeedLimits] = FeedLimits()

    def __init__(self, on_end: Callable[[Feed], None]) -> None:
        #: All events up to here are delivered; None until the store has answered.
        self.position: int | None = None
        #: How many times late events were announced; absent listeners missed them.
        self.late_count = 0
        #: The checkpoint of a projection when it last applied an event late.
        self.late_at = NEVER
        self._on_end = on_end
        self._members: set[Listener] = set()
        self._index: dict[Hashable, set[Listener]] = {}
        self._readers = asyncio.Semaphore(self.limits.concurrent_readers)
        self._session: Any = None
        large = self.limits.concurrent_readers_of_large
        self._readers_of_large = asyncio.Semaphore(large)
        self._pages = PageLimit(self.limits.page_bytes)
        self._task: asyncio.Task[None] | None = None

    # --- listeners

    def enter(self, listener: Listener) -> None:
        """Run at least as long as this listener listens."""
        self._members.add(listener)
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="ossy_event_store.feed")
        if self.position is not None:
            listener.wake()

    def leave(self, listener: Listener) -> None:
        """Forget a listener that no longer listens."""
        self._members.discard(listener)
        self.part(listener)

    def join(self, listener: Listener) -> None:
        """Offer the listener every event after the feed's position."""
        for key in listener.wanted.index_keys():
            self._index.setdefault(key, set()).add(listener)

    def part(self, listener: Listener) -> None:
        """Offer the listener nothing for now."""
        for key in listener.wanted.index_keys():
            members = self._index.get(key, set())
            members.discard(listener)
            if not members:
                self._index.pop(key, None)

    def end(self) -> None:
        """End every listener."""
        for listener in list(self._members):
            listener.end()

    # --- the task

    async def _run(self) -> None:
        context.enter(None)  # not that of the request that happened to be the first
        limits = self.limits
        pause = limits.retry_seconds
        ending = asyncio.create_task(self._end_with_the_server())
        try:
            while self._members:
                began = monotonic()
                try:
                    await self._follow()
                except (PyMongoError, StoreUnavailable) as error:
                    logger.warning(
                        "Event feed interrupted, retrying: %s", short_reason(error)
                    )
                    if monotonic() - began > limits.longest_retry_seconds:
                        pause = limits.retry_seconds  # it had worked
                    await asyncio.sleep(pause)
                    pause = min(2 * pause, limits.longest_retry_seconds)
        except Exception:
            # Nobody awaits this task, so nobody else would report its failure.
            logger.exception("Event feed failed; clients will reconnect.")
        finally:
            ending.cancel()
            self._on_end(self)
            self.end()

    async def _end_with_the_server(self) -> None:
        while True:
            await asyncio.sleep(self.limits.server_check_seconds)
            if server_is_stopping():
                self.end()

    async def _follow(self) -> None:
        store = await connection.awaitable()
        async with self._in_session(store) as session:
            self._session = session
            if self.position is None:
                await self._begin(store, session)
            while self._members and self.position is not None:
                await self._advance(store, session, self.position)
                raise_if_cancelled()

    async def _begin(self, store: Store, session: Any) -> None:
        if not await has_change_streams(store):
            logger.error(
                "Event feed needs a replica set: MongoDB is a standalone server, where "
                "events get no positions, so clients receive none. Run it as a replica "
                "set; one member is enough."
            )
        self.position = await self._first_position(store, session)
        for listener in self._members:
            listener.wake()

    async def _advance(self, store: Store, session: Any, position: int) -> None:
        """Wait for the next position, and deliver the events up to it."""
        head = await watcher.await_(position, self.limits.poll_seconds)
        if await self._deliver(store, session, position):
            return
        if await head_position(store, session) < position:
            logger.warning(
                "Positions were assigned again from the start; clients will reconnect."
            )
            self._start_over()
        elif head > position:
            await asyncio.sleep(self.limits.busy_poll_seconds)

    def _start_over(self) -> None:
        self.end()
        self.position = None
        self._members.clear()
        self._index.clear()

    async def _first_position(self, store: Store, session: Any) -> int:
        """Return the position after which the feed begins."""
        return await head_position(store, session)

    async def _deliver(self, store: Store, session: Any, after: int) -> bool:
        """Deliver a page of new events; return whether there was one."""
        with in_time():
            entries = await store.positions.find(
                {"_id": {"$gt": after}},
                projection={"token": 0, "eventId": 0},
                sort=[("_id", 1)],
                limit=self.limits.page_size,
                session=session,
            )
        events: dict[int, Document | None] = {}
        # Until nothing is new: listeners may join while events are fetched.
        while new := [
            entry["_id"]
            for entry in entries
            if entry["_id"] not in events and self._listeners_for(entry)
        ]:
            query, size = {"_id": {"$in": new}}, len(new) + 1
            read, upto = await read_events(store, query, size, session, self._pages)
            if upto is not None:  # the events of the others do not fit into memory
                entries = [entry for entry in entries if entry["_id"] <= upto]
                new = [position for position in new if position <= upto]
            events.update(dict.fromkeys(new))
            events.update((event["position"], event) for event in read)
        for _, event in sorted(events.items()):
            if event is not None:
                listeners = self._listeners_for(event)
                self._offer_each(event["position"], *_results_of(event), listeners)
        if entries:
            self.position = entries[-1]["_id"]
        return bool(entries)

    def _offer(self, notification: Notification, listeners: Iterable[Listener]) -> None:
        for listener in listeners:
            listener.offer(notification)

    def _offer_each(
        self,
        position: int,
        results: Sequence[Result],
        skipped: Document | None,
        listeners: Iterable[Listener],
        *,
        is_late: bool = False,
    ) -> None:
        """Offer each listener those of the results that it wants, all at once."""
        made: dict[tuple[int, ...], Notification] = {}
        for listener in listeners:
            chosen = chosen_of(listener.wanted, results)
            if not chosen and skipped is None:
                continue
            if chosen not in made:
                events = [results[number][0] for number in chosen]
                made[chosen] = Notification(
                    position, events, is_late=is_late, skipped=skipped
                )
            listener.offer(made[chosen])

    def _listeners_for(self, event: Mapping[str, Any]) -> list[Listener]:
        return self._matching(index_keys_of(event), event)

    def _matching(
        self, keys: Iterable[Hashable], event: Mapping[str, Any]
    ) -> list[Listener]:
        return [
            listener
            for key in keys
            for listener in self._index.get(key, ())
            if listener.wanted.matches(event)
        ]

    # --- for listeners that return

    async def lacks(self, position: int) -> bool:
        """Whether no event has this position, nor gets it soon."""
        await watcher.await_(position, self.limits.position_wait_seconds)
        store = await connection.awaitable()
        async with self._readers, self._in_session(store) as session:
            return await head_position(store, session) < position

    async def missed(
        self, wanted: EventFilter, after: int, upto: int
    ) -> tuple[list[Notification], int]:
        """Return a page of matching events, and the position that it reaches."""
        store = await connection.awaitable()
        is_large = self._pages.expects_large
        few = self._readers_of_large if is_large else nullcontext()
        async with few, self._readers, self._in_session(store) as session:
            return await self._missed(store, session, wanted, after, upto)

    async def _missed(
        self, store: Store, session: Any, wanted: EventFilter, after: int, upto: int
    ) -> tuple[list[Notification], int]:
        query, sort = wanted.query(), "_id"
        if wanted.stream is None:
            query["_id"] = {"$gt": after}
        else:
            # Versions rise with positions, so earlier events need not be read.
            known = await version_at(store, session, wanted.stream, after)
            query["aggregateVersion"] = {"$gt": known}
            sort = "aggregateVersion"
        limit = self.limits.missed_page_size
        with in_time():
            entries = await store.positions.find(
                query,
                projection={"_id": 1},
                sort=[(sort, 1)],
                limit=limit,
                session=session,
            )
        if not entries:
            return [], upto
        found = [entry["_id"] for entry in entries]
        query = {"_id": {"$in": found}}
        events, last = await read_events(
            store, query, len(found) + 1, session, self._pages
        )
        if last is None:
            last = found[-1] if len(found) == limit else max(found[-1], upto)
        missed = (
            notification_of(wanted, event["position"], *_results_of(event))
            for event in events
        )
        return [one for one in missed if one is not None], last

    @asynccontextmanager
    async def _in_session(self, store: Store) -> AsyncIterator[Any]:
        """Open a session that sees all that the feed saw, even on a new primary."""
        async with store.client.session() as session:
            seen = self._session
            if seen is not None and seen.operation_time is not None:
                session.advance_cluster_time(seen.cluster_time)
                session.advance_operation_time(seen.operation_time)
            yield session
