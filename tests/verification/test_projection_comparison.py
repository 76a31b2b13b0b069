"""The documents of projections are compared with a fold of their events."""

import datetime as dt
import threading
from dataclasses import replace
from functools import partial

import pytest
from bson import Int64, ObjectId
from pymongo.errors import OperationFailure

from ossy_event_store import EventStore, Projection, register_projection
from ossy_event_store.mongodb import awaitable_port, blocking_port, connection
from ossy_event_store.streams import reducers
from ossy_event_store.subscriptions import operator_actions
from ossy_event_store.verification import report as reasons
from ossy_event_store.verification.options import ProjectionSizes
from ossy_event_store.verification.projection_comparison import _OneProjection
from tests.support.projections import Loans, Nights, guests, stay
from tests.support.servers import until
from tests.support.subscriptions import parked, running, said
from tests.support.verification import SMALL_PROJECTIONS
from tests.support.verification import look as look_at_streams

pytestmark = pytest.mark.usefixtures("quick")

look = partial(look_at_streams, projections=True)


def counts(report):
    return (
        report.projections_compared,
        report.documents,
        report.documents_compared,
        report.documents_not_compared,
    )


def found(report):
    return {(one.kind, one.subject, one.expected, one.found) for one in report.findings}


ANN, BOB = ("document 'ann' of projection loans", "document 'bob' of projection loans")
FOLD = "what its events fold to"


def test_a_sound_projection_is_sound(built, face):
    report = look(face, projection_sizes=SMALL_PROJECTIONS)
    assert report.ok
    assert report.projections == 1
    assert counts(report) == (1, 2, 2, {})


def test_without_the_option_projections_are_not_reported(built, face):
    built.update_one({"_id": "ann"}, {"$set": {"state.lent": 99}})
    report = look(face, projections=False)
    assert report.ok
    assert report.projections is None
    assert "projections" not in str(report)


def test_a_projection_without_events_is_sound(loans, store, catch_up):
    with running():
        until(lambda: connection.raw(store.subscriptions).find_one("loans"))
    assert counts(look()) == (1, 0, 0, {})


SPOILT = {
    "another value": ({"$set": {"state.lent": 99}}, "state.lent"),
    "another type": ({"$set": {"state.lent": "3"}}, "state.lent"),
    "an event twice": (
        {"$inc": {"state.lent": 1}, "$push": {"state.books": "b"}},
        "state.books, state.lent",
    ),
    "a field too few": ({"$unset": {"state.books": 1}}, "state.books"),
    "a field too many": ({"$set": {"state.more": 1}}, "state.more"),
    "no state": ({"$unset": {"state": 1}}, "state"),
    "another position": ({"$set": {"position": 7}}, "position"),
}


def test_a_spoilt_document_is_found_by_its_paths(built, face):
    sound = built.find_one({"_id": "ann"})
    for name, (update, paths) in SPOILT.items():
        built.update_one({"_id": "ann"}, update)
        report = look(face)
        expected = ("projection-document", ANN, FOLD, f"other values at {paths}")
        assert found(report) == {expected}, name
        assert counts(report) == (1, 2, 2, {})
        built.replace_one({"_id": "ann"}, sound)


def test_the_order_of_keys_and_the_width_of_a_number_do_not_count(built):
    state = {"books": ["a", "a", "b"], "lent": Int64(3)}
    built.update_one({"_id": "ann"}, {"$set": {"state": state}})
    assert look().ok


def test_a_lost_document_is_found(built, face):
    built.delete_one({"_id": "bob"})
    assert found(look(face)) == {("projection-document", BOB, FOLD, "no document")}


def test_a_document_that_no_event_made_is_found(built, face):
    for key in ("eve", 5, 5.5, True, ObjectId("0" * 24), {"a": 1}):
        state = {"lent": 1, "books": ["a"]}
        built.insert_one({"_id": key, "state": state, "position": 1})
        subject = f"document {key!r} of projection loans"
        expected = "no document: its events make none"
        assert found(look(face, projection_sizes=SMALL_PROJECTIONS)) == {
            ("projection-document", subject, expected, "one")
        }
        built.delete_one({"_id": key})


