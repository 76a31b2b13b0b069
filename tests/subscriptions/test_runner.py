"""The commands ``run_subscriptions`` and ``subscriptions``."""

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import ExitStack

import pytest
from django.core.management import CommandError, call_command

from ossy_event_store import EventStore, Mongo
from ossy_event_store.management.commands import run_subscriptions
from ossy_event_store.mongodb import connection
from ossy_event_store.positions.head_watcher import watcher
from ossy_event_store.subscriptions import consumer
from ossy_event_store.subscriptions.declaration import subscription
from ossy_event_store.subscriptions.runner import Runner
from tests.subscriptions.test_consumer import checkpoint, parked, reached, running
from tests.support import servers
from tests.support.processes import ON_URL, here
from tests.support.servers import free_port, until

pytestmark = pytest.mark.usefixtures("quick")


def said(*command):
    out = io.StringIO()
    call_command(*command, stdout=out, stderr=out)
    return out.getvalue()


# --- processes --------------------------------------------------------------

PROCESS = """
import django, sys
django.setup()
from django.core.management import call_command
from ossy_event_store import subscription
from ossy_event_store.mongodb import connection

@subscription("diary", session=True)
def diary(event, session):
    pages = connection.raw(connection.blocking().events).database.pages
    pages.insert_one({"of": event["position"]}, session=session)
    many = {"$inc": {"pages": 1}}
    pages.update_one({"_id": "all"}, many, session=session)
    if event["type"] == "Slow":
        print("slow", flush=True)
        sys.stdin.readline()

call_command("run_subscriptions", "diary")
"""


