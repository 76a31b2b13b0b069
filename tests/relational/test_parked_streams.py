"""What an SQL database decides about the parked streams of its subscriptions."""

from contextlib import suppress
from dataclasses import replace

import pytest
from django.apps import apps

if not apps.is_installed("ossy_event_store.relational"):
    pytest.skip("the default database is no SQL database", allow_module_level=True)

from django.core.management import CommandError, call_command
from django.db import IntegrityError, OperationalError, connections, transaction

from ossy_event_store.mongodb import connection
from ossy_event_store.relational import checkpoints
from ossy_event_store.relational.models import Checkpoint
from ossy_event_store.subscriptions import operator_actions, parked_streams
from ossy_event_store.subscriptions.declaration import (
    add,
    registered_subscriptions,
    subscription,
)
from tests.support.relational import POSTGRESQL, SQL, effects, take_effect
from tests.support.servers import until
from tests.support.subscriptions import checkpoint, parked, reached, running

pytestmark = [pytest.mark.versions, pytest.mark.usefixtures("quick")]


@pytest.fixture
def orders(store, lend):
    """A subscription that has handled nothing of ``book`` but has gone past it."""
    bad = {1}

    @subscription("orders", using=SQL, retries=0)
    def handle(event):
        if event["position"] in bad:
            raise KeyError("customer")
        take_effect(event["position"])

    lend("book", *["BookLent"] * 6)
    with running():
        reached(store, "orders", 6)
    assert checkpoints.streams("orders", SQL) == {"book": 0}
    return bad


def waiting(store):
    return [(one["aggregateId"], one["position"]) for one in parked(store)]


def test_a_release_that_is_interrupted_repeats_nothing(store, orders):
    orders ^= {1, 4}  # so that it ends in between, as by a signal
    operator_actions.retry("orders")
    with running():
        until(lambda: waiting(store) == [("book", 4)])
    assert effects() == [1, 2, 3]
    orders.clear()
    operator_actions.retry("orders")  # then start, as the docs have it
    for _ in range(2):
        with running():
            until(lambda: not waiting(store))
    assert effects() == [1, 2, 3, 4, 5, 6]
    assert checkpoints.read("orders", SQL) == 6


@pytest.mark.parametrize("where", ["park", "release", "redeliver"])
def test_a_process_that_dies_between_both_databases_loses_and_repeats_nothing(
    store, orders, lend, monkeypatch, where
):
    """It dies after MongoDB has a stream parked, or before it has moved or left."""
    module, name = {
        "park": (checkpoints, "park"),
        "release": (parked_streams, "release"),
        "redeliver": (parked_streams, "advance"),
    }[where]
    step, died = getattr(module, name), []

    def die_once(*arguments):
        if not died:
            died.append(where)
            raise ConnectionError("the process dies here")
        return step(*arguments)

    monkeypatch.setattr(module, name, die_once)
    orders ^= {1, 7}
    lend("other", "BookLent", "BookLent")
    operator_actions.retry("orders")
    with running():
        until(lambda: waiting(store) == [("other", 7)])
        orders.clear()
        operator_actions.retry("orders")
        until(lambda: not waiting(store))
        reached(store, "orders", 8)
    assert died
    assert effects() == list(range(1, 9))
    assert checkpoints.streams("orders", SQL) == {}


def test_an_event_that_took_effect_cannot_be_skipped(store, orders):
    # A process died after its transaction there, before MongoDB said so.
    take_effect(1)
    checkpoints.advance("orders", "book", 1, SQL)
    assert operator_actions.skip("orders", "book", "never mind") is None
    assert not connection.raw(store.skipped).count_documents({})
    orders.clear()
    operator_actions.retry("orders")
    with running():
        until(lambda: not waiting(store))
    assert effects() == [1, 2, 3, 4, 5, 6]


def test_a_skipped_event_has_no_effect_though_mongodb_does_not_say_so(store, orders):
    assert operator_actions.skip("orders", "book", "never mind")
    connection.raw(store.parked).update_one(
        {}, {"$set": {"position": 1, "aggregateVersion": 1}}
    )
    orders.clear()
    with running():
        until(lambda: not waiting(store))
    assert effects() == [2, 3, 4, 5, 6]


