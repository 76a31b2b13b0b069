"""
Assign positions: 1, 2, 3, … without gaps, to each event after its commit.

An append stays a plain insert. A sequencer follows the change stream of the events,
which is in the order of their commits, and writes an *entry* for each into
``eventstore_positions``: ``{_id: position, eventId, aggregateId, …}``.

Never drop the entries to make them again. Entries can be rebuilt, but positions may
then differ: reset every subscription and rebuild every projection.

Two invariants hold after every write, and everything else rests on them:

- the entries of a stream are its first versions, in order and without a gap;
- an entry with a ``token`` certifies that every event up to that point of the change
  stream has its entry.

Any number of sequencers may run. Position and version are unique among the entries: a
sequencer that was overtaken writes nothing, and starts again after the last entry.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Generator, Iterable, Sequence
from contextlib import closing, suppress
from time import monotonic
from typing import Any, ClassVar

from pymongo.errors import BulkWriteError, PyMongoError

from ..documents.bson_types import Document
from ..documents.collections import SEQUENCER_SCAN
from ..exceptions import EventStoreError
from ..mongodb.connection import Store, raw
from ..mongodb.indexes import ENTRY_VERSIONS, TIME
from ..mongodb.write_errors import DUPLICATE_KEY
from .change_stream import BATCH_SIZE, ChangeStream, HistoryLost

HEADS = 100_000  # streams whose last version is kept in memory


_OWN_INDEXES = ({"_id"}, {name for name, _ in ENTRY_VERSIONS.keys})
_FIELDS = ("aggregateId", "aggregateVersion", "aggregateType", "type")
# The driver would fetch whole documents; an entry needs only these fields.
_PROJECTION = {"_id": 1, "created": 1, **dict.fromkeys(_FIELDS, 1)}


class HoleInStream(EventStoreError):
    """A stream lacks a version before one it has; ``verify_event_store`` names it."""


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

    def __init__(self, store: Store) -> None:
        #: Whether the last ``advance()`` found nothing left to do.
        self.is_caught_up = False
        self._events = raw(store.events)
        self._entries = raw(store.positions)
        self._progress = raw(store.leases)
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
            HoleInStream: an event was stored outside of the event store.
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
        changes = self._resume(last.get("token") if last else None)
        if changes is None:
            changes = yield from self._scan()
        with closing(changes):
            yield from self._follow(changes)

    def _open(self, token: Any = None) -> ChangeStream:
        return ChangeStream(self._events, token, _FIELDS, self.batch_size)

    def _resume(self, token: Any) -> ChangeStream | None:
        if token is None or self._is_lost:
            return None
        try:
            return self._open(token)
        except HistoryLost:
            return None

    def _follow(self, changes: ChangeStream) -> Generator[int, None, None]:
        certified = monotonic()
        while True:
            found = changes.fetch(self._wait)
            assigned = self._assign(found)
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
        self._heads.update((one["_id"], one["head"]) for one in found)

    def _between(self, stream: str, head: int, version: int) -> list[Document]:
        """Return the events of a stream between two versions."""
        versions = {"$gt": head, "$lt": version}
        query = {"aggregateId": {"$eq": stream}, "aggregateVersion": versions}
        found = self._events.find(query, _PROJECTION)
        events = found.sort("aggregateVersion", 1).to_list()
        if len(events) != version - head - 1:
            raise HoleInStream(
                f"Stream {stream!r} has version {version}, but of the versions "
                f"{head + 1} to {version - 1} only {len(events)} exist. Run manage.py "
                "verify_event_store."
            )
        return events

    def _certify(self, token: Any) -> None:
        """Store at the last entry that all events up to ``token`` have entries."""
        self._entries.update_one({"_id": self.last}, {"$set": {"token": token}})


def _is_event(document: Document) -> bool:
    """Whether a document is an event; other programs may store others beside them."""
    stream, version = document.get("aggregateId"), document.get("aggregateVersion")
    # Code, which BSON holds as well, is a subclass of str that cannot be a key.
    return type(stream) is str and isinstance(version, int)


def _by_version(events: Sequence[Document]) -> Iterable[Document]:
    """Yield the same events, with those of each stream in order of version."""
    streams: defaultdict[Any, list[Document]] = defaultdict(list)
    for event in filter(_is_event, events):
        streams[event["aggregateId"]].append(event)
    queues = {
        stream: deque(sorted(some, key=lambda event: event["aggregateVersion"]))
        for stream, some in streams.items()
    }
    for event in filter(_is_event, events):
        yield queues[event["aggregateId"]].popleft()
