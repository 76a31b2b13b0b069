"""Decisions on a boundary without a server."""

import pytest

from ossy_event_store import (
    Boundary,
    EventStore,
    InvalidBoundary,
    InvalidEvent,
    any_of,
    item,
)
from ossy_event_store.testing import event, given
from tests.support import old_loans
from tests.support.boundaries import declared
from tests.support.typed_events import declared_only


class Seats(Boundary):
    query = any_of(
        item("CourseDefined", "StudentSubscribed", tags=["course:{course}"]),
        item("StudentSubscribed", tags=["student:{student}"]),
    )

    @staticmethod
    def view(events, saved_state):
        state = {"seats": 0, "students": []}
        for one in events:
            if one["type"] == "CourseDefined":
                state["seats"] = one["payload"]["seats"]
            else:
                state["students"].append(one["payload"]["student"])
        return state


class Refused(Exception):
    pass


def subscribe(boundary):
    state = boundary.view()
    student = boundary.boundary.parameters["student"]
    if len(state["students"]) >= state["seats"]:
        raise Refused("fully booked")
    return {
        "type": "StudentSubscribed",
        "payload": {"student": student},
        "tags": ["course:c1", f"student:{student}"],
    }


COURSE = {"type": "CourseDefined", "payload": {"seats": 1}, "tags": ["course:c1"]}
ANN = Seats(course="c1", student="ann")


def test_a_decision_on_a_boundary():
    subscribed = given(ANN, COURSE).when(subscribe)
    subscribed.then(event("StudentSubscribed", student="ann"))
    subscribed.then_exactly(
        {
            "type": "StudentSubscribed",
            "payload": {"student": "ann"},
            "tags": ["course:c1", "student:ann"],
        }
    )
    assert subscribed.state == {"seats": 1, "students": ["ann"]}
    subscribed.when(subscribe).raises(Refused, match="fully booked")
    with pytest.raises(AssertionError, match=r"Seats\(course='c1', student='ann'\), 1"):
        subscribed.then_nothing()


def test_events_have_their_places(store):
    stored = EventStore.append_event(COURSE)
    found = EventStore.execute(ANN, subscribe)
    kept = ("aggregateId", "aggregateType", "aggregateVersion", "tags", "places")
    pure = given(ANN, stored).when(subscribe)
    assert [{key: one[key] for key in (*kept, "tick")} for one in pure.events] == [
        {key: one[key] for key in (*kept, "tick")} for one in found.events
    ]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"type": "CourseClosed"}, "with course:c1: it is of another type"),
        ({"tags": ["course:c2"]}, "with course:c1: it lacks the tag course:c1"),
    ],
)
def test_an_event_that_the_boundary_would_not_select_is_refused(change, reason):
    with pytest.raises(
        AssertionError, match=r"gets event 2, Cour\w+ with the tags"
    ) as (caught):
        given(ANN, COURSE, {**COURSE, **change})
    assert reason in str(caught.value)


def test_what_the_store_would_refuse_is_refused():
    class Invoices(Boundary):
        query = any_of(item("InvoiceCreated"))
        view = staticmethod(lambda events, state: len(events))

    with pytest.raises(InvalidBoundary, match="TYPE_BOUNDARIES"):
        given(Invoices())
    created = {"type": "InvoiceCreated", "aggregateId": "i1", "aggregateType": "I"}
    with declared("InvoiceCreated"):
        assert given(Invoices(), created).state == 1
        with pytest.raises(TypeError, match=r"compare \.state, of type int"):
            given(Invoices(), created).then_state({})
        with pytest.raises(InvalidEvent, match="aggregateId"):
            given(Invoices(), "InvoiceCreated")
    given(ANN).when(lambda boundary: {"type": "X"}).raises(InvalidEvent)


def test_a_boundary_selects_the_events_that_upcasters_lead_into_it():
    class Visits(Boundary):
        query = any_of(item("Visited", tags=["reader:ann"]))
        view = staticmethod(
            lambda events, state: {"types": {one["type"] for one in events}}
        )

    scanned = {"type": "Scanned", "typeVersion": 1, "tags": ["reader:ann"]}
    with declared_only():
        old_loans.declare()
        # A boundary's state is never stored, so it may be anything.
        visits = given(Visits(), {**scanned, "payload": {"book": "E", "who": "ann"}})
        visits.then_state({"types": {"Visited"}})
