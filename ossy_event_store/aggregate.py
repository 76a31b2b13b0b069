"""
Aggregates: load a stream, decide, append to it, keep its snapshot.
"""

from __future__ import annotations

import copy
import datetime as dt
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self, TypeVar

from bson import ObjectId
from django.utils.functional import classproperty
from nanoid import generate
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.collection import Collection
from pymongo.errors import PyMongoError

from .documents.bson_types import Document
from .documents.event_document import build_event, check_event, check_id
from .event_store import load_stream
from .exceptions import (
    AggregateNotFound,
    AggregateTypeMismatch,
    IdempotencyConflict,
    InvalidEvent,
    OutcomeUnknown,
)
from .mongodb import connection
from .mongodb.connection import Store
from .mongodb.deadline import in_time
from .mongodb.ports import drive
from .streams.append import append, until_won
from .streams.reducers import check_reducer
from .streams.snapshots import (
    Snapshot,
    build_snapshot,
    discard_if_ahead,
    is_usable,
    save_snapshot,
)

Event = Mapping[str, Any]
View = Callable[[list[Document], dict[str, Any]], Any]
Decision = Event | Iterable[Event] | None

_SET_BY_THE_STORE = {
    "aggregateVersion": "the store sets it; load the aggregate to append at its end",
    "created": "the store sets it to now; put a date of your own into the payload",
}


