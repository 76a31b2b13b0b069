"""
Random queries over 20,000 events: what they find, and how much they read for it.

The expected events are those of a list comprehension over all documents. How many keys
the server looked at is what its profiler says of the reads themselves.
"""

import random
from collections import Counter
from contextlib import nullcontext
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest
from bson import ObjectId
from django.conf import settings
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from ossy_event_store import EventStore, InvalidQuery
from ossy_event_store.event_store.query import lazy_query, plan, reading, rows
from ossy_event_store.mongodb import connection
from tests.support.verification import rebuild_indexes

# It takes a quarter of a minute.
pytestmark = pytest.mark.faults

EVENTS = 20_000
MOST = 1500  # that are read of one query
PAGES = 5
BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
TYPES = [f"Type{n}" for n in range(12)]
AGGREGATE_TYPES = ["Book", "Loan", "Reader"]
PEOPLE = [f"person-{n}" for n in range(40)]
STREAMS = ["long", *(f"s-{n}" for n in range(700))]
TAGS = ["hot", *(f"tag-{n}" for n in range(300))]
CORRELATIONS = [f"correlation-{n}" for n in range(2000)]


# --- the events -------------------------------------------------------------


def documents():
    """Return events and their entries: skewed, with clocks that run backwards."""
    chance = random.Random(17)
    heads, events, entries = Counter(), [], []
    for position in range(1, EVENTS + 1):
        stream = "long" if chance.random() < 0.1 else chance.choice(STREAMS)
        heads[stream] += 1
        event_id = ObjectId() if chance.random() < 0.7 else f"$id-{position}"
        minutes = position // 4 - chance.choice([0, 0, 0, 1, 500])
        event = {
            "_id": event_id,
            "aggregateId": stream,
            "aggregateType": AGGREGATE_TYPES[len(stream) % 3],
            "aggregateVersion": heads[stream],
            "type": TYPES[min(int(chance.expovariate(0.5)), 11)],
            "payload": {"n": position % 7},
            "created": BEGIN + timedelta(minutes=minutes),
            "createdBy": chance.choice([None, *PEOPLE]),
            "metadata": {},
        }
        if chance.random() < 0.3:
            event["metadata"]["correlationId"] = chance.choice(CORRELATIONS)
        if events and chance.random() < 0.3:
            cause = chance.choice(events[-50:])["_id"]
            event["metadata"]["causationId"] = str(cause)
        if chance.random() < 0.6:
            event["tags"] = sorted(
                {chance.choice(TAGS), chance.choice(["hot", "tag-1"])}
            )
        elif chance.random() < 0.1:  # as the Node package stores it
            del event["metadata"], event["createdBy"]
            event["created"] = int(event["created"].timestamp() * 1000)
        events.append(event)
        named = ("aggregateId", "aggregateVersion", "aggregateType", "type", "tags")
        entry = {name: event[name] for name in named if name in event}
        entries.append({"_id": position, "eventId": event_id, **entry})
    return events, entries


@dataclass
class Stored:
    """An event beside what the conditions and the orders look at."""

    id: object
    position: int
    stored: dict
    created: datetime
    is_date: bool

    def by_time(self):
        # BSON has strings before ObjectIds, and numbers before dates.
        is_id = isinstance(self.id, ObjectId)
        return self.created, self.is_date, is_id, str(self.id)


def of_document(document, position):
    created = document["created"]
    is_date = isinstance(created, datetime)
    if not is_date:
        created = datetime.fromtimestamp(created / 1000, UTC)
    return Stored(document["_id"], position, document, created, is_date)


@pytest.fixture(scope="module")
def all_events(_store_ready, _unbound, django_db_blocker):
    if settings.STORE == "djongo":
        pytest.skip("the other stores say it")
    events, entries = documents()
    with nullcontext() if settings.STORE == "url" else django_db_blocker.unblock():
        store = connection.blocking()
        database = _unbound(store.events).database
        for name in connection.COLLECTION_OPTIONS:
            database[name].delete_many({})
        rebuild_indexes(database)  # of one that once held a list, more keys are read
        _unbound(store.events).insert_many(events)
        _unbound(store.positions).insert_many(entries)
        database.drop_collection("system.profile")
        database.create_collection("system.profile", capped=True, size=2**26)
        database.command("profile", 2)
        yield (
            Examined(database),
            [of_document(event, number) for number, event in enumerate(events, 1)],
        )
        database.command("profile", 0)
        database.drop_collection("system.profile")
        for name in connection.COLLECTION_OPTIONS:
            database[name].delete_many({})


