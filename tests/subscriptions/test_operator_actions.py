"""Operators retry, skip, reset, pause and resume."""

import threading
from dataclasses import replace

import pytest
from django.core.management import CommandError

from ossy_event_store import EventStore
from ossy_event_store.exceptions import EventStoreError
from ossy_event_store.mongodb import connection
from ossy_event_store.mongodb.blocking_port import BlockingCollection
from ossy_event_store.mongodb.ports import drive
from ossy_event_store.projections import builds, rebuild
from ossy_event_store.projections.rebuild import Rebuild
from ossy_event_store.subscriptions import operator_actions
from ossy_event_store.subscriptions.attempts import Attempts
from ossy_event_store.subscriptions.checkpoints import find_or_create
from ossy_event_store.subscriptions.declaration import subscription
from ossy_event_store.subscriptions.runner import assign_positions
from tests.support.projections import Loans
from tests.support.projections import loans as loans
from tests.support.servers import until
from tests.support.subscriptions import (
    checkpoint,
    parked,
    places,
    reached,
    running,
    said,
)

pytestmark = pytest.mark.usefixtures("quick")


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


def test_a_retry_requested_while_another_one_fails_is_done(store, lend):
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


def test_a_subscription_that_stops_continues_after_a_retry(store, lend, subscribe):
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


def test_a_subscription_that_stopped_continues_after_a_skip(store, lend):
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


def test_a_subscription_is_reset_while_it_runs(store, lend, subscribe):
    got = []
    subscribe("reader", got.append)
    lend("a", "BookBought", "BookLent", "BookReturned")
    with running():
        reached(store, "reader", 3)
        operator_actions.reset("reader", 1)
        until(lambda: len(got) == 5)
        reached(store, "reader", 3)
    assert places(got[3:]) == [("a", 2), ("a", 3)]


# --- an operator's process that dies, or is slow ----------------------------


@pytest.fixture
def no_delete(monkeypatch):
    """Let a process die where it would delete from a collection."""

    def no_delete(name):
        async def die(self, query, **options):
            if self.raw.name == name:
                raise ConnectionError("the process dies here")
            return await delete(self, query, **options)

        delete = BlockingCollection.delete_many
        monkeypatch.setattr(BlockingCollection, "delete_many", die)

    return no_delete


def stands(store, name):
    return checkpoint(store, name)["position"], len(parked(store))


def test_a_reset_that_dies_changes_nothing(store, lend, no_delete):
    @subscription("reader", retries=0)
    def reader(event):
        raise KeyError("title")

    lend("a", "BookBought", "BookLent")
    with running():
        reached(store, "reader", 2)
    no_delete(connection.PARKED)
    with pytest.raises(ConnectionError):
        operator_actions.reset("reader", 0)
    # A checkpoint that moved alone would pass over the events of the parked stream.
    assert stands(store, "reader") == (2, 1)


def test_a_reset_waits_for_the_current_transaction(store, lend):
    started, proceed, got = threading.Event(), threading.Event(), []

    @subscription("reader", session=True)
    def reader(event, session):
        got.append(event["position"])
        if event["type"] == "Slow":
            started.set()
            proceed.wait(30)

    lend("a", "BookBought", "Slow")
    with running():
        assert started.wait(30)
        resetting = threading.Thread(target=operator_actions.reset, args=("reader", 1))
        resetting.start()
        until(lambda: checkpoint(store, "reader")["fence"] > 1 or proceed.set())
        resetting.join(30)
        assert not resetting.is_alive()
        until(lambda: got[-2:] == [2, 2])
        reached(store, "reader", 2)


def test_a_late_skip_does_not_move_the_checkpoint_back(store, lend, monkeypatch):
    bad, got = {1}, []

    @subscription("reader", retries=0, on_error="stop")
    def reader(event):
        if event["position"] in bad:
            raise KeyError("title")
        got.append(event["position"])

    lend("a", "BookBought", "BookLent")
    with running():
        until(lambda: (checkpoint(store, "reader") or {}).get("stopped"))
    record = operator_actions._record

    def slowly(*arguments):
        monkeypatch.setattr(operator_actions, "_record", record)
        bad.clear()
        operator_actions.retry("reader")
        with running():
            reached(store, "reader", 2)
        return record(*arguments)

    monkeypatch.setattr(operator_actions, "_record", slowly)
    assert operator_actions.skip("reader", None, "never mind") is None
    assert checkpoint(store, "reader")["position"] == 2
    assert got == [1, 2]
    assert not connection.raw(store.skipped).count_documents({})