def test_a_stream_that_is_parked_only_in_the_database_is_retried(store, orders):
    connection.raw(store.parked).delete_many({})
    orders.clear()
    with running():
        until(lambda: checkpoints.streams("orders", SQL) == {})
    assert effects() == [1, 2, 3, 4, 5, 6]
    assert not waiting(store)


def test_a_restored_database_decides_what_is_retried(store, orders):
    orders ^= {1, 5}
    operator_actions.retry("orders")
    with running():
        until(lambda: waiting(store) == [("book", 5)])
    Checkpoint.objects.using(SQL).filter(aggregate_id="book").update(position=2)
    with connections[SQL].cursor() as cursor:
        cursor.execute("DELETE FROM effects WHERE position > 2")
    assert operator_actions.skip("orders", "book", "never mind") is None
    orders.clear()
    operator_actions.retry("orders")
    with running():
        until(lambda: not waiting(store))
    assert effects() == [1, 2, 3, 4, 5, 6]


def test_a_subscription_that_stopped_keeps_its_parked_streams(store, stopped):
    assert operator_actions.skip("orders", None, "never mind")["position"] == 7
    stopped.clear()
    operator_actions.retry("orders", "book")
    with running():
        reached(store, "orders", 8)
        until(lambda: not waiting(store))
    assert effects() == [1, 2, 3, 4, 5, 6, 8]


def test_a_reset_releases_the_parked_streams_of_the_database(store, orders):
    orders.clear()
    operator_actions.reset("orders", 3)
    with running():
        reached(store, "orders", 6)
    assert effects() == [4, 5, 6]
    assert not waiting(store)


def test_a_subscription_that_becomes_transactional_keeps_its_parked_streams(
    store, lend
):
    bad = {1}

    def handle(event):
        if event["position"] in bad:
            raise KeyError("customer")
        take_effect(event["position"])

    subscription("orders", retries=0)(handle)
    lend("book", "BookLent", "BookLent")
    lend("other", "BookLent")
    with running():
        reached(store, "orders", 3)
    add(replace(registered_subscriptions()["orders"], using=SQL))
    bad.clear()
    operator_actions.retry("orders")
    with running():
        until(lambda: not waiting(store))
    assert effects() == [1, 2, 3]


def test_a_commit_whose_answer_was_lost_is_not_repeated(store, lend, monkeypatch):
    died = []

    @subscription("orders", using=SQL, retries=0)
    def handle(event):
        take_effect(event["position"])
        if not died:
            died.append(event)
            transaction.on_commit(break_off, using=SQL)

    def break_off():
        raise OperationalError("server closed the connection unexpectedly")

    lend("book", "BookLent", "BookLent")
    with running():
        reached(store, "orders", 2)
        assert not waiting(store)
    assert died
    assert effects() == [1, 2]


def test_an_on_commit_callback_that_fails_repeats_nothing(store, lend):
    @subscription("orders", using=SQL, retries=0)
    def handle(event):
        take_effect(event["position"])
        transaction.on_commit(lambda: {}["mail"], using=SQL)

    lend("book", "BookLent")
    lend("other", "BookLent")
    with running():
        until(lambda: checkpoints.read("orders", SQL) == 2)
        lend("book", "BookLent")
        reached(store, "orders", 3)
    assert effects() == [1, 2, 3]
    assert not waiting(store)


def test_a_database_that_is_restored_during_the_run_decides(store, lend):
    @subscription("orders", using=SQL)
    def handle(event):
        take_effect(event["position"])

    lend("book", *["BookLent"] * 5)
    with running():
        reached(store, "orders", 5)
        with connections[SQL].cursor() as cursor:
            cursor.execute("DELETE FROM effects WHERE position > 2")
        Checkpoint.objects.using(SQL).update(position=2)
        lend("book", "BookLent")
        reached(store, "orders", 6)
    assert effects() == [1, 2, 3, 4, 5, 6]


