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

from .events import check_id, check_version, read_event
from .exceptions import PositionsBroken
from .faces import Document
from .mongo import Store, in_time

PAGE = 1000
NEEDED = ("eventId", "aggregateId", "aggregateVersion")  # of an entry
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
            query, projection=NEEDED, sort=[("_id", 1)], limit=size, session=session
        )
        ids = [entry["eventId"] for entry in entries]
        found = (
            await store.events.find({"_id": {"$in": ids}}, session=session)
            if ids
            else []
        )
    # By place and not by id, which may be of any type. No function is called for each
    # but one: this runs for every event of every subscription.
    events = {
        (event["aggregateId"], event["aggregateVersion"]): event for event in found
    }
    page = []
    for entry in entries:
        place = entry["aggregateId"], entry["aggregateVersion"]
        if place not in events:
            raise PositionsBroken(entry["_id"], *place)
        event = read_event(events[place])
        event["position"] = entry["_id"]
        page.append(event)
    return page


def _place(document: Document) -> tuple[str, int]:
    return document["aggregateId"], document["aggregateVersion"]
