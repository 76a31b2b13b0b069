"""
The loop of one subscription: claim it, read events, deliver them, start over.

Written once; a thread drives it for plain handlers, an event loop for coroutines.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from shlex import quote
from threading import Event
from typing import Any

from django.db import connections
from pymongo.errors import OperationFailure, PyMongoError

from ..documents.bson_types import Document
from ..exceptions import EventStoreError, StoreUnavailable
from ..mongodb.connection import Store
from ..mongodb.deadline import in_time
from ..mongodb.ports import END_SECONDS
from ..mongodb.write_errors import short_reason
from ..positions.event_pages import PAGE_BYTES, PageLimit
from ..positions.head_watcher import watcher
from ..positions.reader import EventPage, head_position, read
from ..streams.reducers import pass_on_what_ends
from . import checkpoints
from .attempts import Attempts, StoppedAt
from .checkpoints import ClaimLost
from .claim import DEFAULT_TIMINGS, Claim, Timings
from .declaration import Subscription
from .delivery import Delivery
from .delivery.at_least_once import AtLeastOnce
from .delivery.mongodb_transaction import InMongoDBTransaction
from .delivery.sql_transaction import InSQLTransaction
from .lanes import LanePerStream, Lanes, OneLane, Page, SideBySide
from .operator_requests import OperatorRequests
from .progress import Progress, Rate
from .transactions import DatabaseAway, is_away

logger = logging.getLogger("ossy_event_store")

PAGE_EVENTS = 2000  # that one read returns at most

Reach = Callable[[], Awaitable[Store]]


def delivery_of(store: Store, session: Any, declared: Subscription) -> Delivery:
    """Return how the events of a subscription are delivered."""
    make: Callable[[Store, Any, Subscription], Delivery] = AtLeastOnce
    if declared.delivery is not None:  # the snapshots, or a projection
        make = declared.delivery
    elif declared.session:
        make = InMongoDBTransaction
    elif declared.using:
        make = InSQLTransaction
    return make(store, session, declared)


class Consumer:
    """
    Runs one subscription, as long as no other process does.

    Args:
        declared: the subscription.
        owner: this process.
        stop: set when the process is to stop.
        timings: how long to wait for what.
        page_events: the most events that one read returns.
        page_bytes: and their bytes, about; as many are read ahead.
        clock: a monotonic clock, in seconds.
    """

    def __init__(
        self,
        declared: Subscription,
        owner: str,
        stop: Event,
        timings: Timings = DEFAULT_TIMINGS,
        *,
        page_events: int = PAGE_EVENTS,
        page_bytes: int = PAGE_BYTES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.declared = declared
        self.claim = Claim(declared.name, owner, stop, timings, clock)
        self.page_events = page_events
        self.page_limit = PageLimit(page_bytes)
        #: The last position whose event is delivered; None for all.
        self.until: int | None = None
        self._stop = stop
        self._clock = clock
        self._reach: Reach | None = None
        self._head = 0  # the last position that the head watcher knows of
        self._rate = Rate(clock)
        self._side_by_side = SideBySide(
            declared.name, declared.concurrency, is_async=declared.is_async
        )

    @property
    def name(self) -> str:
        """The subscription's name."""
        return self.declared.name

    async def run(self, store: Store, reach: Reach | None = None) -> None:
        """
        Work until ``stop`` is set; a failure is logged and tried again.

        Args:
            store: one face of the store.
            reach: returns the store to which the process is connected now, which
                ``Mongo.connect()`` may change at any time. None means always this one.
        """
        self._reach = reach
        timings = self.claim.timings
        pause = timings.first_pause_seconds
        while not self._stop.is_set():
            began = self._clock()
            try:
                store = await self._current(store)
                if not await self._once(store):
                    await self.claim.pause(store, timings.lease_seconds / 5)
                continue
            except ClaimLost:
                await self.claim.pause(store, timings.stop_seconds)
                continue
            except BaseException as error:
                pass_on_what_ends(error)
                if self._clock() - began > timings.longest_pause_seconds:
                    pause = timings.first_pause_seconds  # it had worked
                self._log(error)
                await self._record(store, error)
            await self.claim.pause(store, pause)
            pause = min(2 * pause, timings.longest_pause_seconds)

    async def _current(self, store: Store) -> Store:
        return await self._reach() if self._reach else store

    def _log(self, error: BaseException) -> None:
        expected = (EventStoreError, PyMongoError)
        known = is_away(error) or (
            isinstance(error, expected) and not isinstance(error, OperationFailure)
        )
        logger.warning(
            "Subscription %s failed, retrying: %s",
            self.name,
            short_reason(error),
            exc_info=None if known else error,
        )

    async def _record(self, store: Store, error: BaseException) -> None:
        if is_away(error) and not isinstance(error, DatabaseAway):
            return  # it cannot be stored either
        with suppress(PyMongoError, StoreUnavailable, ClaimLost):
            record = checkpoints.error_record(error)
            await self.claim.move(store, {"lastError": record})

    async def _once(self, store: Store) -> bool:
        """Claim the subscription and work; False if there is nothing to do here."""
        if not await self._may_run(store):
            return False
        if not await self.claim.acquire_lease(store):
            return False
        try:
            async with store.client.session() as session:
                try:
                    await self._work(store, session)
                except BaseException as error:
                    pass_on_what_ends(error)
                    # Else a commit of MongoDB's may still be on its way.
                    if isinstance(error, DatabaseAway) or not is_away(error):
                        await self.claim.leave(store)
                    raise
                await self.claim.leave(store)
        finally:
            self.claim.give_back()
            self._side_by_side.close()
            await self.claim.release_lease(store)
        return True

    async def _may_run(self, store: Store) -> bool:
        """Whether it has a document, and is neither stopped nor paused."""
        declared = self.declared
        if declared.creates_document:
            found = await checkpoints.find_or_create(
                store,
                self.name,
                declared.start,
                declared.kind,
                **declared.document_fields(),
            )
        else:
            found = await checkpoints.find(store, self.name) or {}
        return bool(found) and not (found.get("stopped") or found.get("paused"))

    async def _work(self, store: Store, session: Any) -> None:
        claim, declared = self.claim, self.declared
        claimed = await claim.take_over(store, session)
        delivery = self._delivery(store, session)
        position, seen = claimed["position"], await delivery.begin(claimed)
        if seen < position:  # that database was restored to an earlier time
            await claim.move(store, {"position": seen}, back=True)
            position = seen
        await claim.read_what_is_stored(store)
        parked = await delivery.parked()
        progress = Progress(store, claim, delivery, position, seen, self._rate)
        attempts = Attempts(store, declared, claim, delivery, progress, parked)
        requests = OperatorRequests(
            store, declared, claim, delivery, progress, attempts
        )
        lanes: Lanes = OneLane(store, claim, delivery, progress, attempts)
        if declared.concurrency > 1:
            lanes = LanePerStream(store, claim, progress, attempts, self._side_by_side)
        seconds = END_SECONDS
        try:
            await self._consume(store, progress, requests, lanes, attempts)
            seconds = math.inf
        except StoppedAt as stopped:
            await self._stop_at(store, progress, stopped)
            await attempts.retry_if_accepted(stopped.event)
        finally:
            # Also after a failure: what is done need not be done again. But a server
            # that has just failed to answer in time is not given as much time again.
            expected = (PyMongoError, StoreUnavailable, DatabaseAway, ClaimLost)
            with suppress(*expected), in_time(seconds):
                await progress.write()

    async def _consume(
        self,
        store: Store,
        progress: Progress,
        requests: OperatorRequests,
        lanes: Lanes,
        attempts: Attempts,
    ) -> None:
        """Read and deliver events, and do what operators ask for."""
        page: Page | None = None
        while not self._stop.is_set():
            self.claim.check()
            if (await self._current(store)).client is not store.client:
                return
            await requests.look()
            if page is None:
                page = await self._read(store, progress.seen)
            if page.events:
                page = await self._deliver_and_read(store, progress, lanes, page)
            else:
                progress.seen, is_full = page.reach, page.is_full
                page = await self._read(store, page.reach) if is_full else None
            is_left = await attempts.work()
            await progress.write_if_due(idle=page is None)
            if page is None and not is_left:
                await self._wait(store, progress)

    async def _stop_at(
        self, store: Store, progress: Progress, stopped: StoppedAt
    ) -> None:
        record = checkpoints.error_record(stopped.error, stopped.event)
        await progress.write()
        await self.claim.move(store, {"stopped": record})
        logger.error(
            "Subscription %s has stopped: an event failed. See manage.py subscriptions "
            "show %s, then retry or skip it.",
            self.name,
            quote(self.name),
        )

    def _delivery(self, store: Store, session: Any) -> Delivery:
        return delivery_of(store, session, self.declared)

    # --- reading

    async def _read(self, store: Store, after: int) -> Page:
        """Return the next events after a position."""
        query = self.declared.query()
        until = {} if self.until is None else {"$lte": self.until}
        # A session of its own: the other one may be at work in another thread.
        async with store.client.session() as session:
            if not query:
                query["_id"] = {"$gt": after, **until}
                found = await self._page(store, query, session)
                return Page(found.events, found.last or after, found.is_full)
            # The session lets the second read see all that the first one saw.
            head = await head_position(store, session)
            if self.until is not None:
                head = min(head, self.until)
            if head <= after:
                return Page([], after, is_full=False)
            query["_id"] = {"$gt": after, "$lte": head}
            found = await self._page(store, query, session)
            reach = found.last if found.is_full else head
            return Page(found.events, reach, found.is_full)

    async def _page(self, store: Store, query: Document, session: Any) -> EventPage:
        return await read(store, query, self.page_events, session, self.page_limit)

    async def _deliver_and_read(
        self, store: Store, progress: Progress, lanes: Lanes, page: Page
    ) -> Page | None:
        """Deliver a page; return the next one, if there is one already."""
        if not page.is_full:
            await lanes.deliver(page)
            return None
        # A large lag: the server finds the next events while these are delivered.
        following = self._read(store, page.reach)
        async with store.client.meanwhile(following) as ahead:
            await lanes.deliver(page)
        return ahead.result() if progress.seen == page.reach else None

    async def _wait(self, store: Store, progress: Progress) -> None:
        """Wait for an event, or until it is time to look again."""
        for connection in connections.all(initialized_only=True):
            connection.close_if_unusable_or_obsolete()
        timings, seen = self.claim.timings, progress.seen
        if self._head > seen:
            # The head watcher knows of more events than there are to read: a new
            # primary knows less for a while, or the positions have begun again.
            await self.claim.pause(store, timings.stop_seconds)
        seconds = timings.poll_seconds
        if seen != progress.position:
            seconds = min(seconds, timings.idle_write_seconds)
        if self.declared.is_async:
            self._head = await watcher.await_(seen, seconds)
        else:
            self._head = watcher.wait(seen, seconds)
