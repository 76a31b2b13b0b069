"""Snapshots are compared with a fresh fold of their events."""

import random
from collections import Counter

from bson import Int64

from ossy_event_store import Aggregate
from ossy_event_store.mongodb.ports import drive
from ossy_event_store.streams.reducers import revision_of
from ossy_event_store.verification import snapshot_comparison
from ossy_event_store.verification.report import VerifyReport
from tests.library.aggregate import Book
from tests.support.verification import SMALL, event, found, look, stream


def test_a_snapshot_older_than_its_stream_is_compared_as_of_its_version(library, face):
    library.insert_many([event("b-10", 8), event("b-10", 9)])
    report = look(face)
    assert report.ok
    assert report.compared == 21


def test_a_snapshot_of_another_revision_is_not_compared(library):
    change = {"$set": {"revision": "older", "state": {"any": "thing"}}}
    Aggregate.collection.update_one({"_id": "b-10"}, change)
    report = look()
    assert report.ok
    assert report.compared == 20
    assert report.not_compared == {"of another revision of the reducer": 1}


def test_a_snapshot_of_a_type_that_is_not_registered_is_not_compared(library):
    library.insert_many(stream("c-1", 2, aggregateType="Cook"))
    snapshot = {"_id": "c-1", "aggregateType": "Cook", "aggregateVersion": 2}
    Aggregate.collection.insert_one({**snapshot, "revision": "1", "state": {}})
    report = look()
    assert report.ok
    assert report.not_compared == {"of a type that is not registered": 1}


def test_the_order_of_keys_in_a_state_does_not_count(library):
    state = Aggregate.find("b-10")["state"]
    turned = dict(reversed(state.items()))
    assert list(turned) != list(state)
    Aggregate.collection.update_one({"_id": "b-10"}, {"$set": {"state": turned}})
    assert look().ok


def test_the_width_of_an_integer_in_a_state_does_not_count(library):
    change = {"$set": {"state.loans": Int64(6)}}
    Aggregate.collection.update_one({"_id": "b-10"}, change)
    assert look().ok


def test_a_wrong_state_is_reported_by_its_paths_and_not_its_values(library):
    change = {"$set": {"state.title": "secret", "state.more": {"of": 1}}}
    Aggregate.collection.update_one({"_id": "b-10"}, change)
    (finding,) = look().findings
    assert str(finding) == (
        "snapshot-state: stream 'b-10', version 7: expected what its events fold to, "
        "found other values at state.more, state.title"
    )


def test_a_reducer_that_raises_is_found(library, face, monkeypatch):
    revision = revision_of(Book)

    def view(events, saved_state):
        for one in events:
            if one["aggregateId"] == "b-10" and one["aggregateVersion"] == 5:
                raise ZeroDivisionError("no shelf")
        return whole(events, saved_state)

    whole = Book.view
    monkeypatch.setattr(Book, "view", staticmethod(view))
    assert revision_of(Book) == revision
    report = look(face)
    assert found(report) == [("reducer", "b-10", (5, 5))]
    assert report.findings[0].found == "ZeroDivisionError: no shelf"


def test_a_state_that_cannot_be_stored_is_found(library, monkeypatch):
    monkeypatch.setattr(Book, "view", staticmethod(lambda events, state: {"x": {1}}))
    findings = look().findings
    assert {finding.kind for finding in findings} == {"reducer"}
    assert "MongoDB has no type for builtins.set" in findings[0].found


def test_a_sample_of_all_snapshots_is_compared(library, face):
    for size in (0, 1, 5, 20, 21, 100):
        report = look(face, sizes=SMALL, sample=size)
        assert report.compared == min(size, 21)
        left = 21 - report.compared
        assert report.not_compared == ({"not in the sample": left} if left else {})


def test_every_snapshot_is_as_likely_in_a_sample(monkeypatch):
    monkeypatch.setattr(snapshot_comparison, "random", random.Random(7))
    chosen = Counter()
    for _ in range(600):
        comparison = snapshot_comparison.SnapshotComparison(None, VerifyReport(), 3)
        for number in range(12):
            snapshot = {"_id": str(number), "aggregateType": "Book"}
            drive(comparison.offer({**snapshot, "revision": revision_of(Book)}))
        chosen.update(comparison._chosen)
    assert len(chosen) == 12
    assert all(110 < count < 190 for count in chosen.values())  # 150 each, on average
