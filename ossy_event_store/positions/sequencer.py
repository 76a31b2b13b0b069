"""
Assign positions: 1, 2, 3, … without gaps, to each event after its commit.

An append stays a plain insert. A sequencer follows the change stream of the events,
which is in the order of their commits, and writes an *entry* for each into
``eventstore_positions``: ``{_id: position, eventId, aggregateId, …}``.

Never drop the entries to make them again. Entries can be rebuilt, but positions may
then differ: reset every subscription and rebuild every projection.

Two invariants hold after every write, and everything else rests on them:

- the entries of a stream are its first versions, in order, and without a gap but for
  versions whose loss was accepted;
- an entry with a ``token`` certifies that every event up to that point of the change
  stream has its entry, or that its stream is recorded as held up.

Any number of sequencers may run. Position and version are unique among the entries: a
sequencer that was overtaken writes nothing, and starts again after the last entry.
"""

from __future__ import annotations

import logging
from collections import defaultdict, deque
from collections.abc import Generator, Iterable, Sequence
from contextlib import closing, suppress
from math import inf
from time import monotonic
from typing import Any, ClassVar

from pymongo.errors import BulkWriteError, PyMongoError

from ..documents.bson_types import Document
from ..documents.collections import SEQUENCER_SCAN
from ..documents.passed_over import TYPED, VERSIONED, PassedOver, is_event
from ..mongodb.connection import Store, raw
from ..mongodb.indexes import ENTRY_VERSIONS, TIME
from ..mongodb.write_errors import DUPLICATE_KEY
from .change_stream import BATCH_SIZE, ChangeStream, HistoryLost
from .held_streams import HOLE, REPLACED, HeldStreams, accepted_of, contiguous

logger = logging.getLogger("ossy_event_store")

HEADS = 100_000  # streams whose last version is kept in memory

_OWN_INDEXES = ({"_id"}, {name for name, _ in ENTRY_VERSIONS.keys})
_FIELDS = ("aggregateId", "aggregateVersion", "aggregateType", "type")
TAGS = "tags"  # a field that most events do not have
# The driver would fetch whole documents; an entry needs only these fields.
_PROJECTION = {"_id": 1, "created": 1, TAGS: 1, **dict.fromkeys(_FIELDS, 1)}


