"""
Feeds: each new event is read once a process, and handed to all who listen for it.

A feed is one task of an event loop. It reads the entries of new positions, fetches the
events that somebody wants, and puts each into the queue of every listener that it
concerns. A listener that comes back reads what it missed by itself, and then joins.
Positions have no gaps, so a number says all that a listener knows: nothing is handed
to it twice and nothing is left out.

One thing has no position of its own: an event of a parked stream that a retry applies
to a projection, when the checkpoint has long passed it. The feed of that projection
announces it late, under the position that it has reached itself.

What a listener costs is bounded. One that does not take what it is given loses its
queue, and reads on by itself from where it was.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import threading
from collections import deque
from collections.abc import AsyncIterator, Collection, Hashable, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from time import monotonic
from typing import Any
from weakref import WeakKeyDictionary

from pymongo.errors import PyMongoError

from ..documents.bson_types import Document
from ..exceptions import PositionsBroken, StoreUnavailable
from ..mongodb import connection
from ..mongodb.connection import Store
from ..mongodb.deadline import in_time
from ..mongodb.write_errors import short_reason
from ..positions import reader
from ..positions.head_watcher import watcher
from ..positions.reader import head_position
from ..projections import projection as projections_projection
from . import applied_events
from .applied_events import NEVER, Checkpoint, ParkedStreams

logger = logging.getLogger("ossy_event_store")

PAGE = 500  # positions a read
MISSED = 100  # events a read, of those that one listener missed
QUEUE = 200  # notices that wait for one listener
READERS = 8  # listeners that read what they missed at the same time
REPLAY = 1000  # positions that are folded into keys for one who comes back
LOOK = 5.0  # seconds between two looks while nothing is told
PAUSE = 0.1  # seconds between two looks while something is due
PATIENCE = 2.0  # seconds for a position that is not there yet
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 5.0  # seconds, after failures


@dataclass(frozen=True, slots=True)
class EventFilter:
    """What a listener wants to hear of; all that is set has to hold."""

    #: The id of a stream.
    stream: str | None = None
    #: Types of events.
    types: frozenset[str] | None = None
    #: Types of aggregates.
    aggregate_types: frozenset[str] | None = None
    #: An event is told of once the projection of this name has applied it.
    projection: str | None = None
    #: The key that the event has in the projection.
    key: str | None = None

    def matches(self, event: Mapping[str, Any]) -> bool:
        """Whether an event, or its entry among the positions, is wanted."""
        return (
            (self.stream is None or _text(event, "aggregateId") == self.stream)
            and (self.types is None or _text(event, "type") in self.types)
            and (
                self.aggregate_types is None
                or _text(event, "aggregateType") in self.aggregate_types
            )
        )

    def query(self) -> Document:
        """Return the same as a query over the positions."""
        query: Document = {}
        if self.stream is not None:
            query["aggregateId"] = {"$eq": self.stream}
        if self.types is not None:
            query["type"] = {"$in": sorted(self.types)}
        if self.aggregate_types is not None:
            query["aggregateType"] = {"$in": sorted(self.aggregate_types)}
        return query

    def places(self) -> Iterable[Hashable]:
        """Return where in the index of a feed one who wants this is looked for."""
        if self.projection is not None:
            return [EVERYTHING if self.key is None else ("key", self.key)]
        if self.stream is not None:
            return [("aggregateId", self.stream)]
        if self.types is not None:
            return [("type", name) for name in self.types]
        if self.aggregate_types is not None:
            return [("aggregateType", name) for name in self.aggregate_types]
        return [EVERYTHING]


EVERYTHING = ()


def _text(event: Mapping[str, Any], name: str) -> str | None:
    """Return a field, unless another program has put something else there."""
    value = event.get(name)
    return value if isinstance(value, str) else None


class Notice:
    """
    A notification. ``event`` is None if earlier ones were lost.

    Args:
        position: up to where who takes it knows everything: that of the event, or of
            the feed if it is late.
        event: the event.
        is_late: it is for listeners that are after that position already as well.
    """

    __slots__ = ("event", "is_late", "position", "texts")

    def __init__(
        self, position: int, event: Document | None, *, is_late: bool = False
    ) -> None:
        self.position = position
        self.event = event
        self.is_late = is_late
        #: For whoever writes it out: what was written once serves all listeners.
        self.texts: dict[Hashable, bytes] = {}


# --- listening --------------------------------------------------------------


@asynccontextmanager
async def listening(
    wanted: EventFilter, after: int | None, *, returns: bool = False
) -> AsyncIterator[Listener]:
    """
    Listen while inside.

    Args:
        wanted: what to hear of.
        after: the position after which to start; None starts with what comes now.
        returns: whether it listened before, up to that position.
    """
    feed = _feed_of(wanted.projection)
    listener = Listener(feed, wanted, after, returns=returns)
    feed.enter(listener)
    try:
        yield listener
    finally:
        feed.leave(listener)


class Listener:
    """One who listens; made by ``listening()``."""

    def __init__(
        self,
        feed: Feed,
        wanted: EventFilter,
        after: int | None,
        *,
        returns: bool = False,
    ) -> None:
        self.wanted = wanted
        #: All that is wanted up to here was taken; None while that is not known.
        self.position = after
        #: Set when the feed or the server ends.
        self.is_ended = False
        self._feed = feed
        self._waiting: deque[Notice] = deque()
        self._news = asyncio.Event()
        self._is_joined = False
        self._is_checked = after is None
        self._returns = returns
        self._late_count = 0  # that of the feed, when the queue was emptied last

    async def take(self, seconds: float) -> list[Notice]:
        """
        Return what has come; an empty list if nothing came within some seconds.

        Raises:
            PyMongoError, StoreUnavailable: what was missed could not be read.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._news.wait()
        self._news.clear()
        if not self._is_joined and (missed := await self._catch_up()):
            self._news.set()  # there may be more
            return missed
        if not self._is_joined:
            return []
        here = self.position or 0
        found = [
            # An id never goes back: a feed may have reached less than its listener.
            Notice(here, one.event) if one.position < here else one
            for one in self._waiting
            if one.is_late or one.position > here
        ]
        self._waiting.clear()
        self.position = max(here, self._feed.position or 0)
        self._late_count = self._feed.late_count
        return found

    async def _catch_up(self) -> list[Notice]:
        """Return a page of what was missed; join the feed when nothing is left."""
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
            found, self.position = await feed.missed(self.wanted, self.position, upto)
            _heed_cancellation()
            if found:
                return found
        return []

    async def _check(self, position: int) -> list[Notice]:
        """Return a reset, if there is more to know than what comes after a position."""
        feed = self._feed
        is_beyond = position > (feed.position or 0) and await feed.is_beyond(position)
        _heed_cancellation()
        self._is_checked = True
        upto = feed.position or 0
        if is_beyond:
            return self._reset(upto)
        # At an equal position, one that returns may have left before the late event or
        # after it: a page that is fetched once too often is harmless, one that lacks an
        # event is not. A page that was just loaded has it, and would load for ever.
        if position < feed.late_at or (self._returns and position == feed.late_at):
            return self._reset(max(position, upto))
        self._late_count = feed.late_count
        return []

    def _reset(self, position: int) -> list[Notice]:
        """Continue after a position; whatever was missed before it is lost."""
        self.position, self._late_count = position, self._feed.late_count
        return [Notice(position, None)]

    # --- for the feed

    def offer(self, notice: Notice) -> None:
        """Put a notice into the queue; what does not fit is read anew later."""
        if len(self._waiting) < QUEUE:
            self._waiting.append(notice)
        else:
            self._feed.part(self)
            self._is_joined = False
            self._waiting.clear()
        self._news.set()

    def wake(self) -> None:
        """Look whether there is something to read."""
        self._news.set()

    def end(self) -> None:
        """Let it end."""
        self.is_ended = True
        self._news.set()