class Aggregate:
    """
    One stream, loaded: the events since its snapshot, and what to do with them.

    Made by ``of()``; an instance is not shared between threads.
    """

    def __init__(
        self,
        Root: Any,
        aggregate_id: str,
        events: list[Document],
        saved_state: dict[str, Any] | None = None,
        saved_version: int = 0,
    ) -> None:
        self.Root = Root
        #: Id of the aggregate and its stream.
        self.id = aggregate_id
        #: The events after ``saved_version``, ascending, as stored.
        self.events = events
        self._saved_state = saved_state or {}
        #: Version of the snapshot it was loaded from; 0 if there was none.
        self.saved_version = saved_version

    @property
    def version(self) -> int:
        """Version of the last event; the next one appended is one more."""
        if self.events:
            version: int = self.events[-1]["aggregateVersion"]
            return version
        return self.saved_version

    @property
    def type(self) -> str:
        """The aggregate's type."""
        kind: str = self.Root.aggregate_type
        return kind

    @property
    def saved_state(self) -> dict[str, Any]:
        """A copy of the snapshot's state; ``{}`` if there was none."""
        state: dict[str, Any] = _copied(self._saved_state)
        return state

    def __repr__(self) -> str:
        return f"<Aggregate {self.type} {self.id!r} at version {self.version}>"

    # --- load or create

    @classmethod
    def of(cls, Root: Any, subject: str | Event, *, snapshot: bool = True) -> Self:
        """
        Load an aggregate by its id, or create one from its first event.

        Args:
            Root: the aggregate class.
            subject: the id of an existing stream; or the first event of a new one,
                a dict with ``type`` and, optional, ``payload``, ``createdBy``,
                ``metadata``, ``id`` (the idempotency key) and ``aggregateId``
                (default: a ``nanoid``).
            snapshot: False loads every event, whatever snapshot there is; for a
                ``view(fn)`` that wants the whole history.

        Raises:
            AggregateNotFound: no stream has this id.
            AggregateTypeMismatch: the stream is of another type than ``Root``.
            ConcurrencyError: a stream of the new aggregate's id exists.
            IdempotencyConflict: the event's id is stored with other content.
            InvalidEvent: the event was refused, with path and reason.
            OutcomeUnknown: the time ran out while the first event was appended.
            StoreUnavailable: no server answered in time; nothing was stored.
        """
        check_reducer(Root)
        plan = _plan(Root, subject)
        with in_time():
            store = connection.blocking()
            return drive(_of(cls, store, Root, plan, snapshot))

    @classmethod
    async def aof(
        cls, Root: Any, subject: str | Event, *, snapshot: bool = True
    ) -> Self:
        """See ``of()``."""
        check_reducer(Root)
        plan = _plan(Root, subject)
        with in_time():
            store = await connection.awaitable()
            return await _of(cls, store, Root, plan, snapshot)

    # --- decide and append

    @classmethod
    def execute(
        cls,
        Root: Any,
        aggregate_id: str,
        decide: Callable[[Self], Decision],
        *,
        attempts: int | None = None,
    ) -> Self:
        """
        Load, decide, append; after a lost race load again and decide again.

        Args:
            Root: the aggregate class.
            aggregate_id: the stream. It may have no events yet: ``decide`` then
                gets an aggregate at version 0.
            decide: a plain function that gets the aggregate and returns what
                happens: one event, several (stored all or none), or None or an
                empty list. It may run several times, so it only looks and decides;
                what it raises passes through, and nothing is stored.
            attempts: how often to decide at most; by default as often as the
                setting ``TIMEOUT`` gives time for, which bounds all of this.

        Returns:
            The aggregate with the new events, ready to ``save()``.

        Raises:
            ConcurrencyError: the last attempt lost its race as well.
            TypeError: ``decide`` is no plain function, or returned no events.
            AggregateTypeMismatch, InvalidEvent, IdempotencyConflict,
            OutcomeUnknown, TransactionsUnavailable, StoreUnavailable: see ``add()``.
        """
        plan = _Decider(cls, Root, aggregate_id, decide, attempts)
        with in_time():
            aggregate: Self = drive(plan.execute(connection.blocking()))
        return aggregate

    @classmethod
    async def aexecute(
        cls,
        Root: Any,
        aggregate_id: str,
        decide: Callable[[Self], Decision],
        *,
        attempts: int | None = None,
    ) -> Self:
        """See ``execute()``; ``decide`` is a plain function here too."""
        plan = _Decider(cls, Root, aggregate_id, decide, attempts)
        with in_time():
            aggregate: Self = await plan.execute(await connection.awaitable())
        return aggregate

    def add(self, event: Event, *more: Event) -> Self:
        """
        Append one event, or several all or none, and return the aggregate.

        Args:
            event: ``type`` and, optional, ``payload``, ``createdBy``, ``metadata``
                and ``id``: an event that is stored already under this id, with the
                same content, is not stored again, and no error.
            more: further events, stored in the same transaction.

        Raises:
            InvalidEvent: before anything was sent, with path and reason.
            ConcurrencyError: somebody else appended since this aggregate was
                loaded; nothing was written and the aggregate is as before.
            IdempotencyConflict: the id is stored with other content.
            OutcomeUnknown: the time ran out; add it again with the same ``id``.
            TransactionsUnavailable: several events, on a standalone server.
            StoreUnavailable: no server answered in time; nothing was stored.
        """
        documents = self._documents(event, *more)
        with in_time():
            self._take(drive(append(connection.blocking(), documents)))
        return self

    async def aadd(self, event: Event, *more: Event) -> Self:
        """See ``add()``."""
        documents = self._documents(event, *more)
        with in_time():
            self._take(await append(await connection.awaitable(), documents))
        return self

    def _documents(self, *events: Event) -> list[Document]:
        now = dt.datetime.now(dt.UTC)
        return [
            build_event(
                check_event(event, (), _SET_BY_THE_STORE),
                aggregate_id=self.id,
                aggregate_type=self.type,
                version=version,
                created=now,
            )
            for version, event in enumerate(events, self.version + 1)
        ]

    def _take(self, stored: list[Document]) -> None:
        # Events found under their ids may be ones that were loaded, or may lie
        # beyond events of others that were not; only what follows on is taken.
        for event in stored:
            if event["aggregateVersion"] == self.version + 1:
                self.events.append(event)

    def _followed_by(self, events: list[Document]) -> Self:
        """Return the aggregate anew, with the events that came since."""
        return type(self)(
            self.Root,
            self.id,
            [*self.events, *events],
            self._saved_state,
            self.saved_version,
        )

    # --- state

    def view(self, fn: View | None = None) -> Any:
        """
        Return the state: ``Root.view(events, saved_state)``.

        Args:
            fn: a function to use in place of the reducer, with the same arguments.
        """
        return (fn or self.Root.view)(self.events, self.saved_state)

    def validate(self, fn: View) -> Self:
        """
        Call ``fn(events, saved_state)`` and return the aggregate.

        What ``fn`` raises passes through; what it returns is ignored.
        """
        self.view(fn)
        return self

    def save(self) -> Self:
        """
        Store the state as the stream's snapshot and return the aggregate.

        A snapshot that is newer already is left as it is.

        Raises:
            InvalidState: the reducer's state is not what MongoDB can hold.
        """
        snapshot = self._snapshot()
        with in_time():
            drive(save_snapshot(connection.blocking(), snapshot))
        return self

    async def asave(self) -> Self:
        """See ``save()``."""
        snapshot = self._snapshot()
        with in_time():
            await save_snapshot(await connection.awaitable(), snapshot)
        return self

    def _snapshot(self) -> Snapshot:
        return build_snapshot(self.Root, self.id, self.version, self.view())

    # --- snapshots as documents

    @classmethod
    def find(cls, aggregate_id: str) -> Document | None:
        """Return the snapshot document of a stream, or None; it may be behind."""
        check_id(aggregate_id)
        with in_time():
            return drive(_find_snapshot(connection.blocking(), aggregate_id))

    @classmethod
    async def afind(cls, aggregate_id: str) -> Document | None:
        """See ``find()``."""
        check_id(aggregate_id)
        with in_time():
            return await _find_snapshot(await connection.awaitable(), aggregate_id)

    @classproperty
    def collection(cls) -> Collection[Document]:  # noqa: N805
        """The PyMongo collection of snapshots."""
        return connection.raw(connection.blocking().snapshots)

    @classmethod
    async def acollection(cls) -> AsyncCollection[Document]:
        """Return the asynchronous PyMongo collection of the running loop."""
        return connection.async_raw((await connection.awaitable()).snapshots)


