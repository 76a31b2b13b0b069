"""What handlers do that nobody would: how they end, what they return and raise."""

import asyncio
import threading
import time

import pytest

from ossy_event_store import EventStore
from ossy_event_store.exceptions import StoreUnavailable
from ossy_event_store.mongodb import connection, leases
from ossy_event_store.mongodb.ports import drive
from ossy_event_store.positions.head_watcher import HeadWatcher
from ossy_event_store.subscriptions import consumer as consumer_module
from ossy_event_store.subscriptions import operator_actions, parked_streams
from ossy_event_store.subscriptions.declaration import subscription
from ossy_event_store.subscriptions.runner import Runner
from tests.subscriptions.test_consumer import checkpoint, parked, reached, running
from tests.subscriptions.test_consumer import subscribe as subscribe
from tests.support.servers import until

pytestmark = [pytest.mark.versions, pytest.mark.usefixtures("quick")]


ENDS = [SystemExit(3), asyncio.CancelledError()]


@pytest.mark.parametrize("ended", ENDS, ids=["exit", "cancelled"])
def test_a_handler_cannot_end_the_process_that_calls_it(store, lend, subscribe, ended):
    got = []

    def do(event):
        if event["position"] == 1:
            raise ended
        got.append(event["position"])

    subscribe("reader", do, retries=1)
    lend("a", "BookBought")
    lend("b", "BookBought")
    with running():
        reached(store, "reader", 2)
    assert got == [2]
    (waits,) = parked(store)
    assert waits["tries"] == 2


async def later(event):
    raise AssertionError("it is never awaited")


def one_by_one(event):
    yield event


class Awaitable:
    async def __call__(self, event):
        raise AssertionError("it is never awaited")


def wrapped(event):
    return later(event)


HANDLERS = [wrapped, one_by_one, Awaitable()]


@pytest.mark.parametrize("handler", HANDLERS, ids=["wrapped", "generator", "object"])
def test_a_handler_that_does_not_run_when_called_is_no_success(store, lend, handler):
    subscription("reader", retries=0)(handler)
    lend("a", "BookBought")
    with running():
        until(lambda: parked(store))
    assert "was not run" in parked(store)[0]["error"]


class Speechless(Exception):
    def __str__(self):
        return 404


def test_an_error_that_cannot_be_told_parks_its_stream(store, lend):
    @subscription("reader", retries=1, backoff=(0.01, 0.02))
    def reader(event):
        raise Speechless

    lend("a", "BookBought")
    with running():
        reached(store, "reader", 1)
    assert parked(store)[0]["error"].startswith("Speechless: ")


def stopped(store):
    return until(lambda: (checkpoint(store, "reader") or {}).get("stopped"))


def test_of_streams_that_stop_it_side_by_side_the_first_event_counts(store, lend):
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
        assert stopped(store)["position"] == 2
        bad.clear()
        operator_actions.skip("reader", None, "never mind")
        reached(store, "reader", 3)
    assert got == [1, 3]


def test_what_another_stream_waits_for_is_not_skipped(store, lend):
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
        assert stopped(store)["position"] == 3
        operator_actions.skip("reader", None, "never mind")
        reached(store, "reader", 3)
    assert got == [1, 2]


# --- who runs them ----------------------------------------------------------


class Kept(int):
    """The answer to a renewal, at which the consumer gives its lease back."""

    def __new__(cls, value, meanwhile):
        made = super().__new__(cls, value)
        made.meanwhile = meanwhile
        return made

    def __bool__(self):
        self.meanwhile()
        return int(self) > 0


@pytest.mark.parametrize("kept", [0, 1])
def test_a_renewal_that_is_late_leaves_no_lease_behind(store, lend, monkeypatch, kept):
    subscription("reader")(lambda event: None)
    runner = Runner()
    (consumer,) = runner.consumers
    consumer.renewed = 1.0

    async def acquire(*arguments):
        return Kept(kept, consumer.give_back)

    monkeypatch.setattr(leases, "acquire", acquire)
    runner._renew_one(consumer)
    assert consumer.renewed == 0.0


def test_one_that_lost_its_lease_waits_on_and_takes_it_again(store, lend):
    got = []
    subscription("reader")(got.append)
    lend("a", "BookBought")
    runner = Runner()
    (consumer,) = runner.consumers
    once = consumer._once

    async def late(store):
        consumer._once = once
        consumer.renewed = -consumer_module.LEASE  # as a renewal that comes too late
        raise StoreUnavailable("away")

    consumer._once = late
    thread = threading.Thread(target=runner.run)
    thread.start()
    try:
        until(lambda: got)
    finally:
        runner.stop.set()
        thread.join(30)


def test_one_that_is_told_of_more_than_there_is_does_not_spin(store, lend, monkeypatch):
    ahead, reads = HeadWatcher(), []
    ahead.notify(10**6)  # as of positions that were dropped, and begin anew
    monkeypatch.setattr(consumer_module, "watcher", ahead)
    read = consumer_module.read

    async def counted(*arguments):
        reads.append(time.monotonic())
        return await read(*arguments)

    monkeypatch.setattr(consumer_module, "read", counted)
    subscription("reader")(lambda event: None)
    with running():
        until(lambda: len(reads) >= 10)
    ahead.close()
    assert reads[9] - reads[1] > 7 * consumer_module.SLICE


def test_a_long_retry_holds_up_nobody_else(store, lend, monkeypatch):
    bad, got = {1}, []

    @subscription("reader", retries=0)
    def reader(event):
        if event["position"] in bad:
            raise KeyError("title")
        if event["position"] == 1:
            lend("b", "BookBought")
            until(lambda: EventStore.head_position() == 7)
        got.append(event["position"])

    lend("a", *["BookLent"] * 6)
    with running():
        reached(store, "reader", 6)
        bad.clear()
        monkeypatch.setattr(consumer_module, "LOOK", 0.0)
        operator_actions.retry("reader")
        until(lambda: not parked(store))
        until(lambda: len(got) == 7)
    assert got.index(7) < got.index(6)
    assert [one for one in got if one < 7] == [1, 2, 3, 4, 5, 6]


def test_parked_streams_of_which_none_is_tried_again_are_not_read(store):
    waiting = connection.raw(store.parked)
    waiting.insert_many(
        [
            {
                "_id": parked_streams.key("reader", str(number)),
                "subscription": "reader",
                "position": number,
                "retry": number == 7,
            }
            for number in range(50)
        ]
    )
    query = {"subscription": {"$eq": "reader"}, "retry": True}
    plan = waiting.find(query, sort=[("position", 1)], limit=10).explain()
    assert plan["executionStats"]["totalDocsExamined"] == 1
    (found,) = drive(parked_streams.parked(store, "reader", retry=True))
    assert found["position"] == 7