def test_a_finding_shows_only_the_start_of_a_long_key(built):
    built.insert_one({"_id": "x" * 5000, "state": {}, "position": 1})
    (finding,) = look().findings
    assert finding.subject.startswith("document 'xxx")
    assert len(finding.subject) < 200


# --- events that are missing for a reason -----------------------------------


def test_several_documents_of_an_event_are_compared(nights, store, catch_up, face):
    stay("ann", "mon", "tue", "wed")
    stay("bob", "mon", "tue", kind="Cancelled")
    stay("bob", "tue")
    catch_up(3, "nights")
    report = look(face, projection_sizes=SMALL_PROJECTIONS)
    assert report.ok
    assert report.documents_compared == 2
    Nights.collection.delete_one({"_id": "wed"})
    Nights.collection.insert_one({"_id": "mon", "state": {}, "position": 2})
    assert {one.found for one in look(face).findings} == {"no document", "one"}


def test_a_document_that_a_retry_deleted_is_not_compared(nights, store, catch_up, face):
    Nights.broken.add("ann")
    stay("ann", "mon", kind="Cancelled")
    stay("bob", "mon", "tue")
    catch_up(2, "nights")
    Nights.broken.clear()
    operator_actions.retry("nights")
    with running("nights"):
        until(lambda: not parked(store))
    assert guests() == {"tue": ["bob"]}
    report = look(face)
    assert report.ok
    assert report.documents_not_compared["nights"] == {reasons.LATE: 1}
    # Later events of the key begin again, which does not tell what is missing.
    stay("eve", "mon")
    catch_up(3, "nights")
    assert look(face).documents_not_compared["nights"] == {reasons.LATE: 1}
    said("rebuild_projections", "nights")
    assert guests() == {"mon": ["bob", "eve"], "tue": ["bob"]}
    assert "nights" not in look(face).documents_not_compared


def test_the_events_of_a_parked_stream_are_no_finding(borrow, catch_up, store, face):
    borrow("b", "ann")
    Loans.broken.add("b")
    borrow("a", "ann")
    borrow("b", "ann")
    catch_up(3)
    assert [one["aggregateId"] for one in parked(store)] == ["b"]
    report = look(face)
    assert report.ok
    assert counts(report) == (1, 1, 1, {})


def test_an_event_that_was_lost_before_its_stream_was_parked_is_found(built, store):
    # Two events of one stream failed in a batch, and it was parked at the later one.
    failed = EventStore.get_event_stream("a")
    connection.raw(store.parked).insert_one(
        {
            "_id": {"subscription": "loans", "aggregateId": "a"},
            "subscription": "loans",
            "aggregateId": "a",
            "aggregateVersion": failed[2]["aggregateVersion"],
            "position": 3,
        }
    )
    built.delete_one({"_id": "bob"})
    new = {"state": {"lent": 1, "books": ["b"]}, "position": 4}
    built.replace_one({"_id": "ann"}, new)  # its first event is missing too
    built.insert_one({"_id": "bob", **new, "position": 5})
    values = "other values at state.books, state.lent"
    assert found(look()) == {
        ("projection-document", ANN, FOLD, values),
        ("projection-document", BOB, FOLD, values),
    }


def test_an_event_that_a_retry_omitted_is_found(built):
    # A document does not say how its state came about.
    built.update_one(
        {"_id": "ann"}, {"$set": {"state": {"lent": 2, "books": ["a", "b"]}}}
    )
    assert found(look()) == {
        (
            "projection-document",
            ANN,
            FOLD,
            "other values at state.books, state.lent",
        )
    }
    # With late events the cause may be their order, so it is not called sound either.
    built.update_one({"_id": "ann"}, {"$set": {"late": 2}})
    assert counts(look()) == (1, 2, 1, {"loans": {reasons.LATE: 1}})


def test_a_skipped_event_is_no_finding(borrow, catch_up, store, face):
    Loans.broken.add("b")
    borrow("a", "ann")
    borrow("b", "ann")
    catch_up(2)
    assert operator_actions.skip("loans", "b", "no reader")
    with running():
        until(lambda: not parked(store))
    report = look(face)
    assert report.ok
    assert counts(report) == (1, 1, 1, {})


