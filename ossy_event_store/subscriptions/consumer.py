"""
One subscription at work: claim it, read, hand events on, retry, park, move on.

Written once; a thread drives it for plain handlers, an event loop for coroutines.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from threading import Event, Lock
from typing import Any, NamedTuple

from django.db import connections
from pymongo.errors import OperationFailure, PyMongoError

from ..documents.bson_types import Document
from ..exceptions import EventStoreError, StoreUnavailable
from ..mongodb import leases
from ..mongodb.connection import Store
from ..mongodb.deadline import in_time
from ..mongodb.write_errors import short_reason
from ..positions.head_watcher import watcher
from ..positions.reader import head_position, read
from . import checkpoints, parked_streams
from .checkpoints import ClaimLost
from .declaration import Subscription
from .delivery import (
    AtLeastOnce,
    Delivery,
    InDatabase,
    InTransaction,
    TooLarge,
    close_pool,
    side_by_side,
    streams_of,
)
from .parked_streams import Failed
from .transactions import DatabaseAway, HandlerFailed, is_away

logger = logging.getLogger("ossy_event_store")

PAGE = 2000  # events a read
LEASE = 5.0  # seconds after which another process takes over from one that is gone
LOOK = 0.5  # seconds between two looks at what an operator asked for
WRITE = 0.5  # seconds between two writes of a checkpoint that does not move by itself
SETTLE = 0.1  # the same if there is nothing else to do: somebody may wait for it
SLICE = 0.1  # seconds in which a pause notices that it is to stop
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 5.0  # seconds, after failures


def lease_of(name: str) -> str:
    """Return the lease under which a subscription is run."""
    return f"subscription {name}"


def effect_of(store: Store, session: Any, declared: Subscription) -> Delivery:
    """Return how the events of a subscription are delivered."""
    make: Callable[[Store, Any, Subscription], Delivery] = AtLeastOnce
    if declared.effect is not None:  # the snapshots, or a projection
        make = declared.effect
    elif declared.session:
        make = InTransaction
    elif declared.using:
        make = InDatabase
    return make(store, session, declared)


class StoppedAt(Exception):
    """A handler failed at ``event`` for good, and the subscription is to stop there."""

    def __init__(self, event: Document, error: BaseException) -> None:
        super().__init__(event, error)
        self.event = event
        self.error = error


class GaveUp(Exception):
    """A handler failed after all tries, and the event's stream is to wait."""

    def __init__(self, failed: Failed) -> None:
        super().__init__(failed)
        self.failed = failed


class _Page(NamedTuple):
    """Some events, and up to where nothing else is wanted."""

    events: list[Document]
    reach: int