# --- the operations, once ---------------------------------------------------

A = TypeVar("A", bound=Aggregate)


@dataclass(frozen=True)
class _First:
    """The document of a first event; whether its aggregate's id was generated."""

    document: Document
    generated: bool


def _plan(Root: Any, subject: object) -> str | _First:
    """Return the id to load, or the first event to append."""
    if not isinstance(subject, Mapping):
        if not isinstance(subject, str):
            kind = type(subject).__name__
            raise TypeError(
                f"Aggregate.of takes an id, a string, or an event, a dict; not {kind}."
            )
        return check_id(subject)
    event = check_event(subject, ("aggregateId", "aggregateType"), _SET_BY_THE_STORE)
    if event.get("aggregateType", Root.aggregate_type) != Root.aggregate_type:
        raise InvalidEvent(
            "aggregateType",
            f"is {event['aggregateType']!r}, but {Root.__name__} makes "
            f"{Root.aggregate_type!r}",
        )
    generated = event.get("aggregateId") is None
    document = build_event(
        event,
        aggregate_id=generate() if generated else event["aggregateId"],
        aggregate_type=Root.aggregate_type,
        version=1,
        created=dt.datetime.now(dt.UTC),
    )
    return _First(document, generated)


async def _of(
    cls: type[A], store: Store, Root: Any, plan: str | _First, use_snapshot: bool
) -> A:
    if isinstance(plan, str):
        return await load(cls, store, Root, plan, use_snapshot)
    try:
        (event,) = await append(store, [plan.document])
    except IdempotencyConflict as conflict:
        if not plan.generated or conflict.differences != ("aggregateId",):
            raise
        # The earlier try with this event id was given another generated id.
        found = await store.events.find_one({"_id": {"$eq": conflict.event_id}})
        if found is None:
            raise
        event = found
    if event is plan.document:
        return cls(Root, event["aggregateId"], [event])
    # Stored by an earlier try; others may have appended since.
    try:
        return await load(cls, store, Root, event["aggregateId"], use_snapshot)
    except PyMongoError:
        # Not "unavailable", which would say that nothing is stored.
        raise OutcomeUnknown([event["_id"]]) from None


