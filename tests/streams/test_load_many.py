"""Several aggregates at once."""

import random

import pytest

from ossy_event_store import (
    Aggregate,
    AggregateNotFound,
    AggregatesNotFound,
    AggregateTypeMismatch,
    EventStore,
)
from tests.library.aggregate import Book
from tests.support.positions import event
from tests.support.processes import ON_URL
from tests.support.sent_commands import Listener

RETURNED = {"type": "BookReturned"}


@pytest.fixture
def ids(lend):
    """Streams of any length with and without snapshots, usable or not."""
    chance = random.Random(1)
    ids = [f"s{number:02}" for number in range(30)]
    other = type("Book", (Book,), {"revision": "other"})
    for stream in ids:
        lend(stream, *["BookLent"] * chance.randint(1, 5))
        if Root := chance.choice((None, Book, Book, other)):
            Aggregate.of(Root, stream).save()
        if chance.random() < 0.5:
            lend(stream, *["BookReturned"] * chance.randint(1, 3))
    Aggregate.of(Book, ids[3]).close()
    ahead = {"aggregateVersion": 99, "state": {"loans": 99}}
    Aggregate.of(Book, ids[4]).save()
    Aggregate.collection.update_one({"_id": ids[4]}, {"$set": ahead})
    chance.shuffle(ids)
    return ids


def facts(book):
    return book.events, book.saved_state, book.saved_version, book.view()


def test_each_is_as_it_would_be_loaded_alone(face, ids):
    found = face(Aggregate.of_many, Book, [*ids, ids[0]])
    assert list(found) == ids
    assert Aggregate.find("s04") is None  # it was newer than its stream
    for stream, book in found.items():
        alone = Aggregate.of(Book, stream)
        assert facts(book) == facts(alone)
        assert (book.id, book.is_closed, book.is_past) == (
            stream,
            alone.is_closed,
            False,
        )
    assert face(found["s05"].add, RETURNED).version == EventStore.count("s05")


@ON_URL
def test_it_takes_two_round_trips(face, lend, settings):
    ids = [f"s{number}" for number in range(1000)]
    lend("s0", "BookBought")
    for stream in ids[1:10]:
        lend(stream, *["BookLent"] * 150)
        Aggregate.of(Book, stream).save()
        lend(stream, *["BookLent"] * 150)
    listener = Listener()
    options = {"event_listeners": [listener]}
    settings.OSSY_EVENT_STORE = {**settings.OSSY_EVENT_STORE, "OPTIONS": options}
    face(EventStore.exists, "s0")  # logs in
    listener.sent.clear()
    found = face(Aggregate.of_many, Book, iter(ids), skip_missing=True)
    assert len(found) == 10
    assert found["s9"].version == 300
    assert {name: len(sent) for name, sent in listener.sent.items()} == {"find": 2}
    plan = EventStore.collection.find(listener.sent["find"][1]["filter"]).explain()
    assert plan["executionStats"]["totalDocsExamined"] == 1 + 9 * 151


def test_ids_without_a_stream_are_named_or_left_out(face, lend):
    lend("a", "BookBought")
    wanted = ["x", "a", "y"]
    with pytest.raises(AggregatesNotFound, match="do not exist: 'x', 'y'") as caught:
        face(Aggregate.of_many, Book, wanted)
    assert caught.value.aggregate_ids == ("x", "y")
    assert isinstance(caught.value, AggregateNotFound)
    assert list(face(Aggregate.of_many, Book, wanted, skip_missing=True)) == ["a"]
    assert face(Aggregate.of_many, Book, []) == {}


def test_a_stream_of_another_type_is_refused(face, lend):
    lend("a", "BookBought")
    EventStore.append_event({**RETURNED, "aggregateId": "b", "aggregateType": "Cook"})
    with pytest.raises(AggregateTypeMismatch, match="'b' is of aggregate type 'Cook'"):
        face(Aggregate.of_many, Book, ["a", "b"])


def test_documents_of_another_program_are_passed_over(face, lend, history):
    lend("a", "BookBought")
    history.insert_one(event(["a"], 7))
    history.insert_one({"aggregateId": "a", "aggregateVersion": 8})
    assert face(Aggregate.of_many, Book, ["a"])["a"].version == 1


def test_they_take_part_in_a_transaction(lend):
    lend("a", "BookBought")
    lend("b", "BookBought")
    with EventStore.transaction() as t:
        books = Aggregate.of_many(Book, ["a", "b"], session=t.session)
        for book in books.values():
            book.add(RETURNED)
        again = Aggregate.of_many(Book, ["a", "b"], session=t.session)
        assert [book.version for book in again.values()] == [2, 2]
    assert EventStore.count("b") == 2


@pytest.mark.parametrize(
    ("ids", "error", "message"),
    [
        ("s1", TypeError, "aggregate_ids must be a list of ids, not str"),
        (b"s1", TypeError, "aggregate_ids must be a list of ids, not bytes"),
        ({"s1": 1}, TypeError, "aggregate_ids must be a list of ids, not dict"),
        (None, TypeError, "aggregate_ids must be a list of ids, not NoneType"),
        ([{"$ne": 1}], TypeError, "each of aggregate_ids must be a string, not dict"),
        ([""], ValueError, "each of aggregate_ids must have 1 to 255 characters"),
        ([*map(str, range(1001))], ValueError, "has 1,001 ids; 1,000 can be loaded"),
    ],
)
def test_wrong_ids_are_refused_by_name(face, ids, error, message):
    with pytest.raises(error, match=message):
        face(Aggregate.of_many, Book, ids)
