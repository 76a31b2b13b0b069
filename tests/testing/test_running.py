"""``run_subscriptions()``: everything in this thread, to the end, and no further."""

import asyncio
import datetime as dt
import threading
import time

import pytest
from asgiref.sync import sync_to_async
from django.core.exceptions import ImproperlyConfigured

from ossy_event_store import (
    Aggregate,
    EventStore,
    UnexpectedState,
    UnknownSubscription,
)
from ossy_event_store.conf import is_test_run
from ossy_event_store.mongodb import connection
from ossy_event_store.positions.change_stream import ChangeStream
from ossy_event_store.subscriptions import snapshot_subscription
from ossy_event_store.subscriptions.declaration import subscription
from ossy_event_store.testing import (
    arun_subscriptions,
    at,
    database,
    run_subscriptions,
    running,
    travel,
)
from tests.library.aggregate import Book
from tests.support.relational import SQL, effects, take_effect
from tests.support.subscriptions import checkpoint, parked, places
from tests.support.subscriptions import running as threads

pytestmark = pytest.mark.usefixtures("kit", "quick")


@pytest.fixture(params=["blocking", "awaitable"])
def run(request):
    """Both faces of ``run_subscriptions()``."""
    if request.param == "blocking":
        return run_subscriptions
    return lambda *names, **more: asyncio.run(arun_subscriptions(*names, **more))


class Broken(Exception):
    pass


def test_each_event_is_delivered_once_in_the_order_of_the_appends(run, lend):
    got = []
    subscription("mails")(got.append)
    for _ in range(2):
        lend("b-2", "BookBought", "BookLent")
        lend("b-1", "BookBought")
        run()
    assert places(got) == [
        *(("b-2", 1), ("b-2", 2), ("b-1", 1)),
        *(("b-2", 3), ("b-2", 4), ("b-1", 2)),
    ]
    assert [event["position"] for event in got] == [1, 2, 3, 4, 5, 6]


def test_the_order_is_that_of_the_commits_whatever_the_time_says(lend):
    got = []
    subscription("mails")(got.append)
    for year in (2030, 2020, 2025):
        with at(dt.datetime(year, 1, 1, tzinfo=dt.UTC)):
            lend(f"b-{year}", "BookBought")
    run_subscriptions()
    assert [stream for stream, _ in places(got)] == ["b-2030", "b-2020", "b-2025"]


def test_plain_handlers_run_in_the_thread_of_the_test(lend):
    threads = set()
    subscription("plain")(lambda event: threads.add(threading.get_ident()))

    @subscription("awaited")
    async def awaited(event):
        # As the ORM does, which has to see the transaction of the test.
        threads.add(await sync_to_async(threading.get_ident)())

    lend("b-1", "BookBought")
    run_subscriptions()
    assert threads == {threading.get_ident()}


def test_names_choose_and_a_wrong_one_is_told_which_exist(run, lend):
    got = []
    for name in ("mails", "search"):
        subscription(name)(lambda event, name=name: got.append(name))
    lend("b-1", "BookBought")
    run("search")
    assert got == ["search"]
    with pytest.raises(UnknownSubscription, match="mails, search"):
        run("male")


@pytest.mark.parametrize("options", [{}, {"session": True}, {"concurrency": 4}])
def test_what_a_handler_raises_is_raised_as_it_is(run, lend, options, store):
    calls, broken = [], Broken("no")

    @subscription("mails", **options)
    def handle(event, session=None):
        calls.append(event["aggregateVersion"])
        if len(calls) == 2:
            raise broken from KeyError("cause")

    lend("b-1", "BookBought", "BookLent")
    with pytest.raises(Broken) as raised:
        run()
    assert raised.value is broken
    assert isinstance(broken.__cause__, KeyError)
    assert parked(store) == []
    run()
    assert checkpoint(store, "mails")["position"] == 2
    assert calls == [1, 2, 2]


def test_with_park_it_fails_as_in_production_without_the_pauses(run, lend, store):
    calls = []

    @subscription("mails", retries=2, backoff=(60, 60))
    def handle(event):
        calls.append(event["aggregateId"])
        if event["aggregateId"] == "b-1":
            raise Broken

    lend("b-1", "BookBought", "BookLent")
    lend("b-2", "BookBought")
    run(park=True)
    assert calls == ["b-1", "b-1", "b-1", "b-2"]
    assert [one["aggregateId"] for one in parked(store)] == ["b-1"]


def test_a_subscription_that_stops_at_errors_stops_only_with_park(run, lend, store):
    @subscription("mails", retries=0, on_error="stop")
    def handle(event):
        raise Broken

    lend("b-1", "BookBought")
    with pytest.raises(Broken):
        run()
    assert not checkpoint(store, "mails")["stopped"]
    run(park=True)
    assert checkpoint(store, "mails")["stopped"]
    run()