def test_a_rebuild_that_dies_at_its_start_changes_nothing(
    loans, store, lend, no_delete
):
    Loans.broken.add("a")
    lend("a", "BookLent")
    with running():
        reached(store, "loans", 1)
    no_delete(connection.PARKED)
    with pytest.raises(ConnectionError):
        Rebuild(Loans, beside=False).run()
    assert stands(store, "loans") == (1, 1)
    assert checkpoint(store, "loans")["generation"] == 1


@pytest.mark.parametrize("beside", [False, True], ids=["at once", "beside"])
def test_of_two_builds_of_the_same_projection_one_gives_way(
    loans, store, lend, monkeypatch, beside
):
    lend("a", "BookLent")
    with running():
        reached(store, "loans", 1)
    module, name = (rebuild, "switch") if beside else (builds, "make_indexes")
    step = getattr(module, name)

    async def late(*arguments):
        monkeypatch.setattr(module, name, step)
        assert Rebuild(Loans, beside=beside).run().generation == 2
        # As its own subscription would, which does not know that it was finished.
        await find_or_create(
            store, "loans@2", 0, "projection build", generation=2, revision=""
        )
        return await step(*arguments)

    monkeypatch.setattr(module, name, late)
    with pytest.raises(EventStoreError, match="has rebuilt projection loans"):
        Rebuild(Loans, beside=beside).run()
    assert checkpoint(store, "loans")["generation"] == 2
    assert Loans.get("ann") == {"lent": 1, "books": ["a"]}


def test_a_reset_beyond_the_last_event_is_refused(store, lend):
    subscription("reader")(print)
    lend("a", "BookBought", "BookLent")
    with running():
        reached(store, "reader", 2)
        with pytest.raises(ValueError, match=r"has position 2\. .* from 0 to 2"):
            operator_actions.reset("reader", 3)
        operator_actions.reset("reader", 2)
    assert checkpoint(store, "reader")["position"] == 2


# --- pausing ----------------------------------------------------------------


def test_a_subscription_is_paused_and_resumed_while_it_runs(store, lend, subscribe):
    got, claims = [], []

    def do(event):
        got.append(event["position"])
        if event["position"] == 2:
            jane = threading.Thread(
                target=operator_actions.pause, args=("reader", "jane")
            )
            jane.start()
            jane.join()
            (claim,) = claims  # it looks before each event
            claim.timings = replace(claim.timings, poll_seconds=0.0)

    subscribe("reader", do)
    with running() as runner:
        claims.append(runner.consumers[0].claim)
        lend("a", *["BookLent"] * 5)
        # What was delivered is in the checkpoint, and comes no second time.
        reached(store, "reader", 2)
        until(lambda: not runner.consumers[0].claim.renewed)
        assert checkpoint(store, "reader")["paused"]["by"] == "jane"
        assert not operator_actions.pause("reader")
        assert got == [1, 2]
        assert operator_actions.resume("reader")
        assert not operator_actions.resume("reader")
        reached(store, "reader", 5)
    assert got == [1, 2, 3, 4, 5]


def test_a_pause_ends_the_wait_for_a_retry(store, lend):
    tried = []

    @subscription("reader", retries=5, backoff=(60, 60))
    def reader(event):
        tried.append(event)
        raise KeyError("title")

    lend("a", "BookBought")
    with running() as runner:
        until(lambda: tried)
        operator_actions.pause("reader")
        until(lambda: not runner.consumers[0].claim.renewed)
    assert len(tried) == 1
    assert not parked(store)


def test_a_run_until_caught_up_does_not_wait_for_what_is_paused(store, lend):
    subscription("reader")(print)
    lend("a", "BookBought")
    with running():
        reached(store, "reader", 1)
    operator_actions.pause("reader")
    lend("a", "BookBought")
    with pytest.raises(CommandError, match="reader: paused"):
        said("run_subscriptions", "reader", "--until-caught-up")


def test_a_paused_projection_is_rebuilt_beside_and_not_in_place(loans, store, lend):
    lend("a", "BookLent")
    with running("loans"):
        reached(store, "loans", 1)
    operator_actions.pause("loans")
    with pytest.raises(CommandError, match="loans is paused"):
        said("rebuild_projections", "loans")
    said("rebuild_projections", "loans", "--blue-green")
    assert checkpoint(store, "loans")["paused"]
    assert Loans.get("ann")["lent"] == 1
    drive(builds.begin_build(store, Loans))
    with pytest.raises(CommandError, match="loans@3 is a build of a projection"):
        said("subscriptions", "pause", "loans@3")


# --- events that were deleted -----------------------------------------------


