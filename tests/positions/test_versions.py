"""Streams as of a position in the global order."""

import random

import pytest

from ossy_event_store import (
    Aggregate,
    AggregateNotFound,
    AggregateTypeMismatch,
    BeforeFirstEvent,
    EventStore,
    PositionNotAssigned,
    PositionsBroken,
)
from ossy_event_store.aggregate import past
from ossy_event_store.mongodb.ports import drive
from ossy_event_store.positions.damage import accept
from tests.library.aggregate import Book, Reader

STREAMS = [f"s{number}" for number in range(50)]
KINDS = ("BookBought", "BookLent", "BookReturned")


@pytest.fixture
def all_events(lend, assign):
    """The events of many streams in global order, some after their snapshot."""
    chance = random.Random(1)
    for number in range(250):
        stream = STREAMS[number % 50] if number < 50 else chance.choice(STREAMS)
        lend(stream, chance.choice(KINDS))
        if chance.random() < 0.1:
            Aggregate.of(Book, stream).save()
    assign()
    return list(EventStore.read_all())


def wrong_states(face, all_events):
    """Return the streams whose state at some position is not that of a replay."""
    chance = random.Random(2)
    wrong = []
    for stream in STREAMS:
        position = chance.randint(0, len(all_events))
        replayed = [
            one for one in all_events[:position] if one["aggregateId"] == stream
        ]
        try:
            then = face(Aggregate.of, Book, stream, at_position=position)
            found = then.version, then.view()
        except BeforeFirstEvent:
            found = 0, {"loans": 0}
        if found != (len(replayed), Book.view(replayed, {})):
            wrong.append(stream)
    return wrong


def test_a_state_at_a_position_is_that_of_a_replay(face, all_events):
    assert wrong_states(face, all_events) == []


def test_the_check_finds_a_state_at_the_position_before(all_events, monkeypatch):
    def before(store, stream, position, session):
        return last_entry(store, stream, position - 1, session)

    last_entry = past.last_entry
    monkeypatch.setattr(past, "last_entry", before)
    assert wrong_states(lambda of, *args, **when: of(*args, **when), all_events)


def test_a_position_that_no_event_has_yet(face, lend, assign):
    lend("a", "BookBought")
    assign()
    lend("a", "BookLent")
    then = face(Aggregate.of, Book, "a", at_position=1)
    assert (then.version, then.is_past) == (1, True)
    with pytest.raises(PositionNotAssigned, match="last assigned position is 1"):
        face(Aggregate.of, Book, "a", at_position=2)


def test_a_stream_that_began_after_the_position(face, lend, assign):
    lend("a", "BookBought")
    lend("b", "BookBought")
    assign()
    lend("c", "BookBought")
    with pytest.raises(BeforeFirstEvent, match="at position 1: it began at position 2"):
        face(Aggregate.of, Book, "b", at_position=1)
    with pytest.raises(BeforeFirstEvent, match="a position that is not assigned yet"):
        face(Aggregate.of, Book, "c", at_position=2)
    with pytest.raises(AggregateNotFound, match=r"'nobody' does not exist\.$"):
        face(Aggregate.of, Book, "nobody", at_position=1)
    with pytest.raises(AggregateTypeMismatch):
        face(Aggregate.of, Reader, "a", at_position=1)


def test_an_event_that_lost_its_place_is_never_left_out_in_silence(
    face, lend, assign, history
):
    lend("a", "BookBought", "BookLent", "BookReturned")
    assign()
    history.delete_one({"aggregateVersion": 3})
    with pytest.raises(PositionsBroken, match="Position 3 refers to version 3"):
        face(Aggregate.of, Book, "a", at_position=3)
    assert face(Aggregate.of, Book, "a", at_position=2).version == 2
    lend("a", "BookLent")  # at the same version
    with pytest.raises(PositionsBroken, match="Position 3 refers to version 3"):
        face(Aggregate.of, Book, "a", at_position=3)


def test_a_loss_that_was_accepted_is_left_out(face, store, lend, assign, history):
    lend("a", "BookBought", "BookLent")
    assign()
    history.delete_one({"aggregateVersion": 2})
    drive(accept(store, "a", "a test", "ann"))
    assert face(Aggregate.of, Book, "a", at_position=2).version == 1


def test_a_transaction_reads_a_position_outside_of_itself(lend, assign):
    lend("a", "BookBought")
    assign()
    with EventStore.transaction() as t:
        Aggregate.of(Book, "a", session=t.session).add({"type": "BookReturned"})
        then = Aggregate.of(Book, "a", at_position=1, session=t.session)
        assert then.version == 1
