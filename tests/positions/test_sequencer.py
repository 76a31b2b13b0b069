"""Positions: dense, in the order of versions, and no event missed, whatever breaks."""

import random
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from bson import Code

from ossy_event_store import EventStore
from ossy_event_store.mongodb import connection
from ossy_event_store.mongodb.ports import drive
from ossy_event_store.positions import damage
from ossy_event_store.positions.change_stream import ChangeStream
from ossy_event_store.positions.sequencer import Sequencer
from tests.support.positions import event, faults, lose_history


@pytest.fixture
def sequencer(store, entries):
    sequencer = Sequencer(store)
    yield sequencer
    sequencer.close()


@pytest.fixture
def four_scans(lend, monkeypatch):
    """Forty events without a position, of which a scan reads ten at a time."""
    monkeypatch.setattr(Sequencer, "scan_batch_size", 10)
    for number in range(40):
        lend(f"book-{number:02}", "BookBought")


def settle(sequencer):
    """Advance until no event lacks a position; return how many got one."""
    assigned, quiet = 0, 0
    while quiet < 2:
        assigned += sequencer.advance(0.02)
        quiet = quiet + 1 if sequencer.is_caught_up else 0
    return assigned


# --- which events, in which order -------------------------------------------


def test_existing_and_new_events_get_positions(sequencer, lend, history, entries):
    for number in range(30):
        lend(f"book-{number % 7}", "BookBought", "BookLent")
    assert settle(sequencer) == 60
    lend("book-3", "BookRead", "BookRead")
    lend("new", "BookBought")
    assert settle(sequencer) == 3
    assert faults(history, entries) == []
    last = entries.find_one(sort=[("_id", -1)])
    assert (last["_id"], last["aggregateId"], last["type"]) == (63, "new", "BookBought")


def test_an_empty_store_gets_no_positions(sequencer, entries, lend, history):
    assert settle(sequencer) == 0
    lend("a", "BookBought")
    assert settle(sequencer) == 1
    assert faults(history, entries) == []


def test_a_late_commit_gets_a_later_position(sequencer, store, history, entries):
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
        ("skewed", 1),  # where its version 2 would be
        ("b", 1),
        ("a", 1),
        ("a", 2),
        ("skewed", 2),
    ]


def test_documents_that_are_no_events_are_skipped(sequencer, lend, history, entries):
    history.insert_one({"_id": "beside", "note": "not an event"})
    history.insert_one({"aggregateId": Code("f()"), "aggregateVersion": 1})
    assert settle(sequencer) == 0
    lend("a", "BookBought")
    assert settle(sequencer) == 1
    history.insert_one({"_id": "beside too", "aggregateId": 7, "aggregateVersion": 1})
    lend("a", "BookLent")
    assert settle(sequencer) == 1


# --- damaged streams --------------------------------------------------------


@pytest.fixture
def looking(monkeypatch):
    """Let sequencers look for accepted losses in every round."""
    monkeypatch.setattr(Sequencer, "look_seconds", 0)


def held(store):
    return drive(damage.held_up(store))


def versions(entries, stream):
    """Return the versions of a stream in the order of their positions."""
    found = entries.find({"aggregateId": stream}, sort=[("_id", 1)])
    return [entry["aggregateVersion"] for entry in found]


def test_a_hole_holds_up_its_stream_alone_until_it_is_filled(
    sequencer, store, lend, history, entries
):
    lend("a", "BookBought")
    settle(sequencer)
    history.insert_many([event("a", 3), event("a", 5)])
    lend("b", "BookBought")
    assert settle(sequencer) == 1
    count, (stream,) = held(store)
    assert (count, stream.aggregate_id, stream.reason) == (
        1,
        "a",
        "Version 2 is missing before version 3. Run manage.py verify_event_store.",
    )
    sequencer.close()
    restarted = Sequencer(store)
    assert settle(restarted) == 0
    history.insert_one(event("a", 2))
    assert settle(restarted) == 2
    assert held(store)[1][0].reason.startswith("Version 4 is missing before version 5")
    history.insert_one(event("a", 4))
    assert settle(restarted) == 2
    restarted.close()
    assert held(store) == (0, [])
    assert faults(history, entries) == []


def test_a_scan_records_a_hole_as_well(sequencer, store, history, entries, lend):
    history.insert_many([event("a", 1), event("a", 3), event("b", 1)])
    assert settle(sequencer) == 2
    assert held(store)[0] == 1
    lend("a", "BookLent")
    assert settle(sequencer) == 0
    assert versions(entries, "a") == [1]


def test_a_filled_stream_is_continued_by_the_next_process_if_one_dies(
    sequencer, store, history, entries, monkeypatch
):
    monkeypatch.setattr(Sequencer, "scan_batch_size", 2)
    history.insert_many([event("a", 1), *(event("a", n) for n in range(3, 9))])
    settle(sequencer)
    history.insert_one(event("a", 2))
    inserted = []

    class Dying:
        def __getattr__(self, name):
            return getattr(entries, name)

        def insert_many(self, new):
            if inserted:
                raise ConnectionError("killed")
            inserted.append(new)
            entries.insert_many(new)

    sequencer._entries = Dying()
    with pytest.raises(ConnectionError):
        settle(sequencer)
    assert versions(entries, "a") == [1, 2, 3]
    second = Sequencer(store)
    assert settle(second) == 5
    second.close()
    assert held(store) == (0, [])
    assert faults(history, entries) == []