async def load(
    cls: type[A], store: Store, Root: Any, aggregate_id: str, use_snapshot: bool = True
) -> A:
    """Return the aggregate of a stream, from its snapshot where that is usable."""
    snapshot = None
    if use_snapshot:
        snapshot = await _find_snapshot(store, aggregate_id)
        snapshot = snapshot if is_usable(snapshot, Root) else None
    version = snapshot["aggregateVersion"] if snapshot else 0
    # With the event of the snapshot's own version, to see that it is really there.
    events = await load_stream(store, aggregate_id, max(0, version - 1))
    if snapshot and (not events or events[0]["aggregateVersion"] != version):
        await discard_if_ahead(store, aggregate_id)
        return await load(cls, store, Root, aggregate_id, use_snapshot=False)
    if not events:
        raise AggregateNotFound(Root.aggregate_type, aggregate_id)
    if events[0]["aggregateType"] != Root.aggregate_type:
        raise AggregateTypeMismatch(
            aggregate_id, Root.aggregate_type, events[0]["aggregateType"]
        )
    if snapshot:
        return cls(Root, aggregate_id, events[1:], snapshot["state"], version)
    return cls(Root, aggregate_id, events)


class _Decider:
    """One call of ``execute()``: its checked arguments, and what it does."""

    def __init__(
        self, cls: Any, Root: Any, aggregate_id: str, decide: Any, attempts: Any
    ) -> None:
        self.cls = cls
        self.Root = check_reducer(Root)
        self.id = check_id(aggregate_id)
        if not callable(decide):
            raise TypeError(
                f"decide must be a function, not {type(decide).__name__}: it gets the "
                "aggregate and returns events."
            )
        self.decide = decide
        if attempts is not None and not (type(attempts) is int and attempts > 0):
            raise ValueError(
                f"attempts must be a whole number from 1, not {attempts!r}"
            )
        self.attempts = attempts
        self.seen: Any = None  # the aggregate of the attempt before

    async def execute(self, store: Store) -> Any:
        return await until_won(store, self.id, lambda: self._once(store), self.attempts)

    async def _once(self, store: Store) -> Any:
        self.seen = aggregate = await self._load(store)
        events = _decided(self.decide(aggregate))
        if events:
            aggregate._take(await append(store, aggregate._documents(*events)))
        return aggregate

    async def _load(self, store: Store) -> Any:
        """Return the aggregate anew; after a lost race only what is new is read."""
        seen = self.seen
        if seen is not None and seen.version:
            new = await load_stream(store, self.id, seen.version)
            return seen._followed_by(new)
        try:
            return await load(self.cls, store, self.Root, self.id)
        except AggregateNotFound:
            return self.cls(self.Root, self.id, [])


# What a stored state consists of, for the most part; nobody can change these.
_UNCHANGING = frozenset((str, int, float, bool, type(None), dt.datetime, ObjectId))


def _copied(value: Any) -> Any:
    """Return a deep copy; of plain dicts and lists in a third of deepcopy's time."""
    kind = type(value)
    if kind in _UNCHANGING:
        return value
    if kind is dict:
        return {key: _copied(item) for key, item in value.items()}
    if kind is list:
        return [_copied(item) for item in value]
    return copy.deepcopy(value)


def _decided(decision: Any) -> list[Event]:
    """Return the events that ``decide`` returned."""
    if decision is None:
        return []
    if isinstance(decision, Mapping):
        return [decision]
    if inspect.iscoroutine(decision):
        decision.close()  # it never runs, so it should not warn of that either
    elif isinstance(decision, Iterable) and not isinstance(decision, (str, bytes)):
        return list(decision)
    raise TypeError(
        "decide must return an event (a dict), several of them, or None, "
        f"not {type(decision).__name__}."
    )


async def _find_snapshot(store: Store, aggregate_id: str) -> Document | None:
    # A string by now, so it can be no operator; written with $eq it is not taken for
    # a look-up by id, and costs the server 20 microseconds more.
    return await store.snapshots.find_one({"_id": aggregate_id})