@pytest.mark.parametrize(
    "options",
    [{}, {"session": True}, {"concurrency": 3}],
    ids=["plain", "session", "concurrency"],
)
def test_a_deleted_event_parks_its_stream_alone_until_the_loss_is_accepted(
    store, lend, history, options
):
    got = []

    @subscription("reader", retries=0, **options)
    def reader(event, *session):
        got.append(event)

    lend("a", "BookBought", "BookLent", "BookReturned")
    lend("b", "BookBought")
    assign_positions(threading.Event())
    history.delete_one({"aggregateId": "a", "aggregateVersion": 2})
    lend("b", "BookLent")
    with running():
        reached(store, "reader", 5)
        (stream,) = until(lambda: parked(store))
        assert (stream["aggregateId"], stream["position"]) == ("a", 2)
        assert "verify_event_store --accept-loss" in stream["error"]
        assert not EventStore.wait_for(3, 0.05, subscription="reader")
        operator_actions.retry("reader", "a")
        until(lambda: parked(store)[0]["tries"] > 1)
        assert operator_actions.accept_loss("a", "erased", "jane") == [(2, 2)]
        until(lambda: not parked(store))
    assert sorted(places(got)) == [("a", 1), ("a", 3), ("b", 1), ("b", 2)]
    assert places(EventStore.read_all()) == [
        ("a", 1),
        ("a", 3),
        ("b", 1),
        ("b", 2),
    ]
    assert operator_actions.accept_loss("a", "again") == []


def test_a_retry_delivers_the_events_before_one_that_was_deleted(store, lend, history):
    got, broken = [], [True]

    @subscription("reader", retries=0, session=True)
    def reader(event, session):
        if broken:
            raise KeyError("title")
        got.append(event)

    lend("a", "BookBought", "BookLent", "BookReturned")
    with running():
        reached(store, "reader", 3)
        until(lambda: parked(store))
        history.delete_one({"aggregateVersion": 2})
        broken.clear()
        operator_actions.retry("reader", "a")
        until(lambda: parked(store)[0]["position"] == 2)
    assert places(got) == [("a", 1)]


def test_a_subscription_that_stops_at_a_deleted_event_continues_without_it(
    store, lend, history
):
    got = []
    subscription("reader", on_error="stop")(got.append)
    lend("a", "BookBought", "BookLent", "BookReturned")
    assign_positions(threading.Event())
    history.delete_one({"aggregateVersion": 2})
    with running():
        until(lambda: (checkpoint(store, "reader") or {}).get("stopped"))
        assert places(got) == [("a", 1)]
        operator_actions.accept_loss("a", "erased")
        reached(store, "reader", 3)
    assert places(got) == [("a", 1), ("a", 3)]


@pytest.mark.parametrize(
    "options",
    [{}, {"session": True}, {"concurrency": 3}, {"on_error": "stop"}],
    ids=["plain", "session", "concurrency", "stop"],
)
def test_a_loss_that_is_accepted_just_before_its_stream_is_parked_needs_no_retry(
    store, lend, history, monkeypatch, options
):
    got, fail = [], Attempts._failed

    @subscription("reader", retries=0, **options)
    def reader(event, *session):
        got.append(event)

    async def accepted_meanwhile(self, event, *arguments):
        operator_actions.accept_loss("a", "erased")
        await fail(self, event, *arguments)

    monkeypatch.setattr(Attempts, "_failed", accepted_meanwhile)
    lend("a", "BookBought", "BookLent", "BookReturned")
    assign_positions(threading.Event())
    history.delete_one({"aggregateVersion": 2})
    with running():
        until(lambda: places(got) == [("a", 1), ("a", 3)])
        until(lambda: not parked(store))
        reached(store, "reader", 3)


def test_a_stream_that_was_deleted_as_a_whole_holds_up_no_projection(
    store, loans, lend, history
):
    for name in "abc":
        lend(name, "BookLent")
    assign_positions(threading.Event())
    history.delete_many({"aggregateId": "b"})
    with running():
        reached(store, "loans", 3)
        assert [one["aggregateId"] for one in parked(store)] == ["b"]
        assert operator_actions.accept_loss("b", "erased") == [(1, 1)]
        until(lambda: not parked(store))
        lend("b", "BookLent")
        reached(store, "loans", 4)
    assert Loans.get("ann") == {"lent": 3, "books": ["a", "c", "b"]}


@pytest.mark.parametrize(
    ("stream", "reason", "missing"),
    [("a", " ", "needs a reason"), ("", "erased", "must have 1 to 255")],
)
def test_a_loss_is_accepted_of_a_stream_with_a_reason(store, stream, reason, missing):
    with pytest.raises(ValueError, match=missing):
        operator_actions.accept_loss(stream, reason)
