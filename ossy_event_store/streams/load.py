"""
Load an aggregate from its snapshot and its stream, or create one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import aclosing
from typing import Any, Protocol, TypeVar

from pymongo.errors import PyMongoError

from ..documents.bson_types import Document
from ..documents.event_document import read_whole_event
from ..documents.passed_over import is_event
from ..exceptions import (
    AggregateNotFound,
    AggregateTypeMismatch,
    ConcurrencyError,
    IdempotencyConflict,
    OutcomeUnknown,
    StoreUnavailable,
    StreamClosed,
)
from ..mongodb.connection import Store
from ..mongodb.resumable_scan import scan
from .append import append, stored_before
from .closing.checks import is_closing, raise_if_closed
from .new_events import FirstEvent, NewEvents
from .races.ends import stream_head
from .reducers import fold
from .snapshots import discard_if_ahead, is_usable

_BY_VERSION = [("aggregateVersion", 1)]
PAGE_SIZE = 5000  # events of a read; nearly all streams are shorter


class LoadedAggregate(Protocol):
    """What loading fills: the stream's events since the snapshot."""

    Root: Any
    events: list[Document]
    # The tick of the event at the snapshot's version, if it has one.
    saved_tick: int | None
    is_closed: bool
    is_past: bool
    #: The id of its last event, as long as a transaction of the caller may have been
    #: rolled back after it.
    unsure_of: Any

    def __init__(
        self,
        Root: Any,
        aggregate_id: str,
        events: list[Document],
        saved_state: dict[str, Any] | None = None,
        saved_version: int = 0,
        /,
    ) -> None: ...

    @property
    def version(self) -> int:
        """Version of the last event."""


A = TypeVar("A", bound=LoadedAggregate)


async def load_stream(
    store: Store, aggregate_id: str, from_version: int, until: int | None = None
) -> list[Document]:
    """
    Return the events of a stream after a version, majority-read on the primary.

    Args:
        store: one face of the store.
        aggregate_id: the stream.
        from_version: the version.
        until: the last version to read; None reads to the end.

    Raises:
        StoreUnavailable: the stream is too long to be read in time.
    """
    events: list[Document] = []
    after, is_full = from_version, True
    while is_full:
        versions = {"$gt": after} if until is None else {"$gt": after, "$lte": until}
        query = {"aggregateId": {"$eq": aggregate_id}, "aggregateVersion": versions}
        try:
            found = await store.events.find(query, sort=_BY_VERSION, limit=PAGE_SIZE)
        except PyMongoError as error:
            if events and error.timeout:
                raise _too_long(aggregate_id, from_version, len(events)) from error
            raise
        events += [read_whole_event(event) for event in found if is_event(event)]
        is_full = len(found) == PAGE_SIZE
        after = found[-1]["aggregateVersion"] if found else after
    return events


def _too_long(aggregate_id: str, from_version: int, count: int) -> StoreUnavailable:
    return StoreUnavailable(
        f"stream {aggregate_id!r} is too long to be loaded within the setting TIMEOUT: "
        f"{count:,} events after version {from_version} were read, and there are more. "
        "A current snapshot shortens the load: run manage.py rebuild_aggregates "
        f"--id={aggregate_id}, and save() often, or let run_subscriptions keep them."
    )


async def fold_stream(
    store: Store,
    Root: Any,
    aggregate_id: str,
    state: Mapping[str, Any],
    from_version: int,
    until: int,
    is_late: Callable[[], bool] | None = None,
) -> tuple[Mapping[str, Any], int]:
    """
    Fold the events of a stream between two versions onto a state, a batch at a time.

    It takes as long as it takes, in flat memory; each batch is bounded by the setting
    ``TIMEOUT``. If ``is_late`` returns true after one, the fold ends there.

    Returns:
        The state, and the version of the last event; ``from_version`` if there is none.

    Raises:
        ReducerError: the reducer raised.
    """
    query = {
        "aggregateId": {"$eq": aggregate_id},
        "aggregateVersion": {"$gt": from_version, "$lte": until},
    }
    version = from_version
    # A scan that is pushed and ends early costs a connection.
    found = scan(store, query, pushed=is_late is None)
    async with aclosing(found) as batches:
        async for batch in batches:
            events = [read_whole_event(event) for event in batch]
            state = fold(Root, events, dict(state))
            version = events[-1]["aggregateVersion"]
            if is_late is not None and is_late():
                break
    return state, version


async def find_snapshot(store: Store, aggregate_id: str) -> Document | None:
    """Return the snapshot of a stream, or None; the id has been checked."""
    # A checked id is a string, so it can be no operator. With $eq the server would
    # not use its look-up by id, and take 20 microseconds longer.
    return await store.snapshots.find_one({"_id": aggregate_id})


async def usable_snapshot(
    store: Store, Root: Any, aggregate_id: str, until: int | None = None
) -> Document | None:
    """Return the snapshot of a stream if it may begin a fold up to a version."""
    snapshot = await find_snapshot(store, aggregate_id)
    # Also without a snapshot: it notes that this revision of the reducer is in use.
    if not is_usable(snapshot, Root) or snapshot is None:
        return None
    is_newer = until is not None and snapshot["aggregateVersion"] > until
    return None if is_newer else snapshot