def test_until_says_after_which_event_to_end(run, lend):
    got = []
    subscription("all")(got.append)
    subscription("some", types=["BookLent"])(got.append)
    first, second, _ = lend("b-1", "BookBought", "BookLent", "BookLent")
    run(until=first)
    assert places(got) == [("b-1", 1)]
    run(until=2)
    assert places(got) == [("b-1", 1), ("b-1", 2), ("b-1", 2)]
    run("all", until=Aggregate.of(Book, "b-1"))
    assert len(got) == 4
    for unknown in (9, {**second, "aggregateVersion": 9}):
        with pytest.raises(ValueError, match="the last event has position 3"):
            run(until=unknown)
    with pytest.raises(TypeError, match="must be a position, an event"):
        run(until=object())
    run(until=0)
    assert len(got) == 4


def test_what_handlers_append_is_delivered_too_but_not_for_ever(run, monkeypatch):
    got = []

    @subscription("answers", types=["Asked"])
    async def answer(event):
        await EventStore.aappend_event({**event_of(event), "type": "Answered"})

    @subscription("all")
    def note(event):
        got.append(event["type"])

    def event_of(event):
        return {"aggregateId": event["aggregateId"], "aggregateType": "Talk"}

    EventStore.append_event({**event_of({"aggregateId": "t"}), "type": "Asked"})
    run()
    assert got == ["Asked", "Answered"]

    monkeypatch.setattr(running, "ROUNDS", 3)

    @subscription("endless")
    def again(event):
        EventStore.append_event({**event_of(event), "type": "Again"})

    with pytest.raises(UnexpectedState, match="After 3 rounds"):
        run()


def test_projections_and_snapshots_are_kept(run, kit, loans, lend, monkeypatch):
    snapshot_subscription.register()
    lend("b-1", "BookBought", "BookLent")
    run()
    assert loans.get("ann") == {"lent": 1, "books": ["b-1"]}
    assert Aggregate.find("b-1")["aggregateVersion"] == 2
    monkeypatch.setattr(loans, "broken", {"b-2"})
    lend("b-2", "BookLent")
    with pytest.raises(ValueError, match="broken"):
        run("loans")
    assert parked(kit) == []
    monkeypatch.setattr(Book, "view", lambda events, saved_state: 1 / 0)
    with pytest.raises(Exception, match="ZeroDivisionError") as raised:
        run("snapshots")
    assert isinstance(raised.value.__cause__, ZeroDivisionError)
    assert parked(kit) == []


def test_a_handler_in_an_sql_transaction_commits_with_its_checkpoint(run, sql, lend):
    @subscription("effects", using=SQL)
    def handle(event):
        take_effect(event["position"])
        if event["type"] == "BookLent" and not handled:
            handled.append(event)
            raise Broken

    handled = []
    database.prepare()
    lend("b-1", "BookBought", "BookLent")
    with pytest.raises(Broken):
        run()
    assert effects() == [1]
    run()
    assert effects() == [1, 2]


def test_a_subscription_that_runs_elsewhere_is_not_run_twice(lend):
    subscription("mails")(lambda event: None)
    lend("b-1", "BookBought")
    with threads("mails") as runner:
        while not runner.consumers[0].claim.renewed:
            time.sleep(0.01)
        with pytest.raises(UnexpectedState, match="Another process or thread runs"):
            run_subscriptions()


def test_it_waits_for_nothing(lend, monkeypatch):
    waits = []
    fetch, sleep, own = ChangeStream.fetch, time.sleep, threading.get_ident()

    def noted(self, wait):
        waits.append(wait)
        return fetch(self, wait)

    monkeypatch.setattr(ChangeStream, "fetch", noted)

    def slept(seconds):
        if threading.get_ident() == own:  # the driver's threads sleep as well
            waits.append(seconds)
        else:
            sleep(seconds)

    monkeypatch.setattr(time, "sleep", slept)
    subscription("mails", retries=1, backoff=(60, 60))(lambda event: 1 / 0)
    lend("b-1", "BookBought")
    run_subscriptions(park=True)
    assert set(waits) == {0.0}


def test_it_is_only_for_tests(monkeypatch):
    assert is_test_run()
    monkeypatch.setattr(database, "is_test_run", lambda: False)
    for used in (run_subscriptions, database.prepare, lambda: travel().__enter__()):
        with pytest.raises(ImproperlyConfigured, match="only for tests"):
            used()


def test_the_indexes_are_made_once_and_no_real_database_is_emptied(monkeypatch):
    asked = []
    monkeypatch.setattr(database, "call_command", lambda *a, **k: asked.append(a))
    database.prepare()
    assert asked == []
    monkeypatch.setattr(database, "_ready", set())
    database.prepare()
    assert len(asked) == 1
    name = connection.database_name(connection.blocking())
    monkeypatch.setattr(database, "database_name", lambda store: name[5:])
    with pytest.raises(ImproperlyConfigured, match="does not begin with 'test_'"):
        database.prepare()