def test_a_lost_checkpoint_is_not_guessed(store, lend, caplog):
    @subscription("orders", using=SQL)
    def handle(event):
        take_effect(event["position"])

    lend("book", "BookLent", "BookLent")
    with running():
        reached(store, "orders", 2)
    Checkpoint.objects.using(SQL).all().delete()
    with running():
        until(lambda: "checkpoint of subscription 'orders' is missing" in caplog.text)
        assert "reset orders --to 0; if it exists, --to 2." in caplog.text
        operator_actions.reset("orders", 2)
        lend("book", "BookLent")
        reached(store, "orders", 3)
    assert effects() == [1, 2, 3]


def test_a_subscription_that_was_plain_meanwhile_resumes_there(store, orders, lend):
    orders.clear()
    transactional = registered_subscriptions()["orders"]
    operator_actions.retry("orders")
    with running():
        until(lambda: not waiting(store))
    add(replace(transactional, using=None))
    lend("book", "BookLent")
    with running():
        reached(store, "orders", 7)
    add(transactional)
    lend("book", "BookLent")
    with running():
        reached(store, "orders", 8)
    assert effects() == list(range(1, 9))


def test_a_single_event_that_fails_does_not_hold_up_the_checkpoint(store, lend):
    @subscription("orders", using=SQL, retries=0)
    def handle(event):
        raise KeyError("customer")

    lend("book", "BookLent")
    with pytest.raises(CommandError, match="a handler failed"):
        call_command("run_subscriptions", "--until-caught-up", verbosity=0)
    assert checkpoint(store, "orders")["position"] == 1


def records(store):
    kept = connection.raw(store.skipped).find({"withdrawn": {"$ne": True}})
    return [one["reason"] for one in kept]


def test_of_two_skips_of_the_same_event_one_is_done_and_recorded(
    store, orders, monkeypatch
):
    skip = checkpoints.skip

    def later(*arguments):
        monkeypatch.setattr(checkpoints, "skip", skip)
        assert operator_actions.skip("orders", "book", "the other one")
        return skip(*arguments)

    monkeypatch.setattr(checkpoints, "skip", later)
    assert operator_actions.skip("orders", "book", "this one") is None
    assert records(store) == ["the other one"]


def test_a_skip_that_ends_before_mongodb_says_so_can_be_completed(
    store, orders, monkeypatch
):
    move_on = operator_actions._move_on

    async def die(*arguments):
        raise ConnectionError("the process dies here")

    monkeypatch.setattr(operator_actions, "_move_on", die)
    with pytest.raises(ConnectionError):
        operator_actions.skip("orders", "book", "never mind")
    monkeypatch.setattr(operator_actions, "_move_on", move_on)
    assert records(store) == ["never mind"]
    assert operator_actions.skip("orders", "book", "again") is None
    orders.clear()
    with running():
        until(lambda: not waiting(store))
    assert effects() == [2, 3, 4, 5, 6]
    assert records(store) == ["never mind"]


@pytest.fixture
def stopped(store, orders, lend):
    """The same, and another stream has stopped it at position 7."""
    add(replace(registered_subscriptions()["orders"], on_error="stop"))
    orders.add(7)
    lend("other", "BookLent", "BookLent")
    with running():
        until(lambda: checkpoint(store, "orders")["stopped"])
    return orders


def test_a_skip_that_dies_where_it_stopped_leaves_a_record(store, stopped, monkeypatch):
    pass_over = checkpoints.pass_over

    def die(*arguments):
        pass_over(*arguments)
        raise ConnectionError("the process dies here")

    monkeypatch.setattr(checkpoints, "pass_over", die)
    with pytest.raises(ConnectionError):
        operator_actions.skip("orders", None, "never mind")
    assert records(store) == ["never mind"]
    stopped.clear()
    operator_actions.retry("orders")
    with running():
        until(lambda: not waiting(store))
        reached(store, "orders", 8)
    assert effects() == [1, 2, 3, 4, 5, 6, 8]


def test_a_stopped_event_is_not_skipped_after_a_restore(store, stopped):
    Checkpoint.objects.using(SQL).filter(aggregate_id="").update(position=3)
    assert operator_actions.skip("orders", None, "never mind") is None
    assert records(store) == []


