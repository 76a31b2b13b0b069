"""Decisions on an aggregate without a server."""

import datetime as dt
from dataclasses import dataclass

import pytest
from django.core.exceptions import ImproperlyConfigured

from ossy_event_store import (
    Aggregate,
    AggregateTypeMismatch,
    Boundary,
    IdempotencyConflict,
    InvalidEvent,
    StreamClosed,
    any_of,
    item,
)
from ossy_event_store import event as event_class
from ossy_event_store.testing import event, given
from tests.library.aggregate import Book
from tests.support import old_loans
from tests.support.typed_events import declared_only

LENT = {"type": "BookLent", "payload": {"to": "ann"}}


class IsLent(Exception):
    pass


def lend_to(reader):
    def decide(book):
        if book.view().get("lent_to"):
            raise IsLent(f"to {book.view()['lent_to']}")
        return {"type": "BookLent", "payload": {"to": reader, "weeks": 3}}

    return decide


def message(check, *arguments):
    """Return the text of the failure of a check."""
    with pytest.raises(AssertionError) as caught:
        check(*arguments)
    return str(caught.value)


# --- the verbs, and how they fail -------------------------------------------


def test_a_decision_is_compared_in_part_or_exactly():
    lent = given(Book, "BookBought").when(lend_to("bob"))
    lent.then(event("BookLent", to="bob")).then("BookLent")
    lent.then_exactly(event("BookLent", to="bob", weeks=3))
    assert message(lent.then_exactly, event("BookLent", to="bob")) == (
        "given(Book, 1 event).when(lend_to.decide) decided other events than expected\n"
        "1. BookLent is not as expected\n"
        "     payload.weeks\n"
        "       want nothing\n"
        "       got  3"
    )
    assert 'want "ann"\n       got  "bob"' in message(
        lent.then, event("BookLent", to="ann")
    )


def test_the_number_and_the_order_of_the_events_count():
    def decide(book):
        return [{"type": "BookReturned"}, LENT]

    both = given(Book).when(decide).then("BookReturned", "BookLent")
    assert '2. BookLent {"to": "ann"} is not expected' in message(
        both.then, "BookReturned"
    )
    assert "BookLent {} is missing" in message(
        both.then, "BookReturned", "BookLent", "BookLent"
    )
    assert "is not expected" in message(both.then, "BookLent", "BookReturned")


def test_nothing_is_decided():
    idle = given(Book, LENT).when(lambda book: None).then_nothing()
    assert "is not expected" in message(given(Book).when(lend_to("b")).then_nothing)
    assert "BookLent {} is missing" in message(idle.then, "BookLent")


def test_an_error_is_expected_by_class_and_text():
    refused = given(Book, LENT).when(lend_to("bob"))
    refused.raises(IsLent).raises((KeyError, IsLent), match="to ann")
    assert refused.state["lent_to"] == "ann"
    assert "another error than KeyError\nIsLent: to ann" in message(
        refused.raises, KeyError
    )
    assert "another text than 'to bob'" in message(refused.raises, IsLent, "to bob")
    assert "did not raise IsLent\n1. BookLent" in message(
        given(Book).when(lend_to("bob")).raises, IsLent
    )
    with pytest.raises(TypeError, match="class of an error"):
        refused.raises("IsLent")


@pytest.mark.parametrize(
    "verb", ["then", "then_nothing", "when", "state", "then_state"]
)
def test_an_error_that_no_test_expects_comes_through(verb):
    refused = given(Book, LENT).when(lend_to("bob"))
    with pytest.raises(IsLent):
        arguments = {"when": [lend_to("c")], "then_state": [{}]}.get(verb, [])
        getattr(refused, verb)(*arguments)


def test_the_state_after_a_decision():
    lent = given(Book, "BookBought").when(lend_to("bob"))
    assert lent.state == {"loans": 1, "title": None, "lent_to": "bob"}
    lent.then_state({"loans": 1})
    assert "loans\n    want 2\n    got  1" in message(lent.then_state, {"loans": 2})


def test_decisions_follow_each_other_and_a_scenario_can_be_used_again():
    bought = given(Book, "BookBought")
    twice = bought.when(lend_to("bob")).then("BookLent").when(lend_to("cid"))
    twice.raises(IsLent, match="bob")
    bought.when(lend_to("cid")).then(event("BookLent", to="cid"))
    assert [one["aggregateVersion"] for one in twice.events] == [1, 2]


def test_nothing_can_be_expected_before_a_decision():
    with pytest.raises(TypeError, match=r"Call when\(\) first"):
        given(Book).then("BookLent")
    with pytest.raises(TypeError, match="decide must be a function"):
        given(Book).when(LENT)

    async def decide(book):
        return LENT

    with pytest.raises(TypeError, match="never awaited"):
        given(Book).when(decide)


# --- a detached aggregate ---------------------------------------------------


def test_a_function_of_an_aggregate_may_add_and_validate():
    def rule(events, state):
        assert state == {}
        assert [one["type"] for one in events] == ["BookBought"]

    def lend(book):
        assert (book.id, book.version, book.type) == ("given", 1, "Book")
        return book.validate(rule).add(LENT).save()

    given(Book, "BookBought").when(lend).then(event("BookLent", to="ann"))


