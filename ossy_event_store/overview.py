"""
How the store is: what is in it, how much comes in, and whether it is well.

What a whole scan would have to count is taken from the last rebuild, which looks at
every stream anyway; the rest are counts that end at a limit.
"""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast
from weakref import WeakKeyDictionary

from . import indexes
from .exceptions import ReducerError
from .faces import Document
from .indexes import TIME
from .mongo import Store, in_time

DAYS = 14
MOST = 10_000  # events counted of one day
KEEP = 600  # seconds that the count of a day that has ended is kept
MOST_KEPT = 100  # days, of each store
NAMED = 20  # failed streams that a tally names

# What imports add to a day that has ended is seen when its count is not kept any more.
# By client; then by database, day and zone: until when, and the count.
_ended: WeakKeyDictionary[Any, dict[tuple[str, dt.date, str], tuple[float, Day]]] = (
    WeakKeyDictionary()
)

_TALLY = "tally "  # and the aggregate type: an id among the leases


@dataclass
class Tally:
    """What a rebuild saw of one aggregate type."""

    aggregate_type: str
    streams: int = 0
    events: int = 0
    #: Streams whose reducer raised; the first ones are in ``failures``, by id.
    failed: int = 0
    failures: dict[str, int] = field(default_factory=dict)
    #: When, on the clock of whoever counted.
    at: dt.datetime | None = None

    def note(self, failures: Sequence[ReducerError], failed: int) -> None:
        """Take in which streams could not be folded."""
        self.failed = failed
        self.failures = {
            failure.aggregate_id: failure.version for failure in failures[:NAMED]
        }


async def save_tally(store: Store, tally: Tally) -> None:
    """Keep a tally in place of the one before."""
    document = {
        "aggregateType": tally.aggregate_type,
        "streams": tally.streams,
        "events": tally.events,
        "failed": tally.failed,
        "failures": [
            {"aggregateId": aggregate_id, "aggregateVersion": version}
            for aggregate_id, version in tally.failures.items()
        ],
        "at": dt.datetime.now(dt.UTC),
    }
    with in_time():
        await store.leases.update_one(
            {"_id": _TALLY + tally.aggregate_type}, {"$set": document}, upsert=True
        )


async def tallies(store: Store) -> list[Tally]:
    """Return what the last rebuilds saw, by aggregate type."""
    with in_time():
        found = await store.leases.find(
            {"_id": {"$gte": _TALLY, "$lt": _TALLY + "\U0010ffff"}}, sort=[("_id", 1)]
        )
    return [_tally(document) for document in found]


def _tally(document: Document) -> Tally:
    return Tally(
        document["aggregateType"],
        document["streams"],
        document["events"],
        document["failed"],
        {f["aggregateId"]: f["aggregateVersion"] for f in document["failures"]},
        document["at"],
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
