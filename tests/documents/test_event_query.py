"""Queries by time find the events of the Node package, whose time is a number."""

import datetime as dt

import pytest

from ossy_event_store import EventNotFound, EventStore, InvalidQuery
from ossy_event_store.documents.event_query import as_stored

EARLY, NOON, LATE = (dt.datetime(2026, 1, 1, h, tzinfo=dt.UTC) for h in (6, 12, 18))


@pytest.mark.parametrize(
    "query",
    [
        {},
        {"type": "BookLent"},
        {"created": {"$exists": True}},
        {"created": 5},
        {"payload.created": NOON},
        {"$or": "malformed"},
    ],
)
def test_a_query_without_a_time_stays_as_it_is(query):
    assert as_stored(query) is query or as_stored(query) == query


@pytest.fixture
def noon(history):
    """Store the same event twice, as of the Node package and as of this one."""
    plain = {"aggregateType": "Book", "aggregateVersion": 1, "type": "BookLent"}
    for name, created in (("node", NOON.timestamp() * 1000), ("django", NOON)):
        history.insert_one({**plain, "aggregateId": name, "created": created})


FINDS = [
    {"created": NOON},
    {"created": {"$eq": NOON, "$exists": True}},
    {"created": {"$gte": NOON}},
    {"created": {"$gt": EARLY, "$lt": LATE}},
    {"created": {"$in": [EARLY, NOON]}},
    {"created": {"$ne": EARLY, "$gt": EARLY}},
    {"created": {"$not": {"$lt": NOON}}},
    {"$or": [{"type": "x"}, {"created": {"$lte": NOON}}]},
    {"$and": [{"created": {"$gt": EARLY}}], "created": {"$lt": LATE}},
    {"$nor": [{"created": {"$gt": NOON}}]},
    {"created": NOON, "type": "BookLent"},
]
FINDS_NOT = [
    {"created": EARLY},
    {"created": {"$gt": NOON}},
    {"created": {"$ne": NOON}},
    {"created": {"$nin": [NOON]}},
    {"created": {"$gt": EARLY, "$lt": NOON}},
    {"created": {"$not": {"$lte": NOON}}},
    {"$nor": [{"created": {"$gte": NOON}}]},
]


@pytest.mark.parametrize("query", FINDS, ids=str)
def test_a_time_is_found_in_both_forms(store, noon, face, query):
    found = face(EventStore.find_events, query)
    assert {event["aggregateId"] for event in found} == {"node", "django"}
    assert {event["created"] for event in found} == {NOON}


def test_a_malformed_query_by_time_is_left_to_the_server(store):
    with pytest.raises(InvalidQuery):
        EventStore.find_events({"created": NOON, "$and": 5})


@pytest.mark.parametrize("query", FINDS_NOT, ids=str)
def test_another_time_is_found_in_neither_form(store, noon, query):
    with pytest.raises(EventNotFound) as caught:
        EventStore.find_events(query)
    assert caught.value.query is query


def test_a_search_by_time_reads_an_index(store, noon):
    EventStore.append_events(
        [{"aggregateId": "x", "aggregateType": "Book", "type": "BookRead"}] * 50
    )
    query = as_stored({"created": {"$gte": EARLY, "$lt": LATE}})
    plan = EventStore.collection.find(query).explain()["executionStats"]
    assert plan["totalDocsExamined"] == 2