class Consumer:
    """Runs one subscription, for as long as no other process does."""

    def __init__(self, declared: Subscription, owner: str, stop: Event) -> None:
        self.declared = declared
        self.owner = owner
        self.stop = stop
        #: When the lease was renewed last, by the monotonic clock; 0 without one.
        self.renewed = 0.0
        self._leasing = Lock()
        self.fence = 0
        self._session: Any = None
        self._position = 0  # what the checkpoint says
        self._seen = 0  # what has been read, and handed on or passed over
        self._parked: dict[str, int] = {}  # since which position a stream waits
        self._told = 0  # by the follower, of positions
        self._looked = 0.0
        self._written = 0.0
        self._rate = Rate()
        self._pool: ThreadPoolExecutor | None = None

    @property
    def name(self) -> str:
        """The subscription's name."""
        return self.declared.name

    def renew(self, renewed: float) -> None:
        """Take note that the lease was renewed, unless it was given back meanwhile."""
        with self._leasing:
            if self.renewed:
                self.renewed = renewed

    def give_back(self) -> None:
        """Have no lease any more, whatever a renewal says that is on its way."""
        with self._leasing:
            self.renewed = 0.0

    async def run(self, store: Store) -> None:
        """Work until ``stop`` is set; a failure is logged and tried again."""
        pause = FIRST_PAUSE
        while not self.stop.is_set():
            began = time.monotonic()
            try:
                if not await self._once(store):
                    await self._pause(store, LEASE / 5)
                continue
            except ClaimLost:
                await self._pause(store, SLICE)
                continue
            except Exception as error:
                if time.monotonic() - began > LONGEST_PAUSE:
                    pause = FIRST_PAUSE  # it had worked
                self._say(error)
                await self._note(store, error)
            await self._pause(store, pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    def _say(self, error: Exception) -> None:
        expected = (EventStoreError, PyMongoError)
        known = is_away(error) or (
            isinstance(error, expected) and not isinstance(error, OperationFailure)
        )
        logger.warning(
            "Subscription %s waits: %s",
            self.name,
            short_reason(error),
            exc_info=None if known else error,
        )

    async def _note(self, store: Store, error: Exception) -> None:
        if is_away(error):
            return  # there is nobody to tell
        with suppress(PyMongoError, StoreUnavailable, ClaimLost), in_time():
            await checkpoints.move(
                store,
                self.name,
                self.fence,
                {"lastError": checkpoints.error_record(error)},
            )

    async def _once(self, store: Store) -> bool:
        """Claim the subscription and work; False if there is nothing to do here."""
        declared, lease = self.declared, lease_of(self.name)
        if declared.begins:
            stands = await checkpoints.begin(
                store, self.name, declared.start, declared.kind, **declared.more
            )
        else:
            stands = await checkpoints.find(store, self.name) or {}
        if not stands or stands.get("stopped"):
            return False
        with in_time():
            if not await leases.acquire(store, lease, self.owner, LEASE):
                return False
        self.renewed = time.monotonic()
        try:
            async with store.client.session() as session:
                try:
                    await self._work(store, session)
                except Exception as error:
                    # Else a commit of MongoDB's may still be on its way.
                    if isinstance(error, DatabaseAway) or not is_away(error):
                        await self._leave(store)
                    raise
                await self._leave(store)
        finally:
            self.give_back()
            if self._pool is not None:
                close_pool(self._pool, self.declared.concurrency)
                self._pool = None
            with suppress(PyMongoError, StoreUnavailable), in_time():
                await leases.release(store, lease, self.owner)
        return True

    async def _work(self, store: Store, session: Any) -> None:
        claimed = await checkpoints.claim(
            store, self.name, self.owner, session.session_id["id"]
        )
        self.fence, self._session = claimed["fence"], session
        effect = effect_of(store, session, self.declared)
        self._position, self._seen = claimed["position"], await effect.begin(claimed)
        if self._seen < self._position:  # that database was restored to an earlier time
            with in_time():
                await checkpoints.move(
                    store, self.name, self.fence, {"position": self._seen}, back=True
                )
            self._position = self._seen
        await self._catch_up(store)
        self._parked = await effect.parked()
        self._looked = 0.0
        self._rate.unwritten = 0
        self._written = time.monotonic()
        try:
            page: _Page | None = None
            while not self.stop.is_set():
                self._check()
                await self._look(store, effect)
                if page is None:
                    page = await self._read(store, self._seen)
                if page.events:
                    page = await self._take_and_read(store, effect, page)
                else:
                    self._seen, page = page.reach, None
                await self._write(store, effect, idle=page is None)
                if page is None:
                    await self._wait(store)
        except StoppedAt as stopped:
            await self._stop_at(store, effect, stopped)
        finally:
            # Also after a failure: what is done need not be done again.
            with suppress(PyMongoError, StoreUnavailable, DatabaseAway, ClaimLost):
                await self._write(store, effect, now=True)

    async def _leave(self, store: Store) -> None:
        """Note that no transaction is open: the session is used again elsewhere."""
        with suppress(PyMongoError, StoreUnavailable, ClaimLost), in_time():
            await checkpoints.move(store, self.name, self.fence, {"session": None})

    async def _catch_up(self, store: Store) -> None:
        """
        Let the session see all that any process was told to be stored.

        A member that became the primary just now has it, and for a while does not know
        that a majority has: what is missing from a read would be taken for done.
        """
        with in_time():
            await store.client.command("ping", session=self._session)

    def _check(self) -> None:
        if time.monotonic() - self.renewed > LEASE:
            raise ClaimLost  # it could not be renewed, and another may have it

    # --- reading

    async def _read(self, store: Store, after: int) -> _Page:
        """Return the next events behind a position."""
        query = self.declared.query()
        # A session of its own: the other one may be at work in another thread.
        async with store.client.session() as session:
            if not query:
                query["_id"] = {"$gt": after}
                found = await read(store, query, PAGE, session)
                return _Page(found, found[-1]["position"] if found else after)
            # The session lets the second read see all that the first one saw.
            head = await head_position(store, session)
            if head <= after:
                return _Page([], after)
            query["_id"] = {"$gt": after, "$lte": head}
            found = await read(store, query, PAGE, session)
            full = len(found) == PAGE
            return _Page(found, found[-1]["position"] if full else head)

    async def _take_and_read(
        self, store: Store, effect: Delivery, page: _Page
    ) -> _Page | None:
        """Hand a page on; return the next one, if there is one already."""
        if len(page.events) < PAGE:
            await self._take(store, effect, page)
            return None
        # Far behind: the server looks for the next events while these are at work.
        following = self._read(store, page.reach)
        async with store.client.meanwhile(following) as ahead:
            await self._take(store, effect, page)
        return ahead.result() if self._seen == page.reach else None

    async def _wait(self, store: Store) -> None:
        """Wait for an event, or until it is time to look again."""
        for connection in connections.all(initialized_only=True):
            connection.close_if_unusable_or_obsolete()
        if self._told > self._seen:
            # It was told of more than there is to read: a new primary knows less for
            # a while, or the positions have begun anew.
            await self._pause(store, SLICE)
        seconds = LOOK if self._seen == self._position else min(LOOK, SETTLE)
        if self.declared.is_async:
            self._told = await watcher.await_(self._seen, seconds)
        else:
            self._told = watcher.wait(self._seen, seconds)

    async def _pause(
        self, store: Store, seconds: float, *, leased: bool = False
    ) -> None:
        end = time.monotonic() + seconds
        while not self.stop.is_set() and (left := end - time.monotonic()) > 0:
            await store.client.pause(min(left, SLICE))
            if leased:
                self._check()

    # --- handing on

    async def _take(self, store: Store, effect: Delivery, page: _Page) -> None:
        found, reach = page.events, page.reach
        if self.declared.concurrency > 1:
            await self._take_streams(store, effect, found)
        else:
            size = effect.size or len(found)
            for at in range(0, len(found), size):
                if self.stop.is_set():
                    return
                self._check()
                chunk = found[at : at + size]
                last = at + size >= len(found)
                after = reach if last else chunk[-1]["position"]
                await self._take_chunk(store, effect, chunk, after)
                await self._write(store, effect)
        if not self.stop.is_set():
            self._seen = reach

    async def _take_chunk(
        self, store: Store, effect: Delivery, chunk: Sequence[Document], after: int
    ) -> None:
        events = self._without_parked(chunk)
        if len(events) > 1 and await self._take_together(store, effect, events, after):
            return
        for number, event in enumerate(events, 1):
            if self.stop.is_set():
                return
            if self._waits(event):
                continue
            end = after if number == len(events) else event["position"]
            try:
                if not await self._try(store, effect, event, end):
                    return
            except GaveUp as gave_up:
                await self._park(effect, gave_up.failed, end)
        self._seen = after

    async def _take_together(
        self, store: Store, effect: Delivery, events: Sequence[Document], after: int
    ) -> bool:
        """Deliver several events; False if one of them failed, nobody knows which."""
        try:
            await self._deliver(effect, events, after)
        except HandlerFailed:
            return False
        except TooLarge:
            half = len(events) // 2
            between = events[half - 1]["position"]
            await self._take_chunk(store, effect, events[:half], between)
            if not self.stop.is_set():
                await self._take_chunk(store, effect, events[half:], after)
        return True

    async def _try(
        self, store: Store, effect: Delivery, event: Document, after: int
    ) -> bool:
        """
        Hand one event on, several times if need be.

        Returns:
            False if it was told to stop before that was done.

        Raises:
            GaveUp: the last try failed as well.
            StoppedAt: so it did, and the subscription is to stop then.
        """
        pause, longest = self.declared.backoff
        for tried in range(1, self.declared.retries + 2):
            try:
                await self._deliver(effect, [event], after)
                return True
            except HandlerFailed as failed:
                await self._failed(store, event, failed.error, tried)
            await self._pause(store, min(pause, longest), leased=True)
            if self.stop.is_set():
                return False
            pause *= 2
        raise AssertionError("the last try returns or raises")

    async def _failed(
        self, store: Store, event: Document, error: BaseException, tried: int
    ) -> None:
        final = tried > self.declared.retries
        self._log(event, error, tried, final=final)
        with in_time():
            await checkpoints.move(
                store,
                self.name,
                self.fence,
                {"lastError": checkpoints.error_record(error, event)},
            )
        if final and self.declared.on_error == "stop":
            raise StoppedAt(event, error)
        if final:
            raise GaveUp(Failed(event, error, tried))

    def _log(
        self, event: Document, error: BaseException, tried: int, *, final: bool
    ) -> None:
        logger.log(
            logging.ERROR if final else logging.WARNING,
            "Subscription %s failed at event %s (%s, version %s of %r), try %s: %s: %s",
            self.name,
            event["_id"],
            event["type"],
            event["aggregateVersion"],
            event["aggregateId"],
            tried,
            type(error).__name__,
            short_reason(error),
            exc_info=error if final else None,
        )

    async def _park(self, effect: Delivery, failed: Failed, after: int | None) -> None:
        """Park a stream; ``after`` is where all before is done, unless it is None."""
        moved = await effect.park(failed, after)
        self._parked[failed.event["aggregateId"]] = failed.event["position"]
        if after is not None:
            self._move(after, moved=moved)

    def _without_parked(self, chunk: Sequence[Document]) -> Sequence[Document]:
        if not self._parked:
            return chunk
        return [event for event in chunk if not self._waits(event)]

    def _waits(self, event: Document) -> bool:
        """
        Whether an event is for its stream's retry, as it came when that waited.

        One before that is not: it may come once more, or have been lost on the way.
        """
        begun = self._parked.get(event["aggregateId"])
        return begun is not None and event["position"] >= begun

    async def _deliver(
        self, effect: Delivery, events: Sequence[Document], after: int
    ) -> None:
        moved, parked = await effect.deliver(events, after)
        for failed in parked:
            self._log(failed.event, failed.error, failed.tries, final=True)
            self._parked[failed.event["aggregateId"]] = failed.event["position"]
        self._rate.add(len(events), written=moved)
        self._move(after, moved=moved)

    def _move(self, after: int, *, moved: bool) -> None:
        self._seen = after
        if moved:
            self._position = after
            self._written = time.monotonic()

    async def _take_streams(
        self, store: Store, effect: Delivery, found: Sequence[Document]
    ) -> None:
        """Hand the events of several streams on at a time."""
        done: set[int] = set()
        many, is_async = self.declared.concurrency, self.declared.is_async
        if self._pool is None and not is_async:
            self._pool = ThreadPoolExecutor(many, f"ossy_event_store.{self.name}")
        works = [
            partial(self._lane, store, effect, events, done)
            for events in streams_of(found)
        ]
        raised = await side_by_side(works, many, is_async, self._pool)
        for error in raised:
            if isinstance(error, GaveUp):
                await self._park(effect, error.failed, None)
        # Up to the first event that is not done; those behind it come once more.
        for event in found:
            if event["position"] not in done and not self._waits(event):
                break
            self._seen = event["position"]
        self._raise_first(raised)

    def _raise_first(self, raised: Sequence[Any]) -> None:
        """Raise what kept a stream from going on; of what stops all, the first."""
        stopped: list[StoppedAt] = []
        for error in raised:
            if isinstance(error, StoppedAt):
                stopped.append(error)
            elif isinstance(error, BaseException) and not isinstance(error, GaveUp):
                raise error
        if self.stop.is_set():
            return  # some streams may not have come to their events
        if stopped:
            # Who skips it goes on behind it, so all before it has to be done.
            raise min(stopped, key=lambda error: error.event["position"])

    async def _lane(
        self, store: Store, effect: Delivery, events: Sequence[Document], done: set[int]
    ) -> None:
        """Hand the events of one stream on, and note which are done."""
        for event in events:
            if self.stop.is_set():
                return
            if not self._waits(event):
                self._check()
                if not await self._try(store, effect, event, self._seen):
                    return
            done.add(event["position"])

    # --- the checkpoint

    async def _write(
        self, store: Store, effect: Delivery, *, idle: bool = False, now: bool = False
    ) -> None:
        """Write the checkpoint if it is time to."""
        count, since = self._rate.unwritten, time.monotonic() - self._written
        pause = WRITE
        if idle:  # if all that there was are events of others, it can wait longer
            pause = min(SETTLE, WRITE) if count else LOOK
        is_written = self._seen == self._position and not count
        if is_written or not (now or since > pause):
            return
        await effect.settle(self._seen)
        with in_time():
            await checkpoints.move(
                store,
                self.name,
                self.fence,
                {"position": self._seen, "rate": self._rate.value},
                count,
            )
        self._position = self._seen
        self._rate.unwritten -= count
        self._written = time.monotonic()

    async def _stop_at(
        self, store: Store, effect: Delivery, stopped: StoppedAt
    ) -> None:
        kept = checkpoints.error_record(stopped.error, stopped.event)
        await self._write(store, effect, now=True)
        with in_time():
            await checkpoints.move(store, self.name, self.fence, {"stopped": kept})
        logger.error(
            "Subscription %s has stopped; see manage.py subscriptions.", self.name
        )

    # --- what an operator asked for

    async def _look(self, store: Store, effect: Delivery) -> None:
        if time.monotonic() - self._looked < LOOK:
            return
        self._looked = time.monotonic()
        await checkpoints.check(store, self.name, self.fence)
        asked = await parked_streams.parked(store, self.name, retry=True)
        if asked:
            # Or what came before a stream waited might come again behind its retry.
            await self._write(store, effect, now=True)
            await self._catch_up(store)
        end = time.monotonic() + LOOK  # then it is the turn of what comes in
        for waits in asked:
            await self._retry(store, effect, waits, end)
            if time.monotonic() >= end:
                return

    async def _retry(
        self, store: Store, effect: Delivery, waits: Document, end: float
    ) -> None:
        """Deliver what a parked stream has: until it is level, fails, or ``end``."""
        waits = await effect.resume(waits)
        while not self.stop.is_set():
            events = await read(
                store,
                {
                    **self.declared.query(),
                    "aggregateId": {"$eq": waits["aggregateId"]},
                    "aggregateVersion": {"$gte": waits["aggregateVersion"]},
                    "_id": {"$lte": self._seen},
                },
                1,
                self._session,
            )
            if not events:
                if await effect.release(waits, self._seen):
                    self._parked.pop(waits["aggregateId"], None)
                self._move(self._seen, moved=True)
                return
            (event,) = events
            self._check()
            try:
                await effect.redeliver(waits, event, self._seen)
            except HandlerFailed as failed:
                await parked_streams.failed_again(store, waits, event, failed.error)
                return
            self._rate.add(1)
            waits = {**waits, **parked_streams.behind(event)}
            if time.monotonic() >= end:
                return


class Rate:
    """Events a second, over the last seconds; several threads may add."""

    SPAN = 10.0

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = Lock()
        self._began = clock()
        self._now = 0
        self._last: tuple[int, float] = (0, 0.0)
        #: Events that the checkpoint does not count yet.
        self.unwritten = 0

    def add(self, count: int, *, written: bool = False) -> None:
        """Take note of some events."""
        with self._lock:
            spent = self._clock() - self._began
            if spent > self.SPAN:
                self._last = (self._now, spent)
                self._now, self._began = 0, self._clock()
            self._now += count
            if not written:
                self.unwritten += count

    @property
    def value(self) -> float:
        """Events a second."""
        spent = self._clock() - self._began
        count, seconds = self._last
        both = spent + seconds
        return round((self._now + count) / both, 1) if both > 0 else 0.0
