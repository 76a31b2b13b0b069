"""
Reading the events in their one order; ``sequence`` gives the positions.

The entries say which event stands where; the events are fetched by their ids, a page
at a time.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import AsyncGenerator, Mapping, Sequence
from time import monotonic
from typing import Any

import bson
from bson import ObjectId

from ..documents.bson_types import Document
from ..documents.event_document import check_id, check_version, read_event
from ..exceptions import PositionsBroken
from ..mongodb.connection import Store
from ..mongodb.deadline import in_time

PAGE = 1000
PLAIN = (str, ObjectId)  # ids that are keys as they are
MANY = 50  # events that are looked for by the time at which they were recorded
SPARE = 1.25  # events read for each that is wanted, at most
LOOK = 100  # events that may wait for a position
FIRST_PAUSE, LONGEST_PAUSE = 0.005, 0.25  # seconds between two looks


async def head_position(store: Store, session: Any = None) -> int:
    """Return the last position that was given, 0 if none was."""
    with in_time():
        last = await store.positions.find_one(
            {}, projection={"_id": 1}, sort=[("_id", -1)], session=session
        )
    return last["_id"] if last else 0


async def waiting_since(store: Store) -> dt.datetime | None:
    """
    Return when the oldest event without a position was recorded; None if all have one.

    Two reads by index if all have one, else six. It looks at the newest event, and then
    at the first ``LOOK`` behind the last that has a position; an event that is dated
    back, as by an import, is seen only if it is among these.
    """
    now = dt.datetime.now(dt.UTC)
    newest = await _recorded({"$lte": now}, -1, 1, store)
    if not await _unplaced(store, newest):
        return None
    with in_time():
        last = await store.positions.find_one({}, sort=[("_id", -1)])
        event = last and await store.events.find_one({"_id": {"$eq": last["eventId"]}})
    since = {"$gte": event.get("created")} if event else {}
    waiting = await _unplaced(
        store, await _recorded({**since, "$lte": now}, 1, LOOK, store)
    )
    created: dt.datetime = (waiting or newest)[0]["created"]
    return created


async def _recorded(
    created: Document, direction: int, limit: int, store: Store
) -> list[Document]:
    """Return events by the time at which they were recorded."""
    with in_time():
        return await store.events.find(
            {"created": created, "aggregateId": {"$type": "string"}},
            projection=["aggregateId", "aggregateVersion", "created"],
            sort=[("created", direction), ("_id", direction)],
            limit=limit,
        )


async def _unplaced(store: Store, events: Sequence[Document]) -> list[Document]:
    """Return those that have no position."""
    if not events:
        return []
    fields = ("aggregateId", "aggregateVersion")
    places = [{name: {"$eq": event.get(name)} for name in fields} for event in events]
    with in_time():
        found = await store.positions.find({"$or": places}, projection=fields)
    placed = {_place(entry) for entry in found}
    return [event for event in events if _place(event) not in placed]


async def wait_for(
    store: Store, what: Any, seconds: float, *, subscription: str | None = None
) -> bool:
    """
    Wait until an event has a position, and a subscription has come that far.

    Args:
        store: one face of the store.
        what: a position, an event as stored, or an ``Aggregate`` for its last event.
        seconds: how long to wait.
        subscription: whose checkpoint is waited for; None waits for the position.

    Returns:
        Whether it came true in that time.
    """
    position, place = _asked(what)
    end, pause = monotonic() + seconds, FIRST_PAUSE
    while True:
        if position is None:
            position = await _position_at(store, place)
        if position is not None and position <= await reached(store, subscription):
            return True
        left = end - monotonic()
        if left <= 0:
            return False
        await store.client.pause(min(pause, left))
        pause = min(pause * 1.5, LONGEST_PAUSE)


def _asked(what: Any) -> tuple[int | None, tuple[str, int]]:
    """Return the position that is meant, or the place in a stream."""
    if isinstance(what, int) and not isinstance(what, bool):
        return what, ("", 0)
    if isinstance(what, Mapping):
        stream, version = what.get("aggregateId"), what.get("aggregateVersion")
    else:
        stream, version = getattr(what, "id", None), getattr(what, "version", None)
    try:
        return None, (check_id(stream), check_version(version))
    except (TypeError, ValueError):
        raise TypeError(
            "Expected a position, an event as stored, or an Aggregate; not "
            f"{type(what).__name__}."
        ) from None


async def _position_at(store: Store, place: tuple[str, int]) -> int | None:
    query = {"aggregateId": {"$eq": place[0]}, "aggregateVersion": place[1]}
    with in_time():
        found = await store.positions.find_one(query, projection={"_id": 1})
    return found["_id"] if found else None


async def reached(store: Store, subscription: str | None) -> int:
    """Return how far a subscription has come, or, with None, the positions."""
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
    types: Sequence[str] | None,
    aggregate_types: Sequence[str] | None,
    limit: int | None,
) -> AsyncGenerator[Document, None]:
    """Yield the events behind a position in their order, each with ``position``."""
    query = wanted(types, aggregate_types)
    left = float("inf") if limit is None else limit
    async with store.client.session() as session:
        while left > 0:
            size = int(min(PAGE, left))
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
    """Return the filter over the positions for some types; None means all."""
    query: dict[str, Any] = {}
    for field, name, chosen in (
        ("type", "types", types),
        ("aggregateType", "aggregate_types", aggregate_types),
    ):
        if chosen is not None:
            query[field] = {"$in": [check_id(one, name) for one in chosen]}
    return query


async def read(
    store: Store, query: Document, size: int, session: Any
) -> list[Document]:
    """
    Return the events of the first ``size`` positions that answer a query.

    The session makes the second read see what the first one saw: another member
    that became the primary in between may know less for a while.
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
        event = events.get(_key(entry["eventId"]))
        if event is None:
            raise await _broken(store, entry["_id"], session)
        event = read_event(event)
        event["position"] = entry["_id"]
        page.append(event)
    return page


async def _events_of(
    store: Store, entries: Sequence[Document], session: Any
) -> dict[Any, Document]:
    """
    Return the events of some entries, by the keys of their ids.

    Neighbours in the one order were recorded at about the same time: to follow the
    index of time costs a third less than to look for each id. What that does not give
    is looked for by id.
    """
    events: dict[Any, Document] = {}
    limit = round(len(entries) * SPARE)
    dense = len(entries) >= MANY and entries[-1]["_id"] - entries[0]["_id"] < limit
    if dense and (span := await _span(store, entries, session)):
        # Without a sort, the server takes the one index that has times alone.
        found = await store.events.find(span, limit=limit, session=session)
        events = {_key(event["_id"]): event for event in found}
    ids = [entry["eventId"] for entry in entries]
    missing = [one for one in ids if _key(one) not in events]
    if missing:
        found = await store.events.find({"_id": {"$in": missing}}, session=session)
        events.update((_key(event["_id"]), event) for event in found)
    return events


async def _span(
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
        return None  # a foreign writer stores numbers
    return {"created": {"$gte": min(dates), "$lte": max(dates)}}


def _key(event_id: Any) -> Any:
    """Return what an id is looked up by; ids of other kinds may be of any type."""
    return event_id if type(event_id) in PLAIN else bson.encode({"": event_id})


async def _broken(store: Store, position: int, session: Any) -> PositionsBroken:
    with in_time():
        entry = await store.positions.find_one({"_id": position}, session=session)
    entry = entry or {}
    return PositionsBroken(
        position, entry.get("aggregateId", ""), entry.get("aggregateVersion", 0)
    )


def _place(document: Document) -> tuple[str, int]:
    return document["aggregateId"], document["aggregateVersion"]