# --- feeds ------------------------------------------------------------------


class Feed:
    """The events of the store, as they get their positions."""

    def __init__(self) -> None:
        #: What is wanted up to here was handed on; None until the store has answered.
        self.position: int | None = None
        #: How often something was announced late: those who were not there missed it.
        self.late_count = 0
        #: The checkpoint of a projection when it last applied an event late.
        self.late_at = NEVER
        self._members: set[Listener] = set()
        self._index: dict[Hashable, set[Listener]] = {}
        self._turns = asyncio.Semaphore(READERS)
        self._session: Any = None
        self._task: asyncio.Task[None] | None = None

    # --- who listens

    def enter(self, listener: Listener) -> None:
        """Work at least as long as this one listens."""
        self._members.add(listener)
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="ossy_event_store.feed")
            _end_with_the_server()
        if self.position is not None:
            listener.wake()

    def leave(self, listener: Listener) -> None:
        """Forget one who does not listen any more."""
        self._members.discard(listener)
        self.part(listener)

    def join(self, listener: Listener) -> None:
        """Offer it what comes behind the present position."""
        for place in listener.wanted.places():
            self._index.setdefault(place, set()).add(listener)

    def part(self, listener: Listener) -> None:
        """Offer it nothing for now."""
        for place in listener.wanted.places():
            there = self._index.get(place, set())
            there.discard(listener)
            if not there:
                self._index.pop(place, None)

    def end(self) -> None:
        """Let every listener end."""
        for listener in list(self._members):
            listener.end()

    # --- the task

    async def _run(self) -> None:
        pause = FIRST_PAUSE
        try:
            while self._members:
                began = monotonic()
                try:
                    await self._follow()
                except (PyMongoError, StoreUnavailable) as error:
                    logger.warning("Listeners wait: %s", short_reason(error))
                    if monotonic() - began > LONGEST_PAUSE:
                        pause = FIRST_PAUSE  # it had worked
                    await asyncio.sleep(pause)
                    pause = min(2 * pause, LONGEST_PAUSE)
        except Exception:
            # A task that dies would say so to nobody.
            logger.exception("Listeners have to come again.")
        finally:
            _forget(self)
            self.end()

    async def _follow(self) -> None:
        store = await connection.awaitable()
        async with self._in_session(store) as session:
            self._session = session
            if self.position is None:
                await self._begin(store, session)
            while self._members and self.position is not None:
                await self._advance(store, session, self.position)
                _heed_cancellation()

    async def _begin(self, store: Store, session: Any) -> None:
        if not await _has_change_streams(store):
            logger.error(
                "Listeners hear nothing: MongoDB is a standalone server, where no "
                "event gets a position. Run it as a replica set, if only of one."
            )
        self.position = await self._reached(store, session)
        for listener in self._members:
            listener.wake()

    async def _advance(self, store: Store, session: Any, position: int) -> None:
        """Wait for a position beyond the last, and hand on what stands there."""
        head = await watcher.await_(position, LOOK)
        if await self._hand_on(store, session, position):
            return
        if await head_position(store, session) < position:
            logger.warning("The positions begin anew, and the listeners come again.")
            self._begin_anew()
        elif head > position:
            await asyncio.sleep(PAUSE)

    def _begin_anew(self) -> None:
        self.end()
        self.position = None
        self._members.clear()
        self._index.clear()

    async def _reached(self, store: Store, session: Any) -> int:
        """Return the position with which to begin."""
        return await head_position(store, session)

    async def _hand_on(self, store: Store, session: Any, after: int) -> bool:
        """Hand a page of new events on; return whether there was one."""
        with in_time():
            entries = await store.positions.find(
                {"_id": {"$gt": after}},
                projection={"token": 0, "eventId": 0},
                sort=[("_id", 1)],
                limit=PAGE,
                session=session,
            )
        events: dict[int, Document | None] = {}
        # Again, as somebody may have joined while the events were fetched.
        while new := [
            entry["_id"]
            for entry in entries
            if entry["_id"] not in events and self._concerned(entry)
        ]:
            events.update(dict.fromkeys(new))
            found = await _events(store, {"_id": {"$in": new}}, len(new), session)
            events.update((event["position"], event) for event in found)
        for _, event in sorted(events.items()):
            if event is not None:
                self._offer(Notice(event["position"], event), self._concerned(event))
        if entries:
            self.position = entries[-1]["_id"]
        return bool(entries)

    def _offer(self, notice: Notice, concerned: Iterable[Listener]) -> None:
        for listener in concerned:
            listener.offer(notice)

    def _concerned(self, event: Mapping[str, Any]) -> list[Listener]:
        fields = ("aggregateId", "aggregateType", "type")
        places: list[Hashable] = [(name, _text(event, name)) for name in fields]
        return self._found_at([EVERYTHING, *places], event)

    def _found_at(
        self, places: Collection[Hashable], event: Mapping[str, Any]
    ) -> list[Listener]:
        return [
            listener
            for place in places
            for listener in self._index.get(place, ())
            if listener.wanted.matches(event)
        ]

    # --- for those who come back

    async def is_beyond(self, position: int) -> bool:
        """Whether no event has this position, nor gets it soon."""
        await watcher.await_(position, PATIENCE)
        store = await connection.awaitable()
        async with self._turns, self._in_session(store) as session:
            return await head_position(store, session) < position

    async def missed(
        self, wanted: EventFilter, after: int, upto: int
    ) -> tuple[list[Notice], int]:
        """Return a page of what is wanted behind a position, and how far that is."""
        store = await connection.awaitable()
        async with self._turns, self._in_session(store) as session:
            found = await self._missed(store, session, wanted, after, upto)
            return [Notice(event["position"], event) for event in found[0]], found[1]

    async def _missed(
        self, store: Store, session: Any, wanted: EventFilter, after: int, upto: int
    ) -> tuple[list[Document], int]:
        query, sort = wanted.query(), "_id"
        if wanted.stream is None:
            query["_id"] = {"$gt": after}
        else:
            # By versions, which rise with the positions: what lies before is not read.
            known = await _version_at(store, session, wanted.stream, after)
            query["aggregateVersion"] = {"$gt": known}
            sort = "aggregateVersion"
        with in_time():
            entries = await store.positions.find(
                query,
                projection={"_id": 1},
                sort=[(sort, 1)],
                limit=MISSED,
                session=session,
            )
        if not entries:
            return [], upto
        found = [entry["_id"] for entry in entries]
        events = await _events(store, {"_id": {"$in": found}}, len(found), session)
        return events, found[-1] if len(found) == MISSED else max(found[-1], upto)

    @asynccontextmanager
    async def _in_session(self, store: Store) -> AsyncIterator[Any]:
        """Hold a session that sees what the feed has seen, whoever is the primary."""
        async with store.client.session() as session:
            seen = self._session
            if seen is not None and seen.operation_time is not None:
                session.advance_cluster_time(seen.cluster_time)
                session.advance_operation_time(seen.operation_time)
            yield session


