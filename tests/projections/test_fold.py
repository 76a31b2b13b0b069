"""The fold of events into documents, without a database."""

import copy

import pytest
from bson.code import Code

from ossy_event_store import Projection
from ossy_event_store.projections.fold import Fold, check_key
from ossy_event_store.subscriptions.transactions import HandlerFailed
from tests.support.projections import Loans


@pytest.fixture(autouse=True)
def _nothing_is_broken(monkeypatch):
    monkeypatch.setattr(Loans, "broken", set())


def lent(position, book, to="ann", kind="BookLent"):
    return {
        "aggregateId": book,
        "position": position,
        "type": kind,
        "payload": {"to": to},
    }


def folded(events, documents=None):
    """Fold events into documents; return the fold and the changed documents."""
    documents = documents or {}
    fold = Fold(Loans, events)
    fold.load(documents)
    while keys := fold.advance():
        for key in keys:
            fold.restore(key, documents.get(key))
    return fold, {new["_id"]: new for new in fold.changed()}


def test_each_key_gets_one_document():
    fold, documents = folded([lent(1, "a"), lent(2, "b", "bob"), lent(3, "b")])
    assert fold.keys == {"ann", "bob"}
    assert documents == {
        "ann": {"_id": "ann", "state": {"lent": 2, "books": ["a", "b"]}, "position": 3},
        "bob": {"_id": "bob", "state": {"lent": 1, "books": ["b"]}, "position": 2},
    }


def test_an_event_without_a_key_is_ignored():
    fold, documents = folded([lent(1, "a", kind="BookBought")])
    assert (fold.keys, fold.failed, documents) == (set(), {}, {})


def test_an_event_that_the_document_has_is_not_applied_again():
    stored = {"_id": "ann", "state": {"lent": 1, "books": ["a"]}, "position": 5}
    _, documents = folded([lent(5, "a"), lent(6, "b")], {"ann": {**stored, "late": 3}})
    assert documents["ann"]["state"] == {"lent": 2, "books": ["a", "b"]}
    assert documents["ann"]["late"] == 3


def test_a_failed_event_leaves_no_trace_in_the_state():
    Loans.broken.add("b")
    fold, documents = folded([lent(1, "a"), lent(2, "b"), lent(3, "c"), lent(4, "b")])
    assert documents["ann"]["state"] == {"lent": 2, "books": ["a", "c"]}
    assert fold.failed["b"].event["position"] == 2


def test_a_failed_key_fails_its_stream_from_there_on():
    events = [lent(1, "a"), lent(2, "a", kind="NoKey"), lent(3, "a"), lent(4, "b")]
    fold, documents = folded(events)
    assert documents["ann"]["state"] == {"lent": 2, "books": ["a", "b"]}
    assert fold.failed["a"].event["position"] == 2


def test_an_event_that_fails_only_now_and_then_fails_the_handler():
    Loans.broken.add("b")
    fold = Fold(Loans, [lent(1, "a"), lent(2, "b")])
    fold.load({})
    (key,) = fold.advance()
    Loans.broken.add("a")
    with pytest.raises(HandlerFailed):
        fold.restore(key, None)


class Stays(Projection):
    """The rooms of each night; a cancelled stay empties its nights."""

    name = "stays"
    initial_state = {"guests": []}

    @staticmethod
    def key(event):
        return event["payload"]["nights"]

    @staticmethod
    def apply(event, state, key):
        if event["payload"].get("full") == key:
            state["guests"].clear()
            raise ValueError(f"{key} is full")
        if event["type"] == "Cancelled":
            return None
        state["guests"] += event["payload"]["guests"]
        return state


def stay(position, nights, kind="Booked", **payload):
    payload = {"nights": nights, "guests": [position], **payload}
    event = {"aggregateId": f"stay-{position}", "position": position, "type": kind}
    return {**event, "payload": payload}


def stays(events, documents=None):
    fold = Fold(Stays, events)
    fold.load(copy.deepcopy(documents or {}))
    while keys := fold.advance():
        for key in keys:
            fold.restore(key, copy.deepcopy((documents or {}).get(key)))
    return fold, {new["_id"]: new["state"]["guests"] for new in fold.changed()}


def test_an_event_changes_each_document_of_a_list_of_keys_once():
    _, changed = stays([stay(1, ["mon", "tue", "mon"]), stay(2, ["tue"]), stay(3, [])])
    assert changed == {"mon": [1], "tue": [1, 2]}


def test_an_event_that_fails_at_one_of_its_keys_changes_none():
    stored = {"mon": {"_id": "mon", "state": {"guests": [1]}, "position": 1}}
    events = [stay(2, ["mon"]), stay(3, ["mon", "tue"], full="tue"), stay(4, ["mon"])]
    events.insert(2, {**stay(5, ["mon", "wed"], full="mon"), "position": 3.5})
    fold, changed = stays(events, stored)
    assert changed == {"mon": [1, 2, 4]}
    assert fold.failed.keys() == {"stay-3", "stay-5"}


def test_documents_do_not_share_what_they_take_from_an_event():
    both = stay(1, ["mon", "tue"])
    Own = type("Own", (Stays,), {"apply": staticmethod(take_over)})
    fold = Fold(Own, [both, stay(2, ["mon"])])
    fold.load({})
    assert fold.advance() == []
    assert [new["state"]["guests"] for new in fold.changed()] == [[1, 2], [1]]


def take_over(event, state):
    if not state["guests"]:
        return {"guests": event["payload"]["guests"]}
    state["guests"] += event["payload"]["guests"]
    return state


def test_a_state_of_none_deletes_the_document_and_a_later_event_begins_again():
    documents = {
        key: {"_id": key, "state": {"guests": [1]}, "position": 1}
        for key in ("mon", "tue")
    }
    cancelled = stay(2, ["mon", "tue", "wed"], "Cancelled")
    fold, changed = stays([cancelled, stay(3, ["tue"])], documents)
    assert changed == {"tue": [3]}
    assert fold.deleted() == {"mon": 2, "wed": 2}


@pytest.mark.parametrize("key", ["", "ann", 0, -(2**63), 2**63 - 1])
def test_keys_that_mongodb_can_hold(key):
    check_key(key)


@pytest.mark.parametrize(
    "key", [2**63, -(2**63) - 1, "\ud800", "x" * 5001], ids=lambda key: ascii(key)[:20]
)
def test_keys_that_mongodb_cannot_hold(key):
    with pytest.raises(ValueError, match=r"64 bits|surrogate|5,000 bytes, not 5,001"):
        check_key(key)


@pytest.mark.parametrize("key", [True, 1.5, b"ann", Code("x"), [["a"]], [None]])
def test_what_is_no_key_or_list_of_keys_fails_the_event(key):
    fold = Fold(Stays, [stay(1, key)])
    assert isinstance(fold.failed["stay-1"].error, TypeError)
