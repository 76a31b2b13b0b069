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
from typing import Any

import bson
from bson import ObjectId

from ..conf import get_settings
from ..documents.arguments import (
    check_flag,
    check_names,
    check_number,
    check_seconds,
)
from ..documents.bson_types import Document
from ..documents.event_document import check_id, check_version, read_event
from ..exceptions import EventNotFound, PositionsBroken, StoreUnavailable
from ..mongodb.connection import Store
from ..mongodb.deadline import in_time

PAGE_SIZE = 1000  # events a round trip
PLAIN_ID_TYPES = (str, ObjectId)  # of ids that are hashable and compare as MongoDB does
TIME_SCAN_EVENTS = 50  # from so many on, events are read along the index of time
SPARE_FACTOR = 1.25  # events read for each that is wanted, at most
CHECKED_EVENTS = 100  # among which an event without a position is looked for
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.002, 0.25  # between two polls


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

    Two reads by index if all have one, else six. It reads the newest event, and then
    the first ``CHECKED_EVENTS`` after the last event that has a position. A backdated
    event, as from an import, is found only if it is among these.

    Args:
        store: one face of the store.
        now: no event that was recorded later counts.
    """
    newest = await _recorded({"$lte": now}, -1, 1, store)
    if not await _without_position(store, newest):
        return None
    with in_time():
        last = await store.positions.find_one({}, sort=[("_id", -1)])
        event = last and await store.events.find_one({"_id": {"$eq": last["eventId"]}})
    since = {"$gte": event.get("created")} if event else {}
    waiting = await _without_position(
        store, await _recorded({**since, "$lte": now}, 1, CHECKED_EVENTS, store)
    )
    created: dt.datetime = (waiting or newest)[0]["created"]
    return created


async def _recorded(
    created: Document, direction: int, limit: int, store: Store
) -> list[Document]:
    """Return events in order of the time at which they were recorded."""
    with in_time():
        return await store.events.find(
            {
                "created": created,
                # What another program stored without these gets no position.
                "aggregateId": {"$type": "string"},
                "aggregateVersion": {"$type": ["int", "long", "double"]},
            },
            projection=["aggregateId", "aggregateVersion", "created"],
            sort=[("created", direction), ("_id", direction)],
            limit=limit,
        )


async def _without_position(store: Store, events: Sequence[Document]) -> list[Document]:
    """Return the events that have no position."""
    if not events:
        return []
    fields = ("aggregateId", "aggregateVersion")
    versions = [{name: {"$eq": event.get(name)} for name in fields} for event in events]
    with in_time():
        found = await store.positions.find({"$or": versions}, projection=fields)
    placed = {_stream_version(entry) for entry in found}
    return [event for event in events if _stream_version(event) not in placed]


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
        subscription: wait for the checkpoint of this one; None waits for the position
            alone.

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
        if position is not None and position <= await reached(store, subscription):
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
            "wait must be False inside of a transaction: an event gets its position "
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


async def reached(store: Store, subscription: str | None) -> int:
    """Return the position a subscription has reached; with None, the last of all."""
    if subscription is None:
        return await head_position(store)
    with in_time():
        found = await store.subscriptions.find_one(
            {"_id": {"$eq": subscription}}, projection={"position": 1}
        )
    return found["position"] if found else 0


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
    async with store.client.session() as session:
        while left > 0:
            size = int(min(PAGE_SIZE, left))
            page = await read(store, {**query, "_id": {"$gt": after}}, size, session)
            for event in page:
                yield event
            if len(page) < size:
                return
            after = page[-1]["position"]
            left -= size


def wanted(
    types: Sequence[str] | None, aggregate_types: Sequence[str] | None
) -> Document:
    """Return the filter over the entries for some types; None means all."""
    query: dict[str, Any] = {}
    for field, name, chosen in (
        ("type", "types", types),
        ("aggregateType", "aggregate_types", aggregate_types),
    ):
        if (chosen := check_names(chosen, name)) is not None:
            query[field] = {"$in": list(chosen)}
    return query


async def read(
    store: Store, query: Document, size: int, session: Any
) -> list[Document]:
    """
    Return the events of the first ``size`` entries that match a query.

    The session makes the second read see what the first one saw: another member that
    became the primary in between may lag for a while.
    """
    with in_time():
        entries = await store.positions.find(
            query,
            projection=["eventId"],
            sort=[("_id", 1)],
            limit=size,
            session=session,
        )
        events = await _events_of(store, entries, session)
    page = []
    for entry in entries:
        event = events.get(_id_key(entry["eventId"]))
        if event is None:
            raise await _positions_broken(store, entry["_id"], session)
        event = read_event(event)
        event["position"] = entry["_id"]
        page.append(event)
    return page


async def _events_of(
    store: Store, entries: Sequence[Document], session: Any
) -> dict[Any, Document]:
    """
    Return the events of some entries, by the keys of their ids.

    Neighbours in the global order were recorded at about the same time: reading along
    the index of time costs a third less than looking up each id. Events that it does
    not return are looked up by id.
    """
    events: dict[Any, Document] = {}
    limit = round(len(entries) * SPARE_FACTOR)
    span = entries[-1]["_id"] - entries[0]["_id"] if entries else 0
    is_dense = len(entries) >= TIME_SCAN_EVENTS and span < limit
    if is_dense and (times := await _time_span(store, entries, session)):
        # Without a sort, the server picks the one index on the time alone.
        found = await store.events.find(times, limit=limit, session=session)
        events = {_id_key(event["_id"]): event for event in found}
    ids = [entry["eventId"] for entry in entries]
    missing = [one for one in ids if _id_key(one) not in events]
    if missing:
        found = await store.events.find({"_id": {"$in": missing}}, session=session)
        events.update((_id_key(event["_id"]), event) for event in found)
    return events


async def _time_span(
    store: Store, entries: Sequence[Document], session: Any
) -> Document | None:
    """Return the filter for the time from the first entry's event to the last one's."""
    ends = [entries[0]["eventId"], entries[-1]["eventId"]]
    found = await store.events.find(
        {"_id": {"$in": ends}}, projection=["created"], session=session
    )
    times = [event.get("created") for event in found]
    dates = [time for time in times if isinstance(time, dt.datetime)]
    if not dates:
        return None  # another program stores numbers
    return {"created": {"$gte": min(dates), "$lte": max(dates)}}


def _id_key(event_id: Any) -> Any:
    """Return a hashable key for an event id, which may be of any BSON type."""
    return event_id if type(event_id) in PLAIN_ID_TYPES else bson.encode({"": event_id})


async def _positions_broken(
    store: Store, position: int, session: Any
) -> PositionsBroken:
    with in_time():
        entry = await store.positions.find_one({"_id": position}, session=session)
    entry = entry or {}
    return PositionsBroken(
        position, entry.get("aggregateId", ""), entry.get("aggregateVersion", 0)
    )


def _stream_version(document: Document) -> tuple[str, int]:
    return document["aggregateId"], document["aggregateVersion"]