class Examined:
    """How many keys and documents the server looked at since it was asked last."""

    def __init__(self, database):
        self.profile = database["system.profile"]
        self.names = [f"{database.name}.{n}" for n in connection.COLLECTION_OPTIONS]
        self.looks = 0

    def __call__(self):
        fields = ("ns", "keysExamined", "docsExamined", "command.comment")
        before, self.looks = f"look {self.looks}", self.looks + 1
        newest_first = self.profile.find(
            {}, dict.fromkeys(fields, 1), comment=f"look {self.looks}"
        ).sort("$natural", -1)
        examined = 0
        with newest_first:
            for one in newest_first:
                if one.get("command", {}).get("comment") == before:
                    break
                if one["ns"] in self.names:
                    counts = one.get("keysExamined", 0), one.get("docsExamined", 0)
                    examined += max(counts)
        return examined


# --- the queries ------------------------------------------------------------

moments = st.integers(-600, 5200).map(lambda n: BEGIN + timedelta(minutes=n))
positions = st.integers(0, EVENTS + 10)
few = partial(st.lists, min_size=1, max_size=4, unique=True)


def some(values):
    return few(st.sampled_from(values))


def tags_of(one):
    return one.stored.get("tags", ())


def link(one, name):
    return one.stored.get("metadata", {}).get(name)


# name: (strategy of the arguments, whether an event meets them)
CONDITIONS = {
    "stream": (
        st.tuples(st.sampled_from([*STREAMS, "none"])),
        lambda one, stream: one.stored["aggregateId"] == stream,
    ),
    "streams": (some(STREAMS), lambda one, *ids: one.stored["aggregateId"] in ids),
    "types": (some(TYPES), lambda one, *types: one.stored["type"] in types),
    "aggregate_types": (
        some(AGGREGATE_TYPES),
        lambda one, *types: one.stored["aggregateType"] in types,
    ),
    "tags": (some(TAGS), lambda one, *tags: set(tags) <= set(tags_of(one))),
    "any_tags": (some(TAGS), lambda one, *tags: bool(set(tags) & set(tags_of(one)))),
    "by": (
        st.tuples(st.sampled_from(PEOPLE)),
        lambda one, who: one.stored.get("createdBy") == who,
    ),
    "since": (st.tuples(moments), lambda one, moment: one.created >= moment),
    "until": (st.tuples(moments), lambda one, moment: one.created < moment),
    "between": (
        st.tuples(moments, moments).map(sorted),
        lambda one, first, end: first <= one.created < end,
    ),
    "after_version": (
        st.tuples(st.integers(0, 40)),
        lambda one, version: one.stored["aggregateVersion"] > version,
    ),
    "after": (st.tuples(positions), lambda one, last: one.position > last),
    "until_position": (st.tuples(positions), lambda one, last: one.position <= last),
    "correlation": (
        st.tuples(st.sampled_from(CORRELATIONS)),
        lambda one, wanted: link(one, "correlationId") == wanted,
    ),
    "caused_by": (
        st.integers(1, EVENTS).map(lambda n: (f"$id-{n}",)),
        lambda one, wanted: link(one, "causationId") == wanted,
    ),
    "ids": (
        few(st.integers(1, EVENTS).map(lambda n: f"$id-{n}")),
        lambda one, *ids: one.id in ids,
    ),
    "match": (
        st.integers(0, 7).map(lambda n: ({"payload.n": n},)),
        lambda one, query: one.stored["payload"]["n"] == query["payload.n"],
    ),
}
BY = {
    "version": lambda one: one.stored["aggregateVersion"],
    "position": lambda one: one.position,
    "created": Stored.by_time,
}


@st.composite
def questions(draw):
    """Return conditions with their arguments, an order, and whether to reverse it."""
    names = draw(st.lists(st.sampled_from(sorted(CONDITIONS)), max_size=3, unique=True))
    names.sort(key=list(CONDITIONS).index)
    wanted = [(name, draw(CONDITIONS[name][0])) for name in names]
    order = draw(st.sampled_from([None, None, *BY]))
    return wanted, order, draw(st.booleans())


def built(wanted, order, backwards):
    query = EventStore.query()
    for name, arguments in wanted:
        if name == "any_tags":
            query = query.tags(any=arguments)
        else:
            query = getattr(query, name)(*arguments)
    query = query.order(order) if order else query
    return query.reverse() if backwards else query


