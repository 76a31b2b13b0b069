"""Positions whose event no longer exists are found; accepted losses are not."""

import threading

import pytest

from ossy_event_store.mongodb.ports import drive
from ossy_event_store.positions import damage
from ossy_event_store.subscriptions.runner import assign_positions
from ossy_event_store.verify import averify_event_store, verify_event_store


@pytest.fixture
def assigned(lend, store):
    lend("a", "BookBought", "BookLent", "BookReturned", "BookLent")
    lend("b", "BookBought")
    assign_positions(threading.Event())


def findings(face, **options):
    if face.runner is None:
        report = verify_event_store(**options)
    else:
        report = face.runner.run(averify_event_store(**options))
    return [(one.kind, one.aggregate_id, one.versions) for one in report.findings]


@pytest.mark.usefixtures("assigned")
def test_positions_without_their_events_are_found(face, history):
    assert findings(face) == []
    history.delete_many({"aggregateId": "a", "aggregateVersion": {"$gt": 2}})
    history.delete_many({"aggregateId": "b"})
    lost = [("event-lost", "a", (3, 4)), ("event-lost", "b", (1, 1))]
    assert sorted(findings(face)) == lost
    assert findings(face, ids=["b"]) == lost[1:]


@pytest.mark.usefixtures("assigned")
def test_an_event_in_place_of_a_deleted_one_is_found(face, history, lend):
    history.delete_many({"aggregateId": "b"})
    lend("b", "BookLent")
    assign_positions(threading.Event())
    assert findings(face) == [("event-lost", "b", (1, 1))]


@pytest.mark.usefixtures("assigned")
def test_an_accepted_loss_is_counted_and_no_finding(face, store, history, lend):
    history.delete_one({"aggregateId": "a", "aggregateVersion": 2})
    history.delete_many({"aggregateId": "b"})
    assert sorted(findings(face)) == [
        ("event-lost", "b", (1, 1)),
        ("hole", "a", (2, 2)),
    ]
    for stream in "ab":
        drive(damage.accept(store, stream, "erased", None))
    assert findings(face) == []
    report = verify_event_store()
    assert report.accepted == 1
    assert str(report).endswith("sound, but for 1 accepted loss")
    history.delete_one({"aggregateId": "a", "aggregateVersion": 3})
    assert findings(face) == [("hole", "a", (2, 3))]
