"""Subscriptions at work: each event in order, retried, parked, resumed."""

import threading
from collections import defaultdict
from contextlib import contextmanager

import pytest
from pymongo.errors import AutoReconnect

from ossy_event_store import EventStore, StoreUnavailable
from ossy_event_store.mongodb import connection
from ossy_event_store.mongodb.ports import drive
from ossy_event_store.subscriptions import checkpoints, operator_actions
from ossy_event_store.subscriptions.checkpoints import ClaimLost
from ossy_event_store.subscriptions.consumer import PAGE_EVENTS
from ossy_event_store.subscriptions.declaration import Subscription, subscription
from ossy_event_store.subscriptions.delivery.mongodb_transaction import (
    InMongoDBTransaction,
)
from ossy_event_store.subscriptions.runner import Runner
from tests.support.servers import until

pytestmark = pytest.mark.usefixtures("quick")


@contextmanager
def running(*names, page_events=PAGE_EVENTS):
    """Run the subscriptions in a thread, as the command does in a process."""
    runner = Runner(names or None)
    for consumer in runner.consumers:
        consumer.page_events = page_events
    thread = threading.Thread(target=runner.run)
    thread.start()
    try:
        yield runner
    finally:
        runner.stop.set()
        thread.join(30)
        assert not thread.is_alive()


def places(events):
    return [(event["aggregateId"], event["aggregateVersion"]) for event in events]


def checkpoint(store, name):
    return connection.raw(store.subscriptions).find_one({"_id": name})


def reached(store, name, position):
    return until(lambda: (checkpoint(store, name) or {}).get("position") == position)


def parked(store):
    return list(connection.raw(store.parked).find())


SHAPES = ["function", "coroutine", "class", "awaitable class"]


@pytest.fixture(params=SHAPES)
def subscribe(request):
    """Subscribe ``do(event)`` in one of the shapes that a handler may have."""

    def subscribe(name, do, **options):
        def function(event, *session):
            do(event, *session)

        async def coroutine(event, *session):
            do(event, *session)

        class Handler:
            def handle(self, event, *session):
                do(event, *session)

        class AwaitableHandler:
            async def handle(self, event, *session):
                do(event, *session)

        shapes = [function, coroutine, Handler, AwaitableHandler]
        handler = shapes[SHAPES.index(request.param)]
        subscription(name, backoff=(0.01, 0.02), **options)(handler)

    return subscribe


def test_each_event_arrives_in_its_order_with_its_position(store, lend, subscribe):
    got = []
    subscribe("reader", got.append)
    lend("a", "BookBought", "BookLent")
    lend("b", "BookBought")
    with running():
        until(lambda: len(got) == 3)
        lend("a", "BookReturned")
        until(lambda: len(got) == 4)
        reached(store, "reader", 4)
    assert got == list(EventStore.read_all())
    assert [event["position"] for event in got] == [1, 2, 3, 4]


@pytest.mark.parametrize("options", [{}, {"types": ["BookLent"]}])
def test_who_is_far_behind_gets_page_after_page(store, lend, subscribe, options):
    got, failed = [], []

    def do(event):
        if event["position"] == 6 and not failed:
            failed.append(event)
            raise ValueError("once")
        got.append(event)

    for name in "abcde":
        lend(name, "BookBought", "BookLent")
    subscribe("reader", do, **options)
    with running(page_events=2):
        reached(store, "reader", 10)
    wanted = list(EventStore.read_all(**options))
    assert len(wanted) == (5 if options else 10)
    assert failed
    assert got == wanted


def test_it_goes_on_where_it_was(store, lend, subscribe):
    got = []
    subscribe("reader", got.append)
    lend("a", "BookBought")
    with running():
        until(lambda: got)
    lend("a", "BookLent")
    with running():
        until(lambda: len(got) == 2)
    assert places(got) == [("a", 1), ("a", 2)]
    assert checkpoint(store, "reader")["delivered"] == 2


def test_only_the_types_it_wants_arrive(store, lend):
    got, ships = [], []
    subscription("lent", types=["BookLent"])(got.append)
    subscription("ships", aggregate_types=["Ship"])(ships.append)
    lend("a", "BookBought", "BookLent", "BookReturned")
    EventStore.append_event(
        {"aggregateId": "s", "aggregateType": "Ship", "type": "Sailed"}
    )
    with running():
        until(lambda: got and ships)
        # What passes by moves the checkpoint as well.
        reached(store, "lent", 4)
    assert places(got) == [("a", 2)]
    assert places(ships) == [("s", 1)]


def test_a_new_one_begins_where_it_says(store, lend):
    got = defaultdict(list)
    lend("a", "BookBought", "BookLent")

    @subscription("first")
    def first(event):
        got["first"].append(event)

    with running():
        reached(store, "first", 2)

    @subscription("now", start="now")
    def now(event):
        got["now"].append(event)

    @subscription("second", start=1)
    def second(event):
        got["second"].append(event)

    with running():
        until(lambda: checkpoint(store, "now"))
        lend("b", "BookBought")
        for name in ("first", "now", "second"):
            reached(store, name, 3)
    assert places(got["now"]) == [("b", 1)]
    assert places(got["second"]) == [("a", 2), ("b", 1)]