#: Records of a skip of position 5, and whether generation 2 of the projection lacks it.
SKIPS = [
    ({"subscription": "loans"}, False),
    ({"subscription": "loans", "generation": 1}, False),
    ({"subscription": "loans", "generation": 2}, True),
    ({"subscription": "loans@2", "generation": 2}, True),
    ({"subscription": "loans@2"}, True),
    ({"subscription": "loans@3", "generation": 3}, False),
    ({"subscription": "others", "generation": 2}, False),
]


def test_a_skip_counts_for_the_build_in_which_it_was_made(built, store):
    said("rebuild_projections", "loans")
    # The documents of the second generation hold all events.
    values = "other values at position, state.books, state.lent"
    wrong = {("projection-document", BOB, FOLD, values)}
    skipped = connection.raw(store.skipped)
    for record, counted in SKIPS:
        skipped.insert_one({**record, "aggregateId": "b", "position": 5})
        assert found(look()) == (wrong if counted else set()), record
        skipped.delete_many({})


def test_a_document_with_late_events_is_compared_if_their_order_does_not_matter(
    borrow, catch_up, store, face
):
    Loans.broken.add("b")
    borrow("a", "ann")
    borrow("b", "ann")
    catch_up(2)
    Loans.broken.clear()
    operator_actions.retry("loans")
    with running():
        until(lambda: not parked(store))
    assert Loans.collection.find_one("ann")["late"] == 1
    assert counts(look(face)) == (1, 1, 1, {})


def test_a_document_with_late_events_in_another_order_is_not_compared(
    borrow, catch_up, store, face
):
    Loans.broken.add("b")
    borrow("b", "ann")
    borrow("a", "ann", "bob")
    catch_up(3)
    Loans.broken.clear()
    operator_actions.retry("loans")
    with running():
        until(lambda: not parked(store))
    assert Loans.get("ann")["books"] == ["a", "b"]
    report = look(face)
    assert report.ok
    assert counts(report) == (1, 2, 1, {"loans": {reasons.LATE: 1}})


# --- what cannot be compared ------------------------------------------------


def test_a_projection_that_never_ran_is_not_compared(loans, store, lend, face):
    lend("a", "BookLent")
    report = look(face)
    assert report.ok
    assert counts(report) == (0, 0, 0, {"loans": {reasons.NEVER_RAN: 0}})
    assert str(report).endswith("sound, but 1 projection not compared")


def test_a_projection_whose_class_has_changed_is_not_compared(built, face, monkeypatch):
    monkeypatch.setattr(Loans, "revision", "2", raising=False)
    reducers.reducer_revision.cache_clear()
    try:
        report = look(face)
    finally:
        reducers.reducer_revision.cache_clear()
    assert report.ok
    assert counts(report) == (
        0,
        2,
        0,
        {"loans": {reasons.CHANGED_CLASS: 2}},
    )


def test_a_deleted_event_is_found_and_the_rest_not_compared(built, history, face):
    class More(Loans):
        name = "more"

    register_projection(More)
    with running("more"):
        assert More.wait_for(5, 30)
    history.delete_one({"aggregateId": "b", "aggregateVersion": 2})
    report = look(face)
    assert found(report) == {
        ("event-lost", "position 5", "the event that got it", "none")
    }
    assert report.total == 1
    (finding,) = report.findings
    assert (finding.aggregate_id, finding.versions) == ("b", (2, 2))
    left = {reasons.BROKEN_ORDER: 2}
    assert counts(report) == (0, 4, 0, {"loans": left, "more": left})


def test_a_server_without_positions_is_reported(built, face, monkeypatch):
    async def command(self, name, **options):
        return {"ok": 1.0}

    monkeypatch.setattr(blocking_port.BlockingClient, "command", command)
    monkeypatch.setattr(awaitable_port.AwaitableClient, "command", command)
    report = look(face)
    assert counts(report) == (0, 2, 0, {"loans": {reasons.NO_POSITIONS: 2}})


