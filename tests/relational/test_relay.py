"""The relay, alone and in ``run_subscriptions``."""

import threading
import time

import pytest
from django.apps import apps
from django.core.management import CommandError, call_command

if not apps.is_installed("ossy_event_store.relational"):
    pytest.skip("the default database is no SQL database", allow_module_level=True)

from ossy_event_store import ConcurrencyError, EventStore
from ossy_event_store.relational import append_waiting, outbox
from ossy_event_store.relational import relay as relay_module
from ossy_event_store.relational.relay import RelayTimings, relay, run_relay
from ossy_event_store.subscriptions.declaration import subscription
from tests.support.outbox import away, commit, lent, park, readers, waiting
from tests.support.relational import SQL
from tests.support.servers import until
from tests.support.subscriptions import running, said

pytestmark = [pytest.mark.versions, pytest.mark.usefixtures("store", "quick")]

QUICK = RelayTimings(poll=0.02, first_pause=0.02, longest_pause=0.1)


@pytest.fixture
def relaying():
    """Start a relay in a thread, which ends with the test."""
    stop, threads = threading.Event(), []

    def relaying():
        thread = threading.Thread(target=run_relay, args=(SQL, stop, QUICK))
        threads.append(thread)
        thread.start()

    yield relaying
    stop.set()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()


def test_what_waits_is_appended_in_the_order_of_each_stream(monkeypatch):
    monkeypatch.setattr(relay_module, "ROWS_PER_TURN", 3)
    monkeypatch.setattr(outbox, "ROWS_PER_READ", 2)
    with away(monkeypatch):
        for number in range(10):
            commit(*(lent(f"b-{n}", to=f"{number}") for n in range(3)))
    stop = threading.Event()
    counts = []
    while count := relay(SQL, stop):
        counts.append(count)
    assert sum(counts) == 30
    assert max(counts) <= 6  # each stream has its turn
    for n in range(3):
        assert readers(f"b-{n}") == [f"{number}" for number in range(10)]


def test_a_relay_waits_for_mongodb_and_goes_on(monkeypatch, relaying, caplog):
    with away(monkeypatch):
        commit(lent(to="a"), lent(to="b"))
        assert relay(SQL, threading.Event()) is None
        relaying()
        until(lambda: waiting()[0].tries > 3)
        assert {row.state for row in waiting()} == {"waiting"}
    until(lambda: readers() == ["a", "b"])
    until(lambda: waiting() == [])
    assert "The outbox of sql waits for MongoDB, retrying." in caplog.text


def test_a_relay_survives_what_it_does_not_expect(monkeypatch, relaying, caplog):
    def fail(using):
        raise RuntimeError("what no module knows")

    with monkeypatch.context() as patch:
        patch.setattr(outbox, "first_rows", fail)
        relaying()
        until(
            lambda: "Cannot relay the outbox of sql, retrying: what no" in caplog.text
        )
    with away(monkeypatch):
        commit(lent())
    until(lambda: readers() == ["ann"])


def test_a_relay_waits_for_the_table(monkeypatch, relaying):
    there = []
    monkeypatch.setattr(outbox, "has_table", lambda using: bool(there))
    with away(monkeypatch):
        commit(lent())
    relaying()
    time.sleep(0.1)  # in which it would be appended
    assert not EventStore.exists("b-1")
    there.append(True)
    until(lambda: readers() == ["ann"])


def test_two_relays_append_each_event_once(monkeypatch, relaying):
    with away(monkeypatch):
        for number in range(20):
            commit(*(lent(f"b-{n}", to=f"{number}") for n in range(3)))
    relaying()
    relaying()
    until(lambda: waiting() == [], 60)
    for n in range(3):
        assert readers(f"b-{n}") == [f"{number}" for number in range(20)]


def test_a_parked_stream_holds_up_no_other(monkeypatch):
    with away(monkeypatch):
        commit(lent(to="a"), lent("b-2", to="b"), lent(to="c"), lent("b-2", to="d"))
    park(waiting()[0], "no")
    assert relay(SQL, threading.Event()) == 2
    assert readers("b-2") == ["b", "d"]
    assert not EventStore.exists("b-1")


def test_a_relay_pauses_if_all_that_it_tries_is_delayed(monkeypatch):
    with away(monkeypatch):
        commit(lent(to="a"), lent("b-2", to="b"))
    real = append_waiting.append_at

    def refuse(store, documents, expected):
        if documents[0]["aggregateId"] == "b-1":
            raise ConcurrencyError("b-1", 0, 1)
        return real(store, documents, expected)

    with monkeypatch.context() as patch:
        patch.setattr(append_waiting, "append_at", refuse)
        assert relay(SQL, threading.Event()) == 1
        assert relay(SQL, threading.Event()) is None
    assert relay(SQL, threading.Event()) == 1


def test_run_subscriptions_relays_and_delivers(monkeypatch):
    delivered = []
    subscription("lendings")(lambda event: delivered.append(event["payload"]["to"]))
    with away(monkeypatch):
        commit(lent(to="a"), lent(to="b"))
    with running("lendings"):
        until(lambda: delivered == ["a", "b"])
        commit(lent(to="c"))
        until(lambda: delivered == ["a", "b", "c"])


def test_run_subscriptions_until_caught_up_delivers_what_waited(monkeypatch):
    delivered = []
    subscription("lendings")(lambda event: delivered.append(event["payload"]["to"]))
    with away(monkeypatch):
        commit(lent(to="a"), lent(to="b"))
    call_command("run_subscriptions", "lendings", until_caught_up=True, verbosity=0)
    assert delivered == ["a", "b"]


def test_run_subscriptions_until_caught_up_fails_at_a_parked_row(monkeypatch):
    with away(monkeypatch):
        commit(lent(to="a"), lent(to="b"))
    park(waiting()[0], "no")
    with pytest.raises(CommandError, match="The outbox of sql has 1 parked stream"):
        call_command("run_subscriptions", until_caught_up=True, verbosity=0)


def test_relay_all_waits_for_a_mongodb_that_is_away(monkeypatch):
    with away(monkeypatch):
        commit(lent())
    real, tries = append_waiting.append_at, []

    def at_second_try(*args):
        tries.append(1)
        if len(tries) == 1:
            raise append_waiting.StoreUnavailable("away")
        return real(*args)

    monkeypatch.setattr(append_waiting, "append_at", at_second_try)
    relay_module.relay_all(threading.Event(), QUICK)
    assert readers() == ["ann"]


def test_the_command_subscriptions_names_what_waits(monkeypatch):
    with away(monkeypatch):
        commit(lent(to="a"), lent(to="b"))
    park(waiting()[0], "no")
    said_now = said("subscriptions")
    assert "Outbox of sql: 1 event waiting, 0 seconds, 1 parked stream" in said_now
    assert "see manage.py outbox" in said_now
