"""A failing event is tried again, and its stream parked at last."""

import pytest
from pymongo.errors import AutoReconnect

from ossy_event_store.mongodb.ports import drive
from ossy_event_store.subscriptions import operator_actions
from ossy_event_store.subscriptions.attempts import GaveUp, StoppedAt
from ossy_event_store.subscriptions.delivery import Delivery
from ossy_event_store.subscriptions.parked_streams import Failed
from tests.support.servers import until
from tests.support.subscriptions import checkpoint, parked, places, reached, running

pytestmark = pytest.mark.usefixtures("quick")


def test_a_failed_event_is_tried_again(store, lend, subscribe):
    tried = []

    def do(event):
        tried.append(event["aggregateVersion"])
        if len(tried) < 4:
            raise ValueError("not yet")

    subscribe("reader", do)
    lend("a", "BookBought", "BookLent")
    with running():
        reached(store, "reader", 2)
    assert tried == [1, 1, 1, 1, 2]
    assert not parked(store)
    assert "not yet" in checkpoint(store, "reader")["lastError"]["error"]


def test_a_poisoned_event_parks_its_stream_alone(store, lend, subscribe):
    got, bad = [], {("a", 2)}

    def do(event):
        if (event["aggregateId"], event["aggregateVersion"]) in bad:
            raise KeyError("title")
        got.append(event)

    subscribe("reader", do, retries=1)
    lend("a", "BookBought", "BookLent", "BookReturned")
    lend("b", "BookBought")
    with running():
        reached(store, "reader", 4)
        lend("a", "BookLent")
        lend("b", "BookLent")
        reached(store, "reader", 6)
        assert places(got) == [("a", 1), ("b", 1), ("b", 2)]
        (waits,) = parked(store)
        assert waits["aggregateId"] == "a"
        assert waits["position"] == 2
        assert waits["tries"] == 2
        assert waits["error"] == "KeyError: 'title'"
        assert "in do" in waits["traceback"]
        # A retry before the fix changes nothing ...
        assert operator_actions.retry("reader", "a") == 1
        until(lambda: parked(store)[0]["tries"] == 3)
        assert not parked(store)[0]["retry"]
        assert len(got) == 3
        # ... and after it everything follows in order.
        bad.clear()
        operator_actions.retry("reader")
        until(lambda: not parked(store))
        lend("a", "BookReturned")
        reached(store, "reader", 7)
    assert places(got[3:]) == [("a", 2), ("a", 3), ("a", 4), ("a", 5)]


def test_a_server_that_is_away_parks_nothing(store, lend, subscribe):
    tried = []

    def do(event):
        tried.append(event)
        if len(tried) < 8:
            raise AutoReconnect("connection closed")

    subscribe("reader", do, retries=0)
    lend("a", "BookBought")
    with running():
        reached(store, "reader", 1)
    assert len(tried) == 8
    assert not parked(store)


# --- alone ------------------------------------------------------------------


def test_an_event_is_tried_as_often_as_declared_and_then_given_up(
    store, consume, positioned, clock
):
    tried = []

    def handler(event):
        tried.append(event["position"])
        raise KeyError("title")

    (event,) = positioned("a")
    parts = consume(handler, retries=2, backoff=(0.03, 0.05))
    with pytest.raises(GaveUp) as gave_up:
        drive(parts.attempts.deliver_one(event, 1))
    assert tried == [1, 1, 1]
    assert clock.pauses == pytest.approx([0.03, 0.05])
    assert gave_up.value.failed.tries == 3
    assert parts.progress.seen == 0
    assert "title" in checkpoint(store, "reader")["lastError"]["error"]


def test_a_subscription_that_stops_names_the_event(consume, positioned):
    def handler(event):
        raise KeyError("title")

    (event,) = positioned("a")
    parts = consume(handler, retries=0, on_error="stop")
    with pytest.raises(StoppedAt) as stopped:
        drive(parts.attempts.deliver_one(event, 1))
    assert stopped.value.event == event


def test_no_event_is_tried_again_while_the_process_stops(consume, positioned):
    def handler(event):
        parts.claim.stop.set()
        raise KeyError("title")

    (event,) = positioned("a")
    parts = consume(handler)
    assert not drive(parts.attempts.deliver_one(event, 1))


def test_of_a_parked_stream_only_later_events_are_left_to_its_retry(
    store, consume, positioned
):
    got = []
    first, second, third, other = positioned("a", "a", "a", "b")
    parts = consume(got.append)
    attempts = parts.attempts
    assert attempts.without_parked([first, other]) == [first, other]
    drive(attempts.park(Failed(second, KeyError("title")), 2))
    assert parts.progress.seen == 2
    assert checkpoint(store, "reader")["position"] == 2
    assert [one["position"] for one in parked(store)] == [2]
    assert attempts.without_parked([first, second, third, other]) == [first, other]
    attempts.unpark("a")
    assert not attempts.is_parked(third)


@pytest.mark.parametrize("concurrency", [1, 4])
def test_more_parked_streams_than_are_held_are_looked_up(
    store, lend, subscribe, monkeypatch, concurrency
):
    monkeypatch.setattr(Delivery, "held_parked", 2)
    got, is_broken = [], True

    def do(event):
        if is_broken and event["aggregateId"].startswith("bad"):
            raise KeyError("title")
        got.append(event)

    subscribe("reader", do, retries=0, concurrency=concurrency)
    bad = [f"bad-{number}" for number in range(5)]

    def append(*versions):
        for stream in (*bad, "good"):
            lend(stream, *versions)

    def places_of(stream):
        return [version for name, version in places(got) if name == stream]

    append("BookBought")
    with running():
        reached(store, "reader", 6)
    with running():  # which finds them parked
        append("BookLent")
        reached(store, "reader", 12)
        append("BookReturned")
        reached(store, "reader", 18)
        assert len(parked(store)) == 5
        assert {one["aggregateVersion"] for one in parked(store)} == {1}
        is_broken = False
        operator_actions.retry("reader", None)
        until(lambda: not parked(store))
        append("BookLent")
        reached(store, "reader", 24)
    assert [places_of(stream) for stream in (*bad, "good")] == [[1, 2, 3, 4]] * 6
