"""
Races of conditional appends, of which exactly one may commit; and weaker stores.
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from ossy_event_store import BoundaryConflict, Condition, EventStore, any_of, item
from ossy_event_store.mongodb import connection
from ossy_event_store.mongodb.indexes import TAG_PLACES, look
from ossy_event_store.mongodb.ports import drive
from ossy_event_store.streams.boundaries import guarding, placing

RACERS = 16
SPREAD_SECONDS = 0.004  # of staggered starts: about what one append takes

Race = Callable[[int, int], bool]


def event(number: int, racer: int, *tags: str) -> dict[str, Any]:
    """Return an event of a stream of its own, so that only tags collide."""
    stream = {"aggregateId": f"{number}-{racer}", "aggregateType": "Racer"}
    return {"type": "Registered", "tags": tags, **stream}


def register(number: int, racer: int) -> bool:
    """Register a name that nobody has: all racers append to one tag."""
    name = f"name:{number}"
    query = any_of(item("Registered", tags=[name]))
    read = EventStore.read_boundary(query)
    if list(read.events):
        return False
    return appended(event(number, racer, name), Condition(query, read.token))


def be_alone(number: int, racer: int) -> bool:
    """Append to a tag of one's own if all others are empty: only guards collide."""
    tags = [f"racer:{number}-{other}" for other in range(RACERS)]
    query = any_of(*(item(tags=[tag]) for tag in tags))
    read = EventStore.read_boundary(query)
    if list(read.events):
        return False
    return appended(event(number, racer, tags[racer]), Condition(query, read.token))


def read_late(number: int, racer: int) -> bool:
    """Register a name with a token that was read after the events."""
    query = any_of(item("Registered", tags=[f"name:{number}"]))
    if list(EventStore.read_boundary(query).events):
        return False
    time.sleep(random.random() * SPREAD_SECONDS)
    token = EventStore.read_boundary(query).token
    return appended(event(number, racer, f"name:{number}"), Condition(query, token))


def look_and_insert(number: int, racer: int) -> bool:
    """Register a name after a look whether it is free."""
    if EventStore.find_events({"tags": f"name:{number}"}, default=[]):
        return False
    return appended(event(number, racer, f"name:{number}"), None)


def appended(one: dict[str, Any], unless: Condition | None) -> bool:
    try:
        EventStore.append_events([one], unless=unless)
    except BoundaryConflict:
        return False
    return True


def committed(race: Race, rounds: int, *, staggered: bool) -> Counter[int]:
    """Run a race some times; return how many rounds had how many commits."""
    barrier = threading.Barrier(RACERS)

    def run(number: int, racer: int) -> bool:
        barrier.wait(60)
        if staggered:
            time.sleep(random.random() * SPREAD_SECONDS)
        return race(number, racer)

    counts: Counter[int] = Counter()
    with ThreadPoolExecutor(RACERS) as pool:
        for number in range(rounds):
            counts[sum(pool.map(run, [number] * RACERS, range(RACERS)))] += 1
    return counts


# --- weaker stores ----------------------------------------------------------


@contextmanager
def without_unique_index(history: Any) -> Iterator[None]:
    """Let two events have the same number in a tag."""
    keys = list(TAG_PLACES.keys)
    # As a process does that has appended before.
    drive(look(connection.blocking(), TAG_PLACES))
    history.drop_index(TAG_PLACES.name)
    history.create_index(keys, name=TAG_PLACES.name)
    try:
        yield
    finally:
        history.delete_many({})
        history.drop_index(TAG_PLACES.name)
        history.create_index(keys, **TAG_PLACES.options)


def take_no_guards(monkeypatch: Any) -> None:
    """Check the condition, but guard nothing that the event has no tag of."""
    check = guarding.Guarding.check

    async def unguarded(self: Any, *args: Any) -> list[str]:
        await check(self, *args)
        return []

    monkeypatch.setattr(guarding.Guarding, "check", unguarded)


def check_before_the_heads(monkeypatch: Any) -> None:
    """Look for matches first, and read where the tags end after that."""
    check = guarding.Guarding.check

    async def early(self: Any, store: Any, heads: Any, taken: Any) -> list[str]:
        guarded: list[str] = await check(self, store, heads, taken)
        now = await placing.read_heads(store, [], [*taken, *guarded])
        heads.numbers.update(now.numbers)
        return guarded

    monkeypatch.setattr(guarding.Guarding, "check", early)
