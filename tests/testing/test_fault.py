"""Faults: what is stored, what is raised, and that it is over after the block."""

import pytest
from django.conf import settings

from ossy_event_store import (
    Aggregate,
    ConcurrencyError,
    EventStore,
    IdempotencyConflict,
    Mongo,
    OutcomeUnknown,
    StoreUnavailable,
)
from ossy_event_store.mongodb import location
from ossy_event_store.testing import appended, event, fault
from tests.library.aggregate import Book

pytestmark = pytest.mark.usefixtures("kit")

LENT = {"type": "BookLent", "payload": {"to": "ann"}}
OTHER = {"type": "BookReturned", "payload": {}}


def of_book(event, **more):
    return {**event, "aggregateId": "b-1", "aggregateType": "Book", **more}


def types(stream="b-1"):
    return [one["type"] for one in EventStore.get_event_stream(stream)]


def add(face, *events):
    return face(face(Aggregate.of, Book, "b-1").add, *events)


@pytest.fixture
def book(lend):
    lend("b-1", "BookBought")


@pytest.mark.parametrize("events", [[LENT], [LENT, OTHER]])
def test_a_lost_acknowledgement_goes_unnoticed(face, book, events):
    with fault.lost_acknowledgement():
        assert add(face, *events).version == 1 + len(events)
        add(face, LENT)
    assert types() == ["BookBought", *(one["type"] for one in events), "BookLent"]


@pytest.mark.parametrize("stored", [True, False])
@pytest.mark.parametrize("events", [[LENT], [LENT, OTHER]])
def test_an_unknown_outcome_is_found_out_by_the_same_id(face, book, events, stored):
    events = [{**one, "id": f"e-{n}"} for n, one in enumerate(events)]
    with fault.outcome_unknown(stored=stored):
        with pytest.raises(OutcomeUnknown) as raised:
            add(face, *events)
        assert raised.value.event_ids == tuple(one["id"] for one in events)
        assert (types() != ["BookBought"]) == stored
        add(face, *events)
    assert types() == ["BookBought", *(one["type"] for one in events)]


@pytest.mark.parametrize("stored", [True, False])
def test_a_transaction_of_which_nobody_knows_the_outcome(book, stored):
    with (
        fault.outcome_unknown(stored=stored),
        pytest.raises(OutcomeUnknown),
        EventStore.transaction() as t,
    ):
        Aggregate.of(Book, "b-1", session=t.session).add(LENT)
        EventStore.append_event(of_book(LENT, aggregateId="b-2"), session=t.session)
    assert types() == ["BookBought"] + stored * ["BookLent"]
    with fault.lost_acknowledgement(), EventStore.transaction() as t:
        Aggregate.of(Book, "b-1", session=t.session).add(OTHER)
    assert types()[-1] == "BookReturned"


def test_a_race_is_lost_to_another_writer(face, book):
    loaded = face(Aggregate.of, Book, "b-1")
    with appended() as log, fault.race("b-1", OTHER):
        with pytest.raises(ConcurrencyError) as raised:
            face(loaded.add, LENT)
        assert (raised.value.expected_version, raised.value.actual_version) == (1, 2)
        add(face, LENT)
    assert log == [event("BookReturned"), event("BookLent", to="ann")]


def test_several_events_lose_a_race_as_well(face, book):
    with fault.race("b-1", OTHER), pytest.raises(ConcurrencyError):
        add(face, LENT, LENT)
    assert types() == ["BookBought", "BookReturned"]


def test_what_repeats_itself_comes_second(face, book):
    seen = []

    def decide(book):
        seen.append(book.view()["loans"])
        return [LENT]

    with fault.race("b-1", LENT):
        face(Aggregate.execute, Book, "b-1", decide)
    with fault.race("b-1", OTHER):
        face(EventStore.append_event, of_book(LENT))
    assert seen == [0, 1]
    assert types()[1:] == ["BookLent", "BookLent", "BookReturned", "BookLent"]


def test_a_race_in_a_transaction_and_in_a_new_stream(face, book):
    with (
        fault.race("b-1", OTHER),
        pytest.raises(ConcurrencyError),
        EventStore.transaction() as t,
    ):
        Aggregate.of(Book, "b-1", session=t.session).add(LENT)
    with fault.race("b-2", OTHER), pytest.raises(ConcurrencyError):
        face(Aggregate.of, Book, {**LENT, "aggregateId": "b-2"})
    assert types() == ["BookBought", "BookReturned"]
    assert types("b-2") == ["BookReturned"]


def test_a_race_for_a_tag_is_decided_again(face):
    tagged = {"type": "SeatTaken", "tags": ["show:1"], "aggregateType": "Seat"}

    with fault.race("show:1", {**tagged, "payload": {"by": "bob"}}):
        face(EventStore.append_event, {**tagged, "payload": {"by": "ann"}})
    found = EventStore.get_event_stream("show:1")
    assert [one["payload"]["by"] for one in found] == ["bob", "ann"]


def test_a_store_that_is_away_comes_back(face, book):
    loaded = face(Aggregate.of, Book, "b-1")
    with fault.away():
        for call in (lambda: types(), lambda: face(loaded.add, LENT), Mongo.connect):
            with pytest.raises(StoreUnavailable):
                call()
    add(face, LENT)
    assert types() == ["BookBought", "BookLent"]


@pytest.mark.parametrize(
    "make",
    [
        fault.lost_acknowledgement,
        fault.outcome_unknown,
        lambda: fault.race("b-2", OTHER),
    ],
)
def test_a_fault_that_nothing_met_is_an_error_and_each_ends_with_its_block(make, book):
    with pytest.raises(AssertionError, match="changed nothing"), make():
        assert types() == ["BookBought"]
    with pytest.raises(KeyError), make():
        raise KeyError
    for _ in range(2):
        EventStore.append_event(of_book(LENT))
    with pytest.raises(IdempotencyConflict):
        EventStore.append_events([of_book(LENT, id="e"), of_book(LENT, id="f")])
        EventStore.append_events([of_book(LENT, id="e"), of_book(OTHER, id="f")])


def test_away_keeps_what_was_connected_explicitly():
    before = location.use(settings.SERVER)
    try:
        with fault.away():
            pass
        assert location.use(None) == settings.SERVER
    finally:
        location.use(before)
