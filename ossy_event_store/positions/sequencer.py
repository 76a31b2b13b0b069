"""
One order over all events: positions 1, 2, 3, … without gaps, given after the commit.

An append stays a plain insert. A sequencer follows the change stream of the events,
which is in the order of their commits, and writes an *entry* for each into
``positions``: ``{_id: position, eventId, aggregateId, aggregateVersion, …}``. The
entries are derived, and can be dropped and made again at any time.

Two things hold after every write, and all else rests on them:

- the entries of a stream are its first versions, in order and without a gap;
- an entry with a ``token`` says that every event up to that point of the change
  stream has its entry.

Any number of sequencers may run. The position and the version are unique among the
entries: one that was overtaken writes nothing, and starts again behind the last entry.
"""

from __future__ import annotations

import logging
from collections import defaultdict, deque
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing, suppress
from math import exp, inf
from threading import Event
from time import monotonic
from typing import Any

from pymongo.client_session import ClientSession
from pymongo.collection import Collection
from pymongo.errors import BulkWriteError, OperationFailure, PyMongoError

from ..documents.bson_types import Document
from ..exceptions import StoreUnavailable
from ..mongodb.connection import Store, raw
from ..mongodb.indexes import ENTRY_VERSIONS, TIME
from ..mongodb.leases import acquire, release
from ..mongodb.ports import drive
from ..mongodb.write_errors import DUPLICATE_KEY, short_reason

logger = logging.getLogger("ossy_event_store")

LIVE = 500  # changes a round trip
SCAN = 1000  # events a round trip, of those that were there before
RENEW = 60.0  # seconds without events until the point that is reached is noted anew
# What comes alone has its position at once. What comes fast shares the writes of the
# sequencer and of all who follow: each waits for the disks of a majority, as an append
# does, and holds appends up. So it rests the longer the more comes, up to this.
REST, LONGEST_REST = 0.005, 0.25  # seconds, for each event of the last second
WAIT = 0.5  # seconds that a running sequencer waits for an event
LEASE = 5.0  # seconds after which another process goes on for one that is gone
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 5.0  # seconds, after failures
HEADS = 100_000  # streams whose last version is kept in memory

# CappedPositionLost, InvalidResumeToken, ChangeStreamFatalError and -HistoryLost.
LOST = frozenset({136, 260, 280, 286})
LEASED = "sequencer"  # among the leases: who gives positions
PROGRESS = "sequencer scan"  # among the leases: how far a scan of the events came

_FIELDS = ("aggregateId", "aggregateVersion", "aggregateType", "type")
# The driver asks for a whole document; what an entry needs is less.
_SHOWN = {"_id": 1, "created": 1, **dict.fromkeys(_FIELDS, 1)}


class HistoryLost(Exception):
    """The change stream cannot go on from where it was."""


class HoleInStream(Exception):
    """A version is there, and one before it is not: ``verify_event_store`` names it."""