@pytest.fixture
def process(store):
    """Start a process that runs subscriptions."""
    pages = connection.raw(store.events).database.pages
    pages.drop()
    pages.insert_one({"_id": "all", "pages": 0})
    with ExitStack() as stack:

        def process():
            begun = subprocess.Popen(
                [sys.executable, "-c", PROCESS],
                env={**os.environ, **here(store)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            stack.callback(begun.stdout.close)
            stack.callback(begun.stdin.close)
            stack.callback(begun.wait, 30)
            stack.callback(begun.kill)
            assert begun.stdout.readline() == b"Running diary.\n"
            return begun

        yield process
    pages.drop()


def pages(store):
    pages = connection.raw(store.events).database.pages
    found = sorted(page["of"] for page in pages.find({"of": {"$exists": True}}))
    assert pages.find_one("all")["pages"] == len(found)
    return found


def owner(store):
    lease = connection.raw(store.leases).find_one({"_id": consumer.lease_of("diary")})
    return int(lease["owner"].split(":")[1]) if lease and lease["owner"] else None


@ON_URL
@pytest.mark.faults
def test_another_process_takes_over_from_one_that_was_killed(process, lend, store):
    first, second = process(), process()
    lend("a", "BookBought")
    reached(store, "diary", 1)
    processes = {one.pid: one for one in (first, second)}
    killed = processes.pop(owner(store))
    killed.kill()
    killed.wait(30)
    lend("a", "BookLent")
    began = time.monotonic()
    reached(store, "diary", 2)
    assert time.monotonic() - began < 2 * consumer.LEASE
    assert owner(store) in processes
    assert pages(store) == [1, 2]


@ON_URL
@pytest.mark.faults
def test_what_a_killed_process_left_open_holds_nobody_up(process, lend, store):
    first = process()
    lend("a", "Slow")
    assert first.stdout.readline() == b"slow\n"
    first.kill()  # its transaction has a document that the next one wants
    first.wait(30)
    second = process()
    assert second.stdout.readline() == b"slow\n"
    second.stdin.write(b"go on\n")
    second.stdin.flush()
    began = time.monotonic()
    reached(store, "diary", 1)
    assert time.monotonic() - began < 2 * consumer.LEASE
    assert pages(store) == [1]
    assert not parked(store)


@ON_URL
@pytest.mark.faults
def test_a_process_that_is_to_end_finishes_the_event_at_hand(process, lend, store):
    begun = process()
    lend("a", "Slow", "BookLent")
    assert begun.stdout.readline() == b"slow\n"
    begun.send_signal(signal.SIGTERM)
    begun.stdin.write(b"go on\n")
    begun.stdin.flush()
    assert begun.wait(30) == 0
    assert begun.stdout.read() == b"Stopped.\n"
    done = pages(store)
    assert done in ([1], [1, 2])  # in one transaction, or the second later
    assert checkpoint(store, "diary")["position"] == len(done)
    assert owner(store) is None  # nobody has to wait for it


@ON_URL
@pytest.mark.faults
def test_one_that_was_thought_dead_changes_nothing(process, lend, store):
    first = process()
    lend("a", "Slow")
    assert first.stdout.readline() == b"slow\n"
    first.send_signal(signal.SIGSTOP)
    second = process()
    assert second.stdout.readline() == b"slow\n"  # it has taken over
    second.stdin.write(b"go on\n")
    second.stdin.flush()
    reached(store, "diary", 1)
    first.send_signal(signal.SIGCONT)
    first.stdin.write(b"go on\n")
    first.stdin.flush()
    lend("a", "BookLent")
    reached(store, "diary", 2)
    assert owner(store) == second.pid
    assert pages(store) == [1, 2]


# --- the command that shows and operates ------------------------------------


@pytest.fixture
def poisoned(store, lend):
    """A subscription with a parked stream; one of two events has passed."""
    bad = {"BookLent"}

    @subscription("mail", retries=0)
    def mail(event):
        if event["type"] in bad:
            raise KeyError("address")

    lend("b", "BookBought")
    lend("a", "BookLent", "BookReturned")
    with running():
        reached(store, "mail", 3)
    return bad


def test_it_shows_how_all_stand(poisoned, lend):
    subscription("never", types=["X"])(print)
    lend("b", "BookReturned")
    shown = said("subscriptions")
    head, mail, never, *rest = shown.splitlines()
    assert head.split() == [
        *("name", "state", "position", "behind", "seconds"),
        *("events/s", "parked", "by"),
    ]
    assert mail.split()[:4] == ["mail", "not", "running", "3"]
    assert never.split()[:2] == ["never", "new"]
    (remark,) = rest
    assert re.fullmatch(r"mail, last error at .* UTC: KeyError: 'address'", remark)


def test_it_tells_how_one_stands_as_json(poisoned, store, lend):
    found = json.loads(said("subscriptions", "show", "mail", "--json"))
    assert found["position"] == 3
    assert found["lag"] == 0
    assert found["parked"] == 1
    assert found["state"] == "not running"
    assert found["parked_streams"][0]["aggregateId"] == "a"
    (listed,) = json.loads(said("subscriptions", "--json"))
    assert listed == {k: v for k, v in found.items() if k != "parked_streams"}
    with running():
        until(lambda: json.loads(said("subscriptions", "--json"))[0]["owner"])
        found = json.loads(said("subscriptions", "--json"))
        assert found[0]["state"] == "running"
        assert found[0]["owner"].split(":")[1] == str(os.getpid())


def test_it_shows_parked_streams(poisoned):
    shown = said("subscriptions", "show", "mail")
    assert "a, version 1: BookLent (event " in shown
    assert "KeyError: 'address'" in shown
    assert "tries 1" in shown


def test_it_asks_for_a_retry(poisoned, store):
    with pytest.raises(CommandError, match="'b' is not parked by 'mail'"):
        said("subscriptions", "retry", "mail", "--stream", "b")
    poisoned.clear()
    assert "a" in said("subscriptions", "retry", "mail", "--stream", "a")
    assert "to be tried again" in said("subscriptions", "show", "mail")
    with running():
        until(lambda: not parked(store))
    with pytest.raises(CommandError, match="Nothing of 'mail' waits"):
        said("subscriptions", "retry", "mail")


def test_it_skips_with_a_reason(poisoned, store):
    with pytest.raises(CommandError, match="--reason") as refused:
        said("subscriptions", "skip", "mail", "--stream", "a")
    assert refused.value.returncode == 2
    shown = said("subscriptions", "skip", "mail", "--stream", "a", "--reason", "typo")
    assert "Skipped BookLent, version 1 of 'a'." in shown
    with pytest.raises(CommandError, match="does not wait at an event"):
        said("subscriptions", "skip", "mail", "--stream", "a", "--reason", "typo")
    with pytest.raises(CommandError, match="has not stopped"):
        said("subscriptions", "skip", "mail", "--reason", "typo")
    with running():
        until(lambda: not parked(store))
    (kept,) = connection.raw(store.skipped).find()
    assert kept["reason"] == "typo"
    assert kept["skippedBy"]


def test_it_resets(poisoned, store):
    with pytest.raises(CommandError, match="--to 0 or more"):
        said("subscriptions", "reset", "mail")
    assert "behind position 1" in said("subscriptions", "reset", "mail", "--to", "1")
    assert checkpoint(store, "mail")["position"] == 1
    assert not parked(store)


def test_a_name_that_is_not_there_is_told(poisoned):
    for command in ("show", "retry", "skip", "reset"):
        with pytest.raises(CommandError, match="There is no subscription 'male'"):
            said("subscriptions", command, "male", "--reason", "r", "--to", "0")
    with pytest.raises(CommandError, match="There is no subscription 'male'"):
        said("run_subscriptions", "male")
    with pytest.raises(CommandError, match="needs the NAME"):
        said("subscriptions", "retry")


def test_there_may_be_none(store):
    assert said("subscriptions") == "There is no subscription.\n"
    assert json.loads(said("subscriptions", "--json")) == []


@ON_URL
@pytest.mark.faults
def test_a_standalone_server_is_refused_with_what_it_lacks(tmp_path, settings, quick):
    given = settings.OSSY_EVENT_STORE
    with servers.running(tmp_path / "alone", name=None) as alone:
        settings.OSSY_EVENT_STORE = {**given, "URL": alone.url()}
        try:
            for command in ("run_subscriptions", "rebuild_projections"):
                with pytest.raises(CommandError, match="need a replica set"):
                    said(command)
            # All else works: events, and how the subscriptions stand.
            said("ensure_event_store")
            EventStore.append_event(
                {"aggregateId": "a", "aggregateType": "Book", "type": "BookBought"}
            )
            assert list(EventStore.read_all()) == []
            assert said("subscriptions") == "There is no subscription.\n"
        finally:
            Mongo.close()


@ON_URL
def test_one_that_begins_while_the_server_is_away_waits_for_it(settings, caplog):
    url = f"mongodb://127.0.0.1:{free_port()}/?replicaSet=away"
    settings.OSSY_EVENT_STORE = {"URL": url, "TIMEOUT": 0.2}
    try:
        run_subscriptions.check_replica_set()
    finally:
        Mongo.close()
    assert "Subscriptions wait: The event store is not available" in caplog.text


def test_nothing_that_runs_is_left_behind(store, lend):
    import threading

    subscription("reader")(lambda event: None)
    runner = Runner()
    thread = threading.Thread(target=runner.run)
    thread.start()
    lend("a", "BookBought")
    reached(store, "reader", 1)
    runner.stop.set()
    thread.join(30)
    watcher.close()
    own = {thread.name for thread in threading.enumerate()}
    assert not {name for name in own if name.startswith("ossy_event_store")}