# --- failures ---------------------------------------------------------------


def test_what_fails_is_tried_again(store, lend, subscribe):
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


def test_a_poisoned_event_is_skipped_with_a_reason(store, lend):
    got = []

    @subscription("reader", retries=0)
    def reader(event):
        if event["aggregateVersion"] == 1:
            raise KeyError("title")
        got.append(event)

    lend("a", "BookBought", "BookLent")
    with running():
        until(lambda: parked(store))
        with pytest.raises(ValueError, match="reason"):
            operator_actions.skip("reader", "a", " ")
        assert operator_actions.skip("reader", "b", "no such stream") is None
        kept = operator_actions.skip("reader", "a", "a test order", "jane")
        until(lambda: not parked(store))
    assert places(got) == [("a", 2)]
    (record,) = connection.raw(store.skipped).find()
    assert record["reason"] == kept["reason"] == "a test order"
    assert record["skippedBy"] == "jane"
    assert record["position"] == 1
    assert record["error"] == "KeyError: 'title'"
    assert record["skipped"]


def test_a_retry_that_is_asked_for_while_another_fails_is_made(store, lend):
    tried, fails = [], threading.Event()

    @subscription("reader", retries=0)
    def reader(event):
        tried.append(event)
        if len(tried) == 2:
            fails.wait(30)
        if len(tried) < 3:
            raise KeyError("title")

    lend("a", "BookBought")
    with running():
        until(lambda: parked(store))
        operator_actions.retry("reader")
        until(lambda: len(tried) == 2)
        operator_actions.retry("reader")
        fails.set()
        until(lambda: not parked(store))
    assert len(tried) == 3


def test_one_that_is_to_stop_stops_and_goes_on_when_told(store, lend, subscribe):
    got, bad = [], {2}

    def do(event):
        if event["position"] in bad:
            raise KeyError("title")
        got.append(event)

    subscribe("reader", do, retries=0, on_error="stop")
    lend("a", "BookBought", "BookLent")
    lend("b", "BookBought")
    with running():
        stopped = until(lambda: (checkpoint(store, "reader") or {}).get("stopped"))
        assert stopped["position"] == 2
        assert checkpoint(store, "reader")["position"] == 1
    with running():  # a new process does not begin by itself
        bad.clear()
        assert operator_actions.retry("reader") == 1
        reached(store, "reader", 3)
    assert places(got) == [("a", 1), ("a", 2), ("b", 1)]


def test_one_that_stopped_passes_over_the_event_when_told(store, lend):
    got = []

    @subscription("reader", retries=0, on_error="stop")
    def reader(event):
        if event["position"] == 1:
            raise KeyError("title")
        got.append(event)

    lend("a", "BookBought", "BookLent")
    with running():
        until(lambda: (checkpoint(store, "reader") or {}).get("stopped"))
        assert operator_actions.skip("reader", None, "never mind")
        reached(store, "reader", 2)
    assert places(got) == [("a", 2)]
    assert connection.raw(store.skipped).count_documents({"reason": "never mind"}) == 1


def test_it_is_reset_while_it_runs(store, lend, subscribe):
    got = []
    subscribe("reader", got.append)
    lend("a", "BookBought", "BookLent", "BookReturned")
    with running():
        reached(store, "reader", 3)
        operator_actions.reset("reader", 1)
        until(lambda: len(got) == 5)
        reached(store, "reader", 3)
    assert places(got[3:]) == [("a", 2), ("a", 3)]


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


# --- one transaction with the checkpoint, and two processes ------------------


@pytest.fixture
def deliver(store, lend):
    """Hand an event on within a transaction, under the fence of the first claim."""
    drive(checkpoints.find_or_create(store, "pages", 0, "subscription"))
    claimed = drive(checkpoints.claim(store, "pages", "first", None))
    event = {**lend("a", "BookBought")[0], "position": 1}
    with connection.raw(store.events).database.client.start_session() as session:

        def deliver(handler):
            declared = Subscription("pages", handler, session=True)
            effect = InMongoDBTransaction(store, session, declared)
            drive(effect.begin(claimed))
            drive(effect.deliver([event], 1))

        yield deliver


def test_who_was_overtaken_does_not_begin(store, deliver):
    drive(checkpoints.claim(store, "pages", "second", None))
    called = []
    with pytest.raises(ClaimLost):
        deliver(lambda event, session: called.append(event))
    assert not called


def test_nobody_takes_over_before_the_transaction_of_another_has_ended(
    store, deliver, settings
):
    # Else it would hold what the next one writes, until it expires after a minute.
    settings.OSSY_EVENT_STORE = {**settings.OSSY_EVENT_STORE, "TIMEOUT": 1.0}

    def handler(event, session):
        with pytest.raises(StoreUnavailable):
            drive(checkpoints.claim(store, "pages", "second", None))

    deliver(handler)
    assert checkpoint(store, "pages")["owner"] == "first"
    assert drive(checkpoints.claim(store, "pages", "second", None))["position"] == 1
