"""
Read events in global order; ``sequencer`` assigns the positions.

The entries say which event has which position; the events are fetched by their ids, a
page at a time.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import suppress
from time import monotonic
from typing import Any, NamedTuple

from bson import ObjectId

from ..conf import get_settings
from ..documents.arguments import (
    check_all_of,
    check_flag,
    check_names,
    check_number,
    check_seconds,
)
from ..documents.bson_types import Document
from ..documents.catalogue.catalogue import current
from ..documents.event_document import check_id, check_version, read_whole_event
from ..documents.passed_over import VERSIONED, is_event
from ..exceptions import EventNotFound, PositionsBroken, StoreUnavailable
from ..mongodb.connection import Store
from ..mongodb.deadline import in_time
from .damage import held_up_among
from .event_pages import PageLimit, events_of, id_key

PAGE_SIZE = 1000  # events a round trip
NEWEST_EVENTS = 10  # another program's documents may be among them
CHECKED_EVENTS = 100  # among which an event without a position is looked for
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.002, 0.25  # between two polls

# What an entry says of its event.
_ENTRY_FIELDS = ("eventId", "aggregateId", "aggregateVersion", "aggregateType", "type")


class LostEvent(Document):
    """
    What is known of an event that got a position and no longer exists.

    It has the fields of an event, but for its data; its ``type`` is the event's.
    """

    @property
    def error(self) -> PositionsBroken:
        """The error that says so."""
        return PositionsBroken(
            self["position"], self["aggregateId"], self["aggregateVersion"]
        )


class EventPage(NamedTuple):
    """Some events in global order, each with its position."""

    #: ``LostEvent`` stands for each that no longer exists, unless its loss is accepted.
    events: list[Document]
    #: The position of the last entry that was read; 0 if there was none.
    last: int
    #: Whether there may be more.
    is_full: bool


async def head_position(store: Store, session: Any = None) -> int:
    """Return the last position that was assigned; 0 if none was."""
    with in_time():
        last = await store.positions.find_one(
            {}, projection={"_id": 1}, sort=[("_id", -1)], session=session
        )
    return last["_id"] if last else 0


async def waiting_since(store: Store, now: dt.datetime) -> dt.datetime | None:
    """
    Return when the oldest event without a position was recorded; None if all have one.

    Two reads by index if all have one, else six. It reads the newest events, and then
    the first ``CHECKED_EVENTS`` after the last event that has a position. A backdated
    event, as from an import, is found only if it is among these. Events of held-up
    streams do not count.

    Args:
        store: one face of the store.
        now: no event that was recorded later counts.
    """
    newest = await _recorded({"$lte": now}, -1, NEWEST_EVENTS, store)
    newest = await _without_position(store, newest)
    if not newest:
        return None
    with in_time():
        last = await store.positions.find_one({}, sort=[("_id", -1)])
        event = last and await store.events.find_one({"_id": {"$eq": last["eventId"]}})
    since = {"$gte": event.get("created")} if event else {}
    waiting = await _without_position(
        store, await _recorded({**since, "$lte": now}, 1, CHECKED_EVENTS, store)
    )
    created = (waiting or newest[-1:])[0]["created"]
    # BSON knows days long before the first one of Python.
    is_known = isinstance(created, dt.datetime)
    return created if is_known else dt.datetime.min.replace(tzinfo=dt.UTC)


async def _recorded(
    created: Document, direction: int, limit: int, store: Store
) -> list[Document]:
    """Return events in order of the time at which they were recorded."""
    with in_time():
        found = await store.events.find(
            {
                "created": created,
                # What another program stored without these gets no position.
                "aggregateId": {"$type": "string"},
                "aggregateVersion": VERSIONED,
            },
            projection=[*_ENTRY_FIELDS[1:], "created"],
            sort=[("created", direction), ("_id", direction)],
            limit=limit,
        )
    return list(filter(is_event, found))


async def _without_position(store: Store, events: Sequence[Document]) -> list[Document]:
    """Return the events that have no position, but for those of held-up streams."""
    if not events:
        return []
    fields = ("aggregateId", "aggregateVersion")
    versions = [{name: {"$eq": event.get(name)} for name in fields} for event in events]
    with in_time():
        found = await store.positions.find({"$or": versions}, projection=fields)
    placed = {_stream_version(entry) for entry in found}
    waiting = [event for event in events if _stream_version(event) not in placed]
    held = await held_up_among(store, {event["aggregateId"] for event in waiting})
    return [event for event in waiting if event["aggregateId"] not in held]


async def wait_for(
    store: Store,
    target: Any,
    seconds: float | None = None,
    *,
    subscription: str | None = None,
) -> bool:
    """
    Wait until an event has a position, and a subscription has reached it.

    Args:
        store: one face of the store.
        target: a position, an event as stored, or an ``Aggregate`` (its last event).
        seconds: how long to wait; None takes the setting ``TIMEOUT``.
        subscription: wait until this one has delivered the event, or all events up to
            the position: none of them may wait in a parked stream. None waits for the
            position alone.

    Returns:
        Whether it was reached in that time.
    """
    position, version = _target(target)
    if subscription is not None:
        check_id(subscription, "subscription")
    if seconds is None:
        seconds = get_settings().TIMEOUT
    check_seconds(seconds, "timeout")
    end, pause = monotonic() + seconds, FIRST_PAUSE_SECONDS
    while True:
        if position is None:
            position = await _position_of(store, version)
        if position is not None and await _is_reached(
            store, subscription, position, version[0] or None
        ):
            return True
        left = end - monotonic()
        if left <= 0:
            return False
        await store.client.pause(min(pause, left))
        pause = min(pause * 1.5, LONGEST_PAUSE_SECONDS)


def _target(target: Any) -> tuple[int | None, tuple[str, int]]:
    """Return the position to wait for; or None, and the stream and version."""
    if isinstance(target, int) and not isinstance(target, bool):
        return check_number(target, "event"), ("", 0)
    if isinstance(target, Mapping):
        stream, version = target.get("aggregateId"), target.get("aggregateVersion")
    else:
        stream, version = getattr(target, "id", None), getattr(target, "version", None)
    try:
        return None, (check_id(stream), check_version(version))
    except (TypeError, ValueError):
        raise TypeError(
            "event must be a position, an event as stored, or an Aggregate, not "
            f"{type(target).__name__}."
        ) from None


def check_wait(wait: Any, store: Store) -> Store:
    """Return the store if its events can get positions while the caller waits."""
    if check_flag(wait, "wait") and store.outside:
        raise ValueError(
            "wait must be False inside a transaction: an event gets its position "
            "after the commit."
        )
    return store


async def with_positions(store: Store, events: list[Document]) -> list[Document]:
    """
    Return events of one append with their positions, once they have them.

    It never says that the store is not available, which means that nothing is stored.
    """
    first, last = events[0], events[-1]
    versions = {"$gte": first["aggregateVersion"], "$lte": last["aggregateVersion"]}
    query = {"aggregateId": {"$eq": last["aggregateId"]}, "aggregateVersion": versions}
    entries: list[Document] = []
    with suppress(StoreUnavailable):
        await wait_for(store, last)
        with in_time():
            entries = await store.positions.find(query, projection=["aggregateVersion"])
    found = {entry["aggregateVersion"]: entry["_id"] for entry in entries}
    return [{**one, "position": found.get(one["aggregateVersion"])} for one in events]


async def position_of(store: Store, target: Any) -> int | None:
    """Return the position of a stored event, an aggregate's last one, or an id."""
    if isinstance(target, (str, ObjectId)):
        event_id = check_id(target, "event") if isinstance(target, str) else target
        with in_time():
            found = await store.events.find_one({"_id": {"$eq": event_id}})
        if found is None:
            raise EventNotFound({"_id": event_id})
        target = found
    elif isinstance(target, int):
        raise TypeError(
            f"event must be an event or its id, not {type(target).__name__}."
        )
    return await _position_of(store, _target(target)[1])


