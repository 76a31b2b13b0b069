"""Positions: dense, in the order of versions, and none forgotten, whatever breaks."""

import os
import random
import subprocess
import sys
import threading
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta

import pytest
from bson import Code, ObjectId

from ossy_event_store import EventStore
from ossy_event_store.exceptions import StoreUnavailable
from ossy_event_store.mongodb import connection
from ossy_event_store.positions import sequencer as positions_sequencer
from ossy_event_store.positions.sequencer import (
    ChangeStream,
    HistoryLost,
    HoleInStream,
    Sequencer,
)
from tests.rebuild.test_on_startup import ON_URL, here
from tests.support.servers import until


@pytest.fixture
def entries(store, _unbound):
    collection = _unbound(store.positions)
    index = positions_sequencer.ENTRY_VERSIONS
    collection.create_index(list(index.keys), **index.options)
    return collection


@pytest.fixture
def sequencer(store, entries):
    made = Sequencer(store)
    yield made
    made.close()


@pytest.fixture
def four_scans(lend, monkeypatch):
    """Forty events that have no position yet, of which a scan takes ten at once."""
    monkeypatch.setattr(positions_sequencer, "SCAN", 10)
    for number in range(40):
        lend(f"book-{number:02}", "BookBought")


def settle(sequencer):
    """Advance until nothing is left to be given a position; return how many were."""
    given, quiet = 0, 0
    while quiet < 2:
        given += sequencer.advance(0.02)
        quiet = quiet + 1 if sequencer.is_caught_up else 0
    return given


def faults(history, entries):
    """Return what is wrong with the order, for people; empty if nothing is."""
    found = list(entries.find(sort=[("_id", 1)]))
    wrong = []
    if [entry["_id"] for entry in found] != list(range(1, len(found) + 1)):
        wrong.append("the positions are not 1, 2, 3, …")
    heads = defaultdict(int)
    for entry in found:
        heads[entry["aggregateId"]] += 1
        if entry["aggregateVersion"] != heads[entry["aggregateId"]]:
            wrong.append(f"position {entry['_id']} is out of its stream's order")
    stored = {event["_id"] for event in history.find({}, {"_id": 1})}
    given = [entry["eventId"] for entry in found]
    if len(given) != len(set(given)):
        wrong.append("an event has two positions")
    if missed := stored - set(given):
        wrong.append(f"{len(missed)} events have no position")
    return wrong


def event(stream, version, **fields):
    return {
        "_id": ObjectId(),
        "aggregateId": stream,
        "aggregateType": "Book",
        "aggregateVersion": version,
        "type": "BookLent",
        "payload": {},
        "created": datetime.now(UTC),
        "createdBy": None,
        "metadata": {},
        **fields,
    }


# --- what it gives ----------------------------------------------------------


def test_events_from_before_and_from_now_get_positions(
    sequencer, lend, history, entries
):
    for number in range(30):
        lend(f"book-{number % 7}", "BookBought", "BookLent")
    assert settle(sequencer) == 60
    lend("book-3", "BookRead", "BookRead")
    lend("new", "BookBought")
    assert settle(sequencer) == 3
    assert faults(history, entries) == []
    last = entries.find_one(sort=[("_id", -1)])
    assert (last["_id"], last["aggregateId"], last["type"]) == (63, "new", "BookBought")


def test_nothing_is_given_in_an_empty_store(sequencer, entries, lend, history):
    assert settle(sequencer) == 0
    lend("a", "BookBought")
    assert settle(sequencer) == 1
    assert faults(history, entries) == []


def test_a_commit_that_comes_late_comes_later(sequencer, store, history, entries):
    settle(sequencer)
    raw = connection.raw(store.events)
    with raw.database.client.start_session() as session:
        session.start_transaction()
        raw.insert_one(event("slow", 1), session=session)
        raw.insert_one(event("fast", 1))
        assert settle(sequencer) == 1
        session.commit_transaction()
    assert settle(sequencer) == 1
    found = entries.find(sort=[("_id", 1)])
    assert [entry["aggregateId"] for entry in found] == ["fast", "slow"]


