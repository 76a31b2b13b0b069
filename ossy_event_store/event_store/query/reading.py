"""
Read the events of a plan in pages, and stop if too many are read for what is found.
"""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator
from contextlib import aclosing, nullcontext
from typing import Any, NamedTuple

from pymongo.errors import OperationFailure

from ...documents.bson_types import Document
from ...documents.event_document import read_whole_event
from ...documents.passed_over import TYPED, VERSIONED, is_event
from ...exceptions import InvalidQuery
from ...mongodb.connection import Store
from ...mongodb.deadline import in_time
from ...mongodb.ports import ONE_BATCH, bytes_of
from ...positions.event_pages import PageLimit, events_of, id_key
from ...positions.reader import lost_events
from ...streams.lookup import explained_query
from .conditions import OF_ENTRIES, OF_POSITIONS
from .plan import Bound, Plan, helpful_index
from .rows import Place, Row, Rows, documents_of, raise_if_missing

PAGE_EVENTS = 1000  # events a round trip
KEYS_PER_EVENT = 3  # read for each that is found; a query may read ``SPARE_KEYS`` more
SPARE_KEYS = 100
KEYS_PER_ID = 2  # that the server looks at to find one of some ids


IS_EVENT: Document = {
    **TYPED,
    "aggregateId": {"$type": "string"},
    "aggregateVersion": VERSIONED,
}


