"""
The figures of the overview page: contents, events per day, and the store's health.

Counting streams takes a scan of the whole store, so those counts come from the last
rebuild, which reads every stream anyway. All other counts stop at a limit.
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

CHART_DAYS = 14
COUNT_LIMIT = 10_000  # events of one day; beyond it the page says "more than"
KEEP_SECONDS = 600  # how long the count of a past day is reused
KEPT_COUNTS = 100  # of each client


# --- events per day ---------------------------------------------------------


@dataclass(frozen=True)
class Day:
    """The number of events of one day; ``more`` if counting stopped at the limit."""

    day: dt.date
    events: int
    more: bool


async def last_day(store: Store, today: dt.date, zone: dt.tzinfo) -> dt.date:
    """Return today, or the day of the newest event if the chart would be empty."""
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
    return today if today - day < dt.timedelta(CHART_DAYS) else day


class DayCounts:
    """
    Counts the events of each day, and reuses the counts of past days for a while.

    An import can add events to a past day; they appear once its count has expired.

    Args:
        limit: where counting the events of one day stops.
        keep_seconds: how long the count of a past day is reused.
    """

    def __init__(
        self, limit: int = COUNT_LIMIT, keep_seconds: float = KEEP_SECONDS
    ) -> None:
        self.limit = limit
        self.keep_seconds = keep_seconds
        # By client; then by database, day and zone: when it expires, and the count.
        self._kept: WeakKeyDictionary[
            Any, dict[tuple[str, dt.date, str], tuple[float, Day]]
        ] = WeakKeyDictionary()

    async def days(self, store: Store, last: dt.date, zone: dt.tzinfo) -> list[Day]:
        """
        Return the counts of the days up to ``last``, the oldest first.

        Args:
            store: one face of the store.
            last: the last day, see ``last_day``.
            zone: decides when a day begins.
        """
        return [
            await self._day(store, last - dt.timedelta(back), zone)
            for back in range(CHART_DAYS - 1, -1, -1)
        ]

    async def _day(self, store: Store, day: dt.date, zone: dt.tzinfo) -> Day:
        database = cast(Any, store.events).raw.database
        kept = self._kept.setdefault(database.client, {})
        key, now = (database.name, day, str(zone)), time.monotonic()
        expires, found = kept.get(key, (0.0, None))
        if found is not None and now < expires:
            return found
        counted = await self._count(store, day, zone)
        if _midnight(day + dt.timedelta(1), zone) < dt.datetime.now(dt.UTC):
            if len(kept) >= KEPT_COUNTS:
                kept.clear()
            kept[key] = now + self.keep_seconds, counted
        return counted

    async def _count(self, store: Store, day: dt.date, zone: dt.tzinfo) -> Day:
        begin, end = (_midnight(day + dt.timedelta(plus), zone) for plus in (0, 1))
        pipeline: list[Document] = [
            {"$match": {"created": {"$gte": begin, "$lt": end}}},
            {"$limit": self.limit + 1},
            {"$count": "events"},
        ]
        count = 0
        with in_time():
            async for batch in store.events.aggregate(
                pipeline, 1, hint=dict(TIME.keys)
            ):
                count = batch[0]["events"]
        return Day(day, min(count, self.limit), count > self.limit)


def _midnight(day: dt.date, zone: dt.tzinfo) -> dt.datetime:
    return dt.datetime.combine(day, dt.time(), zone)


def chart(days: list[Day]) -> dict[str, Any]:
    """Return the bars of a chart of the events per day, in units of the drawing."""
    above, height, below, bar_width, step = 16, 120, 18, 40, 48
    highest = max([1, *(day.events for day in days)])
    bars = []
    for number, day in enumerate(days):
        bar_height = round(height * day.events / highest)
        bars.append(
            {
                "day": day,
                "x": number * step + (step - bar_width) // 2,
                "y": above + height - bar_height,
                "middle": number * step + step // 2,
                "width": bar_width,
                "height": bar_height,
                "top": above + height - bar_height - 4,
            }
        )
    return {
        "width": step * len(days),
        "height": above + height + below,
        "floor": above + height,
        "bars": bars,
    }


# --- health -----------------------------------------------------------------


@dataclass(frozen=True)
class Health:
    """What the server reports about itself and the store's collections."""

    version: str
    set_name: str | None
    missing: list[str]
    #: From the server's own metadata, which can be off after a crash.
    events: int
    snapshots: int


async def health(store: Store) -> Health:
    """Ask the server for its version, its replica set, counts and indexes."""
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
