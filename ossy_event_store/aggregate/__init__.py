"""
Aggregates: load a stream, decide, append to it, save its snapshot.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import Any, Self

from django.utils.functional import classproperty
from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.client_session import ClientSession
from pymongo.collection import Collection

from ..documents.arguments import check_flag, check_function
from ..documents.bson_types import Document
from ..documents.catalogue.appending import is_event
from ..documents.catalogue.reading import current_events
from ..documents.event_document import check_id
from ..documents.storable import copied
from ..mongodb import connection
from ..mongodb.connection import Store
from ..mongodb.deadline import in_time
from ..mongodb.ports import drive
from ..streams.closing.checks import is_closing
from ..streams.execute import Decision, Execution
from ..streams.load import (
    A,
    check_is_stored,
    create_aggregate,
    find_snapshot,
    last_tick,
    load_aggregate,
)
from ..streams.new_events import (
    Event,
    FirstEvent,
    NewEvents,
    first_event,
    next_events,
)
from ..streams.past.moment import Moment, check_moments
from ..streams.reducers import call, check_reducer, fold
from ..streams.snapshots import Snapshot, build_snapshot, save_snapshot
from ..streams.transactions.joining import awaitable_store, blocking_store, origin_of
from .ending import Ending
from .past import Past, load_past
from .several import Several

View = Callable[[list[Document], dict[str, Any]], Any]


class Aggregate(Ending, Past, Several):
    """
    One loaded stream: the events since its snapshot, and the methods to extend it.

    Create it with ``of()``. Do not share an instance between threads.
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
        #: Version of the snapshot that it was loaded from; 0 without a snapshot.
        self.saved_version = saved_version
        #: The ``tick`` of the event at that version, if it has one.
        self.saved_tick: int | None = None
        #: Whether the stream has ended; see ``close()``.
        self.is_closed = bool(events) and is_closing(events[-1])

    @property
    def version(self) -> int:
        """Version of the last event; the next event gets the version after it."""
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
        """A copy of the snapshot's state; ``{}`` without a snapshot."""
        state: dict[str, Any] = copied(self._saved_state)
        return state

    def __repr__(self) -> str:
        return f"<Aggregate {self.type} {self.id!r} at version {self.version}>"

    # --- load or create

    @classmethod
    def of(
        cls,
        Root: Any,
        subject: str | Event,
        *,
        snapshot: bool = True,
        session: ClientSession | None = None,
        at_version: int | None = None,
        at: dt.datetime | None = None,
        at_position: int | None = None,
    ) -> Self:
        """
        Load an aggregate by its id, or create one from its first event.

        Args:
            Root: the aggregate class.
            subject: the id of an existing stream; or the first event of a new one,
                an object of a class with ``@event``, or a dict with ``type`` and,
                optionally, ``payload`` (an object too), ``createdBy``, ``metadata``,
                ``id`` (the idempotency key) and ``aggregateId`` (default: a
                ``nanoid``).
            snapshot: False ignores the snapshot and loads every event, for a
                ``view(fn)`` that needs the whole history.
            session: the session of an open transaction in which to load or create it,
                as ``t.session``. Its later calls take part in that one as well.
            at_version: load it as it was at this version. With any of these three it
                is read-only, and ``is_past`` is True.
            at: load it as it was at this time, a datetime with a time zone: with the
                events before the first one whose ``created`` is later.
            at_position: load it as it was when the event at this position was the last
                one; 0 is before all events. Positions are read outside of ``session``.

        Raises:
            AggregateNotFound: no stream has this id; as ``BeforeFirstEvent``, none
                had it at that moment.
            VersionNotFound: the stream has no event at ``at_version``.
            PositionNotAssigned: no event has ``at_position`` yet.
            PositionsBroken: the event at a position was deleted outside of the store.
            AggregateTypeMismatch: the stream is of another type than ``Root``.
            ConcurrencyError: a stream with the new aggregate's id exists.
            InvalidTransaction: the session is not one of an open transaction of the
                store's own client.
            IdempotencyConflict: the event's id is stored with other content.
            InvalidEvent: the event was refused, with path and reason.
            OutcomeUnknown: the time ran out while the first event was appended.
            StoreUnavailable: no server answered in time; nothing was stored.
        """
        check_reducer(Root)
        moment = check_moments(at_version, at, at_position)
        checked = _subject(Root, subject, moment)
        check_flag(snapshot, "snapshot")
        with in_time():
            store = blocking_store(session)
            found = drive(_of(cls, store, Root, checked, moment, snapshot))
        found.origin = origin_of(session, store)
        return found

    @classmethod
    async def aof(
        cls,
        Root: Any,
        subject: str | Event,
        *,
        snapshot: bool = True,
        session: AsyncClientSession | None = None,
        at_version: int | None = None,
        at: dt.datetime | None = None,
        at_position: int | None = None,
    ) -> Self:
        """See ``of()``."""
        check_reducer(Root)
        moment = check_moments(at_version, at, at_position)
        checked = _subject(Root, subject, moment)
        check_flag(snapshot, "snapshot")
        with in_time():
            store = await awaitable_store(session)
            found = await _of(cls, store, Root, checked, moment, snapshot)
        found.origin = origin_of(session, store)
        return found

    # --- decide and append

    @classmethod
    def execute(
        cls,
        Root: Any,
        aggregate_id: str,
        decide: Callable[[Self], Decision],
        *,
        attempts: int | None = None,
        session: ClientSession | None = None,
    ) -> Self:
        """
        Load, decide and append; after a lost race, load and decide again.

        Args:
            Root: the aggregate class.
            aggregate_id: the stream. If it has no events yet, ``decide`` gets an
                aggregate at version 0.
            decide: a plain function that gets the aggregate and returns one event,
                several events (stored all or none), or None or an empty list. It
                may run several times, so it must have no side effects; what it
                raises passes through, and nothing is stored.
            attempts: how often to decide at most; by default until the setting
                ``TIMEOUT`` is used up, which bounds the whole call.
            session: see ``of()``. Inside a transaction it decides only once.

        Returns:
            The aggregate with the new events, ready to ``save()``.

        Raises:
            ConcurrencyError: the last attempt lost its race too.
            TypeError: ``decide`` is not a plain function, or returned something
                other than events.
            AggregateTypeMismatch, InvalidEvent, IdempotencyConflict,
            OutcomeUnknown, TransactionsUnavailable, StoreUnavailable: see ``add()``.
        """
        execution = Execution(cls, Root, aggregate_id, decide, attempts)
        with in_time():
            store = blocking_store(session)
            found = drive(execution.run(store))
        found.origin = origin_of(session, store)
        return found

    @classmethod
    async def aexecute(
        cls,
        Root: Any,
        aggregate_id: str,
        decide: Callable[[Self], Decision],
        *,
        attempts: int | None = None,
        session: AsyncClientSession | None = None,
    ) -> Self:
        """See ``execute()``; ``decide`` is a plain function here too."""
        execution = Execution(cls, Root, aggregate_id, decide, attempts)
        with in_time():
            store = await awaitable_store(session)
            found = await execution.run(store)
        found.origin = origin_of(session, store)
        return found

    def add(
        self, event: Event, *more: Event, session: ClientSession | None = None
    ) -> Self:
        """
        Append one event, or several (all or none), and return the aggregate.

        Args:
            event: an object of a class with ``@event``; or a dict with ``type`` and,
                optionally, ``payload`` (an object too), ``createdBy``, ``metadata``
                and ``id``. If the same event is stored under this id already, it is not
                stored again; this is not an error.
            more: further events, stored in the same transaction.
            session: see ``of()``; by default the one with which it was loaded.

        Raises:
            InvalidEvent: before anything was sent, with path and reason.
            ConcurrencyError: another writer has appended since this aggregate was
                loaded; nothing was written and the aggregate is unchanged.
            StreamClosed: the stream has ended.
            PastAggregate: it was loaded as of the past.
            InvalidTransaction: the session is not one of an open transaction, or that
                in which the aggregate was loaded was rolled back.
            IdempotencyConflict: the id is stored with other content.
            OutcomeUnknown: the time ran out; add the event again with the same
                ``id``.
            TransactionsUnavailable: several events, on a standalone server.
            StoreUnavailable: no server answered in time; nothing was stored.
        """
        documents = self._next(event, *more)
        return self._append(documents, session)

    async def aadd(
        self, event: Event, *more: Event, session: AsyncClientSession | None = None
    ) -> Self:
        """See ``add()``."""
        documents = self._next(event, *more)
        return await self._aappend(documents, session)

    def _next(self, *events: Event) -> NewEvents:
        self._refuse_past()
        tick = last_tick(self)
        return next_events(self.Root, self.id, self.version, events, tick)

    # --- state

    def view(self, fn: View | None = None) -> Any:
        """
        Return the state: ``Root.view(events, saved_state)``.

        The events are ``self.events`` at the versions that the code knows.

        Args:
            fn: a plain function to use instead of the reducer, with the same
                arguments; what it raises passes through.

        Raises:
            ReducerError: the reducer raised or returned no dict, or an upcaster failed;
                with DEBUG and in tests, also if it changed an event.
        """
        if fn is None:
            state = self._saved_state  # it is copied there
            return fold(self.Root, self.events, state, self.id, self.version)
        check_function(fn, "fn")
        return call(fn, current_events(self.Root, self.events), self.saved_state)

    def validate(self, fn: View) -> Self:
        """
        Call ``fn(events, saved_state)`` and return the aggregate.

        What ``fn`` raises passes through; what it returns is ignored.
        """
        self.view(check_function(fn, "fn"))
        return self

    def save(self) -> Self:
        """
        Store the state as the stream's snapshot and return the aggregate.

        A newer snapshot is never replaced.

        Raises:
            ReducerError: see ``view()``.
            PastAggregate: it was loaded as of the past.
            InvalidState: MongoDB cannot store the reducer's state.
        """
        snapshot = self._snapshot()
        session = self._session(None)
        with in_time():
            drive(self._save(blocking_store(session), snapshot))
        return self

    async def asave(self) -> Self:
        """See ``save()``."""
        snapshot = self._snapshot()
        session = self._session(None)
        with in_time():
            await self._save(await awaitable_store(session), snapshot)
        return self

    async def _save(self, store: Store, snapshot: Snapshot) -> None:
        await check_is_stored(store, self, self.id)
        await save_snapshot(store, snapshot)

    def _snapshot(self) -> Snapshot:
        self._refuse_past()
        return build_snapshot(self.Root, self.id, self.version, self.view())

    # --- snapshots as documents

    @classmethod
    def find(cls, aggregate_id: str) -> Document | None:
        """Return the snapshot document of a stream, or None; it may be out of date."""
        check_id(aggregate_id)
        with in_time():
            return drive(find_snapshot(connection.blocking(), aggregate_id))

    @classmethod
    async def afind(cls, aggregate_id: str) -> Document | None:
        """See ``find()``."""
        check_id(aggregate_id)
        with in_time():
            return await find_snapshot(await connection.awaitable(), aggregate_id)

    @classproperty
    def collection(cls) -> Collection[Document]:  # noqa: N805
        """The PyMongo collection of snapshots."""
        return connection.raw(connection.blocking().snapshots)

    @classmethod
    async def acollection(cls) -> AsyncCollection[Document]:
        """Return the asynchronous PyMongo collection of the running loop."""
        return connection.async_raw((await connection.awaitable()).snapshots)


def _subject(Root: Any, subject: object, moment: Moment | None) -> str | FirstEvent:
    """Return the id to load, or the first event to append."""
    if isinstance(subject, str):
        return check_id(subject)
    if moment is not None:
        raise TypeError(
            f"With {moment.argument}, subject must be the id of a stream (a string), "
            f"not {type(subject).__name__}."
        )
    if is_event(subject):
        return first_event(Root, subject)
    raise TypeError(
        "subject must be an id (a string) or an event (a dict, or an object of a class "
        f"with @event), not {type(subject).__name__}."
    )


async def _of(
    cls: type[A],
    store: Store,
    Root: Any,
    subject: str | FirstEvent,
    moment: Moment | None,
    snapshot: bool,
) -> A:
    if not isinstance(subject, str):
        return await create_aggregate(cls, store, Root, subject, snapshot)
    if moment is not None:
        return await load_past(cls, store, Root, subject, moment, snapshot)
    return await load_aggregate(cls, store, Root, subject, snapshot)