async def load_aggregate(
    cls: type[A],
    store: Store,
    Root: Any,
    aggregate_id: str,
    use_snapshot: bool = True,
    until: int | None = None,
) -> A:
    """
    Return the aggregate of a stream, from its snapshot where that is usable.

    Args:
        cls: the class of the result.
        store: one face of the store.
        Root: the aggregate class.
        aggregate_id: the stream.
        use_snapshot: whether it may begin with the snapshot.
        until: the last version to load; None loads all.

    Raises:
        AggregateNotFound: the stream has no events.
        AggregateTypeMismatch: the stream is of another type than ``Root``.
    """
    snapshot = None
    if use_snapshot:
        snapshot = await usable_snapshot(store, Root, aggregate_id, until)
    events = await load_stream(store, aggregate_id, first_needed(snapshot) - 1, until)
    loaded = assembled(cls, Root, aggregate_id, snapshot, events)
    if loaded is None:
        await discard_if_ahead(store, aggregate_id)
        return await load_aggregate(cls, store, Root, aggregate_id, False, until)
    return loaded


def first_needed(snapshot: Document | None) -> int:
    """
    Return the first version to read: that of the snapshot, or 1.

    The event at the snapshot's own version shows that it really exists.
    """
    return max(1, snapshot["aggregateVersion"]) if snapshot else 1


def assembled(
    cls: type[A],
    Root: Any,
    aggregate_id: str,
    snapshot: Document | None,
    events: list[Document],
) -> A | None:
    """
    Return the aggregate of what was read of a stream.

    It is None if the snapshot is of an event that does not exist.

    Raises:
        AggregateNotFound, AggregateTypeMismatch: see ``load_aggregate()``.
    """
    version = snapshot["aggregateVersion"] if snapshot else 0
    if snapshot and (not events or events[0]["aggregateVersion"] != version):
        return None
    if not events:
        raise AggregateNotFound(Root.aggregate_type, aggregate_id)
    if events[0]["aggregateType"] != Root.aggregate_type:
        raise AggregateTypeMismatch(
            aggregate_id, Root.aggregate_type, events[0]["aggregateType"]
        )
    if snapshot:
        loaded = cls(Root, aggregate_id, events[1:], snapshot["state"], version)
        loaded.is_closed = is_closing(events[-1])
        loaded.saved_tick = events[0].get("tick")
        return loaded
    return cls(Root, aggregate_id, events)


async def create_aggregate(
    cls: type[A], store: Store, Root: Any, first: FirstEvent, use_snapshot: bool
) -> A:
    """
    Append a first event and return its aggregate, loaded if it existed already.

    Raises:
        ConcurrencyError: another event began the stream.
        IdempotencyConflict: the event's id is stored with other content.
        OutcomeUnknown: the event is stored, but the time ran out or the connection
            broke before the aggregate was loaded; or whether it is stored is unknown.
    """
    try:
        (event,) = await append(store, first.documents)
    except IdempotencyConflict as conflict:
        if not first.has_generated_id or conflict.differences != ("aggregateId",):
            raise
        # An earlier attempt with this event id generated another aggregate id.
        found = await store.events.find_one({"_id": {"$eq": conflict.event_id}})
        if found is None:
            raise
        event = found
    if event is first.documents[0]:
        created = cls(Root, event["aggregateId"], [event])
        note_doubt(store, created)
        return created
    # Stored by an earlier attempt; others may have appended since.
    try:
        return await load_aggregate(
            cls, store, Root, event["aggregateId"], use_snapshot
        )
    except (PyMongoError, StoreUnavailable) as error:
        # Not "unavailable", which would say that nothing is stored.
        raise OutcomeUnknown([event["_id"]]) from error


def last_tick(aggregate: LoadedAggregate) -> int | None:
    """Return the tick of an aggregate's last event, if it has one."""
    if aggregate.events:
        return aggregate.events[-1].get("tick")
    return aggregate.saved_tick


def extend(aggregate: LoadedAggregate, stored: list[Document]) -> None:
    """
    Add stored events to an aggregate, those that directly follow its version.

    Events found under their ids may have been loaded already, or may lie beyond
    events of other writers that were not.
    """
    for event in stored:
        if event["aggregateVersion"] == aggregate.version + 1:
            aggregate.events.append(event)
            aggregate.is_closed = is_closing(event)


async def append_to(
    store: Store, aggregate: LoadedAggregate, documents: NewEvents
) -> None:
    """
    Append events to a loaded aggregate.

    Args:
        store: one face of the store; the caller bounds the time.
        aggregate: it is unchanged if this fails.
        documents: its next events.

    Raises:
        StreamClosed: the stream has ended.
        ConcurrencyError: another writer has appended, or a transaction in which the
            aggregate was extended has been rolled back.
    """
    if aggregate.is_closed:
        end = await stream_head(store, documents[0]["aggregateId"])
        try:
            await raise_if_closed(store, end)
        except StreamClosed as error:
            extend(aggregate, await stored_before(store, documents, error))
            return
    await check_is_stored(store, aggregate, documents[0]["aggregateId"])
    stored = await append(store, documents)
    extend(aggregate, stored)
    note_doubt(store, aggregate)


def note_doubt(store: Store, aggregate: LoadedAggregate) -> None:
    """Note that the last event is part of a transaction that the caller may end."""
    if store.outside is not None and store.unit is None:
        aggregate.unsure_of = aggregate.events[-1]["_id"]


async def check_is_stored(
    store: Store, aggregate: LoadedAggregate, aggregate_id: str
) -> None:
    """
    Make sure that the events of an aggregate exist, if that is in doubt.

    What follows an event that was rolled back would leave a hole in the stream.
    """
    if aggregate.unsure_of is None:
        return
    query = {"_id": {"$eq": aggregate.unsure_of}}
    if await store.events.find_one(query, projection={"_id": 1}) is None:
        end = await stream_head(store, aggregate_id)
        actual = end["aggregateVersion"] if end else 0
        raise ConcurrencyError(aggregate_id, aggregate.version, actual)
    if store.outside is None:
        aggregate.unsure_of = None
