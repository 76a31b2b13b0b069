"""Documents of projections without a server."""

import datetime as dt
import random

import pytest

from ossy_event_store import Projection
from ossy_event_store.testing import given


class Loans(Projection):
    name = "loans"
    aggregate_types = ("Book",)
    types = ("BookLent", "BookReturned", "ReaderLeft")
    initial_state = {"loans": 0, "books": []}

    @staticmethod
    def key(event):
        return event["payload"].get("to")

    @staticmethod
    def apply(event, state):
        if event["type"] == "ReaderLeft":
            return None
        state["loans"] += 1
        state["books"].append(event["aggregateId"])
        return state


def lent(to, **fields):
    return {"type": "BookLent", "payload": {"to": to}, **fields}


LEFT = {"type": "ReaderLeft", "payload": {"to": "bob"}}


def test_documents_are_compared_by_key():
    loans = given(Loans, lent("ann"), lent("bob"), lent("ann", aggregateId="emma"))
    loans.then({"ann": {"loans": 2}, "bob": {"loans": 1}}).then_same_after_replay()
    loans.then_exactly(
        {
            "ann": {"loans": 2, "books": ["given", "emma"]},
            "bob": {"loans": 1, "books": ["given"]},
        }
    )
    with pytest.raises(AssertionError) as caught:
        loans.then({"ann": {"loans": 3}, "cid": {}})
    assert str(caught.value) == (
        "given(Loans, 3 events) made other documents than expected\n"
        "  ann.loans\n    want 3\n    got  2\n"
        "  cid\n    want {}\n    got  nothing\n"
        '  bob\n    want nothing\n    got  {"loans": 1, "books": ["given"]}'
    )
    with pytest.raises(AssertionError, match=r"ann\.books\n    want nothing"):
        loans.then_exactly({"ann": {"loans": 2}, "bob": {"loans": 1}})
    with pytest.raises(TypeError, match="must be a dict of keys and states"):
        loans.then([{}])


def test_documents_are_deleted():
    gone = given(Loans, lent("bob"), LEFT).then_nothing().then({"bob": None})
    gone.then_same_after_replay()
    given(Loans, LEFT, lent("bob")).then({"bob": {}}).then_same_after_replay()


def test_events_that_its_subscription_does_not_want_are_left_out():
    given(
        Loans,
        {"type": "BookBought", "payload": {"to": "ann"}},
        lent("ann", aggregateType="Magazine", aggregateId="m"),
        {"type": "BookLent"},
    ).then_nothing()


def test_what_a_method_raises_comes_through_with_the_event():
    with pytest.raises(TypeError, match="key must be a string") as caught:
        given(Loans, lent("ann"), lent(1.5)).then_nothing()
    assert caught.value.__notes__ == ["It is of event 2 of given(Loans, 2 events)."]


def asking(event, state):
    known = Loans.get("ann")
    return {"known": known}


def test_a_projection_that_needs_the_store_is_refused():
    broken = type("Asking", (Loans,), {"apply": staticmethod(asking)})
    with pytest.raises(AssertionError, match="Asking reached for the store"):
        given(broken, lent("ann")).then_nothing()


SEEN = []


def remembers(event, state):
    SEEN.append(event["type"])
    return {"seen": len(SEEN)}


def keeps_a_tuple(event, state):
    before = state.get("all", ())
    return {"all": (*before, 1) if isinstance(before, tuple) else [*before, 1, 1]}


def asks_for_today(event, state):
    return {"on": str(dt.date.today())}


def takes_chances(event, state):
    return {"of": random.random()}


BROKEN = {
    remembers: "made other documents when they were applied again\n  ann.state.seen",
    keeps_a_tuple: r"in two parts, the first up to event 1 \(BookLent\)\n  ann.state",
    asks_for_today: r"asked for the time: date\.today\(\)",
    takes_chances: "applied again\n  ann.state.of",
}


@pytest.mark.parametrize("apply", BROKEN, ids=lambda apply: apply.__name__)
def test_a_projection_that_breaks_at_replays_is_found(apply):
    fields = {"apply": staticmethod(apply), "initial_state": {}}
    broken = type("Broken", (Loans,), fields)
    with pytest.raises(AssertionError, match=BROKEN[apply]):
        given(broken, lent("ann"), lent("ann")).then_same_after_replay()


def test_what_verify_event_store_would_report_is_found():
    calls = []

    def apply(event, state):
        # As the others at first, but not after as many calls as verifying comes at.
        calls.append(event)
        return {"late": len(calls) > 3}

    broken = type("Late", (Loans,), {"apply": staticmethod(apply), "initial_state": {}})
    with pytest.raises(AssertionError, match="would not pass verify_event_store"):
        given(broken, lent("ann")).then_same_after_replay()
