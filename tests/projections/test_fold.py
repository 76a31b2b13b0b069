"""The fold of events into documents, without a database."""

import pytest

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
    while (key := fold.advance()) is not None:
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
    key = fold.advance()
    Loans.broken.add("a")
    with pytest.raises(HandlerFailed):
        fold.restore(key, None)


@pytest.mark.parametrize("key", ["", "ann", 0, -(2**63), 2**63 - 1])
def test_keys_that_mongodb_can_hold(key):
    check_key(key)


@pytest.mark.parametrize("key", [2**63, -(2**63) - 1, "\ud800"], ids=ascii)
def test_keys_that_mongodb_cannot_hold(key):
    with pytest.raises(ValueError, match=r"64 bits|surrogates"):
        check_key(key)
