"""Streams as of a version or a time, and what changed in between."""

import random
from datetime import UTC, datetime, timedelta

import pytest

from ossy_event_store import (
    Aggregate,
    AggregateNotFound,
    AggregateTypeMismatch,
    BeforeFirstEvent,
    EventStore,
    PastAggregate,
    ReducerError,
    VersionNotFound,
)
from ossy_event_store.aggregate import past
from ossy_event_store.mongodb import connection
from ossy_event_store.mongodb.ports import drive
from ossy_event_store.streams.load import find_snapshot, load_aggregate
from ossy_event_store.streams.past import versions
from ossy_event_store.streams.snapshots import build_snapshot, save_snapshot
from tests.library.aggregate import Book, Reader
from tests.support.positions import event
from tests.support.processes import ON_URL
from tests.support.sent_commands import Listener

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
LENT = {"type": "BookLent", "payload": {"to": "ann"}}
HOW = ({"at_version": 1}, {"at": BEGIN}, {"at_position": 1})


@pytest.fixture
def book(store):
    """A book of four versions: bought, lent, returned, lent."""
    book = Aggregate.of(Book, {"type": "BookBought", "payload": {"title": "Emma"}})
    return book.add(LENT).add({"type": "BookReturned"}).add(LENT)


def save_at(version, stream, Root=Book):
    """Save a snapshot as it was when a stream was at a version."""
    state = Aggregate.of(Root, stream, snapshot=False, at_version=version).view()
    snapshot = build_snapshot(Root, stream, version, state)
    drive(save_snapshot(connection.blocking(), snapshot))


# --- at a version -----------------------------------------------------------


@pytest.mark.parametrize("saved", [0, 2, 3, 4])
def test_each_version_is_loaded_as_it_was(face, book, saved):
    if saved:
        save_at(saved, book.id)
    for version in range(1, 5):
        then = face(Aggregate.of, Book, book.id, at_version=version)
        assert (then.version, then.is_past) == (version, True)
        assert then.view() == Book.view(book.events[:version], {})
        assert then.saved_version == (saved if saved <= version else 0)
        assert then.events == book.events[then.saved_version : version]
        whole = face(Aggregate.of, Book, book.id, at_version=version, snapshot=False)
        assert whole.view(lambda events, state: len(events)) == version


def test_a_snapshot_of_another_revision_serves_no_version(face, book):
    other = type("Book", (Book,), {"revision": "other"})
    save_at(2, book.id, other)
    assert face(Aggregate.of, Book, book.id, at_version=3).saved_version == 0
    assert face(Aggregate.of, other, book.id, at_version=3).saved_version == 2


def test_a_version_after_the_last_one_says_which_that_is(face, book):
    with pytest.raises(VersionNotFound, match="at version 5: its last version is 4"):
        face(Aggregate.of, Book, book.id, at_version=5)


def test_a_version_in_a_hole_is_never_that_before_it(face, book, history):
    history.delete_one({"aggregateId": book.id, "aggregateVersion": 3})
    with pytest.raises(VersionNotFound, match="at version 3: its last version is 4"):
        face(Aggregate.of, Book, book.id, at_version=3)


@ON_URL
def test_a_version_takes_two_round_trips(book, settings):
    listener = Listener()
    options = {"event_listeners": [listener]}
    settings.OSSY_EVENT_STORE = {**settings.OSSY_EVENT_STORE, "OPTIONS": options}
    EventStore.exists(book.id)  # logs in
    listener.sent.clear()
    Aggregate.of(Book, book.id, at_version=2)
    assert {name: len(sent) for name, sent in listener.sent.items()} == {"find": 2}


def test_an_open_transaction_sees_its_own_versions(book):
    with EventStore.transaction() as t:
        now = Aggregate.of(Book, book.id, session=t.session)
        now.add(LENT)
        then = Aggregate.of(Book, book.id, at_version=5, session=t.session)
        assert then.view()["loans"] == 3


# --- at a time --------------------------------------------------------------


def fill(history, count, seed):
    """Insert streams whose clocks step back, and return their events by stream."""
    chance = random.Random(seed)
    streams = {}
    for number in range(count):
        clock = BEGIN + timedelta(milliseconds=chance.randrange(100))
        events = []
        for version in range(1, chance.randint(2, 30)):
            clock += timedelta(milliseconds=chance.randint(-30, 50))
            kind = chance.choice(("BookBought", "BookLent", "BookReturned"))
            payload = {"to": str(version), "title": str(version)}
            one = event(f"s{number}", version, type=kind, payload=payload)
            events.append({**one, "created": clock})
        streams[f"s{number}"] = events
    stored = [as_node_writes(one, chance) for some in streams.values() for one in some]
    history.insert_many(stored)
    for stream, events in streams.items():
        if chance.random() < 0.7:
            save_at(chance.randint(1, len(events)), stream)
            saved = BEGIN + timedelta(milliseconds=chance.randrange(1000))
            Aggregate.collection.update_one({"_id": stream}, {"$set": {"saved": saved}})
    return streams


