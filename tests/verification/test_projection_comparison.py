"""Verification of projections: their documents are what their events fold to."""

import datetime as dt
import json
import threading

import pytest
from bson import Int64, ObjectId
from pymongo.errors import OperationFailure

from ossy_event_store import EventStore, Projection, register_projection
from ossy_event_store.management.commands._base import WRONG_USE, Progress
from ossy_event_store.mongodb import awaitable_port, blocking_port, connection
from ossy_event_store.streams import reducers
from ossy_event_store.subscriptions import operator_actions
from ossy_event_store.verification import projection_comparison, projection_fold
from ossy_event_store.verification import report as verification_report
from ossy_event_store.verification.projection_comparison import _Work
from ossy_event_store.verification.projection_fold import Missing, Share
from ossy_event_store.verification.verify import averify_event_store, verify_event_store
from tests.subscriptions.test_consumer import parked, reached, running
from tests.subscriptions.test_runner import said
from tests.support.commands import failure, run
from tests.support.projections import Loans
from tests.support.projections import loans as loans
from tests.support.servers import until

pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture
def borrow(loans, store):
    """Let readers borrow a book, one after the other."""

    def borrow(book, *readers):
        lent = {"aggregateId": book, "aggregateType": "Book", "type": "BookLent"}
        EventStore.append_events([{**lent, "payload": {"to": r}} for r in readers])

    return borrow


@pytest.fixture
def catch_up(store):
    """Let a projection take all events, and stop again."""

    def catch_up(position, name="loans"):
        with running(name):
            reached(store, name, position)

    return catch_up


@pytest.fixture
def built(borrow, catch_up):
    """Five events of two readers, all of them in their documents."""
    borrow("a", "ann", "bob", "ann")
    borrow("b", "ann", "bob")
    catch_up(5)
    return Loans.collection


@pytest.fixture
def small(monkeypatch):
    """Pages of a few documents, so that all things lie across borders."""
    for name in ("PAGE", "DOCUMENTS", "IDS"):
        monkeypatch.setattr(projection_comparison, name, 2)


def look(face=None, **options):
    """Verify everything with its projections through a face; return the report."""
    options = {"sample": None, "projections": True, **options}
    if face is None or face.runner is None:
        return verify_event_store(**options)
    return face.runner.run(averify_event_store(**options))


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


def test_a_sound_projection_is_sound(built, face, small):
    report = look(face)
    assert report.ok
    assert report.projections == 1
    assert counts(report) == (1, 2, 2, {})


def test_without_the_option_nothing_is_said_of_projections(built, face):
    built.update_one({"_id": "ann"}, {"$set": {"state.lent": 99}})
    report = look(face, projections=False)
    assert report.ok
    assert report.projections is None
    assert "projections" not in str(report)


def test_a_projection_that_has_met_no_event_is_sound(loans, store, catch_up):
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


@pytest.mark.parametrize("name", SPOILT)
def test_a_spoilt_document_is_found_by_its_paths(built, name, face):
    update, paths = SPOILT[name]
    built.update_one({"_id": "ann"}, update)
    report = look(face)
    told = ("projection-document", ANN, FOLD, f"other values at {paths}")
    assert found(report) == {told}
    assert counts(report) == (1, 2, 2, {})


def test_the_order_of_keys_and_the_width_of_a_number_do_not_count(built):
    state = {"books": ["a", "a", "b"], "lent": Int64(3)}
    built.update_one({"_id": "ann"}, {"$set": {"state": state}})
    assert look().ok


def test_a_lost_document_is_found(built, face):
    built.delete_one({"_id": "bob"})
    assert found(look(face)) == {("projection-document", BOB, FOLD, "no document")}


@pytest.mark.parametrize(
    "key", ["eve", 5, 5.5, True, ObjectId("0" * 24), {"a": 1}], ids=repr
)
def test_a_document_that_no_event_made_is_found(built, key, face, small):
    built.insert_one({"_id": key, "state": {"lent": 1, "books": ["a"]}, "position": 1})
    subject = f"document {key!r} of projection loans"
    expected = "no document: no event has this key"
    assert found(look(face)) == {("projection-document", subject, expected, "one")}