@pytest.mark.parametrize("times", [2, 99])
def test_documents_are_read_again_if_the_server_has_no_snapshot(
    built, face, monkeypatch, times
):
    original, left = _OneProjection._read_in, [times]

    async def read_in(self, session, share):
        if left[0]:
            left[0] -= 1
            raise OperationFailure("too old", 239)
        return await original(self, session, share)

    monkeypatch.setattr(_OneProjection, "_read_in", read_in)
    report = look(face, projection_sizes=ProjectionSizes(retry_seconds=0.001))
    assert report.ok
    if times == 2:
        assert counts(report) == (1, 2, 2, {})
    else:
        assert counts(report) == (0, 2, 0, {"loans": {reasons.TOO_LONG: 2}})


@pytest.mark.parametrize("held", [1, 2])
def test_only_so_many_parked_streams_and_skipped_events_are_held(
    built, store, face, held
):
    name = {"subscription": "loans"}
    connection.raw(store.parked).insert_one(
        {"_id": {**name, "aggregateId": "z"}, **name, "aggregateId": "z", "position": 9}
    )
    connection.raw(store.skipped).insert_one({"_id": "s", **name, "position": 99})
    report = look(face, projection_sizes=ProjectionSizes(held_missing=held))
    assert report.ok
    if held == 1:
        assert counts(report) == (0, 2, 0, {"loans": {reasons.TOO_MANY_MISSING: 2}})
    else:
        assert counts(report) == (1, 2, 2, {})


# --- a class that raises ----------------------------------------------------


def raised(report):
    assert {one.kind for one in report.findings} == {"projection"}
    return [
        (one.aggregate_id, one.versions, one.subject, one.expected, one.found)
        for one in report.findings
    ]


def test_an_event_at_which_apply_raises_is_found(built, face):
    Loans.broken.add("b")
    report = look(face)
    where = "apply of projection loans at position"
    assert raised(report) == [
        ("b", (1, 1), f"{where} 4", "a state of key 'ann'", "ValueError: broken"),
        ("b", (2, 2), f"{where} 5", "a state of key 'bob'", "ValueError: broken"),
    ]
    assert counts(report) == (1, 2, 0, {"loans": {reasons.UNSOUND: 2}})


@pytest.mark.parametrize(
    ("key", "error"),
    [(lambda event: event["nothing"], "KeyError"), (dict, "TypeError")],
    ids=["key raises", "no key"],
)
def test_an_event_at_which_key_raises_is_found_once(
    built, face, monkeypatch, key, error
):

    def key_of(event):
        return key(event) if event["position"] == 5 else event["payload"]["to"]

    monkeypatch.setattr(Loans, "key", staticmethod(key_of))
    built.update_one(
        {"_id": "bob"},
        {"$set": {"state": {"lent": 1, "books": ["a"]}, "position": 2}},
    )
    sizes = replace(SMALL_PROJECTIONS, held_keys=1)  # several passes
    report = look(face, projection_sizes=sizes)
    ((stream, versions, subject, expected, text),) = raised(report)
    assert (stream, versions) == ("b", (2, 2))
    assert subject == "key of projection loans at position 5"
    assert (expected, text.partition(":")[0]) == ("a key", error)


@pytest.mark.parametrize(
    ("state", "error"),
    [
        ({"set": {1, 2}}, "InvalidDocument: "),
        ({"text": "x" * 17_000_000}, "DocumentTooLarge: 17,000,"),
        ([], f"TypeError: {Loans.__module__}.Loans.apply returned list"),
    ],
    ids=["not BSON", "too large", "no dict"],
)
def test_a_state_that_cannot_be_stored_is_found(built, monkeypatch, state, error):
    monkeypatch.setattr(Loans, "apply", staticmethod(lambda event, _: state))
    report = look()
    findings = raised(report)
    streams = ["a", "a"] if error.startswith("TypeError") else ["b", "b"]
    assert [one[0] for one in findings] == streams
    assert all(one[-1].startswith(error) for one in findings)
    assert all(len(one[-1]) <= 500 for one in findings)


class Times(Projection):
    """States as only Python has them."""

    name = "times"
    initial_state = {"seen": ()}

    @staticmethod
    def key(event):
        return event["payload"]["to"]

    @staticmethod
    def apply(event, state):
        at = dt.datetime(2026, 1, 1, microsecond=123_456, tzinfo=dt.UTC)
        return {"seen": (*state["seen"], at), "n": Int64(1)}


