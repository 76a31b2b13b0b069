"""One process at a time assigns positions, and another takes over when it is gone."""

import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from ossy_event_store.documents.collections import SEQUENCER_LEASE
from ossy_event_store.exceptions import StoreUnavailable
from ossy_event_store.mongodb import connection
from ossy_event_store.positions.leased_sequencer import (
    DEFAULT_TIMINGS,
    Pace,
    SequencerTimings,
    run_sequencer,
)
from tests.support.positions import faults
from tests.support.processes import ON_URL, here
from tests.support.servers import until

LEASE_SECONDS = 1.5
PROCESS = f"""
import django, threading
django.setup()
from ossy_event_store.documents.collections import SEQUENCER_LEASE
from ossy_event_store.mongodb import connection
from ossy_event_store.positions.leased_sequencer import *
from ossy_event_store.documents.collections import SEQUENCER_LEASE
from ossy_event_store.mongodb.leases import new_owner
print("begun", flush=True)
timings = SequencerTimings(lease={LEASE_SECONDS})
run_sequencer(connection.blocking, threading.Event(), new_owner(), timings=timings)
"""


@pytest.fixture
def process(store):
    """Start a process that assigns positions."""
    with ExitStack() as stack:

        def process():
            environment = {**os.environ, **here(store)}
            command = [sys.executable, "-c", PROCESS]
            started = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE)
            stack.callback(started.stdout.close)
            stack.callback(started.wait, 30)
            stack.callback(started.kill)
            assert started.stdout.readline() == b"begun\n"
            return started

        yield process


def lease_owner(store):
    return connection.raw(store.leases).find_one({"_id": SEQUENCER_LEASE})["owner"]


@ON_URL
@pytest.mark.faults
def test_another_process_takes_over_from_one_that_was_killed(
    process, lend, history, entries, store
):
    lend("a", "BookBought")
    first = process()
    until(lambda: entries.count_documents({}) == 1)
    assert f":{first.pid}:" in lease_owner(store)
    second = process()
    lend("a", "BookLent")
    until(lambda: entries.count_documents({}) == 2)
    first.kill()
    first.wait(30)
    lend("a", "BookRead")
    killed = time.monotonic()
    until(lambda: entries.count_documents({}) == 3)
    assert time.monotonic() - killed < 3 * LEASE_SECONDS
    assert f":{second.pid}:" in lease_owner(store)
    assert faults(history, entries) == []


def test_a_failure_is_logged_and_retried(store, entries, lend, caplog):
    timings = SequencerTimings(first_pause=0.01)
    stop, calls = threading.Event(), []
    lend("a", "BookBought")

    def connect():
        calls.append(1)
        if len(calls) == 1:
            raise StoreUnavailable("refused")
        return store

    with ThreadPoolExecutor(1) as pool:
        working = pool.submit(run_sequencer, connect, stop, "me", timings=timings)
        try:
            until(lambda: entries.count_documents({}) == 1)
        finally:
            stop.set()
        working.result()
    logged = [record.getMessage() for record in caplog.records]
    assert logged[0].startswith(
        "Cannot assign positions (no subscription advances): The event store is not "
    )
    assert logged[0].endswith(": refused")
    assert lease_owner(store) is None


def test_events_that_arrive_together_make_the_next_ones_share_a_batch(
    store, entries, lend
):
    timings = SequencerTimings(rest=1e6, longest_rest=1)
    stop, seen = threading.Event(), []
    with ThreadPoolExecutor(1) as pool:
        working = pool.submit(
            run_sequencer, lambda: store, stop, "me", seen.append, timings
        )
        try:
            lend("a", "BookBought", "BookLent")  # one transaction, so one batch
            until(lambda: seen)
            for name in "bcd":
                lend(name, "BookBought")
            until(lambda: entries.count_documents({}) == 5)
            until(lambda: len(seen) == 2)
        finally:
            stop.set()
        working.result()
    assert seen == [2, 5]


def test_the_more_events_arrive_the_longer_it_rests():
    now = [0.0]
    pace = Pace(clock=lambda: now[0])

    def rest(assigned, after):
        now[0] += after
        return pace.after(assigned)

    # A writer that waits for the position of each event, however fast it is.
    assert {rest(1, 0.01) for _ in range(100)} == {0.0}
    assert rest(0, 0.5) == 0.0
    rests = [rest(10, 0.1) for _ in range(20)]  # a hundred a second
    assert rests == sorted(rests)
    assert rests[-1] == DEFAULT_TIMINGS.longest_rest
    assert rest(1, 30) < 2 * DEFAULT_TIMINGS.rest