def test_a_subscription_can_be_operated_before_its_first_transactional_run(store, lend):
    bad = {1, 2}

    def handle(event):
        if event["position"] in bad:
            raise KeyError("customer")
        take_effect(event["position"])

    subscription("orders", retries=0)(handle)
    lend("book", "BookLent", "BookLent")
    with running():
        reached(store, "orders", 2)
    add(replace(registered_subscriptions()["orders"], using=SQL))
    assert operator_actions.skip("orders", "book", "never mind")["position"] == 1
    bad.clear()
    with running():
        until(lambda: not waiting(store))
    assert effects() == [2]


SWALLOWS = ["orm", "raw", "rollback"]


def swallow(how):
    """Do what leaves nothing to commit, without raising an error."""
    if how == "rollback":
        transaction.set_rollback(True, using=SQL)
        return
    with suppress(IntegrityError):
        if how == "raw":
            take_effect(1)
        else:
            Checkpoint(key=None, position=0).save(using=SQL, force_insert=True)


@pytest.mark.parametrize("how", SWALLOWS)
@pytest.mark.parametrize("retried", [False, True])
def test_a_handler_that_swallows_a_database_error_parks_its_stream(
    store, lend, how, retried
):
    if how == "raw" and not POSTGRESQL:
        pytest.skip("the transaction continues there")
    bad = {2}

    @subscription("orders", using=SQL, retries=0)
    def handle(event):
        if event["position"] in bad:
            if retried and not parked(store):
                raise KeyError("customer")
            swallow(how)
        elif event["aggregateId"] != "first":
            take_effect(event["position"])

    take_effect(1)
    lend("first", "BookLent")
    lend("book", "BookLent", "BookLent")
    with running():
        reached(store, "orders", 3)
        if retried:
            operator_actions.retry("orders")
            until(lambda: "rollback" in (parked(store)[0]["error"] or ""))
        assert waiting(store) == [("book", 2)]
        assert "caught a database error" in parked(store)[0]["error"]
        bad.clear()
        operator_actions.retry("orders")
        until(lambda: not waiting(store))
    assert effects() == [1, 2, 3]


def test_the_row_decides_if_mongodb_has_lost_the_subscription(store, lend):
    @subscription("orders", using=SQL)
    def handle(event):
        take_effect(event["position"])

    lend("book", "BookLent", "BookLent")
    with running():
        reached(store, "orders", 2)
    connection.raw(store.subscriptions).delete_many({})
    lend("book", "BookLent")
    with running():
        reached(store, "orders", 3)
    assert effects() == [1, 2, 3]
    # The alias has a new name since, and MongoDB was not written when the process died.
    connection.raw(store.subscriptions).update_one(
        {"_id": "orders"}, {"$set": {"using": "former", "position": 1}}
    )
    lend("book", "BookLent")
    with running():
        reached(store, "orders", 4)
    assert effects() == [1, 2, 3, 4]


def test_a_row_from_before_mongodb_was_emptied_passes_over_nothing(store, lend):
    @subscription("orders", using=SQL)
    def handle(event):
        take_effect(event["position"])

    checkpoints.adopt("orders", 500, {}, "long ago", SQL)
    lend("book", "BookLent", "BookLent")
    with running():
        until(lambda: effects() == [1, 2])
        reached(store, "orders", 2)


def test_a_stopped_event_that_was_handled_is_not_skipped(store, stopped):
    take_effect(7)
    Checkpoint.objects.using(SQL).filter(aggregate_id="").update(position=7)
    assert operator_actions.skip("orders", None, "never mind") is None
    assert records(store) == []
    stopped.clear()
    operator_actions.retry("orders", "book")
    with running():
        reached(store, "orders", 8)
        until(lambda: not waiting(store))
    assert effects() == [1, 2, 3, 4, 5, 6, 7, 8]


def test_a_skip_that_the_database_refuses_leaves_no_record(store, stopped, monkeypatch):
    def locked(*arguments):
        raise OperationalError("database is locked")

    monkeypatch.setattr(checkpoints, "pass_over", locked)
    with pytest.raises(OperationalError):
        operator_actions.skip("orders", None, "never mind")
    assert records(store) == []
    assert checkpoint(store, "orders")["stopped"]