def test_a_state_is_compared_as_mongodb_holds_it(borrow, catch_up):
    register_projection(Times)
    borrow("a", "ann", "ann", "bob")
    catch_up(3, "times")
    catch_up(3, "loans")
    assert counts(look()) == (2, 4, 4, {})


# --- how many ---------------------------------------------------------------


BOUNDS = {
    "keys": replace(SMALL_PROJECTIONS, held_keys=7),
    "bytes": replace(SMALL_PROJECTIONS, held_bytes=500),
    "one key": ProjectionSizes(events=50, documents=2, held_keys=1, held_bytes=1),
}


@pytest.mark.parametrize("bound", BOUNDS)
def test_all_are_compared_in_as_many_passes_as_memory_requires(many, face, bound):
    many.update_many({"_id": {"$gt": "reader-36"}}, {"$inc": {"state.lent": 1}})
    many.delete_many({"_id": {"$lt": "reader-02"}})
    many.insert_many({"_id": n, "state": {}, "position": 1} for n in range(4))
    passes = []
    report = look(
        face,
        projection_sizes=BOUNDS[bound],
        progress=lambda report: passes.append(report.scan),
    )
    scans = [scan for scan in passes if scan and scan.position == scan.until]
    assert len(scans) > 4
    assert counts(report) == (1, 42, 42, {})
    keys = [finding.subject.split()[1] for finding in report.findings]
    lost, spoilt = ["'reader-00'", "'reader-01'"], ["'reader-37'", "'reader-38'"]
    expected = [*lost, *spoilt, "'reader-39'", "0", "1", "2", "3"]
    assert sorted(keys) == sorted(expected)


def test_a_sample_holds_about_as_many_documents_as_its_size(many, face):
    sizes = []
    for _ in range(8):
        report = look(face, sample=10)
        assert report.ok
        compared = report.documents_compared
        left = {"loans": {"not in the sample": 40 - compared}}
        assert counts(report) == (1, 40, compared, left)
        sizes.append(compared)
    assert 3 < sum(sizes) / len(sizes) < 20


def test_every_document_is_found_by_some_sample(many):
    many.update_one({"_id": "reader-17"}, {"$inc": {"state.lent": 1}})
    until(lambda: look(sample=10).found)


def test_a_sample_of_none_compares_none(many, face):
    many.update_many({}, {"$inc": {"state.lent": 1}})
    report = look(face, sample=0)
    assert counts(report) == (0, 40, 0, {"loans": {"not in the sample": 40}})


def test_a_lost_collection_is_found_by_a_sample_in_little_memory(many):
    many.drop()
    report = look(sample=1, projection_sizes=ProjectionSizes(held_keys=7))
    assert set(report.found) == {"projection-document"}
    assert 1 <= report.total <= 7


def test_a_sample_that_memory_cannot_hold_takes_several_passes(many):
    report = look(sample=40, projection_sizes=ProjectionSizes(held_keys=7))
    assert counts(report) == (1, 40, 40, {})


# --- while it runs ----------------------------------------------------------


def test_a_projection_that_runs_meanwhile_is_sound(borrow, store, face):
    # Small reads, so that reading the documents takes a while.
    sizes = ProjectionSizes(documents=2, keys=2)
    stop = threading.Event()
    readers = [f"reader-{number}" for number in range(9)]

    def append():
        number = 0
        while not stop.wait(0.02):
            borrow(f"book-{number % 7}", *readers)
            number += 1

    with running("loans"):
        thread = threading.Thread(target=append)
        thread.start()
        try:
            until(lambda: Loans.reached() > 20)
            for _ in range(15):
                report = look(face, projection_sizes=sizes)
                assert report.ok, report.findings
                assert report.documents_compared == 9
        finally:
            stop.set()
            thread.join()
    assert look(face).ok


def test_nothing_is_written(built, store, history):
    database = connection.raw(store.events).database

    def everything():
        return {
            name: list(database[name].find())
            for name in database.list_collection_names()
        }

    before = everything()
    look(projection_sizes=SMALL_PROJECTIONS)
    assert everything() == before