def test_a_history_is_ordered_by_time_and_by_version(sequencer, history, entries):
    start = datetime(2026, 1, 1, tzinfo=UTC)
    day = timedelta(days=1)
    history.insert_many(
        [
            event("b", 1, created=start + day),
            event("skewed", 2, created=start),  # before its first, by a wrong clock
            event("skewed", 1, created=start + 3 * day),
            event("a", 1, created=start + 2 * day),
            event("a", 2, created=start + 2 * day, _id="a before an ObjectId"),
            event("of-node", 1, created=1_700_000_000_000),  # a number, as Node writes
        ]
    )
    assert settle(sequencer) == 6
    assert faults(history, entries) == []
    order = [
        (entry["aggregateId"], entry["aggregateVersion"])
        for entry in entries.find(sort=[("_id", 1)])
    ]
    assert order == [
        ("of-node", 1),
        ("skewed", 1),  # in the place of its second
        ("b", 1),
        ("a", 1),
        ("a", 2),
        ("skewed", 2),
    ]


def test_what_is_no_event_is_passed_over(sequencer, lend, history, entries):
    history.insert_one({"_id": "beside", "note": "not an event"})
    history.insert_one({"aggregateId": Code("f()"), "aggregateVersion": 1})
    assert settle(sequencer) == 0
    lend("a", "BookBought")
    assert settle(sequencer) == 1
    history.insert_one({"_id": "beside too", "aggregateId": 7, "aggregateVersion": 1})
    lend("a", "BookLent")
    assert settle(sequencer) == 1


def test_a_hole_stops_it_loudly_until_it_is_filled(sequencer, lend, history, entries):
    lend("a", "BookBought")
    settle(sequencer)
    history.insert_one(event("a", 3))
    with pytest.raises(HoleInStream, match=r"'a' has version 3.*verify_event_store"):
        settle(sequencer)
    lend("b", "BookBought")
    with pytest.raises(HoleInStream):
        settle(sequencer)
    history.insert_one(event("a", 2))
    assert settle(sequencer) == 3
    assert faults(history, entries) == []


# --- what breaks ------------------------------------------------------------


def test_a_scan_that_was_killed_goes_on_where_it_was(
    store, lend, history, entries, four_scans, monkeypatch
):
    first = Sequencer(store)
    assert first.advance(0.05) == 10
    assert first.advance(0.05) == 10
    assert first.advance(0.05) == 10
    first.close()
    begun = []
    since = Sequencer._since

    def watched(self, after):
        begun.append(after)
        return since(self, after)

    monkeypatch.setattr(Sequencer, "_since", watched)
    second = Sequencer(store)
    lend("later", "BookBought")
    assert settle(second) == 11
    second.close()
    assert begun[0] is not None
    assert faults(history, entries) == []


class TokenOnEveryEntry(Sequencer):
    """A wrong one: it says of each entry of a scan that all before has been given."""

    def _give(self, found):
        token = self._begun
        return super()._give([(event, own or token) for event, own in found])

    def _scan(self):
        self._begun = ChangeStream(self._events).token
        yield from super()._scan()


def test_the_checker_sees_what_a_wrong_token_loses(store, history, entries, four_scans):
    first = TokenOnEveryEntry(store)
    first.advance(0.05)
    first.close()
    second = Sequencer(store)
    settle(second)
    second.close()
    assert faults(history, entries) == ["30 events have no position"]


def lose_history(entries):
    """Let the last entry have a token from which no change stream goes on."""
    scratch = entries.database["scratch"]
    scratch.insert_one({})
    with scratch.watch() as changes:
        scratch.drop()
        token = [change["_id"] for change in changes][-1]  # of its end
    last = entries.find_one(sort=[("_id", -1)])
    entries.update_one({"_id": last["_id"]}, {"$set": {"token": token}})