class ProjectionFeed(Feed):
    """The events of the store, as a projection has applied them."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.projection = projections_projection.registered_projections()[name]
        self._checkpoint = Checkpoint(0, NEVER)
        self._parked: ParkedStreams = {}
        self._looked = 0.0

    async def _reached(self, store: Store, session: Any) -> int:
        self._looked, name = monotonic(), self.projection.name
        position = (await applied_events.read_checkpoint(store, session, name)).position
        self._parked = await applied_events.read_parked(store, session, name)
        # Again: listeners that connect need all that was late when those were read.
        self._checkpoint = await applied_events.read_checkpoint(store, session, name)
        self.late_at = self._checkpoint.late_at
        return position

    async def _hand_on(self, store: Store, session: Any, after: int) -> bool:
        now = await applied_events.read_checkpoint(store, session, self.projection.name)
        if now.position < after:
            return False  # it is being rebuilt
        if now.position > after or monotonic() - self._looked >= LOOK:
            await self._look(store, session, after, now)
        if now.position == after:
            return False
        upto = min(now.position, after + PAGE)
        for event, key in await self._applied(store, session, after, upto):
            self._offer(Notice(event["position"], event), self._of_key(key, event))
        self.position = upto
        return True

    async def _look(
        self, store: Store, session: Any, after: int, now: Checkpoint
    ) -> None:
        """Announce what was applied late up to the feed's position."""
        looked, name = monotonic(), self.projection.name
        parked = await applied_events.read_parked(store, session, name)
        if parked != self._parked:
            now = await applied_events.read_checkpoint(
                store, session, name
            )  # as at first
        late = await self._late(store, session, parked, after, now)
        # Nothing is awaited from here on: after a failure, all of it is done again.
        self._looked, self._parked, self._checkpoint = looked, parked, now
        self.late_at = now.late_at
        if late is None:
            self.late_count += 1
            everybody = set[Listener]().union(*self._index.values())
            self._offer(Notice(after, None, is_late=True), everybody)
        elif late:
            self.late_count += 1
            for event, key in late:
                notice = Notice(after, event, is_late=True)
                self._offer(notice, self._of_key(key, event))

    async def _late(
        self,
        store: Store,
        session: Any,
        parked: ParkedStreams,
        upto: int,
        now: Checkpoint,
    ) -> list[tuple[Document, str]] | None:
        """Return what was applied late since the last look; None if that is unknown."""
        old = self._parked
        if parked is None or old is None:
            return None if applied_events.may_be_late(self._checkpoint, now) else []
        query = self._wanted()
        found = await applied_events.applied_late(
            store, session, query, old, parked, upto
        )
        if not found:
            return None if found is None else []
        events = await _events(store, {"_id": {"$in": found}}, len(found), session)
        return await self._keyed(store, session, events)

    def _of_key(self, key: str, event: Document) -> list[Listener]:
        return self._found_at([EVERYTHING, ("key", key)], event)

    def _wanted(self) -> Document:
        return reader.wanted(self.projection.types, self.projection.aggregate_types)

    async def missed(
        self, wanted: EventFilter, after: int, upto: int
    ) -> tuple[list[Notice], int]:
        """See ``Feed``; who missed much is told that it lost something."""
        if upto - after > REPLAY:
            # No index knows the keys. Who shows a projection reads it anew anyway.
            return [Notice(upto, None)], upto
        return await super().missed(wanted, after, upto)

    async def _missed(
        self, store: Store, session: Any, wanted: EventFilter, after: int, upto: int
    ) -> tuple[list[Document], int]:
        upto = min(upto, after + PAGE)
        found = await self._applied(store, session, after, upto)
        return [
            event
            for event, key in found
            if wanted.matches(event) and wanted.key in (None, key)
        ], upto

    async def _applied(
        self, store: Store, session: Any, after: int, upto: int
    ) -> list[tuple[Document, str]]:
        """Return the events between two positions that have a key, each with it."""
        query = {**self._wanted(), "_id": {"$gt": after, "$lte": upto}}
        events = await _events(store, query, PAGE, session)
        parked = self._parked
        if parked is None:
            streams = (event["aggregateId"] for event in events)
            name = self.projection.name
            parked = await applied_events.parked_among(store, session, name, streams)
        done = [event for event in events if applied_events.is_applied(event, parked)]
        return await self._keyed(store, session, done)

    async def _keyed(
        self, store: Store, session: Any, events: Iterable[Document]
    ) -> list[tuple[Document, str]]:
        """Return the events that have a key, each with it; none that was skipped."""
        keyed = [(event, self._key(event)) for event in events]
        found = [(event, key) for event, key in keyed if key is not None]
        if not found:
            return []
        places = [event["position"] for event, _ in found]
        skipped = await applied_events.skipped_among(
            store, session, self.projection.name, self._checkpoint.generation, places
        )
        return [
            (event, key) for event, key in found if event["position"] not in skipped
        ]

    def _key(self, event: Document) -> str | None:
        try:
            key = self.projection.key(event)
        except Exception as error:
            # Not our failure: the projection has parked its stream, and says so.
            logger.warning(
                "Projection %s has no key for position %s: %s",
                self.projection.name,
                event["position"],
                short_reason(error),
            )
            return None
        return None if key is None else str(key)