async def _position_of(store: Store, version: tuple[str, int]) -> int | None:
    stream, number = version
    query = {"aggregateId": {"$eq": stream}, "aggregateVersion": number}
    with in_time():
        found = await store.positions.find_one(query, projection={"_id": 1})
    return found["_id"] if found else None


async def reached(store: Store, subscription: str) -> int:
    """Return the position of a subscription's checkpoint; 0 before its first run."""
    with in_time():
        found = await store.subscriptions.find_one(
            {"_id": {"$eq": subscription}}, projection={"position": 1}
        )
    return found["position"] if found else 0


async def _is_reached(
    store: Store, subscription: str | None, position: int, stream: str | None
) -> bool:
    """
    Whether a position is assigned, and a subscription has delivered all up to it.

    A subscription passes events of parked streams, which are not delivered.

    Args:
        store: one face of the store.
        subscription: the subscription; None asks for the position alone.
        position: the position.
        stream: only this one need not be parked; None means all.
    """
    if subscription is None:
        return position <= await head_position(store)
    parked: Document = {
        "subscription": {"$eq": subscription},
        "position": {"$lte": position},
    }
    if stream is not None:
        parked["_id"] = {"subscription": subscription, "aggregateId": stream}
    with in_time():
        # The checkpoint first: a stream is parked in the transaction that passes it.
        if await reached(store, subscription) < position:
            return False
        return await store.parked.find_one(parked, projection={"_id": 1}) is None