def test_a_lost_history_heals_by_itself(store, lend, history, entries):
    first = Sequencer(store)
    settle(first)
    lend("a", "BookBought", "BookLent")
    settle(first)
    first.close()
    lose_history(entries)
    token = entries.find_one(sort=[("_id", -1)])["token"]
    with pytest.raises(HistoryLost):
        ChangeStream(connection.raw(store.events), token).fetch(1)
    lend("a", "BookRead")
    lend("b", "BookBought")
    second = Sequencer(store)
    assert settle(second) == 2
    lend("b", "BookLent")
    assert settle(second) == 1
    second.close()
    assert faults(history, entries) == []


def test_a_quiet_sequencer_notes_how_far_it_is(
    sequencer, lend, entries, store, monkeypatch
):
    lend("a", "BookBought")
    settle(sequencer)
    before = entries.find_one()["token"]
    store_of_others = connection.raw(store.leases)
    store_of_others.insert_one({"_id": "something else happens"})
    settle(sequencer)
    assert entries.find_one()["token"] == before
    monkeypatch.setattr(positions_sequencer, "RENEW", 0)
    settle(sequencer)
    assert entries.find_one()["token"]["_data"] > before["_data"]
    lend("a", "BookLent")
    sequencer.close()
    assert settle(sequencer) == 1


class Breaking:
    """Entries that are written in part, or whole and without an answer."""

    def __init__(self, entries, choice):
        self.entries = entries
        self.choice = choice

    def __getattr__(self, name):
        return getattr(self.entries, name)

    def insert_many(self, entries):
        fate = self.choice.random()
        if fate < 0.15:
            self.entries.insert_many(entries[: self.choice.randrange(len(entries)) + 1])
            raise ConnectionError("broken off")
        if fate < 0.3:
            raise ConnectionError("not sent")
        self.entries.insert_many(entries)

    def update_one(self, *arguments):
        if self.choice.random() < 0.2:
            raise ConnectionError("not sent")
        self.entries.update_one(*arguments)


def write(seed):
    """Append single events and some at once, to a few streams."""
    choice = random.Random(seed)
    for turn in range(60):
        stream = f"{seed}-{choice.randrange(4)}"
        one = {"aggregateId": stream, "aggregateType": "Book", "type": f"Turn{turn}"}
        EventStore.append_events([one] * choice.choice([1, 1, 3]))


def give_positions(store, seed, until, broken):
    """Give positions, break off at random, and now and then forget the place."""
    choice = random.Random(seed)
    sequencer = Sequencer(store)
    sequencer._entries = Breaking(sequencer._entries, choice)
    while not until.is_set():
        try:
            sequencer.advance(0.01)
        except ConnectionError:
            broken.append(seed)
        if choice.random() < 0.02:
            sequencer.close()
            sequencer._is_lost = choice.random() < 0.5
    sequencer.close()


@pytest.mark.faults
@pytest.mark.parametrize("seed", range(4))
def test_sequencers_that_compete_and_break_off_forget_nothing(
    store, lend, history, entries, seed, monkeypatch
):
    monkeypatch.setattr(positions_sequencer, "SCAN", 7)
    monkeypatch.setattr(positions_sequencer, "LIVE", 5)
    monkeypatch.setattr(positions_sequencer, "RENEW", 0)
    for number in range(20):
        lend(f"old-{number % 6}", "BookBought")
    done, broken = threading.Event(), []
    with ThreadPoolExecutor(6) as pool:
        working = [
            pool.submit(give_positions, store, f"{seed} {n}", done, broken)
            for n in range(2)
        ]
        writing = [pool.submit(write, f"{seed}-{n}") for n in range(4)]
        try:
            for writer in writing:
                writer.result()
        finally:
            done.set()
        for worker in working:
            worker.result()
    last = Sequencer(store)
    settle(last)
    last.close()
    assert faults(history, entries) == []
    assert broken


# --- processes --------------------------------------------------------------

PROCESS = """
import django, threading
django.setup()
from ossy_event_store.mongodb import connection
from ossy_event_store.positions import sequencer
from ossy_event_store.mongodb.leases import new_owner
print("begun", flush=True)
sequencer.keep_giving(connection.blocking, threading.Event(), new_owner())
"""


