"""The filter that says which events a client wants."""

import pytest

from ossy_event_store.push.event_filter import (
    EventFilter,
    index_keys_of,
    projection_key,
)

EVENT = {
    "aggregateId": "a",
    "aggregateType": "Book",
    "type": "BookLent",
    "tags": ["book:a", "reader:r"],
}


@pytest.mark.parametrize(
    ("conditions", "matches"),
    [
        ({}, True),
        ({"stream": "a"}, True),
        ({"stream": "b"}, False),
        ({"types": frozenset(["BookLent", "BookRead"])}, True),
        ({"types": frozenset(["BookRead"])}, False),
        ({"aggregate_types": frozenset(["Book"])}, True),
        ({"aggregate_types": frozenset(["Ship"])}, False),
        ({"tags": frozenset(["book:a"])}, True),
        ({"tags": frozenset(["book:a", "reader:r"])}, True),
        ({"tags": frozenset(["book:a", "reader:s"])}, False),
        ({"stream": "a", "types": frozenset(["BookLent"])}, True),
        ({"stream": "a", "types": frozenset(["BookRead"])}, False),
        ({"stream": "b", "types": frozenset(["BookLent"])}, False),
    ],
    ids=[f"case {number}" for number in range(13)],
)
def test_an_event_matches_if_every_condition_holds(conditions, matches):
    assert EventFilter(**conditions).matches(EVENT) is matches


@pytest.mark.parametrize(
    "conditions",
    [
        {},
        {"stream": "a"},
        {"types": frozenset(["BookLent"])},
        {"aggregate_types": frozenset(["Book"])},
        {"tags": frozenset(["book:a", "reader:r"])},
        {"stream": "a", "aggregate_types": frozenset(["Book"])},
    ],
    ids=["any", "stream", "types", "aggregate types", "tags", "both"],
)
def test_an_event_finds_each_listener_that_wants_it_once(conditions):
    keys = EventFilter(**conditions).index_keys()
    assert len(set(keys) & set(index_keys_of(EVENT))) == 1


def test_listeners_of_a_projection_are_found_by_their_key():
    assert EventFilter(projection="loans", key="ann").index_keys() == [
        projection_key("ann")
    ]
    assert EventFilter(projection="loans").index_keys() == EventFilter().index_keys()


@pytest.mark.parametrize("value", [None, 5, ["a"], {"a": 1}], ids=repr)
def test_a_field_of_another_kind_matches_nothing(value):
    event = dict.fromkeys(EVENT, value)
    assert EventFilter().matches(event)
    assert not EventFilter(stream="a").matches(event)
    assert set(map(type, index_keys_of(event))) == {tuple}
    assert hash(tuple(index_keys_of(event)))  # a list would have no hash