def test_a_finding_shows_the_beginning_of_a_long_key(built):
    built.insert_one({"_id": "x" * 5000, "state": {}, "position": 1})
    (finding,) = look().findings
    assert finding.subject.startswith("document 'xxx")
    assert len(finding.subject) < 200


# --- events that are missing for a reason -----------------------------------


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


def test_an_event_that_a_retry_left_out_is_found(built):
    # What is in a document says nothing of how it got there.
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
    # Where a retry came late it may be its order, and nobody calls that sound.
    built.update_one({"_id": "ann"}, {"$set": {"late": 2}})
    assert counts(look()) == (1, 2, 1, {"loans": {verification_report.LATE: 1}})


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


@pytest.mark.parametrize(
    ("record", "counted"),
    [
        ({"subscription": "loans"}, False),
        ({"subscription": "loans", "generation": 1}, False),
        ({"subscription": "loans", "generation": 2}, True),
        ({"subscription": "loans@2", "generation": 2}, True),
        ({"subscription": "loans@2"}, True),
        ({"subscription": "loans@3", "generation": 3}, False),
        ({"subscription": "others", "generation": 2}, False),
    ],
    ids=str,
)
def test_a_skip_counts_for_the_build_in_which_it_was_made(
    built, store, record, counted
):
    said("rebuild_projections", "loans")
    connection.raw(store.skipped).insert_one(
        {**record, "aggregateId": "b", "position": 5}
    )
    # In the documents of the second generation all events are in.
    values = "other values at position, state.books, state.lent"
    wrong = {("projection-document", BOB, FOLD, values)}
    assert found(look()) == (wrong if counted else set())