def test_a_stream_can_end_and_continue():
    closed = given(Book, LENT).when(lambda book: book.close("sold"))
    closed.then(event("$StreamClosed", reason="sold"))
    closed.when(lend_to("bob")).raises(IsLent)
    closed.when(lambda book: LENT).raises(StreamClosed)
    given(Book, *closed.events).when(lambda book: LENT).raises(StreamClosed)

    moved = given(Book, LENT).when(lambda book: book.continue_as("new", LENT))
    moved.then("$StreamClosed", event("$StreamContinued", version=2), LENT)
    assert moved.state["loans"] == 1


def test_an_event_with_an_id_is_added_once():
    first = {**LENT, "id": "form-1"}
    given(Book, first).when(lambda book: first).then_nothing()
    other = {**first, "payload": {"to": "bob"}}
    given(Book, first).when(lambda book: other).raises(IdempotencyConflict)


@pytest.mark.parametrize(
    "decided",
    [
        {"type": "BookLent", "payload": {"at": dt.datetime(2026, 1, 1)}},
        {"typ": "BookLent"},
        {"type": "BookLent", "aggregateVersion": 3},
    ],
)
def test_what_the_store_would_refuse_is_refused(decided):
    given(Book).when(lambda book: decided).raises(InvalidEvent)
    with pytest.raises(InvalidEvent):
        given(Book, {**decided, "aggregateVersion": 3})


@pytest.mark.parametrize("decide", [lambda book: 3, lambda book: "x"])
def test_a_decision_is_events(decide):
    given(Book).when(decide).raises(TypeError, match="decide must return an event")


def load(book):
    return Aggregate.of(Book, "emma-1") and None


def test_a_decision_reaches_for_no_store():
    given(Book).when(load).raises(AssertionError, match="load reached for the store")


# --- what is given ----------------------------------------------------------


def test_given_events_are_built_as_the_store_does():
    scenario = given(
        Book,
        "BookBought",
        {**LENT, "created": dt.datetime(2026, 3, 1, tzinfo=dt.UTC), "createdBy": "u"},
        LENT,
        aggregate_id="emma-1",
    )
    first, second, third = scenario.events
    assert first["created"] == dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    assert (second["createdBy"], second["metadata"]) == ("u", {})
    assert third["created"] == dt.datetime(2026, 3, 1, 0, 0, 1, tzinfo=dt.UTC)
    versions = [one["aggregateVersion"] for one in scenario.events]
    assert (versions, scenario.id) == ([1, 2, 3], "emma-1")


def test_stored_events_can_be_given(history, store):
    book = Aggregate.of(Book, {"type": "BookBought", "aggregateId": "emma-1"})
    book.add(LENT).add({**LENT, "tags": ["reader:ann"]}).add(LENT)
    assert given(Book, *book.events).events == book.events


def test_which_event_was_refused_is_noted():
    with pytest.raises(InvalidEvent) as caught:
        given(Book, "BookBought", {"type": 3})
    assert caught.value.__notes__ == ["It is given event 2."]


@pytest.mark.parametrize(
    ("events", "error"),
    [
        ([{"type": "A", "aggregateType": "Reader"}], AggregateTypeMismatch),
        ([{"type": "A", "aggregateVersion": 2}], InvalidEvent),
        (["A", {"type": "A", "aggregateId": "other"}], InvalidEvent),
        ([3], InvalidEvent),
    ],
)
def test_events_that_are_of_no_one_stream_are_refused(events, error):
    with pytest.raises(error):
        given(Book, *events)


def test_events_of_earlier_versions_are_given_as_they_were_stored():
    with declared_only():
        old_loans.declare()
        who = {"payload": {"book": "Emma", "who": "ann"}}
        shelf = given(
            old_loans.Shelf,
            {"type": "Lent", "typeVersion": 1, **who},
            {"type": "lent", "typeVersion": 1, **who},
            {"type": "Scanned", "typeVersion": 1, **who},
            {"type": "Lent", "payload": old_loans.NEW},
        )
        assert shelf.state["loans"] == 4
        shelf.fold_in_parts()
        with pytest.raises(InvalidEvent, match="earlier name"):
            given(old_loans.Shelf, {"type": "lent", **who})


@event_class("TypedLent", tags=lambda lent: [f"reader:{lent.to}"])
@dataclass(frozen=True)
class TypedLent:
    to: str
    due: dt.date = dt.date(2027, 1, 31)


class TypedBook:
    aggregate_type = "TypedBook"
    typed = True

    @staticmethod
    def view(events, state):
        names = [one.to for one in events if isinstance(one, TypedLent)]
        return {"to": [*state.get("to", []), *names]}


def test_objects_and_classes_are_given_and_expected():
    lent = given(TypedBook, TypedLent, TypedLent("bob")).when(
        lambda book: TypedLent("cid")
    )
    lent.then(TypedLent("cid")).then_exactly({"payload": TypedLent("cid")})
    lent.then(TypedLent).then(event("TypedLent", due=dt.date(2027, 1, 31)))
    lent.then({"type": "TypedLent", "tags": ["reader:cid"]}).fold_in_parts()
    assert lent.state == {"to": ["to", "bob", "cid"]}
    assert 'want "dan"' in message(lent.then, TypedLent("dan"))
    with pytest.raises(InvalidEvent):
        given(TypedBook, TypedLent(to=3))


def test_given_takes_what_can_be_tested():
    class Seats(Boundary):
        query = any_of(item(tags=["course:{course}"]))
        view = staticmethod(lambda events, state: {})

    with pytest.raises(TypeError, match=r"Give Seats\(…\)"):
        given(Seats)
    with pytest.raises(ImproperlyConfigured, match="aggregate_type"):
        given(dict)