def expected(events, wanted, order, backwards):
    found = [
        one
        for one in events
        if all(CONDITIONS[name][1](one, *arguments) for name, arguments in wanted)
    ]
    return sorted(found, key=BY[order], reverse=backwards)


def paged(query, size):
    """Return the events of the first pages; and how many pages there were."""
    events, cursor, pages = [], None, 0
    while pages == 0 or (cursor and pages < PAGES):
        page = query.page(size, cursor)
        events, cursor, pages = events + page.events, page.cursor, pages + 1
    return events, pages


@st.composite
def readings(draw):
    """Return a way to read, and what it returns of the expected events."""
    size = draw(st.integers(1, 60))
    way = draw(st.sampled_from(["all", "slice", "first", "last", "count", "pages"]))
    return way, size


def read(query, way, size):
    """Return the events that were read; and how many queries that took."""
    if way == "slice":
        return list(query[size : 3 * size]), 1
    if way in ("first", "last"):
        one = query.first() if way == "first" else query.last()
        return [] if one is None else [one], 1
    if way == "pages":
        return paged(query, 5 * size)
    return list(query[:MOST]), 1


def part(events, way, size):
    if way == "slice":
        return events[size : 3 * size]
    if way == "first":
        return events[:1]
    if way == "last":
        return events[-1:]
    if way == "pages":
        return events[: PAGES * 5 * size]
    return events[:MOST] if way == "all" else events


def check(all_events, tally, question, way, size):
    examined, events = all_events
    examined()
    try:
        query = built(*question)
        order = query.explain()["order"]
        if way == "count":
            found, queries = [None] * query.count(), 1
            assert len(found) == len(expected(events, question[0], order, False))
        else:
            found, queries = read(query, way, size)
    except InvalidQuery:
        tally["refused"] += 1
        return
    keys = examined()
    if way != "count":
        wanted = part(expected(events, question[0], order, question[2]), way, size)
        # No comparison of lists: pytest takes a minute to show how long ones differ.
        is_right = [one["_id"] for one in found] == [one.id for one in wanted]
        if order == "position":
            at = [one["position"] for one in found]
            is_right = is_right and at == [one.position for one in wanted]
        assert is_right, f"{question}, {way} of {size}: other events than expected"
    assert keys <= 3 * len(found) + 100 * queries
    tally["answered", bool(found)] += 1


def run(all_events, examples):
    """Ask random questions; return how many were answered, and how many refused."""
    tally = Counter()

    @hypothesis_settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
    @given(questions(), readings())
    def ask(question, reading):
        check(all_events, tally, question, *reading)

    ask()
    return tally


def test_random_queries_find_what_a_comprehension_finds_and_read_little(all_events):
    tally = run(all_events, 500)
    assert tally["answered", True] > 100, tally


def without_filters(monkeypatch):
    made = plan.plan

    def broken(*args, **kwargs):
        return replace(made(*args, **kwargs), left=frozenset())

    monkeypatch.setattr(lazy_query, "plan", broken)


def without_a_budget(monkeypatch):
    monkeypatch.setattr(reading, "SPARE_KEYS", 100_000)


def with_bounds_that_are_left_out(monkeypatch):
    monkeypatch.setattr(plan, "bounds_of_positions", lambda _: (1, plan.LARGEST))


def with_pages_that_overlap(monkeypatch):
    def resume(part, key, **kwargs):
        before = part.low
        resumed(part, key, **kwargs)
        part.low = before if len(key) == 2 else part.low

    resumed = rows.Part.resume
    monkeypatch.setattr(rows.Part, "resume", resume)


@pytest.mark.parametrize(
    "break_it",
    [
        without_filters,
        without_a_budget,
        with_bounds_that_are_left_out,
        with_pages_that_overlap,
    ],
    ids=lambda one: one.__name__,
)
def test_a_broken_planner_or_reader_is_found(all_events, monkeypatch, break_it):
    break_it(monkeypatch)
    with pytest.raises(AssertionError):
        run(all_events, 200)


@pytest.mark.parametrize(
    ("order", "backwards"),
    [("version", True), ("position", False), ("created", True)],
)
def test_all_of_a_store_is_read_in_pages(all_events, order, backwards):
    examined, events = all_events
    wanted = [("stream", ["long"])] if order == "version" else []
    examined()
    found = [one["_id"] for one in built(wanted, order, backwards)]
    assert found == [one.id for one in expected(events, wanted, order, backwards)]
    assert examined() <= 3 * len(found) + 100