def test_a_document_with_late_events_is_compared_if_their_order_tells_nothing(
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
    assert counts(report) == (1, 2, 1, {"loans": {verification_report.LATE: 1}})


# --- what cannot be compared ------------------------------------------------


def test_a_projection_that_never_ran_is_not_compared(loans, store, lend, face):
    lend("a", "BookLent")
    report = look(face)
    assert report.ok
    assert counts(report) == (0, 0, 0, {"loans": {verification_report.NEVER_RAN: 0}})
    assert str(report).endswith("sound, but 1 projections not compared")


def test_a_projection_whose_class_has_changed_is_not_compared(built, face, monkeypatch):
    monkeypatch.setattr(Loans, "revision", "2", raising=False)
    reducers.revision_of.cache_clear()
    try:
        report = look(face)
    finally:
        reducers.revision_of.cache_clear()
    assert report.ok
    assert counts(report) == (
        0,
        2,
        0,
        {"loans": {verification_report.CHANGED_CLASS: 2}},
    )


def test_an_event_that_was_deleted_is_found_and_the_rest_not_compared(
    built, history, face
):
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
    reasons = {verification_report.BROKEN_ORDER: 2}
    assert counts(report) == (0, 4, 0, {"loans": reasons, "more": reasons})


def test_a_server_without_positions_is_said(built, face, monkeypatch):
    async def command(self, name, **options):
        return {"ok": 1.0}

    monkeypatch.setattr(blocking_port.BlockingClient, "command", command)
    monkeypatch.setattr(awaitable_port.AwaitableClient, "command", command)
    report = look(face)
    assert counts(report) == (0, 2, 0, {"loans": {verification_report.NO_POSITIONS: 2}})


@pytest.mark.parametrize("times", [2, 99])
def test_documents_are_read_again_if_the_server_has_no_snapshot(
    built, face, monkeypatch, times
):
    monkeypatch.setattr(projection_comparison, "PAUSE", 0.001)
    took, left = _Work._take_in, [times]

    async def take_in(self, session, share):
        if left[0]:
            left[0] -= 1
            raise OperationFailure("too old", 239)
        return await took(self, session, share)

    monkeypatch.setattr(_Work, "_take_in", take_in)
    report = look(face)
    assert report.ok
    if times == 2:
        assert counts(report) == (1, 2, 2, {})
    else:
        assert counts(report) == (0, 2, 0, {"loans": {verification_report.TOO_LONG: 2}})


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
    assert counts(report) == (1, 2, 0, {"loans": {verification_report.UNSOUND: 2}})


@pytest.mark.parametrize(
    ("key", "error"),
    [(lambda event: event["nothing"], "KeyError"), (dict, "TypeError")],
)
def test_an_event_at_which_key_raises_is_found_once(
    built, face, monkeypatch, key, error, small
):
    monkeypatch.setattr(projection_fold, "STATES", 1)  # in several passes

    def key_of(event):
        return key(event) if event["position"] == 5 else event["payload"]["to"]

    monkeypatch.setattr(Loans, "key", staticmethod(key_of))
    built.update_one(
        {"_id": "bob"},
        {"$set": {"state": {"lent": 1, "books": ["a"]}, "position": 2}},
    )
    ((stream, versions, subject, expected, text),) = raised(look(face))
    assert (stream, versions) == ("b", (2, 2))
    assert subject == "key of projection loans at position 5"
    assert (expected, text.partition(":")[0]) == ("a key", error)


@pytest.mark.parametrize(
    ("state", "error"),
    [
        ({"set": {1, 2}}, "InvalidDocument: "),
        ({"text": "x" * 17_000_000}, "DocumentTooLarge: 17,000,"),
        ([], "TypeError: tests.support.projections.Loans.apply returned list"),
    ],
    ids=["not BSON", "too large", "no dict"],
)
def test_a_state_that_cannot_be_stored_is_found(built, monkeypatch, state, error):
    monkeypatch.setattr(Loans, "apply", staticmethod(lambda event, _: state))
    report = look()
    told = raised(report)
    assert [one[0] for one in told] == ["b", "b"] if error[0] != "T" else ["a", "a"]
    assert all(one[-1].startswith(error) for one in told)
    assert all(len(one[-1]) <= 500 for one in told)


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


@pytest.fixture
def many(borrow, catch_up):
    """40 documents, each of two events of two books."""
    readers = [f"reader-{number:02}" for number in range(40)]
    borrow("a", *readers)
    borrow("b", *readers)
    catch_up(80)
    return Loans.collection


BOUNDS = [
    {"STATES": 7},
    {"BYTES": 500},
    pytest.param({"STATES": 1, "BYTES": 1}, marks=pytest.mark.faults),  # long
]


@pytest.mark.parametrize("bounds", BOUNDS, ids=str)
def test_all_are_compared_in_as_many_passes_as_memory_asks_for(
    many, face, monkeypatch, bounds, small
):
    for name, bound in bounds.items():
        monkeypatch.setattr(projection_fold, name, bound)
    many.update_many({"_id": {"$gt": "reader-36"}}, {"$inc": {"state.lent": 1}})
    many.delete_many({"_id": {"$lt": "reader-02"}})
    many.insert_many({"_id": n, "state": {}, "position": 1} for n in range(4))
    passes = []
    report = look(face, progress=lambda report: passes.append(report.scan))
    scans = [scan for scan in passes if scan and scan.position == scan.until]
    assert len(scans) > 4
    assert counts(report) == (1, 42, 42, {})
    told = [finding.subject.split()[1] for finding in report.findings]
    lost, spoilt = ["'reader-00'", "'reader-01'"], ["'reader-37'", "'reader-38'"]
    wanted = [*lost, *spoilt, "'reader-39'", "0", "1", "2", "3"]
    assert sorted(told) == sorted(wanted)


def test_a_sample_holds_about_as_many_as_asked_for(many, face):
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


def test_a_lost_collection_is_found_by_a_sample_in_little_memory(many, monkeypatch):
    monkeypatch.setattr(projection_fold, "STATES", 7)
    many.drop()
    report = look(sample=1)
    assert set(report.found) == {"projection-document"}
    assert 1 <= report.total <= 7


def test_a_sample_that_memory_cannot_hold_takes_several_passes(many, monkeypatch):
    monkeypatch.setattr(projection_fold, "STATES", 7)
    assert counts(look(sample=40)) == (1, 40, 40, {})


@pytest.mark.parametrize(
    "keys", [range(-500, 500), map(str, range(1000))], ids=["numbers", "texts"]
)
def test_the_halves_of_a_share_make_up_the_whole(keys):
    keys = list(keys)
    share = Share(7, 3, 2)
    one, other = share.halves()
    whole = set(filter(share.holds, keys))
    assert set(filter(one.holds, keys)) | set(filter(other.holds, keys)) == whole
    assert not set(filter(one.holds, keys)) & set(filter(other.holds, keys))
    assert 250 < len(whole) < 420
    assert 90 < len(set(filter(one.holds, keys))) < 240


def test_a_number_is_in_one_share_whatever_its_width():
    shares = [Share(salt, 16, 3) for salt in range(100)]
    assert any(share.holds(5) for share in shares)
    assert all(share.holds(5) == share.holds(Int64(5)) for share in shares)


def test_events_of_a_parked_stream_are_missing_from_its_position_on():
    missing = Missing({"a": 5}, {3})
    events = [("a", 4), ("a", 5), ("a", 6), ("b", 3), ("b", 6)]
    held = [missing.holds({"aggregateId": a, "position": p}) for a, p in events]
    assert held == [False, True, True, True, False]


# --- while it runs ----------------------------------------------------------


def test_a_projection_that_runs_meanwhile_is_sound(borrow, store, face, monkeypatch):
    for name in ("DOCUMENTS", "IDS"):  # so that it takes a while to read documents
        monkeypatch.setattr(projection_comparison, name, 2)
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
                report = look(face)
                assert report.ok, report.findings
                assert report.documents_compared == 9
        finally:
            stop.set()
            thread.join()
    assert look(face).ok


def test_nothing_is_written(built, store, history, small):
    database = connection.raw(store.events).database

    def everything():
        return {
            name: list(database[name].find())
            for name in database.list_collection_names()
        }

    before = everything()
    look()
    assert everything() == before


# --- the command ------------------------------------------------------------


def test_the_command_says_what_was_compared(built):
    out, err = run("verify_event_store", "--projections")
    assert err == ""
    assert ", 1 projections, 2 documents, 2 of them compared, in " in out
    assert out.endswith("sound\n")


def test_the_command_says_what_was_not_compared(many):
    out, _ = run("verify_event_store", "--projections", "--sample", "0")
    lines = out.splitlines()
    text = "Not compared: 40 documents of projection loans: not in the sample."
    assert lines[0] == text
    assert lines[1].endswith("sound, but 1 projections not compared")


def test_the_command_says_that_there_is_no_projection(store, loans, monkeypatch):
    monkeypatch.setattr("ossy_event_store.projections.projection._registered", {})
    out, _ = run("verify_event_store", "--projections")
    assert "Not compared: no projection is registered.\n" in out


def test_a_finding_is_a_line_and_ends_with_1(built):
    built.delete_one({"_id": "bob"})
    error = failure("verify_event_store", "--projections", "--all")
    assert error.returncode == 1
    assert str(error).endswith(": 1 FINDINGS")
    (finding,) = look().findings
    assert str(finding) == (
        "projection-document: document 'bob' of projection loans: expected what its "
        "events fold to, found no document"
    )


def test_json_has_the_counts(many):
    document = json.loads(run("verify_event_store", "--projections", "--json")[0])
    assert document["sound"]
    assert document["projections"] == document["projections_compared"] == 1
    assert document["documents"] == document["documents_compared"] == 40
    assert document["documents_not_compared"] == {}
    document = json.loads(run("verify_event_store", "--json")[0])
    assert document["projections"] is None


def test_progress_names_the_projection(many, monkeypatch, small):
    monkeypatch.setattr(Progress, "LOG_SECONDS", 0)
    _, err = run("verify_event_store", "--projections", "--json")
    assert "40 of 80 events (50%)" in err
    assert "left, projection loans\n" in err


@pytest.mark.parametrize(
    "choice", [["--type", "Book"], ["--id", "a"], ["--since", "2020-01-01"]], ids=str
)
def test_projections_of_some_streams_are_wrong_use(built, choice):
    error = failure("verify_event_store", "--projections", *choice)
    assert error.returncode == WRONG_USE
    assert str(error) == (
        "--projections does not go with --type, --id or --since: a document of a "
        "projection is made of events of many streams."
    )


def test_projections_of_some_streams_are_refused_in_python(built, face):
    with pytest.raises(ValueError, match="a document is made of events of many"):
        look(face, ids=["a"])