async def read_all(
    store: Store,
    after: int,
    query: Document,
    limit: int | None,
) -> AsyncGenerator[Document, None]:
    """
    Yield the events after a position, in global order, each with ``position``.

    Args:
        store: one face of the store.
        after: the position.
        query: a filter over the entries, as of ``wanted()``.
        limit: the most events; None means all.
    """
    left = float("inf") if limit is None else limit
    at_once = PageLimit()
    async with store.client.session() as session:
        while left > 0:
            size = int(min(PAGE_SIZE, left))
            here = {**query, "_id": {"$gt": after}}
            page = await read(store, here, size, session, at_once)
            for event in page.events:
                if isinstance(event, LostEvent):
                    raise event.error
                yield event
            if not page.is_full:
                return
            after = page.last
            left -= len(page.events)


def wanted(
    types: Sequence[str] | None,
    aggregate_types: Sequence[str] | None,
    tags: Sequence[str] | None = None,
) -> Document:
    """Return the filter over the entries for types and all of some tags; None: any."""
    query: dict[str, Any] = {}
    for field, name, chosen in (
        ("type", "types", types),
        ("aggregateType", "aggregate_types", aggregate_types),
    ):
        if (chosen := check_names(chosen, name)) is not None:
            query[field] = {"$in": list(chosen)}
    if (all_of := check_all_of(tags, "tags")) is not None:
        query["tags"] = {"$all": list(all_of)}
    return query


def wanted_by(
    types: Sequence[str] | None,
    aggregate_types: Sequence[str] | None,
    tags: Sequence[str] | None = None,
) -> Document:
    """Return the same for what code handles: the types are those that it knows."""
    return wanted(current().stored_types(types), aggregate_types, tags)


async def read(
    store: Store,
    query: Document,
    size: int,
    session: Any,
    limit: PageLimit | None = None,
) -> EventPage:
    """
    Return the events of the first ``size`` entries that match a query.

    They are fewer if they are large; a reader that reads on passes its ``limit``.

    The session makes the second read see what the first one saw: another member that
    became the primary in between may lag for a while.
    """
    limit = limit or PageLimit(first=size)
    size = min(size, limit.events)
    with in_time():
        entries = await store.positions.find(
            query,
            projection=["eventId", "lost"],
            sort=[("_id", 1)],
            limit=size,
            session=session,
        )
        kept = [entry for entry in entries if "lost" not in entry]
        found, read = await events_of(store, kept, session, limit)
    is_full = len(entries) == size or len(read) < len(kept)
    last = read[-1]["_id"] if len(read) < len(kept) else 0
    events: dict[int, Document] = {}
    for entry in read:
        event = found.get(id_key(entry["eventId"]))
        if event is not None:
            events[entry["_id"]] = read_whole_event(event)
            event["position"] = entry["_id"]
    missing = [entry["_id"] for entry in read if entry["_id"] not in events]
    if missing:
        events |= await lost_events(store, missing, session)
    page = [events[position] for position in sorted(events)]
    return EventPage(page, last or (entries[-1]["_id"] if entries else 0), is_full)


async def lost_events(
    store: Store, positions: Sequence[int], session: Any
) -> dict[int, LostEvent]:
    """Return what the entries of some events say that no longer exist."""
    with in_time():
        entries = await store.positions.find(
            {"_id": {"$in": list(positions)}, "lost": None},
            projection=_ENTRY_FIELDS,
            session=session,
        )
    lost: dict[int, LostEvent] = {}
    for entry in entries:
        position, event_id = entry.pop("_id"), entry.pop("eventId")
        lost[position] = LostEvent(entry, _id=event_id, position=position)
    return lost


def _stream_version(document: Document) -> tuple[str, int]:
    return document["aggregateId"], document["aggregateVersion"]
