"""Streams are handled side by side, each in order."""

import asyncio
import threading
from collections import defaultdict
from functools import partial

import pytest

from ossy_event_store.exceptions import StoreUnavailable
from ossy_event_store.mongodb.ports import drive
from ossy_event_store.subscriptions import operator_actions
from ossy_event_store.subscriptions.attempts import GaveUp, StoppedAt
from ossy_event_store.subscriptions.checkpoints import ClaimLost
from ossy_event_store.subscriptions.declaration import subscription
from ossy_event_store.subscriptions.lanes import (
    OneLane,
    Page,
    SideBySide,
    done_up_to,
    first_problem,
)
from ossy_event_store.subscriptions.parked_streams import Failed
from tests.support.subscriptions import (
    checkpoint,
    parked,
    places,
    reached,
    running,
    stopped,
)

pytestmark = [pytest.mark.versions, pytest.mark.usefixtures("quick")]


def test_streams_are_handled_side_by_side_and_each_in_order(store, lend):
    together = threading.Barrier(3)
    got, lock = [], threading.Lock()

    @subscription("reader", concurrency=3)
    def reader(event):
        if event["aggregateVersion"] == 1:
            together.wait(30)  # all three are in here at once
        with lock:
            got.append(event)

    for stream in "abc":
        lend(stream, "BookBought", "BookLent", "BookReturned")
    with running():
        reached(store, "reader", 9)
    streams = defaultdict(list)
    for stream, version in places(got):
        streams[stream].append(version)
    assert streams == {stream: [1, 2, 3] for stream in "abc"}
    assert checkpoint(store, "reader")["delivered"] == 9


def test_a_stream_that_fails_beside_others_is_parked(store, lend):
    got = []

    @subscription("reader", concurrency=3, retries=0)
    async def reader(event):
        if places([event]) == [("b", 2)]:
            raise KeyError("title")
        got.append(event)

    for stream in "abc":
        lend(stream, "BookBought", "BookLent", "BookReturned")
    with running():
        reached(store, "reader", 9)
    assert sorted(places(got)) == [
        *(("a", version) for version in (1, 2, 3)),
        ("b", 1),
        *(("c", version) for version in (1, 2, 3)),
    ]
    assert [waits["position"] for waits in parked(store)] == [5]


def test_of_lanes_that_stop_a_subscription_the_first_event_counts(store, lend):
    together, got = threading.Barrier(2), []

    @subscription("reader", concurrency=2, retries=0, on_error="stop")
    def reader(event):
        if event["position"] in bad:
            together.wait(30)
            raise KeyError("title")
        got.append(event["position"])

    lend("a", "BookBought")
    lend("b", "BookBought")
    lend("a", "BookLent")
    bad = {2, 3}
    with running():
        assert stopped(store, "reader")["position"] == 2
        bad.clear()
        operator_actions.skip("reader", None, "never mind")
        reached(store, "reader", 3)
    assert got == [1, 3]


def test_a_skip_passes_over_no_event_of_another_lane(store, lend):
    together, got, away = threading.Barrier(2), [], [StoreUnavailable("away")]

    @subscription("reader", concurrency=2, retries=0, on_error="stop")
    def reader(event):
        if away and event["position"] > 1:
            together.wait(30)
            if event["position"] == 2:
                raise away.pop()
        if event["position"] == 3:
            raise KeyError("title")
        got.append(event["position"])

    lend("a", "BookBought")
    lend("b", "BookBought")
    lend("a", "BookLent")
    with running():
        assert stopped(store, "reader")["position"] == 3
        operator_actions.skip("reader", None, "never mind")
        reached(store, "reader", 3)
    assert got == [1, 2]


# --- alone ------------------------------------------------------------------


def events(*streams):
    return [
        {"aggregateId": stream, "position": position}
        for position, stream in enumerate(streams, 1)
    ]


def test_a_page_is_done_up_to_the_first_event_that_is_not():
    page = events("a", "b", "a", "b")

    def up_to(done, parked=""):
        return done_up_to(page, done, lambda event: event["aggregateId"] in parked, 0)

    assert up_to(set()) == 0
    assert up_to({1, 3, 4}) == 1
    assert up_to({1, 2, 3, 4}) == 4
    assert up_to({1, 3}, "b") == 4


def test_an_error_ends_the_work_of_all_lanes_before_a_stop_does():
    first, _, third = events("a", "b", "c")
    stopped = [StoppedAt(third, KeyError()), None, StoppedAt(first, KeyError())]
    gave_up = GaveUp(Failed(first, KeyError()))
    lost = ClaimLost()
    assert first_problem([None, gave_up], is_stopping=False) is None
    assert first_problem([*stopped, lost], is_stopping=True) is lost
    assert first_problem(stopped, is_stopping=False) is stopped[2]
    # Some lanes may not have come to an earlier event.
    assert first_problem(stopped, is_stopping=True) is None


@pytest.mark.parametrize("is_async", [False, True], ids=["threads", "event loop"])
def test_lanes_run_side_by_side_and_each_error_is_returned(is_async):
    running, most, together = [], [], threading.Barrier(3)

    async def lane(number):
        running.append(number)
        most.append(len(running))
        if is_async:
            await asyncio.sleep(0.02)
        else:
            together.wait(30)
        running.remove(number)
        if number % 2:
            raise KeyError(number)

    side_by_side = SideBySide("reader", 3, is_async=is_async)
    run = side_by_side.run([partial(lane, number) for number in range(6)])
    try:
        raised = asyncio.run(run) if is_async else drive(run)
    finally:
        side_by_side.close()
    assert [type(error) for error in raised] == [type(None), KeyError] * 3
    assert max(most) == 3
    names = [thread.name for thread in threading.enumerate()]
    assert not any(name.startswith("ossy_event_store.reader") for name in names)


def test_one_lane_delivers_in_global_order_and_parks_what_fails(
    store, consume, positioned
):
    got = []

    def handler(event):
        if event["position"] == 2:
            raise KeyError("title")
        got.append(event["position"])

    page = Page(positioned("a", "b", "a", "b", "c"), 9)
    parts = consume(handler, retries=0)
    lane = OneLane(store, parts.claim, parts.delivery, parts.progress, parts.attempts)
    drive(lane.deliver(page))
    assert got == [1, 3, 5]
    assert parts.progress.seen == 9
    assert [one["aggregateId"] for one in parked(store)] == ["b"]