def as_node_writes(one, chance):
    """Return some events with the time as milliseconds, or fractions of these."""
    if chance.random() < 0.6:
        return one
    number = round(one["created"].timestamp() * 1000)
    return {**one, "created": chance.choice((number, number + 0.5))}


def wrong_states(face, streams, count, seed):
    """Return the times at which a state is not that of the longest prefix."""
    chance = random.Random(seed)
    wrong = []
    for _ in range(count):
        stream, events = chance.choice(list(streams.items()))
        time = BEGIN + timedelta(microseconds=chance.randrange(-20_000, 500_000))
        prefix = []
        for one in events:
            if one["created"] > time:
                break
            prefix.append(one)
        try:
            then = face(Aggregate.of, Book, stream, at=time)
            found = then.version, then.view()
        except BeforeFirstEvent:
            found = 0, {"loans": 0}
        if found != (len(prefix), Book.view(prefix, {})):
            wrong.append((stream, time))
    return wrong


def test_a_state_at_any_time_is_that_of_the_longest_prefix(face, history):
    streams = fill(history, 20, seed=1)
    # 1,000 times in all.
    count = 700 if face.runner is None else 300
    assert wrong_states(face, streams, count, seed=count) == []


async def all_events_until(store, aggregate_id, time, last):
    """Find the version as if ``created`` rose with it."""
    query = {"aggregateId": aggregate_id, "created": {"$lte": time}}
    found = await store.events.find_one(query, sort=[("aggregateVersion", -1)])
    return found["aggregateVersion"] if found else 0


async def snapshot_by_its_time(cls, store, Root, aggregate_id, time, use_snapshot):
    """Take a snapshot that was saved by then for the state at that time."""
    snapshot = await find_snapshot(store, aggregate_id)
    if snapshot and snapshot["saved"] <= time:
        until = snapshot["aggregateVersion"]
        return await load_aggregate(cls, store, Root, aggregate_id, True, until)
    return await versions.load_at_time(
        cls, store, Root, aggregate_id, time, use_snapshot
    )


@pytest.mark.parametrize(
    ("module", "name", "broken"),
    [
        (versions, "version_at", all_events_until),
        (past, "load_at_time", snapshot_by_its_time),
    ],
)
def test_the_check_finds_other_meanings_of_a_time(
    history, monkeypatch, module, name, broken
):
    streams = fill(history, 5, seed=1)
    monkeypatch.setattr(module, name, broken)
    assert wrong_states(lambda of, *args, **when: of(*args, **when), streams, 100, 2)


def test_a_time_without_a_later_event_is_not_of_another_stream(face, book, lend):
    lend("other", "BookBought")
    now = face(Aggregate.of, Book, book.id, at=datetime.now(UTC) + timedelta(days=1))
    assert now.version == 4


def test_events_without_a_time_are_part_of_the_prefix(face, history):
    one, two, three = (event("b", version, created=BEGIN) for version in (1, 2, 3))
    history.insert_many([one, {**two, "created": "soon"}, {**three, "type": 7}])
    assert face(Aggregate.of, Book, "b", at=BEGIN, snapshot=False).version == 2


# --- what all three share ---------------------------------------------------


def test_before_the_first_event_says_when_it_began(face, book, history):
    history.update_one({"aggregateVersion": 1}, {"$set": {"created": BEGIN}})
    with pytest.raises(BeforeFirstEvent) as caught:
        face(Aggregate.of, Book, book.id, at=BEGIN - timedelta(days=1))
    assert str(caught.value) == (
        f"Book {book.id!r} did not exist at 2025-12-31 00:00:00+00:00: it began at "
        "2026-01-01 00:00:00+00:00."
    )


def test_a_stream_that_continues_another_names_it(face, book):
    new = book.continue_as("second", LENT)
    then = new.events[0]["created"] - timedelta(days=1)
    with pytest.raises(BeforeFirstEvent, match=f"continues '{book.id}': load that"):
        face(Aggregate.of, Book, "second", at=then)
    closed = face(Aggregate.of, Book, book.id, at_version=5)
    assert closed.is_closed
    assert not face(Aggregate.of, Book, book.id, at_version=4).is_closed


@pytest.mark.parametrize("when", HOW[:2])
def test_a_stream_that_does_not_exist_or_is_of_another_type(face, book, when):
    with pytest.raises(AggregateNotFound, match=r"'nobody' does not exist\.$"):
        face(Aggregate.of, Book, "nobody", **when)
    with pytest.raises(AggregateTypeMismatch):
        face(Aggregate.of, Reader, book.id, **when)