# --- reading ----------------------------------------------------------------


async def _events(
    store: Store, query: Document, size: int, session: Any
) -> list[Document]:
    """Return the events of some positions; one that was deleted is passed over."""
    gone: list[int] = []
    while True:
        passed = {"$and": [query, {"_id": {"$nin": gone}}]} if gone else query
        try:
            return await reader.read(store, passed, size, session)
        except PositionsBroken as error:
            logger.error("Listeners do not hear of an event: %s", error)
            gone.append(error.position)


async def _version_at(store: Store, session: Any, stream: str, position: int) -> int:
    """Return the version that a stream had at a position."""
    with in_time():
        # From its end: who comes back has missed little.
        last = await store.positions.find_one(
            {"aggregateId": {"$eq": stream}, "_id": {"$lte": position}},
            projection={"aggregateVersion": 1},
            sort=[("aggregateVersion", -1)],
            session=session,
        )
    return int(last["aggregateVersion"]) if last else 0


async def _has_change_streams(store: Store) -> bool:
    with in_time():
        hello = await store.client.command("hello")
    return "setName" in hello or hello.get("msg") == "isdbgrid"


def _heed_cancellation() -> None:
    """End a task that was told to end while PyMongo (4.20) read and did not notice."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


# --- one of each an event loop ----------------------------------------------

_feeds: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str | None, Feed]]
_feeds = WeakKeyDictionary()


def _feed_of(projection: str | None) -> Feed:
    feeds = _feeds.setdefault(asyncio.get_running_loop(), {})
    if projection not in feeds:
        feeds[projection] = Feed() if projection is None else ProjectionFeed(projection)
    return feeds[projection]


def _forget(feed: Feed) -> None:
    feeds = _feeds.get(asyncio.get_running_loop(), {})
    for name, one in list(feeds.items()):
        if one is feed:
            del feeds[name]
    if not any(_feeds.values()):
        _leave_signals_alone()


# A server that is told to end waits until every answer has ended, uvicorn without a
# limit, and tells nobody: so the signal is heard here as well, before it.
_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_handlers: dict[int, Any] = {}


def _end_with_the_server() -> None:
    if threading.current_thread() is not threading.main_thread():
        return  # only there can a signal be listened for
    for number in _SIGNALS:
        handler = signal.getsignal(number)
        if callable(handler) and handler is not _on_signal:
            _handlers[number] = handler
            signal.signal(number, _on_signal)


def _leave_signals_alone() -> None:
    if threading.current_thread() is not threading.main_thread():
        return
    for number in _SIGNALS:
        if signal.getsignal(number) is _on_signal:
            signal.signal(number, _handlers[number])


def _on_signal(number: int, frame: Any) -> None:
    for loop in list(_feeds):
        with suppress(RuntimeError):  # it was closed
            loop.call_soon_threadsafe(_end_all, loop)
    _handlers[number](number, frame)


def _end_all(loop: asyncio.AbstractEventLoop) -> None:
    for feed in list(_feeds.get(loop, {}).values()):
        feed.end()
