"""Following a query from one position to the next."""

import threading

import pytest

from ossy_event_store import EventStore, InvalidQuery
from ossy_event_store.event_store.query.following import Following
from ossy_event_store.subscriptions.runner import assign_positions


@pytest.fixture
def append(lend):
    """Append events, and give them positions."""

    def append(*types):
        lend("a", *types)
        assign_positions(threading.Event())

    return append


def found(following):
    return [event["position"] for event in following.new()]


def test_it_goes_on_after_what_it_has_read_whether_it_matched_or_not(append):
    append("Bought", "Lent")
    every = Following(EventStore.query(), 1)
    lent = Following(EventStore.query().types("Lent").match({"payload.to": "ann"}), 0)
    none = Following(EventStore.query().by("nobody"), 0)
    assert [found(every), found(lent), found(none)] == [[2], [2], []]
    append("Returned", "Returned", "Lent", "Returned")
    assert [found(every), found(lent), found(none)] == [[3, 4, 5, 6], [5], []]
    assert every.position == lent.position == none.position == 6
    assert found(every) == []


def test_an_error_in_between_repeats_and_leaves_out_nothing(append):
    append("Bought", "Lent", "Returned")
    following = Following(EventStore.query(), 0)
    events = following.new()
    next(events)
    next(events)
    events.close()
    assert following.position == 2
    assert found(following) == [3]


def test_a_head_that_falls_back_is_waited_for(append):
    append("Bought")
    following = Following(EventStore.query(), 5)
    assert found(following) == []
    assert following.position == 5


def test_a_query_in_another_order_cannot_be_followed():
    with pytest.raises(InvalidQuery):
        Following(EventStore.query().order("created"), 0)