class Sequencer:
    """Assigns positions. One thread uses it; other processes may have their own."""

    #: How many changes one round trip fetches.
    batch_size: ClassVar[int] = BATCH_SIZE
    #: How many events one round trip of the initial scan fetches.
    scan_batch_size: ClassVar[int] = 1000
    #: How long ``advance()`` waits for an event by default.
    wait_seconds: ClassVar[float] = 0.5
    #: Seconds without events until the token reached is stored again.
    certify_seconds: ClassVar[float] = 60.0
    #: Seconds between two looks for streams whose loss was accepted.
    look_seconds: ClassVar[float] = 1.0

    def __init__(self, store: Store) -> None:
        #: Whether the last ``advance()`` found nothing left to do.
        self.is_caught_up = False
        self._events = raw(store.events)
        self._entries = raw(store.positions)
        self._progress = raw(store.leases)
        self._held = HeldStreams(raw(store.damaged))
        #: The last position that it knows to be assigned.
        self.last = 0
        self._heads: dict[str, int] = {}
        self._wait = 0.0
        self._is_lost = False
        self._steps: Generator[int, None, None] | None = None

    def advance(self, wait: float | None = None) -> int:
        """
        Assign positions to some events; return to how many.

        Args:
            wait: seconds to wait for an event if there is none; ``wait_seconds`` by
                default.

        Raises:
            PyMongoError: the server did not answer. Call again, after a pause.
        """
        self._wait = self.wait_seconds if wait is None else wait
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
            if any(
                one["code"] == DUPLICATE_KEY and set(one["keyPattern"]) in _OWN_INDEXES
                for one in errors
            ):
                return 0  # overtaken
            raise
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the cursors; the next ``advance()`` opens new ones."""
        if self._steps is not None:
            with suppress(PyMongoError):
                self._steps.close()
        self._steps = None

    # --- what it does, step by step

    def _work(self) -> Generator[int, None, None]:
        self._heads.clear()
        last = self._entries.find_one(sort=[("_id", -1)])
        self.last = last["_id"] if last else 0
        self._held.load()  # after the token, which certifies what it says
        changes = self._resume(last.get("token") if last else None)
        if changes is None:
            changes = yield from self._scan()
        with closing(changes):
            yield from self._follow(changes)

    def _open(self, token: Any = None) -> ChangeStream:
        return ChangeStream(self._events, token, (*_FIELDS, TAGS), self.batch_size)

    def _resume(self, token: Any) -> ChangeStream | None:
        if token is None or self._is_lost:
            return None
        try:
            return self._open(token)
        except HistoryLost:
            return None

    def _follow(self, changes: ChangeStream) -> Generator[int, None, None]:
        certified, looked = monotonic(), -inf
        while True:
            assigned = 0
            if monotonic() - looked > self.look_seconds:
                assigned += self._try_again(self._held.requested())
                looked = monotonic()
            found = changes.fetch(self._wait)
            assigned += self._assign(found)
            self.is_caught_up = not found
            if assigned:
                certified = monotonic()
            elif monotonic() - certified > self.certify_seconds:
                self._certify(changes.token)
                certified = monotonic()
            yield assigned

    def _scan(self) -> Generator[int, None, ChangeStream]:
        """Assign positions to all events that lack one; return the changes since."""
        begun = self._progress.find_one({"_id": SEQUENCER_SCAN})
        changes = self._resume(begun["token"]) if begun else None
        after = begun["after"] if begun and changes else None
        changes = changes or self._open()
        self._is_lost = False
        try:
            token = changes.token
            for batch in self._since(after):
                yield self._assign([(event, None) for event in _by_version(batch)])
                after = {"created": batch[-1].get("created"), "_id": batch[-1]["_id"]}
                state = {"token": token, "after": after}
                self._progress.replace_one({"_id": SEQUENCER_SCAN}, state, upsert=True)
            self._certify(token)
            self._progress.delete_one({"_id": SEQUENCER_SCAN})
        except BaseException:
            changes.close()
            raise
        return changes

    def _since(self, after: Document | None) -> Generator[list[Document], None, None]:
        """Yield all events that the primary has now, by time."""
        with self._events.database.client.start_session() as session:
            # What is read after the ping is at least as new as the change stream.
            self._events.database.command("ping", session=session)
            size, keys = self.scan_batch_size, list(TIME.keys)
            cursor = self._events.find(
                {}, _PROJECTION, sort=keys, hint=keys, batch_size=size, session=session
            )
            if after is not None:
                # A bound of the index: unlike $gt it continues from numbers to dates.
                cursor = cursor.min([(name, after[name]) for name, _ in keys])
            with cursor:
                while batch := cursor.to_list(size):
                    yield batch

    def _assign(self, found: Sequence[tuple[Document, Any]]) -> int:
        """Write the entries of those events that lack one; return how many."""
        found = self._only_events(found)
        streams = {event["aggregateId"] for event, _ in found}
        assigned = self._try_again(self._held.among(streams))
        self._learn(streams)
        self._look_for_replaced([event for event, _ in found])
        entries: list[Document] = []
        for event, token in found:
            stream, version = event["aggregateId"], event["aggregateVersion"]
            head = self._heads[stream]
            if version <= head or stream in self._held:
                continue
            missed = self._between(stream, head, version) if version > head + 1 else []
            if missed is None:
                self._held.hold(event, head, HOLE)
                continue
            self._add(entries, (*missed, event))
            if token is not None:
                entries[-1]["token"] = token
        self._write(entries)
        return assigned + len(entries)

    def _only_events(
        self, found: Sequence[tuple[Document, Any]]
    ) -> list[tuple[Document, Any]]:
        """Leave out what other programs have stored among the events."""
        events = [(one, token) for one, token in found if is_event(one)]
        if len(events) < len(found):
            passed = PassedOver()
            passed.events([one for one, _ in found])
            logger.warning("%s Run manage.py verify_event_store.", passed)
        return events

    def _add(self, entries: list[Document], events: Iterable[Document]) -> None:
        """Add the entries of some events of a stream, which are its next ones."""
        for event in events:
            entry = {"_id": self.last + len(entries) + 1, "eventId": event["_id"]}
            entry.update((name, event.get(name)) for name in _FIELDS)
            if TAGS in event:
                entry[TAGS] = event[TAGS]
            entries.append(entry)
            self._heads[event["aggregateId"]] = event["aggregateVersion"]

    def _write(self, entries: Sequence[Document]) -> None:
        if entries:
            self._entries.insert_many(entries)
            self.last = entries[-1]["_id"]

    def _try_again(self, streams: Iterable[str]) -> int:
        """Assign positions in streams that are held up, as far as that is possible."""
        assigned = 0
        for stream in streams:
            found = self._held.find(stream)
            if found and not self._is_replaced(found):
                self._heads.pop(stream, None)
                self._learn({stream})
                assigned += self._assign_rest(stream, found)
        return assigned

    def _assign_rest(self, stream: str, found: Document) -> int:
        """Assign positions to the events of a stream after its head, up to a hole."""
        assigned, size, accepted = 0, self.scan_batch_size, accepted_of(found)
        while events := self._after(stream, size):
            run = contiguous(events, self._heads[stream], accepted)
            entries: list[Document] = []
            self._add(entries, run)
            self._write(entries)
            assigned += len(run)
            if len(run) < len(events):
                self._held.hold(events[len(run)], self._heads[stream], HOLE, found)
                return assigned
        self._held.release(found)
        return assigned

    def _is_replaced(self, found: Document) -> bool:
        """Whether a stream is still held up because an event was replaced."""
        if found.get("reason") != REPLACED or found.get("request"):
            return False
        stream, version = found["_id"], found["version"]
        query = {"aggregateId": {"$eq": stream}, "aggregateVersion": version}
        return any(
            self._placed([event]).get(_version(event), event["_id"]) != event["_id"]
            for event in self._read(query)
        )

    def _after(self, stream: str, limit: int) -> list[Document]:
        """Return the events of a stream that come after its head."""
        versions = {**VERSIONED, "$gt": self._heads[stream]}
        query = {"aggregateId": {"$eq": stream}, "aggregateVersion": versions}
        return self._read(query, limit)

    def _read(self, query: Document, limit: int = 0) -> list[Document]:
        """Return events of one stream, at least as new as what was read before."""
        with self._events.database.client.start_session() as session:
            self._events.database.command("ping", session=session)
            found = self._events.find(
                {**query, **TYPED}, _PROJECTION, limit=limit, session=session
            )
            return found.sort("aggregateVersion", 1).to_list()

    def _look_for_replaced(self, events: Sequence[Document]) -> None:
        """Hold up streams with an event whose version is another event's position."""
        known = [
            event
            for event in events
            if event["aggregateVersion"] <= self._heads[event["aggregateId"]]
            and event["aggregateId"] not in self._held
        ]
        if not known:
            return
        placed = self._placed(known)
        unplaced = [event for event in known if _version(event) not in placed]
        if unplaced:  # its position was given up, so the head may be lower now
            for event in unplaced:
                self._heads.pop(event["aggregateId"], None)
            self._learn({event["aggregateId"] for event in events})
        for event in known:
            if placed.get(_version(event), event["_id"]) != event["_id"]:
                head = event["aggregateVersion"] - 1
                self._held.hold(event, head, REPLACED)

    def _placed(self, events: Sequence[Document]) -> dict[tuple[str, int], Any]:
        """Return the ids of the events that got the positions of some versions."""
        fields = ("aggregateId", "aggregateVersion")
        versions = [{name: {"$eq": event[name]} for name in fields} for event in events]
        found = self._entries.find({"$or": versions}, ["eventId", *fields])
        return {_version(entry): entry["eventId"] for entry in found}

    def _learn(self, streams: set[str]) -> None:
        """Look up the last version with an entry, of streams not yet known."""
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
        # Positions that were given up have versions below 0.
        self._heads.update((one["_id"], max(0, one["head"])) for one in found)

    def _between(self, stream: str, head: int, version: int) -> list[Document] | None:
        """Return the events of a stream between two versions; None if some lack."""
        versions = {**VERSIONED, "$gt": head, "$lt": version}
        query = {"aggregateId": {"$eq": stream}, "aggregateVersion": versions}
        events = self._read(query)
        if len(events) == version - head - 1:
            return events
        accepted = accepted_of(self._held.find(stream))
        end = {"aggregateVersion": version}
        is_sound = len(contiguous([*events, end], head, accepted)) > len(events)
        return events if is_sound else None

    def _certify(self, token: Any) -> None:
        """Store at the last entry that all events up to ``token`` have entries."""
        self._entries.update_one({"_id": self.last}, {"$set": {"token": token}})


def _version(document: Document) -> tuple[str, int]:
    return document["aggregateId"], document["aggregateVersion"]


def _by_version(documents: Sequence[Document]) -> Iterable[Document]:
    """Yield the same documents, with the events of each stream in order of version."""
    events = list(filter(is_event, documents))
    yield from (one for one in documents if not is_event(one))
    streams: defaultdict[Any, list[Document]] = defaultdict(list)
    for event in events:
        streams[event["aggregateId"]].append(event)
    queues = {
        stream: deque(sorted(some, key=lambda event: event["aggregateVersion"]))
        for stream, some in streams.items()
    }
    for event in events:
        yield queues[event["aggregateId"]].popleft()