@pytest.fixture
def process(store):
    """Start a process that gives positions."""
    with ExitStack() as stack:

        def process():
            environment = {**os.environ, **here(store)}
            command = [sys.executable, "-c", PROCESS]
            begun = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE)
            stack.callback(begun.stdout.close)
            stack.callback(begun.wait, 30)
            stack.callback(begun.kill)
            assert begun.stdout.readline() == b"begun\n"
            return begun

        yield process


@ON_URL
@pytest.mark.faults
def test_another_process_goes_on_for_one_that_was_killed(
    process, lend, history, entries, store
):
    lend("a", "BookBought")
    first = process()
    until(lambda: entries.count_documents({}) == 1)
    owner = connection.raw(store.leases).find_one({"_id": positions_sequencer.LEASED})[
        "owner"
    ]
    assert f":{first.pid}:" in owner
    second = process()
    lend("a", "BookLent")
    until(lambda: entries.count_documents({}) == 2)
    first.kill()
    first.wait(30)
    lend("a", "BookRead")
    killed = time.monotonic()
    until(lambda: entries.count_documents({}) == 3)
    assert time.monotonic() - killed < 3 * positions_sequencer.LEASE
    owner = connection.raw(store.leases).find_one({"_id": positions_sequencer.LEASED})[
        "owner"
    ]
    assert f":{second.pid}:" in owner
    assert faults(history, entries) == []


def test_a_failure_is_logged_and_tried_again(
    store, entries, lend, history, monkeypatch, caplog
):
    monkeypatch.setattr(positions_sequencer, "FIRST_PAUSE", 0.01)
    stop, calls = threading.Event(), []
    lend("a", "BookBought")
    history.insert_one(event("b", 2))

    def asked():
        calls.append(1)
        if len(calls) == 1:
            raise StoreUnavailable("refused")
        if len(calls) == 3:
            history.insert_one(event("b", 1))
        return store

    with ThreadPoolExecutor(1) as pool:
        working = pool.submit(positions_sequencer.keep_giving, asked, stop, "me")
        try:
            until(lambda: entries.count_documents({}) == 3)
        finally:
            stop.set()
        working.result()
    said = [record.getMessage() for record in caplog.records]
    assert said[0] == (
        "No positions are given: The event store is not available: refused"
    )
    assert "Stream 'b' has version 2" in said[1]
    lease = connection.raw(store.leases).find_one({"_id": positions_sequencer.LEASED})
    assert lease["owner"] is None


def test_what_comes_alone_is_quick_and_what_comes_fast_shares_a_batch(
    store, entries, lend, monkeypatch
):
    monkeypatch.setattr(positions_sequencer, "REST", 1e6)
    monkeypatch.setattr(positions_sequencer, "LONGEST_REST", 2)
    stop, told = threading.Event(), []
    with ThreadPoolExecutor(1) as pool:
        working = pool.submit(
            positions_sequencer.keep_giving, lambda: store, stop, "me", told.append
        )
        try:
            lend("a", "BookBought")
            until(lambda: told)
            for name in "bcd":
                lend(name, "BookBought")
            until(lambda: entries.count_documents({}) == 4)
            until(lambda: len(told) == 2)
        finally:
            stop.set()
        working.result()
    assert told == [1, 4]


def test_the_more_comes_the_longer_it_rests():
    now = [0.0]
    pace = positions_sequencer.Pace(lambda: now[0])

    def rest(given, after):
        now[0] += after
        return pace.after(given)

    assert rest(1, 5) == positions_sequencer.REST  # alone: shorter than anybody notices
    assert rest(0, 0.5) == 0.0
    rests = [rest(10, 0.1) for _ in range(20)]  # a hundred a second
    assert rests == sorted(rests)
    assert rests[-1] == positions_sequencer.LONGEST_REST
    assert rest(1, 30) < 2 * positions_sequencer.REST
