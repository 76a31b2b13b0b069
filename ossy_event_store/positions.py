"""
Reading the events in their one order; ``sequence`` gives the positions.

The entries say which event stands where; the events are fetched by their ids, a page
at a time.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from time import monotonic
from typing import Any

from .events import check_id, read_event
from .exceptions import PositionsBroken
from .faces import Document
from .mongo import Store, in_time

PAGE = 1000
FIRST_PAUSE, LONGEST_PAUSE = 0.005, 0.25  # seconds between two looks


async def head_position(store: Store, session: Any = None) -> int:
    """Return the last position that was given, 0 if none was."""
    with in_time():
        last = await store.positions.find_one(
            {}, projection={"_id": 1}, sort=[("_id", -1)], session=session
        )
    return last["_id"] if last else 0


async def wait_for(store: Store, position: int, seconds: float) -> bool:
    """Wait until a position was given; return whether it was, in that time."""
    end, pause = monotonic() + seconds, FIRST_PAUSE
    while await head_position(store) < position:
        left = end - monotonic()
        if left <= 0:
            return False
        await store.client.pause(min(pause, left))
        pause = min(pause * 1.5, LONGEST_PAUSE)
    return True


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
            query, sort=[("_id", 1)], limit=size, session=session
        )
        ids = [entry["eventId"] for entry in entries]
        found = (
            await store.events.find({"_id": {"$in": ids}}, session=session)
            if ids
            else []
        )
    # By place and not by id, which may be of any type.
    events = {_place(event): event for event in found}
    return [_placed(events.get(_place(entry)), entry) for entry in entries]


def _placed(event: Document | None, entry: Document) -> Document:
    if event is None:
        raise PositionsBroken(
            entry["_id"], entry["aggregateId"], entry["aggregateVersion"]
        )
    event = read_event(event)
    event["position"] = entry["_id"]
    return event


def _place(document: Document) -> tuple[str, int]:
    return document["aggregateId"], document["aggregateVersion"]