@pytest.mark.usefixtures("looking")
def test_after_its_loss_was_accepted_a_stream_continues_behind_the_hole(
    sequencer, store, lend, history, entries
):
    history.insert_many([event("a", 1), event("a", 3), event("a", 6)])
    settle(sequencer)
    accepted = drive(damage.accept(store, "a", "a partial restore", "ann"))
    assert accepted == [(2, 2), (4, 5)]
    assert settle(sequencer) == 2
    lend("a", "BookLent")
    assert settle(sequencer) == 1
    assert versions(entries, "a") == [1, 3, 6, 7]
    assert held(store) == (0, [])
    assert drive(damage.accept(store, "a", "again", "ann")) == []
    (record, _) = connection.raw(store.damaged).find_one({"_id": "a"})["accepted"]
    assert (record["reason"], record["acceptedBy"]) == ("a partial restore", "ann")


@pytest.mark.usefixtures("looking")
def test_a_stream_that_begins_again_after_a_deletion_waits_for_the_loss_to_be_accepted(
    sequencer, store, lend, history, entries
):
    lend("a", "BookBought", "BookLent", "BookReturned")
    lend("b", "BookBought")
    settle(sequencer)
    history.delete_many({"aggregateId": "a", "aggregateVersion": {"$gt": 1}})
    lend("a", "BookLent", "BookRead")
    lend("b", "BookLent")
    assert settle(sequencer) == 1
    assert "is another event than" in held(store)[1][0].reason
    assert drive(damage.accept(store, "a", "erased", None)) == [(2, 3)]
    assert settle(sequencer) == 2
    assert versions(entries, "a") == [1, -2, -3, 2, 3]
    assert held(store) == (0, [])


# --- after a failure --------------------------------------------------------


def test_a_scan_that_was_killed_resumes_where_it_was(
    store, lend, history, entries, four_scans, monkeypatch
):
    first = Sequencer(store)
    assert first.advance(0.05) == 10
    assert first.advance(0.05) == 10
    assert first.advance(0.05) == 10
    first.close()
    resumed_after = []
    since = Sequencer._since

    def watched(self, after):
        resumed_after.append(after)
        return since(self, after)

    monkeypatch.setattr(Sequencer, "_since", watched)
    second = Sequencer(store)
    lend("later", "BookBought")
    assert settle(second) == 11
    second.close()
    assert resumed_after[0] is not None
    assert faults(history, entries) == []


class TokenOnEveryEntry(Sequencer):
    """Wrong: each entry of a scan certifies that all events before have theirs."""

    def _assign(self, found):
        token = self._begun
        return super()._assign([(event, own or token) for event, own in found])

    def _scan(self):
        self._begun = ChangeStream(self._events).token
        yield from super()._scan()


def test_the_checker_finds_events_that_a_wrong_token_loses(
    store, history, entries, four_scans
):
    first = TokenOnEveryEntry(store)
    first.advance(0.05)
    first.close()
    second = Sequencer(store)
    settle(second)
    second.close()
    assert faults(history, entries) == ["30 events have no position"]


def test_after_a_lost_history_no_event_is_missed(store, lend, history, entries):
    first = Sequencer(store)
    settle(first)
    lend("a", "BookBought", "BookLent")
    settle(first)
    first.close()
    lose_history(entries)
    lend("a", "BookRead")
    lend("b", "BookBought")
    second = Sequencer(store)
    assert settle(second) == 2
    lend("b", "BookLent")
    assert settle(second) == 1
    second.close()
    assert faults(history, entries) == []


def test_a_quiet_sequencer_stores_the_token_it_reached(sequencer, lend, entries, store):
    lend("a", "BookBought")
    settle(sequencer)
    before = entries.find_one()["token"]
    store_of_others = connection.raw(store.leases)
    store_of_others.insert_one({"_id": "something else happens"})
    settle(sequencer)
    assert entries.find_one()["token"] == before
    sequencer.certify_seconds = 0
    settle(sequencer)
    assert entries.find_one()["token"]["_data"] > before["_data"]
    lend("a", "BookLent")
    sequencer.close()
    assert settle(sequencer) == 1


class Breaking:
    """Entries whose writes fail in part or in full, at random."""

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
    """Append single events, and several at once, to a few streams."""
    choice = random.Random(seed)
    for turn in range(60):
        stream = f"{seed}-{choice.randrange(4)}"
        one = {"aggregateId": stream, "aggregateType": "Book", "type": f"Turn{turn}"}
        EventStore.append_events([one] * choice.choice([1, 1, 3]))


def assign_positions(store, seed, until, broken):
    """Assign positions, break off at random, and now and then forget the token."""
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
def test_sequencers_that_compete_and_break_off_miss_no_event(
    store, lend, history, entries, seed, monkeypatch
):
    monkeypatch.setattr(Sequencer, "scan_batch_size", 7)
    monkeypatch.setattr(Sequencer, "batch_size", 5)
    monkeypatch.setattr(Sequencer, "certify_seconds", 0)
    for number in range(20):
        lend(f"old-{number % 6}", "BookBought")
    done, broken = threading.Event(), []
    with ThreadPoolExecutor(6) as pool:
        working = [
            pool.submit(assign_positions, store, f"{seed} {n}", done, broken)
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
