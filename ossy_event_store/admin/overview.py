"""
How the store is: what is in it, how much comes in, and whether it is well.

What a whole scan would have to count is taken from the last rebuild, which looks at
every stream anyway; the rest are counts that end at a limit.
"""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast
from weakref import WeakKeyDictionary

from ..documents.bson_types import Document
from ..mongodb import indexes
from ..mongodb.connection import Store
from ..mongodb.deadline import in_time
from ..mongodb.indexes import TIME

DAYS = 14
MOST = 10_000  # events counted of one day
KEEP = 600  # seconds that the count of a day that has ended is kept
MOST_KEPT = 100  # days, of each store

# What imports add to a day that has ended is seen when its count is not kept any more.
# By client; then by database, day and zone: until when, and the count.
_ended: WeakKeyDictionary[Any, dict[tuple[str, dt.date, str], tuple[float, Day]]] = (
    WeakKeyDictionary()
)


@dataclass(frozen=True)
class Day:
    """The events of one day; ``more`` if there are more than were counted."""

    day: dt.date
    events: int
    more: bool


async def last_day(store: Store, today: dt.date, zone: dt.tzinfo) -> dt.date:
    """Return today, or the day of the newest event if ``days`` would show none."""
    end = _midnight(today + dt.timedelta(1), zone)
    with in_time():
        newest = await store.events.find_one(
            {"created": {"$gte": dt.datetime(1970, 1, 1, tzinfo=dt.UTC), "$lt": end}},
            projection={"_id": 0, "created": 1},
            sort=[("created", -1), ("_id", -1)],
            hint=list(TIME.keys),
        )
    if newest is None:
        return today
    day: dt.date = newest["created"].astimezone(zone).date()
    return today if today - day < dt.timedelta(DAYS) else day


async def days(store: Store, last: dt.date, zone: dt.tzinfo) -> list[Day]:
    """
    Return the events of each of the last days, the oldest first.

    Args:
        store: one face of the store.
        last: the last day, as ``last_day`` gives it.
        zone: where a day begins.
    """
    return [
        await _kept_day(store, last - dt.timedelta(back), zone)
        for back in range(DAYS - 1, -1, -1)
    ]


async def _kept_day(store: Store, day: dt.date, zone: dt.tzinfo) -> Day:
    database = cast(Any, store.events).raw.database
    kept = _ended.setdefault(database.client, {})
    key, now = (database.name, day, str(zone)), time.monotonic()
    until, found = kept.get(key, (0.0, None))
    if found is not None and now < until:
        return found
    counted = await _day(store, day, zone)
    if _midnight(day + dt.timedelta(1), zone) < dt.datetime.now(dt.UTC):
        if len(kept) >= MOST_KEPT:
            kept.clear()
        kept[key] = now + KEEP, counted
    return counted


async def _day(store: Store, day: dt.date, zone: dt.tzinfo) -> Day:
    begin, end = (_midnight(day + dt.timedelta(plus), zone) for plus in (0, 1))
    pipeline: list[Document] = [
        {"$match": {"created": {"$gte": begin, "$lt": end}}},
        {"$limit": MOST + 1},
        {"$count": "events"},
    ]
    count = 0
    with in_time():
        async for batch in store.events.aggregate(pipeline, 1, hint=dict(TIME.keys)):
            count = batch[0]["events"]
    return Day(day, min(count, MOST), count > MOST)


def _midnight(day: dt.date, zone: dt.tzinfo) -> dt.datetime:
    return dt.datetime.combine(day, dt.time(), zone)


@dataclass(frozen=True)
class Health:
    """Whether the store's server and indexes are as they should be."""

    version: str
    set_name: str | None
    missing: list[str]
    #: By the server's own books, which may be off after a crash.
    events: int
    snapshots: int


async def health(store: Store) -> Health:
    """Ask the server how it is."""
    with in_time():
        build: Mapping[str, Any] = await store.client.command("buildInfo")
        hello: Mapping[str, Any] = await store.client.command("hello")
        events = await store.events.count()
        snapshots = await store.snapshots.count()
    missing = await indexes.missing(store)
    return Health(
        build["version"],
        hello.get("setName"),
        [f"{index.collection}.{index.name}" for index in missing],
        events,
        snapshots,
    )
