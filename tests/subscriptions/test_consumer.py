"""Subscriptions at work: each event in order, retried, parked, resumed."""

import threading
import time
from collections import defaultdict

import pytest
from django.conf import settings

from ossy_event_store import EventStore, Mongo
from ossy_event_store.mongodb import connection, indexes
from ossy_event_store.mongodb.ports import drive
from ossy_event_store.positions.head_watcher import HeadWatcher
from ossy_event_store.subscriptions import consumer as consumer_module
from ossy_event_store.subscriptions.declaration import subscription
from ossy_event_store.subscriptions.runner import assign_positions
from tests.support.processes import ON_URL
from tests.support.servers import until
from tests.support.subscriptions import checkpoint, places, reached, running

pytestmark = pytest.mark.usefixtures("quick")


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
def test_a_consumer_that_lags_far_reads_page_after_page(
    store, lend, subscribe, options
):
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


@pytest.fixture
def other(store):
    """A URL of another database on the same server."""
    if settings.ADMIN:
        pytest.skip("the roles are for one database")
    server, _, options = settings.SERVER.partition("?")
    yield f"{server.rstrip('/')}/other?{options}"
    database = connection.raw(connection.blocking().events).database
    assert database.name.startswith("test_other")
    database.client.drop_database(database)
    Mongo.close()


@ON_URL
def test_a_subscription_follows_the_process_to_another_database(
    store, lend, subscribe, other
):
    got = []
    subscribe("reader", lambda event: got.append(event["aggregateId"]))
    lend("a", "BookBought")
    with running():
        until(lambda: got == ["a"])
        Mongo.connect(other)
        drive(indexes.ensure(connection.blocking()))
        lend("b", "BookBought")
        until(lambda: got == ["a", "b"])
        reached(connection.blocking(), "reader", 1)


def test_a_subscription_resumes_where_it_was(store, lend, subscribe):
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


def test_a_start_beyond_the_last_event_passes_over_none(store, lend, caplog):
    got = []
    subscription("reader", start=1_000_000)(got.append)
    lend("a", "BookBought")
    assign_positions(threading.Event())
    with running():
        reached(store, "reader", 1)
        lend("a", "BookLent")
        reached(store, "reader", 2)
    assert places(got) == [("a", 2)]
    assert "starts after the last event, at position 1." in caplog.text


def test_a_new_subscription_starts_where_it_says(store, lend):
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


def test_a_consumer_that_cannot_read_up_to_the_head_does_not_spin(
    store, lend, monkeypatch
):
    ahead, reads = HeadWatcher(), []
    ahead.notify(10**6)  # as after the positions were dropped and start again
    monkeypatch.setattr(consumer_module, "watcher", ahead)
    read = consumer_module.read

    async def counted(*arguments):
        reads.append(time.monotonic())
        return await read(*arguments)

    monkeypatch.setattr(consumer_module, "read", counted)
    subscription("reader")(lambda event: None)
    with running() as runner:
        until(lambda: len(reads) >= 10)
    ahead.close()
    assert reads[9] - reads[1] > 7 * runner.timings.stop_seconds
