"""The commands ``run_subscriptions`` and ``subscriptions``."""

import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack

import pytest

from ossy_event_store.documents.collections import subscription_lease
from ossy_event_store.mongodb import connection
from ossy_event_store.positions.head_watcher import watcher
from ossy_event_store.subscriptions.claim import DEFAULT_TIMINGS
from ossy_event_store.subscriptions.declaration import subscription
from ossy_event_store.subscriptions.runner import Runner
from tests.support.processes import ON_URL, here
from tests.support.subscriptions import checkpoint, parked, reached

pytestmark = pytest.mark.usefixtures("quick")


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
            started = subprocess.Popen(
                [sys.executable, "-c", PROCESS],
                env={**os.environ, **here(store)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            stack.callback(started.stdout.close)
            stack.callback(started.stdin.close)
            stack.callback(started.wait, 30)
            stack.callback(started.kill)
            assert started.stdout.readline() == b"Running diary.\n"
            return started

        yield process
    pages.drop()


def pages(store):
    pages = connection.raw(store.events).database.pages
    found = sorted(page["of"] for page in pages.find({"of": {"$exists": True}}))
    assert pages.find_one("all")["pages"] == len(found)
    return found


def owner(store):
    lease = connection.raw(store.leases).find_one({"_id": subscription_lease("diary")})
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
    assert time.monotonic() - began < 2 * DEFAULT_TIMINGS.lease_seconds
    assert owner(store) in processes
    assert pages(store) == [1, 2]


@ON_URL
@pytest.mark.faults
def test_the_open_transaction_of_a_killed_process_is_ended(process, lend, store):
    first = process()
    lend("a", "Slow")
    assert first.stdout.readline() == b"slow\n"
    first.kill()  # its transaction has a document that the next one wants
    first.wait(30)
    second = process()
    assert second.stdout.readline() == b"slow\n"
    second.stdin.write(b"continue\n")
    second.stdin.flush()
    began = time.monotonic()
    reached(store, "diary", 1)
    assert time.monotonic() - began < 2 * DEFAULT_TIMINGS.lease_seconds
    assert pages(store) == [1]
    assert not parked(store)


@ON_URL
@pytest.mark.faults
def test_a_process_that_gets_sigterm_finishes_the_current_event(process, lend, store):
    started = process()
    lend("a", "Slow", "BookLent")
    assert started.stdout.readline() == b"slow\n"
    started.send_signal(signal.SIGTERM)
    started.stdin.write(b"continue\n")
    started.stdin.flush()
    assert started.wait(30) == 0
    assert started.stdout.read() == b"Stopped.\n"
    done = pages(store)
    assert done in ([1], [1, 2])  # in one transaction, or the second later
    assert checkpoint(store, "diary")["position"] == len(done)
    assert owner(store) is None  # no process has to wait for its lease to end


@ON_URL
@pytest.mark.faults
def test_a_process_that_was_only_thought_dead_changes_nothing(process, lend, store):
    first = process()
    lend("a", "Slow")
    assert first.stdout.readline() == b"slow\n"
    first.send_signal(signal.SIGSTOP)
    second = process()
    assert second.stdout.readline() == b"slow\n"  # it has taken over
    second.stdin.write(b"continue\n")
    second.stdin.flush()
    reached(store, "diary", 1)
    first.send_signal(signal.SIGCONT)
    first.stdin.write(b"continue\n")
    first.stdin.flush()
    lend("a", "BookLent")
    reached(store, "diary", 2)
    assert owner(store) == second.pid
    assert pages(store) == [1, 2]


def test_no_thread_is_left(store, lend):
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