class Sequencer:
    """Gives positions. One thread uses it; other processes may have their own."""

    def __init__(self, store: Store) -> None:
        #: Whether there was nothing left to do when ``advance()`` looked last.
        self.is_caught_up = False
        self._events = raw(store.events)
        self._entries = raw(store.positions)
        self._progress = raw(store.leases)
        #: The last position that it knows to be given.
        self.last = 0
        self._heads: dict[str, int] = {}
        self._wait = 0.0
        self._is_lost = False
        self._steps: Generator[int, None, None] | None = None

    def advance(self, wait: float = 1.0) -> int:
        """
        Give positions to some events, and return to how many.

        Args:
            wait: seconds to wait for an event if there is none.

        Raises:
            PyMongoError: the server did not answer. Call again, after a pause.
            HoleInStream: an event was stored past the store.
        """
        self._wait = wait
        self.is_caught_up = False
        if self._steps is None:
            self._steps = self._work()
        try:
            return next(self._steps)
        except HistoryLost:
            self.close()
            self._is_lost = True
            return 0
        except BulkWriteError as error:
            self.close()
            errors = error.details.get("writeErrors", [])
            if any(one["code"] == DUPLICATE_KEY for one in errors):
                return 0  # overtaken
            raise
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let the server go; ``advance()`` begins anew."""
        if self._steps is not None:
            with suppress(PyMongoError):
                self._steps.close()
        self._steps = None

    # --- what it does, step by step

    def _work(self) -> Generator[int, None, None]:
        self._heads.clear()
        last = self._entries.find_one(sort=[("_id", -1)])
        self.last = last["_id"] if last else 0
        changes = self._resume(last.get("token") if last else None)
        if changes is None:
            changes = yield from self._scan()
        with closing(changes):
            yield from self._follow(changes)

    def _resume(self, token: Any) -> ChangeStream | None:
        if token is None or self._is_lost:
            return None
        try:
            return ChangeStream(self._events, token)
        except HistoryLost:
            return None

    def _follow(self, changes: ChangeStream) -> Generator[int, None, None]:
        noted = monotonic()
        while True:
            found = changes.fetch(self._wait)
            given = self._give(found)
            self.is_caught_up = not found
            if given:
                noted = monotonic()
            elif monotonic() - noted > RENEW:
                self._certify(changes.token)
                noted = monotonic()
            yield given

    def _scan(self) -> Generator[int, None, ChangeStream]:
        """Take in what has no position yet; return the changes from its beginning."""
        begun = self._progress.find_one({"_id": PROGRESS})
        changes = self._resume(begun["token"]) if begun else None
        after = begun["after"] if begun and changes else None
        changes = changes or ChangeStream(self._events)
        self._is_lost = False
        try:
            token = changes.token
            for batch in self._since(after):
                yield self._give([(event, None) for event in _by_version(batch)])
                after = {"created": batch[-1].get("created"), "_id": batch[-1]["_id"]}
                state = {"token": token, "after": after}
                self._progress.replace_one({"_id": PROGRESS}, state, upsert=True)
            self._certify(token)
            self._progress.delete_one({"_id": PROGRESS})
        except BaseException:
            changes.close()
            raise
        return changes

    def _since(self, after: Document | None) -> Generator[list[Document], None, None]:
        """Yield all events that the primary has now, by time."""
        with self._events.database.client.start_session() as session:
            # What is read behind it is at least as new as the change stream's begin.
            self._events.database.command("ping", session=session)
            keys = list(TIME.keys)
            cursor = self._events.find(
                {}, _SHOWN, sort=keys, hint=keys, batch_size=SCAN, session=session
            )
            if after is not None:
                # A bound of the index: unlike $gt it goes on from numbers to dates.
                cursor = cursor.min([(name, after[name]) for name, _ in keys])
            with cursor:
                while batch := cursor.to_list(SCAN):
                    yield batch

    def _give(self, found: Sequence[tuple[Document, Any]]) -> int:
        """Write the entries of those events that have none; return how many."""
        found = [(event, token) for event, token in found if _is_event(event)]
        self._learn({event["aggregateId"] for event, _ in found})
        entries: list[Document] = []
        for event, token in found:
            stream, version = event["aggregateId"], event["aggregateVersion"]
            head = self._heads[stream]
            if version <= head:
                continue
            missed = self._between(stream, head, version) if version > head + 1 else []
            for one in (*missed, event):
                entry = {"_id": self.last + len(entries) + 1, "eventId": one["_id"]}
                entry.update((name, one.get(name)) for name in _FIELDS)
                entries.append(entry)
            if token is not None:
                entries[-1]["token"] = token
            self._heads[stream] = version
        if entries:
            self._entries.insert_many(entries)
            self.last = entries[-1]["_id"]
        return len(entries)

    def _learn(self, streams: set[str]) -> None:
        """Find the last version that has an entry, of streams not known yet."""
        if len(self._heads) > HEADS:
            self._heads.clear()
        unknown = list(streams - self._heads.keys())
        if not unknown:
            return
        self._heads.update(dict.fromkeys(unknown, 0))
        order = {name: -1 for name, _ in ENTRY_VERSIONS.keys}
        head = {"$first": "$aggregateVersion"}
        found = self._entries.aggregate(
            [
                {"$match": {"aggregateId": {"$in": unknown}}},
                {"$sort": order},
                {"$group": {"_id": "$aggregateId", "head": head}},
            ]
        )
        self._heads.update((one["_id"], one["head"]) for one in found)

    def _between(self, stream: str, head: int, version: int) -> list[Document]:
        """Return the events of a stream between two versions."""
        versions = {"$gt": head, "$lt": version}
        query = {"aggregateId": {"$eq": stream}, "aggregateVersion": versions}
        found = self._events.find(query, _SHOWN).sort("aggregateVersion", 1).to_list()
        if len(found) != version - head - 1:
            raise HoleInStream(
                f"Stream {stream!r} has version {version}, and of {head + 1} to "
                f"{version - 1} there are {len(found)}. See verify_event_store."
            )
        return found

    def _certify(self, token: Any) -> None:
        """Note at the last entry that all up to a point has entries."""
        self._entries.update_one({"_id": self.last}, {"$set": {"token": token}})


def keep_giving(
    store: Callable[[], Store],
    stop: Event,
    owner: str,
    tell: Callable[[int], None] = lambda position: None,
) -> None:
    """
    Give positions until ``stop`` is set, if no other process does.

    The lease saves the others the work; that they may work at the same time is why
    one that ends takes nothing with it.

    Args:
        store: returns the blocking face; asked again after every failure.
        stop: set by whoever wants this to end, which it does within ``WAIT``.
        owner: the name of this process, from ``leases.new_owner()``.
        tell: called with the last position, again and again.
    """
    pause = FIRST_PAUSE
    while not stop.is_set():
        began = monotonic()
        try:
            _while_leased(store(), stop, owner, tell)
        except (PyMongoError, StoreUnavailable, HoleInStream) as error:
            if monotonic() - began > LONGEST_PAUSE:
                pause = FIRST_PAUSE  # it had worked
            logger.warning("No positions are given: %s", short_reason(error))
            stop.wait(pause)
            pause = min(2 * pause, LONGEST_PAUSE)


def _while_leased(
    store: Store, stop: Event, owner: str, tell: Callable[[int], None]
) -> None:
    sequencer, renewed, pace = Sequencer(store), -inf, Pace()
    try:
        while not stop.is_set():
            if monotonic() - renewed > LEASE / 3:
                if not drive(acquire(store, LEASED, owner, LEASE)):
                    stop.wait(LEASE / 5)
                    return
                renewed = monotonic()
            given = sequencer.advance(WAIT)
            tell(sequencer.last)
            rest = pace.after(given)
            if given < LIVE:
                stop.wait(rest)
    finally:
        sequencer.close()
        with suppress(PyMongoError, StoreUnavailable):
            drive(release(store, LEASED, owner))


class Pace:
    """How long a sequencer rests between two batches, by how much comes."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._at = clock()
        self._rate = 0.0  # events in about the last second

    def after(self, given: int) -> float:
        """Return for how many seconds to rest after a batch of so many events."""
        now = self._clock()
        self._rate = self._rate * exp(self._at - now) + given
        self._at = now
        return min(REST * self._rate, LONGEST_REST) if given else 0.0