class Budget:
    """
    How much a query may read for what it finds.

    It is read from an index, so without other conditions it finds what it reads.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.is_free = plan.is_scan or plan.is_exact
        self.left: float = math.inf if self.is_free else SPARE_KEYS
        self.read = self.found = 0

    def spend(self, keys: int, found: int) -> None:
        """Take note of what was read."""
        self.read += keys
        self.found += found
        self.left += KEYS_PER_EVENT * found - keys

    def size(self, limit: PageLimit, most: float) -> int:
        """
        Return how many events to read next.

        Raises:
            InvalidQuery: nothing is left.
        """
        if self.is_free:
            return int(min(PAGE_EVENTS, limit.events, most))
        # Before it knows which of two sources comes first, it reads both.
        rows = min(2, len(self.plan.sources))
        lookups = self.plan.is_of_entries + self.plan.asks_again
        left = (self.left - self.plan.searches) / (rows + lookups * KEYS_PER_ID)
        if left < 1:
            asked = ", ".join(sorted(self.plan.left))
            index = helpful_index(self.plan.conditions, self.plan.order)
            raise InvalidQuery(
                "",
                f"{self.read} events were read and {self.found} were found, since no "
                f"index finds {asked} as well. An index {index} would, and the store "
                "has none. Ask for less, or add scan() to read on.",
            )
        return int(min(PAGE_EVENTS, limit.events, left))


async def each_event(
    store: Store,
    plan: Plan,
    *,
    place: Place | None = None,
    skip: int = 0,
    limit: int | None = None,
    session: Any = None,
) -> AsyncGenerator[tuple[Document, int, Bound], None]:
    """
    Yield the events of a plan, each with the number of its source and its key there.

    Args:
        store: one face of the store.
        plan: how they are read.
        place: where to continue.
        skip: how many to leave out at first.
        limit: the most events.
        session: in which to read; None reads in one of its own.

    Raises:
        IndexMissing: an index that the project wants does not exist.
        InvalidQuery: too much was read for what was found.
        PositionsBroken: an event was deleted outside of the event store.
    """
    budget, at_once = Budget(plan), PageLimit(along_time=False)
    at_once.expects_large = False
    left = math.inf if limit is None else skip + limit
    rows = Rows(plan, place or {})
    opened = store.client.session() if session is None else nullcontext(session)
    async with opened as session:
        with in_time():
            budget.spend(await rows.keep_to_positions(store, session), 0)
        while left > 0 and not rows.is_done:
            size = budget.size(at_once, left)
            with in_time(), explained_query("query"):
                found, read = await rows.next(store, size, session, at_once)
            budget.spend(read, 0)
            found = _admitted(plan, found)
            if plan.left <= _told_by_rows(plan):  # what is left out need not be read
                skipped = min(skip, len(found))
                found, skip, left = found[skipped:], skip - skipped, left - skipped
            while found and left > 0:
                with in_time(), explained_query("query"):
                    page = await _events(store, plan, found, session, at_once)
                found = page.left
                skipped = min(skip, len(page.events))
                events = page.events[skipped : _most(left)]
                skip, left = skip - skipped, left - skipped - len(events)
                budget.spend(page.looked_up, len(events))
                for one in events:
                    yield one


def _most(left: float) -> int | None:
    return None if left == math.inf else int(left)


Found = tuple[Document, int, Bound]


class _Page(NamedTuple):
    #: Events with the numbers of their sources and their keys.
    events: list[Found]
    #: How many keys were read for them beside those of their rows.
    looked_up: int
    #: Rows whose events are still to be read, since these were large.
    left: list[Row]


def _told_by_rows(plan: Plan) -> frozenset[str]:
    """Return the conditions that can be decided from the rows."""
    return OF_ENTRIES if plan.is_of_entries else plan.left - {"match"}


def _admitted(plan: Plan, rows: list[Row]) -> list[Row]:
    """Return the rows that are events, as far as they say whether they are wanted."""
    told, admits = plan.left & _told_by_rows(plan), plan.conditions.admits
    if plan.is_of_entries:
        rows = [row for row in rows if "lost" not in row[0]]
    else:
        rows = [row for row in rows if is_event(row[0])]
    return [row for row in rows if admits(row[0], told)]


async def _events(
    store: Store, plan: Plan, rows: list[Row], session: Any, limit: PageLimit
) -> _Page:
    """Return the events of some rows that meet the plan."""
    conditions, looked_up, left = plan.conditions, 0, rows[:0]
    if plan.is_of_entries:
        events, left = await _of_entries(store, plan, rows, session, limit)
        looked_up = KEYS_PER_ID * len(events)
        events = [one for one in events if conditions.admits(one[0], plan.left)]
    else:
        events = [
            (read_whole_event(event), number, key)
            for event, number, key in (_keyed(plan, row) for row in rows)
        ]
    if events and plan.asks_again:
        looked_up += KEYS_PER_ID * len(events)
        ids = {"_id": {"$in": [event["_id"] for event, _, _ in events]}}
        query = {"$and": [ids, conditions.filter({"match"})]}
        found = await store.events.find(query, projection=["_id"], session=session)
        matching = {id_key(one["_id"]) for one in found}
        events = [one for one in events if id_key(one[0]["_id"]) in matching]
    return _Page(events, looked_up, left)


def _keyed(plan: Plan, row: Row) -> Found:
    document, number = row
    order = plan.sources[number].order
    return document, number, tuple(document.get(name) for name in order)


async def _of_entries(
    store: Store, plan: Plan, rows: list[Row], session: Any, limit: PageLimit
) -> tuple[list[Found], list[Row]]:
    """Return the events of the first entries, with positions; and the other entries."""
    entries = [entry for entry, _ in rows]
    found = await _of_streams(store, plan, entries, session, limit)
    read = entries
    if found is None:
        found, read = await events_of(store, entries, session, limit)
    events: list[Found] = []
    for row in rows[: len(read)]:
        entry, number, key = _keyed(plan, row)
        event = found.get(id_key(entry["eventId"]))
        if event is None:
            for lost in (await lost_events(store, [entry["_id"]], session)).values():
                raise lost.error
        else:
            event = {**read_whole_event(event), "position": entry["_id"]}
            events.append((event, number, key))
    return events, rows[len(read) :]


async def _of_streams(
    store: Store, plan: Plan, entries: list[Document], session: Any, limit: PageLimit
) -> dict[Any, Document] | None:
    """
    Return the events of some entries along the index of their streams.

    It takes half as many keys as to look up each id. None if that does not help: not
    the streams were asked for, or the events are too large.
    """
    if plan.conditions.streams is None or limit.expects_large:
        return None
    versions: dict[str, list[int]] = {}
    for entry in entries:
        versions.setdefault(entry["aggregateId"], []).append(entry["aggregateVersion"])
    ranges: list[Document] = [
        {"aggregateId": stream, "aggregateVersion": {"$gte": min(of), "$lte": max(of)}}
        for stream, of in versions.items()
    ]
    found: dict[Any, Document] = {}
    size = 0
    batches = store.events.batches({"$or": ranges}, ONE_BATCH, session=session)
    async with aclosing(batches) as pieces:
        async for piece in pieces:
            found.update((id_key(event["_id"]), event) for event in piece)
            size += bytes_of(piece)
            if size > limit.bytes:
                return None
    limit.learn(len(found), size)
    return found


async def count(store: Store, plan: Plan, limit: int | None = None) -> int:
    """Return how many events a plan finds, counted in the index if it can be."""
    is_bounded = any(source.order[0] == "aggregateVersion" for source in plan.sources)
    is_bounded = is_bounded and bool(plan.conditions.given & OF_POSITIONS)
    if not plan.is_exact or is_bounded or limit == 0:
        return len([1 async for _ in each_event(store, plan, limit=limit)])
    total = 0
    options: Document = {} if limit is None else {"limit": limit}
    with in_time():
        for source in plan.sources:
            documents = documents_of(store, source)
            # Lost ones have no event, and another program's documents are no events.
            others = {"lost": None} if plan.is_of_entries else IS_EVENT
            query = {"$and": [source.everything, others]}
            try:
                hint = list(source.keys)
                total += await documents.count_where(query, hint=hint, **options)
            except OperationFailure as error:
                await raise_if_missing(store, source, error)
    return total if limit is None else min(total, limit)