WRITES = {
    "add": lambda face, book: face(book.add, LENT),
    "save": lambda face, book: face(book.save),
    "close": lambda face, book: face(book.close),
    "continue_as": lambda face, book: face(book.continue_as, "second"),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
@pytest.mark.parametrize(
    "when", [{"at_version": 4}, {"at": datetime(9999, 1, 1, tzinfo=UTC)}]
)
def test_a_past_aggregate_is_read_only(face, book, write, when):
    # Even at the last version: whether it was that was not asked.
    then = face(Aggregate.of, Book, book.id, **when)
    with pytest.raises(PastAggregate, match=r"version 4\. Nothing was written"):
        write(face, then)
    assert EventStore.count(book.id) == 4
    assert Aggregate.find(book.id) is None
    assert then.validate(lambda events, state: None) is then


@pytest.mark.parametrize(
    ("when", "error", "message"),
    [
        ({"at_version": 1, "at": BEGIN}, ValueError, "not at_version and at"),
        ({"at_version": 0}, ValueError, "at_version is 0; it must be 1 or more"),
        ({"at_version": True}, TypeError, "at_version must be a whole number"),
        ({"at_version": "2"}, TypeError, "at_version must be a whole number"),
        ({"at_position": -1}, ValueError, "at_position is -1"),
        ({"at_position": {"$gt": 0}}, TypeError, "at_position must be a whole"),
        ({"at": BEGIN.replace(tzinfo=None)}, ValueError, "at must have a time zone"),
        ({"at": "2026-01-01"}, TypeError, "at must be a datetime, not str"),
        (
            {"at": datetime.fromisoformat("0001-01-01T00:00+14:00")},
            ValueError,
            "at must be within the years 1 to 9999",
        ),
    ],
)
def test_wrong_moments_are_refused_by_name(face, when, error, message):
    with pytest.raises(error, match=message):
        face(Aggregate.of, Book, "b", **when)


@pytest.mark.parametrize("when", HOW)
def test_a_new_aggregate_has_no_past(face, store, when):
    with pytest.raises(TypeError, match=r"must be the id of a stream .* not dict"):
        face(Aggregate.of, Book, LENT, **when)
    assert EventStore.count() == 0


# --- what changed -----------------------------------------------------------


def told(changes):
    return [(one.where, one.kind, one.old, one.new) for one in changes]


@pytest.mark.parametrize("saved", [0, 1, 2, 4])
def test_a_diff_names_what_changed_between_two_versions(face, book, saved):
    if saved:
        save_at(saved, book.id)
    assert told(face(Aggregate.diff, Book, book.id, 1, 3)) == [
        ("loans", "changed", 0, 1),
        ("lent_to", "added", None, None),
    ]
    assert told(face(Aggregate.diff, Book, book.id, 3, 1)) == [
        ("loans", "changed", 1, 0),
        ("lent_to", "removed", None, None),
    ]
    assert told(face(Aggregate.diff, Book, book.id, 0, 1)) == [
        ("loans", "added", None, 0),
        ("title", "added", None, "Emma"),
    ]
    assert face(Aggregate.diff, Book, book.id, 2, 2) == []


class Clock:
    """A reducer whose state comes back from a snapshot with fewer microseconds."""

    aggregate_type = "Book"

    @staticmethod
    def view(events, saved_state):
        if saved_state:
            return saved_state
        return {"since": BEGIN.replace(microsecond=1), "one": (1, 2)}


def test_what_a_snapshot_rounds_has_not_changed(face, book):
    face(face(Aggregate.of, Clock, book.id).save)
    assert face(Aggregate.diff, Clock, book.id, 1, 4) == []


@pytest.mark.parametrize("pair", [(1, 5), (5, 1), (5, 5)])
def test_a_diff_with_a_version_that_does_not_exist(face, book, pair):
    with pytest.raises(VersionNotFound, match="version 5: its last version is 4"):
        face(Aggregate.diff, Book, book.id, *pair)


def test_a_diff_over_a_hole(face, book, history):
    history.delete_one({"aggregateId": book.id, "aggregateVersion": 2})
    with pytest.raises(VersionNotFound, match="version 2"):
        face(Aggregate.diff, Book, book.id, 2, 4)


def test_a_diff_passes_on_what_the_reducer_raises(face, book):
    lent = {"aggregateId": book.id, "aggregateType": "Book", "type": "BookLent"}
    EventStore.append_event(lent)
    with pytest.raises(ReducerError, match="version 5"):
        face(Aggregate.diff, Book, book.id, 1, 5)


def test_wrong_arguments_of_a_diff_are_refused_by_name(face, book):
    with pytest.raises(ValueError, match="old is -1"):
        face(Aggregate.diff, Book, book.id, -1, 2)
    with pytest.raises(TypeError, match="new must be a whole number"):
        face(Aggregate.diff, Book, book.id, 1, "2")
    with pytest.raises(TypeError, match="aggregate_id must be a string"):
        face(Aggregate.diff, Book, {"$ne": 1}, 1, 2)
    with pytest.raises(AggregateNotFound):
        face(Aggregate.diff, Book, "nobody", 0, 1)
    with pytest.raises(AggregateTypeMismatch):
        face(Aggregate.diff, Reader, book.id, 0, 1)