class ChangeStream:
    """
    The inserts into a collection, in the order of their commits.

    The driver's own change stream waits for more before it gives what it has; this
    gives what has come as one batch.

    Raises:
        HistoryLost: the server has forgotten what came after ``token``.
    """

    def __init__(
        self,
        documents: Collection[Document],
        token: Any = None,
        fields: Sequence[str] = _FIELDS,
    ) -> None:
        self._database = documents.database
        self._name = documents.name
        self._session: ClientSession = self._database.client.start_session()
        stage = {"resumeAfter": token} if token is not None else {}
        shown = {f"fullDocument.{name}": 1 for name in ("_id", *fields)}
        try:
            # Without a first batch there is a token from the beginning on.
            self._take(
                "aggregate",
                self._name,
                pipeline=[
                    {"$changeStream": stage},
                    {"$match": {"operationType": {"$in": ["insert", "invalidate"]}}},
                    {"$project": {"operationType": 1, **shown}},
                ],
                cursor={"batchSize": 0},
                readConcern={"level": "majority"},
            )
        except BaseException:
            self._session.end_session()
            raise

    def fetch(self, wait: float) -> list[tuple[Document, Any]]:
        """Return what has come, or comes within some seconds, each with its token."""
        batch = self._take(
            "getMore",
            self._id,
            collection=self._name,
            batchSize=LIVE,
            maxTimeMS=max(1, round(wait * 1000)),
        )
        changes = [c for c in batch if c["operationType"] == "insert"]
        if not self._id or len(changes) < len(batch):
            raise HistoryLost
        return [(change["fullDocument"], change["_id"]) for change in changes]

    def close(self) -> None:
        """Tell the server that nobody reads on."""
        try:
            if self._id:
                with suppress(PyMongoError):
                    self._database.command(
                        "killCursors",
                        self._name,
                        cursors=[self._id],
                        session=self._session,
                    )
        finally:
            self._session.end_session()

    def _take(self, name: str, value: Any, **options: Any) -> list[Document]:
        try:
            answer = self._database.command(
                name, value, session=self._session, **options
            )
        except OperationFailure as error:
            if error.code in LOST:
                raise HistoryLost from error
            raise
        cursor = answer["cursor"]
        self._id = cursor["id"]
        self.token = cursor["postBatchResumeToken"]
        found: list[Document] = cursor.get("nextBatch", [])
        return found


def _is_event(document: Document) -> bool:
    """Whether it is an event at all, and not what somebody put beside them."""
    stream, version = document.get("aggregateId"), document.get("aggregateVersion")
    # Code, which BSON holds as well, is a subclass of str that cannot be a key.
    return type(stream) is str and isinstance(version, int)


def _by_version(events: Sequence[Document]) -> Iterable[Document]:
    """Yield the same events, where those of one stream stand in their order."""
    streams: defaultdict[Any, list[Document]] = defaultdict(list)
    for event in filter(_is_event, events):
        streams[event["aggregateId"]].append(event)
    queues = {
        stream: deque(sorted(some, key=lambda event: event["aggregateVersion"]))
        for stream, some in streams.items()
    }
    for event in filter(_is_event, events):
        yield queues[event["aggregateId"]].popleft()
