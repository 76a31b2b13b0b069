"""Verification: a sound store is never accused, and what is broken is always found."""

import datetime as dt
import io
import json
import random
import threading
import tracemalloc
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from bson import Decimal128, Int64, ObjectId
from django.core.management import CommandError, ManagementUtility, call_command
from django.utils import timezone
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pymongo.errors import AutoReconnect, OperationFailure

from ossy_event_store import Aggregate, AggregateRebuild, EventStore
from ossy_event_store.documents.event_document import version_number
from ossy_event_store.management.commands import verify_event_store as command
from ossy_event_store.management.commands._base import INTERRUPTED, WRONG_USE, Progress
from ossy_event_store.mongodb import indexes, resumable_scan
from ossy_event_store.mongodb.ports import MAJORITY, drive, drive_each
from ossy_event_store.streams.reducers import revision_of
from ossy_event_store.verification import report as verification_report
from ossy_event_store.verification import rules, snapshot_comparison, verify
from ossy_event_store.verification.verify import averify_event_store, verify_event_store
from tests.library.aggregate import Book
from tests.support.commands import Terminal, failure, run

LONG_AGO = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
LATELY = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
UNIQUE = indexes.STREAM_VERSIONS
AN_ID = ObjectId("0" * 24)  # one for all processes: pytest-xdist compares the names


def event(aggregate_id, version, **fields):
    """An event as it is stored; a field that is ``...`` is left out."""
    document = {
        "_id": ObjectId(),
        "aggregateId": aggregate_id,
        "aggregateType": "Book",
        "aggregateVersion": version,
        "type": "BookBought" if version == 1 else "BookLent",
        "payload": {"title": "Emma", "to": "ann"},
        "created": LATELY,
        "createdBy": "jane",
        "metadata": {},
        **fields,
    }
    return {key: value for key, value in document.items() if value is not ...}


def stream(aggregate_id, length, **fields):
    return [event(aggregate_id, version, **fields) for version in range(1, length + 1)]


NODE = {"created": 1767225600000.0, "metadata": ..., "createdBy": ...}


@pytest.fixture
def library(store, history):
    """A sound store of 21 streams with snapshots; b-09 and b-10 have seven events."""
    events = []
    for number in range(21):
        fields = NODE if number == 3 else {}
        kind = "Reader" if number % 5 == 4 else "Book"
        length = 7 if number in (9, 10) else number % 4 + 1
        events += stream(f"b-{number:02}", length, aggregateType=kind, **fields)
    history.insert_many(events)
    AggregateRebuild.build_and_save_all()
    return history


@pytest.fixture
def loose(history):
    """The events without their unique index, which is made again afterwards."""
    history.drop_index(UNIQUE.name)
    yield history
    history.delete_many({})
    history.create_index(list(UNIQUE.keys), **UNIQUE.options)


@pytest.fixture
def small(monkeypatch):
    """Batches and pages of a few documents, so that all things lie across borders."""
    monkeypatch.setattr(resumable_scan, "BATCH", 3)
    monkeypatch.setattr(verify, "PAGE", 2)
    monkeypatch.setattr(verify, "_BEATS", 1)
    monkeypatch.setattr(snapshot_comparison, "FOLDED", 2)


def look(face=None, **options):
    """Verify through a face and return the report."""
    options.setdefault("sample", None)
    if face is None or face.runner is None:
        return verify_event_store(**options)
    return face.runner.run(averify_event_store(**options))


def told(report):
    """What was found, but for a missing index: kind, stream, versions."""
    assert len(report.findings) == report.total
    assert report.compared + sum(report.not_compared.values()) == report.snapshots
    return sorted(
        (
            (f.kind, f.aggregate_id, f.versions)
            for f in report.findings
            if f.kind != "index"
        ),
        key=repr,
    )


def test_a_sound_store_is_sound(library, face, small):
    report = look(face)
    assert report.ok
    assert told(report) == []
    assert (report.streams, report.events, report.snapshots) == (21, 60, 21)
    assert report.compared == 21
    assert report.not_compared == {}


def test_an_empty_store_is_sound(store, face):
    report = look(face)
    assert report.ok
    assert (report.streams, report.events, report.snapshots) == (0, 0, 0)


# --- what is broken ---------------------------------------------------------

# Each breaks a stream of seven events with a snapshot, and returns what is to be found.
# ``events`` and ``snapshots`` are collections.
BREAKS = {}


def breaks(function):
    BREAKS[function.__name__.replace("_", " ")] = function
    return function


def missing(first, last):
    def lose(events, snapshots, of):
        between = {"$gte": first, "$lte": last}
        events.delete_many({"aggregateId": of, "aggregateVersion": between})
        return [("hole", of, (first, last))]

    return lose


BREAKS["a hole at the beginning"] = missing(1, 1)
BREAKS["a hole of two at the beginning"] = missing(1, 2)
BREAKS["a hole in the middle"] = missing(3, 3)
BREAKS["a hole of several"] = missing(2, 5)


@breaks
def two_holes(events, snapshots, of):
    return missing(2, 2)(events, snapshots, of) + missing(5, 6)(events, snapshots, of)


@breaks
def a_lost_end(events, snapshots, of):
    events.delete_one({"aggregateId": of, "aggregateVersion": 7})
    return [("snapshot-ahead", of, (7, 7))]


@breaks
def a_lost_stream(events, snapshots, of):
    events.delete_many({"aggregateId": of})
    return [("snapshot-orphan", of, (7, 7))]


def retyped(*versions):
    def retype(events, snapshots, of):
        events.update_many(
            {"aggregateId": of, "aggregateVersion": {"$in": versions}},
            {"$set": {"aggregateType": "Reader"}},
        )
        return [("type", of, (versions[0], versions[-1]))]

    return retype


BREAKS["another type at the end"] = retyped(7)
BREAKS["another type in the middle"] = retyped(3, 4)
BREAKS["another type here and there"] = retyped(2, 6)


@breaks
def another_type_of_the_first_event(events, snapshots, of):
    retyped(1)(events, snapshots, of)
    return [("snapshot-type", of, (7, 7)), ("type", of, (2, 7))]


def altered(name, value, version=2):
    def alter(events, snapshots, of):
        change = {"$unset": {name: 1}} if value is ... else {"$set": {name: value}}
        events.update_one({"aggregateId": of, "aggregateVersion": version}, change)
        return [("event", of, (version, version))]

    return alter


def added(**fields):
    """Beside the seven events stands another one, with something wrong."""

    def add(events, snapshots, of):
        new = event(**{"aggregate_id": of, "version": 8, **fields})
        events.insert_one(new)
        there, at = (
            new.get("aggregateId"),
            version_number(new.get("aggregateVersion")),
        )
        return [("event", there if isinstance(there, str) else None, at and (at, at))]

    return add


for value in ([1], None, "x", 3):
    BREAKS[f"payload {value!r}"] = altered("payload", value)
for value in ("2026-01-01", None, {}, True, ...):
    BREAKS[f"created {value!r}"] = altered("created", value)
for value in ("", "x" * 256, 5, None, ["BookLent"], ...):
    BREAKS[f"type {str(value)[:9]!r}"] = altered("type", value)
for value in (None, [], "x"):
    BREAKS[f"metadata {value!r}"] = altered("metadata", value)
for value in (5, ["jane"], {}):
    BREAKS[f"createdBy {value!r}"] = altered("createdBy", value)
BREAKS["a version as a float"] = altered("aggregateVersion", 2.0)
for value in (2.5, 0, -1, "8", None, True, float("nan"), float("inf"), ...):
    BREAKS[f"a version {value!r} besides"] = added(aggregateVersion=value)
for value in (5, None, 2.5, ...):
    BREAKS[f"an event of type {value!r} besides"] = added(aggregateType=value)
for value in (5, "x" * 281, b"x"):
    BREAKS[f"an event with the id {str(value)[:9]!r} besides"] = added(_id=value)


def snapshot_set(kind, versions=(7, 7), **fields):
    def change(events, snapshots, of):
        snapshots.update_one({"_id": of}, {"$set": fields})
        return [(kind, of, versions)]

    return change


BREAKS |= {
    "a snapshot ahead": snapshot_set("snapshot-ahead", (8, 8), aggregateVersion=8),
    "a snapshot far ahead": snapshot_set(
        "snapshot-ahead", (2**40,) * 2, aggregateVersion=2**40
    ),
    "a snapshot of another type": snapshot_set("snapshot-type", aggregateType="Reader"),
    "a snapshot of an unknown type": snapshot_set(
        "snapshot-type", aggregateType="Cook"
    ),
    "a snapshot's version as a float": snapshot_set(
        "snapshot-version", aggregateVersion=7.0
    ),
    "a snapshot's version as text": snapshot_set(
        "snapshot-version", None, aggregateVersion="7"
    ),
    "a wrong value in a state": snapshot_set(
        "snapshot-state", **{"state.title": "Ema"}
    ),
    "a wrong number in a state": snapshot_set("snapshot-state", **{"state.loans": 5}),
    "a float in a state": snapshot_set("snapshot-state", **{"state.loans": 6.0}),
    "one key more in a state": snapshot_set("snapshot-state", **{"state.more": None}),
    "a state that is none": snapshot_set("snapshot-state", state=None),
    "a state of a later version": snapshot_set(
        "snapshot-state", (6, 6), aggregateVersion=6
    ),
}


@breaks
def a_key_too_few_in_a_state(events, snapshots, of):
    snapshots.update_one({"_id": of}, {"$unset": {"state.title": 1}})
    return [("snapshot-state", of, (7, 7))]


def broken(library, name):
    """Break a stream; what is to be found is returned in order."""
    # The readers' reducer looks at no field that could be broken.
    of = "b-09" if name.startswith(("payload", "type")) else "b-10"
    return sorted(BREAKS[name](library, Aggregate.collection, of), key=repr)


@pytest.mark.parametrize("name", BREAKS)
def test_what_is_broken_is_found_and_nothing_else(library, name, face):
    expected = broken(library, name)
    assert told(look(face)) == expected


CHOICES = {
    "all": {},
    "types": {"types": ["Reader", "Book"]},
    "ids": {"ids": ["b-09", "b-10", "b-11"]},
    "since": {"since": LONG_AGO},
}
# What a choice does not see, since it begins with events of a type or a time.
UNSEEN = {
    "types": [],
    "since": ["a lost stream"],
}


@pytest.mark.parametrize("name", BREAKS)
def test_it_is_found_across_borders_and_by_any_choice(library, name, small):
    expected = broken(library, name)
    found = {choice: told(look(**options)) for choice, options in CHOICES.items()}
    assert found == {
        choice: [] if name in UNSEEN.get(choice, ()) else expected for choice in CHOICES
    }


def test_what_is_broken_in_many_streams_is_told_of_each(library, small):
    expected = []
    for of in ("b-09", "b-10"):
        expected += BREAKS["two holes"](library, Aggregate.collection, of)
    library.delete_many({"aggregateId": "b-00"})
    expected.append(("snapshot-orphan", "b-00", (1, 1)))
    assert told(look()) == sorted(expected, key=repr)


def test_a_snapshot_with_a_finding_is_not_compared(library):
    BREAKS["a snapshot ahead"](library, Aggregate.collection, "b-10")
    BREAKS["a lost stream"](library, Aggregate.collection, "b-09")
    assert look().not_compared == {verification_report.UNSOUND: 2}


def test_heads_are_those_of_streams_whose_versions_follow_each_other():
    heads = rules.Heads()
    keys = ["a1", "a2", "b1", "b3", "c1", "d2", "e1", "e1", "f1", "f2", "f3"]
    for key in keys:
        heads.take([{"aggregateId": key[0], "aggregateVersion": int(key[1])}])
    heads.end()
    assert heads.ended == {"a": 2, "b": None, "c": 1, "d": None, "e": None, "f": 3}


# --- without the unique index -----------------------------------------------

TWICE = {
    "a version": [event("b-10", 3)],
    "the first version": [event("b-10", 1)],
    "the last version": [event("b-10", 7)],
    "a version three times": [event("b-10", 5), event("b-10", 5)],
    "two versions": [event("b-10", 2), event("b-10", 3)],
    "a version, as a float": [event("b-10", 2.0)],
    "a version of another type": [event("b-10", 3, aggregateType="Reader")],
    "the first version of another type": [event("b-10", 1, aggregateType="Reader")],
    "a stream of another type": stream("b-10", 7, aggregateType="Reader"),
    "the last stream's version": [event("b-20", 1)],
}


@pytest.mark.parametrize("name", TWICE)
@pytest.mark.parametrize("batch", [1, 2, 3, 1000])
def test_two_events_of_one_version_are_found(library, loose, name, batch, monkeypatch):
    monkeypatch.setattr(resumable_scan, "BATCH", batch)
    library.insert_many([dict(one) for one in TWICE[name]])
    versions = sorted({int(one["aggregateVersion"]) for one in TWICE[name]})
    of = TWICE[name][0]["aggregateId"]
    expected = [("duplicate", of, (version, version)) for version in versions]
    if TWICE[name][0]["aggregateType"] != "Book":
        expected.append(("type", of, (versions[0], versions[-1])))
    if name.endswith("a float"):
        expected.append(("event", of, (2, 2)))
    for options in ({}, {"types": ["Book"]}, {"ids": [of]}, {"since": LONG_AGO}):
        report = look(**options)
        assert told(report) == sorted(expected, key=repr), options
        assert report.found["index"] == 1
        # Which of the two a snapshot was folded from is not known.
        assert report.not_compared == {verification_report.UNSOUND: 1}


def test_two_events_of_a_list_of_streams_are_told_each_by_itself(anew):
    anew.drop_index(UNIQUE.name)
    anew.insert_many(event(["x", "y"], 1) for _ in range(2))
    report = look()
    assert told(report) == [("event", None, (1, 1))] * 2


def test_a_duplicate_names_the_events(library, loose):
    library.insert_many([event("b-10", 3, _id=f"again-{n}") for n in range(9)])
    (finding,) = (one for one in look().findings if one.kind == "duplicate")
    assert str(finding).startswith(
        "duplicate: stream 'b-10', version 3: expected one event, found 10: "
    )
    assert "again-0, " in str(finding)
    assert str(finding).endswith(", …")


@pytest.mark.parametrize("index", indexes.INDEXES, ids=lambda index: index.name)
def test_a_missing_index_is_found_and_the_rest_is_verified(store, library, index, face):
    collection = library.database[index.collection]
    collection.drop_index(index.name)
    try:
        BREAKS["a hole in the middle"](library, Aggregate.collection, "b-10")
        report = look(face)
        (finding,) = (one for one in report.findings if one.kind == "index")
        assert finding.subject == f"{index.collection}.{index.name}"
        assert told(report) == [("hole", "b-10", (3, 3))]
        assert report.events == 59
    finally:
        collection.create_index(list(index.keys), **index.options)


def test_an_index_that_is_not_unique_is_found(library, loose):
    loose.create_index(list(UNIQUE.keys), name=UNIQUE.name)
    try:
        assert look().found == {"index": 1}
    finally:
        loose.drop_index(UNIQUE.name)


def test_a_store_without_any_index_is_verified(store, library):
    for name in {index.collection for index in indexes.INDEXES}:
        library.database[name].drop_indexes()
    try:
        library.insert_one(event("b-10", 1, aggregateType="Reader"))
        report = look()
        assert report.found["index"] == len(indexes.INDEXES)
        assert told(report) == [
            ("duplicate", "b-10", (1, 1)),
            ("type", "b-10", (1, 1)),
        ]
    finally:
        make_indexes_anew()


# --- ids that are none ------------------------------------------------------


def make_indexes_anew():
    database = EventStore.collection.database
    for name in {index.collection for index in indexes.INDEXES}:
        database[name].delete_many({})
        database[name].drop_indexes()
    for index in indexes.INDEXES:
        database[index.collection].create_index(list(index.keys), **index.options)


@pytest.fixture
def anew(library):
    """The library; an index notes for good that a list was in it, so made anew."""
    yield library
    make_indexes_anew()


@pytest.mark.parametrize(
    "value",
    [5, None, "", "x" * 256, AN_ID, {"a": 1}, ["b-10"], ["b-10", "b-11"], [], ...],
    ids=str,
)
@pytest.mark.parametrize("name", ["aggregateId", "aggregateType"])
def test_an_event_whose_stream_or_type_has_no_name_is_found(anew, name, value, small):
    # A list of ids has an entry of the index for each.
    version = 9 if isinstance(value, list) else 1
    strange = event(..., version, **{"aggregateId": "new", name: value})
    anew.insert_one(strange)
    report = look()
    (finding,) = report.findings
    assert finding.kind == "event"
    assert finding.subject == f"{name} of event {strange['_id']}"
    of = strange.get("aggregateId")
    assert finding.aggregate_id == (of if isinstance(of, str) else None)


# --- what is no fault -------------------------------------------------------


def test_a_snapshot_behind_its_stream_is_compared_as_of_its_version(library, face):
    library.insert_many([event("b-10", 8), event("b-10", 9)])
    report = look(face)
    assert report.ok
    assert report.compared == 21


def test_a_stream_without_a_snapshot_is_no_fault(library):
    Aggregate.collection.delete_one({"_id": "b-10"})
    report = look()
    assert report.ok
    assert (report.streams, report.snapshots) == (21, 20)


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


def test_a_snapshot_of_the_node_package_is_no_fault(library):
    snapshot = {"_id": "b-10", "aggregateType": "Book", "title": "Emma"}
    Aggregate.collection.replace_one({"_id": "b-10"}, snapshot)
    assert look().ok


@pytest.mark.parametrize(
    "document",
    [
        {"_id": AN_ID, "aggregateType": "Book", "aggregateVersion": 1},
        {"_id": AN_ID},
        {"_id": "nothing", "aggregateType": 5, "aggregateVersion": 99},
        {"_id": "b-10", "aggregateType": [], "aggregateVersion": 99},
        {"_id": "nothing", "aggregateType": "Book"},
    ],
    ids=str,
)
@pytest.mark.parametrize("options", [{}, {"ids": ["b-10", "nothing"]}], ids=str)
def test_a_document_of_another_program_is_passed_over(anew, document, options):
    query = {"_id": document["_id"]}
    Aggregate.collection.replace_one(query, document, upsert=True)
    assert look(**options).ok


def test_the_order_of_keys_in_a_state_does_not_count(library):
    state = Aggregate.find("b-10")["state"]
    turned = dict(reversed(state.items()))
    assert list(turned) != list(state)
    Aggregate.collection.update_one({"_id": "b-10"}, {"$set": {"state": turned}})
    assert look().ok


def test_the_width_of_a_whole_number_in_a_state_does_not_count(library):
    change = {"$set": {"state.loans": Int64(6)}}
    Aggregate.collection.update_one({"_id": "b-10"}, change)
    assert look().ok


def test_events_of_the_node_package_are_whole(store, history, face):
    events = stream("n-1", 3, **NODE) + stream(
        "n-2", 2, created=Int64(1), createdBy=None
    )
    history.insert_many(events)
    assert look(face).ok


def test_imported_events_are_whole(store, history):
    history.insert_many(stream("n-1", 1, _id="x" * 255 + "@1"))
    assert look().ok


def test_a_long_stream_is_verified_in_batches(store, history, face):
    history.insert_many(stream("b-1", 2500))
    AggregateRebuild.build_and_save_all()
    assert look(face).ok
    history.delete_one({"aggregateVersion": 1000})
    assert told(look(face)) == [("hole", "b-1", (1000, 1000))]


# --- states -----------------------------------------------------------------


def test_a_wrong_state_is_told_by_its_paths_and_not_its_values(library):
    change = {"$set": {"state.title": "secret", "state.more": {"of": 1}}}
    Aggregate.collection.update_one({"_id": "b-10"}, change)
    (finding,) = look().findings
    assert str(finding) == (
        "snapshot-state: stream 'b-10', version 7: expected what its events fold to, "
        "found other values at state.more, state.title"
    )


@pytest.mark.parametrize(
    ("stored", "folded", "paths"),
    [
        ({"a": {"b": [1, {"c": 2}]}}, {"a": {"b": [1, {"c": 3}]}}, "state.a.b[1].c"),
        ({"a": [1, 2]}, {"a": [1]}, "state.a"),
        ({"a": True}, {"a": 1}, "state.a"),
        ({"a": 1.0}, {"a": 1}, "state.a"),
        ({"a": float("nan")}, {"a": float("nan")}, None),
        ({"a": None}, {}, "state.a"),
        ({"a": 2**40}, {"a": Int64(2**40)}, None),
        ({"a": LATELY}, {"a": LATELY}, None),
        ({"a": b"x"}, {"a": "x"}, "state.a"),
        ({"b": 1, "a": {"d": 1, "c": 2}}, {"a": {"c": 2, "d": 1}, "b": 1}, None),
        ([], {}, "state"),
        (
            {},
            dict.fromkeys("abcdefg", 0),
            "state.a, state.b, state.c, state.d, state.e, …",
        ),
    ],
)
def test_two_states_are_compared_as_mongodb_holds_them(stored, folded, paths):
    snapshot = {"_id": "b-1", "aggregateVersion": 1, "state": stored}
    finding = rules.state_finding(snapshot, folded)
    assert (finding and finding.found.removeprefix("other values at ")) == paths


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
    assert told(report) == [("reducer", "b-10", (5, 5))]
    assert report.findings[0].found == "ZeroDivisionError: no shelf"


def test_a_state_that_cannot_be_stored_is_found(library, monkeypatch):
    monkeypatch.setattr(Book, "view", staticmethod(lambda events, state: {"x": {1}}))
    found = look().findings
    assert {finding.kind for finding in found} == {"reducer"}
    assert "MongoDB has no type for builtins.set" in found[0].found


@pytest.mark.parametrize("size", [0, 1, 5, 20, 21, 100])
def test_of_all_snapshots_a_sample_is_compared(library, size, face, small):
    report = look(face, sample=size)
    assert report.compared == min(size, 21)
    left = 21 - report.compared
    assert report.not_compared == ({"not in the sample": left} if left else {})


def test_every_snapshot_is_as_likely_in_a_sample(store, monkeypatch):
    monkeypatch.setattr(snapshot_comparison, "random", random.Random(7))
    chosen = Counter()
    for _ in range(600):
        report = verification_report.VerifyReport()
        comparison = snapshot_comparison.Comparison(store, report, 3)
        for number in range(12):
            snapshot = {"_id": str(number), "aggregateType": "Book"}
            drive(comparison.offer({**snapshot, "revision": revision_of(Book)}))
        chosen.update(comparison._chosen)
    assert len(chosen) == 12
    assert all(110 < count < 190 for count in chosen.values())  # 150 each, on average


# --- meanwhile --------------------------------------------------------------


def once(action):
    """A progress that acts when the verification has begun to read versions."""
    done = []

    def progress(report):
        if report.events and not done:
            done.append(True)
            action()

    return progress


def append(aggregate_id, count=1):
    there = EventStore.collection.count_documents({"aggregateId": aggregate_id})
    new = stream(aggregate_id, there + count)[there:]
    EventStore.collection.insert_many(new)
    Aggregate.of(Book, aggregate_id).save()


@pytest.mark.parametrize("of", ["b-00", "b-10", "b-20", "a", "b-105", "z"])
def test_what_is_appended_and_saved_meanwhile_is_no_finding(library, small, of):
    report = look(progress=once(lambda: append(of, 3)))
    assert report.ok
    assert report.compared in (21, 22)


def test_a_verification_while_many_append_finds_nothing(library, monkeypatch):
    monkeypatch.setattr(resumable_scan, "BATCH", 20)
    monkeypatch.setattr(verify, "PAGE", 5)
    stop = threading.Event()
    failures = []

    def write(name):
        try:
            number = 0
            while not stop.is_set():
                number += 1
                append(f"{name}-{number % 7}", number % 3 + 1)
                stop.wait(0.01)
        except Exception as error:
            failures.append(error)

    writers = [threading.Thread(target=write, args=(f"w{n}",)) for n in range(3)]
    for writer in writers:
        writer.start()
    try:
        for round_ in range(8):
            report = look(sample=None if round_ % 2 else 3)
            assert report.findings == []
    finally:
        stop.set()
        for writer in writers:
            writer.join()
    assert failures == []
    assert look().events > 100


def test_a_snapshot_that_is_gone_when_looked_at_again_is_no_finding(library, small):
    BREAKS["a snapshot ahead"](library, Aggregate.collection, "b-10")

    def discard():
        Aggregate.collection.delete_one({"_id": "b-10"})

    assert look(progress=once(discard)).ok


def test_a_snapshot_seen_before_the_events_of_its_transaction_is_no_finding(
    library, monkeypatch
):
    """What a majority has is seen later than what the primary has."""
    append("b-10")
    late = library.find_one_and_delete({"aggregateVersion": 8})
    whole = verify._Verification._is_so

    async def is_so(self, finding, snapshot):
        library.insert_one(late)
        return await whole(self, finding, snapshot)

    monkeypatch.setattr(verify._Verification, "_is_so", is_so)
    report = look()
    assert report.ok
    assert report.compared == 21


def test_nothing_is_written(library, small):
    for name in ("a hole in the middle", "a snapshot ahead"):
        BREAKS[name](library, Aggregate.collection, "b-10")
    BREAKS["a lost stream"](library, Aggregate.collection, "b-09")
    database = library.database
    before = list(Aggregate.collection.find())
    database.command("profile", 2)
    try:
        for options in CHOICES.values():
            assert not look(**options).ok
    finally:
        database.command("profile", 0)
    ops = Counter(p["op"] for p in database["system.profile"].find())
    database.drop_collection("system.profile")
    assert set(ops) <= {"query", "command", "getmore"}
    assert list(Aggregate.collection.find()) == before


def test_of_a_sound_store_only_the_look_at_the_fields_reads_documents(library):
    """By the profiler's count of what each query examined."""
    database = library.database
    database.command("profile", 2)
    try:
        assert look(sample=0).ok
    finally:
        database.command("profile", 0)
    profiled = list(
        database["system.profile"].find({"ns": {"$not": {"$regex": "profile"}}})
    )
    database.drop_collection("system.profile")
    reads = [p for p in profiled if p.get("keysExamined") or p.get("docsExamined")]
    by_document = [p for p in reads if p["docsExamined"]]
    assert len(by_document) == 1
    assert sum(p["docsExamined"] for p in by_document) == 60
    assert all(not p.get("hasSortStage") for p in profiled)


# --- a walk along an index --------------------------------------------------


class Flaky:
    """Events whose batches break off after so many of them."""

    def __init__(self, events, breaks, error=AutoReconnect):
        self.events = events
        self.breaks = iter(breaks)
        self.error = error
        self.opened = 0

    async def batches(self, query, size, **options):
        self.opened += 1
        left = next(self.breaks, 1000)
        async for batch in self.events.batches(query, size, **options):
            if not left:
                raise self.error("the primary is gone")
            yield batch
            left -= 1


def walked(store, flaky, keys, query=None, **options):
    fields = {"_id": 1, **{key: 1 for key, _ in keys}}
    walk = resumable_scan.walk(store, flaky, keys, query or {}, fields, **options)
    return [document["_id"] for batch in drive_each(walk) for document in batch]


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize(
    "keys", [[("_id", 1)], list(indexes.TYPE_VERSIONS.keys)], ids=str
)
def test_a_walk_goes_on_where_it_broke_off(store, history, keys, size):
    ids = [None, 1, 2.5, "a", "b", {"x": 1}, b"z", ObjectId(), True, LATELY, Int64(9)]
    history.insert_many(
        event("b", n, _id=value, aggregateType=value) for n, value in enumerate(ids)
    )
    whole = [one["_id"] for one in history.find().sort(keys)]
    flaky = Flaky(store.events, [2, 1, 3, 0, 1])
    assert walked(store, flaky, keys, size=size) == whole
    assert flaky.opened >= 3


@pytest.mark.parametrize("size", [1, 2, 3, 4])
@pytest.mark.parametrize("breaks", [[1], [2], [1, 1], [2, 0, 1], [3, 3]], ids=str)
def test_a_walk_gives_each_of_several_with_one_key_once(
    store, history, loose, size, breaks
):
    loose.create_index(list(UNIQUE.keys), name=UNIQUE.name)
    versions = [1, 2, 2, 2, 2, 2, 3, 3]
    history.insert_many(event("b", v, _id=str(n)) for n, v in enumerate(versions))
    flaky = Flaky(store.events, breaks)
    assert walked(store, flaky, UNIQUE.keys, size=size) == list("01234567")
    loose.drop_index(UNIQUE.name)


def test_a_walk_ends_when_nothing_comes_in_time(store, library, settings):
    if settings.STORE != "url":
        pytest.skip("the setting is that of the run")
    settings.OSSY_EVENT_STORE = {**settings.OSSY_EVENT_STORE, "TIMEOUT": 0.5}
    flaky = Flaky(store.events, [0] * 1000)
    with pytest.raises(AutoReconnect):
        walked(store, flaky, [("_id", 1)])


def test_a_walk_does_not_go_on_after_another_error(store, library):
    flaky = Flaky(store.events, [1, 1], OperationFailure)
    with pytest.raises(OperationFailure):
        walked(store, flaky, [("_id", 1)], size=2)
    assert flaky.opened == 1


def test_a_walk_without_its_index_does_not_go_on(store, library, loose):
    flaky = Flaky(store.events, [1])
    with pytest.raises(AutoReconnect):
        walked(store, flaky, UNIQUE.keys, size=2, indexed=False)


@pytest.mark.parametrize(
    "name", ["a hole in the middle", "payload [1]", "a lost stream"]
)
def test_what_is_broken_is_found_though_the_connection_breaks(
    store, library, name, small, monkeypatch
):
    from ossy_event_store.mongodb import connection

    expected = broken(library, name)
    whole = verify._Verification._walk
    breaks = random.Random(name)

    def flaky(self, index, *args):
        store = self.store
        self.store = replace(
            store,
            events=Flaky(store.events, [breaks.randrange(4) for _ in range(3)]),
        )
        try:
            return whole(self, index, *args)
        finally:
            self.store = store

    monkeypatch.setattr(verify._Verification, "_walk", flaky)
    monkeypatch.setattr(type(connection.blocking().client), "pause", no_pause)
    assert told(look()) == expected


async def no_pause(self, seconds):
    pass


# --- on a sharded cluster ---------------------------------------------------


class Sharded:
    """A client that says it speaks to a sharded cluster."""

    def __init__(self, client):
        self.client = client

    def __getattr__(self, name):
        return getattr(self.client, name)

    async def command(self, name, **options):
        return {"msg": "isdbgrid", "ok": 1}


class TwoShards:
    """Events of which some are on both shards, under one id."""

    def __init__(self, events, twice):
        self.events = events
        self.twice = twice

    def __getattr__(self, name):
        return getattr(self.events, name)

    async def batches(self, query, size, **options):
        async for batch in self.events.batches(query, size, **options):
            if query == {}:
                batch = [
                    one for one in batch for _ in range(1 + (one["_id"] in self.twice))
                ]
            yield batch


@pytest.mark.parametrize("twice", [[], [0], [59], [3, 4, 30]], ids=str)
def test_an_id_on_two_shards_is_found(store, library, twice):
    ids = [one["_id"] for one in library.find().sort("_id", 1)]
    cluster = replace(
        store,
        client=Sharded(store.client),
        events=TwoShards(store.events, [ids[n] for n in twice]),
    )
    report = drive(verify.verify(cluster, verify.VerifyOptions()))
    assert [finding.subject for finding in report.findings] == [
        f"event {ids[n]}" for n in twice
    ]
    assert report.found == ({"event-id": len(twice)} if twice else {})


# --- a choice ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "streams", "events", "snapshots"),
    [
        ({"types": ["Reader"]}, 4, 15, 4),
        ({"types": ["Reader", "Reader"]}, 4, 15, 4),
        ({"types": ["Cook"]}, 0, 0, 0),
        ({"ids": ["b-10"]}, 1, 7, 1),
        ({"ids": ["b-10", "b-10", "b-00"]}, 2, 8, 2),
        ({"ids": ["nowhere"]}, 0, 0, 0),
        ({"ids": []}, 0, 0, 0),
        ({"since": LONG_AGO}, 21, 60, 21),
        ({"since": LONG_AGO, "types": ["Reader"]}, 4, 15, 4),
        ({"since": LONG_AGO, "ids": ["b-10"]}, 1, 7, 1),
        ({"since": LATELY}, 21, 60, 21),
        ({"since": LATELY + dt.timedelta(milliseconds=1)}, 0, 0, 0),
    ],
    ids=str,
)
def test_only_what_is_chosen_is_verified(
    library, options, streams, events, snapshots, face, small
):
    report = look(face, **options)
    assert (report.streams, report.events, report.snapshots) == (
        streams,
        events,
        snapshots,
    )
    assert report.compared == snapshots


def test_what_is_broken_elsewhere_is_not_told(library):
    BREAKS["a hole in the middle"](library, Aggregate.collection, "b-10")
    BREAKS["payload None"](library, Aggregate.collection, "b-10")
    assert look(types=["Reader"]).ok
    assert look(ids=["b-11"]).ok


def test_since_takes_whole_streams_that_got_an_event(library, face):
    at = LATELY + dt.timedelta(days=1)
    library.insert_one(event("b-10", 8, created=at))
    milliseconds = at.timestamp() * 1000
    library.insert_one(event("b-03", 5, **{**NODE, "created": milliseconds}))
    library.insert_one(event("b-02", 4, **{**NODE, "created": Int64(milliseconds)}))
    BREAKS["a hole in the middle"](library, Aggregate.collection, "b-10")
    BREAKS["a hole in the middle"](library, Aggregate.collection, "b-09")
    report = look(face, since=at)
    assert (report.streams, report.events) == (3, 7 + 5 + 4)
    assert told(report) == [("hole", "b-10", (3, 3))]


def test_since_is_a_range_of_an_index(library):
    query = verify.VerifyOptions(since=LATELY).query
    plan = library.find(query).explain()["queryPlanner"]["winningPlan"]
    assert "created_1__id_1" in str(plan)
    assert "COLLSCAN" not in str(plan)


def test_a_choice_of_a_type_sees_a_snapshot_of_another(library, small):
    change = {"$set": {"aggregateType": "Reader"}}
    seen = Aggregate.collection.with_options(write_concern=MAJORITY)
    seen.update_one({"_id": "b-10"}, change)
    for kind in ("Book", "Reader"):
        assert told(look(types=[kind])) == [("snapshot-type", "b-10", (7, 7))]


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"since": dt.datetime(2026, 1, 1)}, ValueError),
        ({"sample": -1}, ValueError),
        ({"ids": [{"$ne": None}]}, TypeError),
        ({"ids": [""]}, ValueError),
        ({"types": [5]}, TypeError),
    ],
    ids=str,
)
def test_a_choice_that_cannot_be_one_is_refused(store, options, error, face):
    with pytest.raises(error):
        look(face, **options)


# --- the report -------------------------------------------------------------


def test_of_many_findings_some_are_kept_and_all_are_counted(
    store, history, monkeypatch
):
    monkeypatch.setattr(verification_report, "KEPT", 5)
    history.insert_many(event(f"b-{n}", 2) for n in range(12))
    report = look()
    assert len(report.findings) == 5
    assert report.found == {"hole": 12}
    assert str(report).endswith(": 12 FINDINGS")


def test_what_is_remembered_of_odd_streams_is_bounded(library, monkeypatch, small):
    monkeypatch.setattr(verify, "REMEMBERED", 2)
    library.delete_many({"aggregateVersion": 1, "aggregateType": "Book"})
    Aggregate.collection.delete_many({})
    report = look()
    assert report.found["hole"] == 12
    assert report.total == 12


def test_progress_is_told_as_it_goes(library, face, small):
    seen = []
    report = look(
        face, progress=lambda report: seen.append((report.events, report.reads))
    )
    assert seen == sorted(seen)
    assert len(seen) > 20
    assert seen[-1][0] == 60
    assert report.seconds > 0


@pytest.mark.parametrize(
    ("finding", "text"),
    [
        (
            verification_report.Finding("hole", "b", (2, 2), "", "x", "y"),
            "hole: stream 'b', version 2: expected x, found y",
        ),
        (
            verification_report.Finding("hole", "b", (2, 4), "", "x", "y"),
            "hole: stream 'b', versions 2 to 4: expected x, found y",
        ),
        (
            verification_report.Finding("index", None, None, "a.b", "x", "y"),
            "index: a.b: expected x, found y",
        ),
    ],
)
def test_a_finding_reads_as_a_line(finding, text):
    assert str(finding) == text


def test_an_event_tells_which_of_its_fields_is_wrong(library):
    library.update_one({"_id": library.find_one()["_id"]}, {"$set": {"payload": []}})
    (finding,) = look(sample=0).findings
    assert str(finding).startswith("event: stream 'b-00', version 1, payload of event ")
    assert str(finding).endswith(": expected object, found array")


@pytest.mark.parametrize("name", rules.EVENT_FIELDS)
def test_the_server_and_the_report_agree_on_what_is_whole(store, history, name):
    """Whatever the server sends as broken is told, and nothing else is sent."""
    values = [
        *(None, 1, -1, 0, 2**40, 1.5, 1.0, "", "x", "x" * 255, "x" * 256, "x" * 280),
        *("x" * 281, "ü" * 255, "💧" * 256, b"", b"x", [], ["x"], {}, {"x": 1}, True),
        *(ObjectId(), LATELY, Decimal128("1"), Int64(1), ...),
    ]
    if name == "_id":
        values = [value for value in values if not isinstance(value, list)][:-1]
    if name == "aggregateId":
        values = [value for value in values if not isinstance(value, list)]
    for value in values:
        history.delete_many({})
        history.insert_one(event("b", 1, **{name: value}))
        broken = list(history.find(rules.BROKEN, rules.SHAPE))
        told = [f for one in broken for f in rules.event_findings(one)]
        assert len(told) == len(broken), value
        shape = history.find_one({}, rules.SHAPE)
        assert list(rules.event_findings(shape)) == told, value


# --- the command ------------------------------------------------------------


def verified(*args, **options):
    """Run the command and return what it wrote to stdout."""
    out, err = run("verify_event_store", *args, **options)
    assert err == ""
    return out


def refused(*args, **options):
    """Run the command, which must fail; return stdout and the error."""
    out = io.StringIO()
    with pytest.raises(CommandError) as caught:
        call_command(
            "verify_event_store", *args, stdout=out, stderr=io.StringIO(), **options
        )
    return out.getvalue(), caught.value


def test_a_sound_store_is_said_in_one_line(library):
    assert verified().startswith(
        "Verified 21 streams, 60 events, 21 snapshots, 21 of them compared, in "
    )
    assert verified().endswith(" events/s): sound\n")
    assert verified().count("\n") == 1


def test_a_sound_store_without_verbosity_says_nothing(library):
    assert verified(verbosity=0) == ""


def test_what_was_not_compared_is_said_with_the_reason(library):
    assert verified(sample=5).startswith(
        "Not compared: 16 snapshots not in the sample."
    )
    assert verified("--sample", "0").startswith("Not compared: 21 snapshots not in")


def test_all_compares_all(library, monkeypatch):
    monkeypatch.setattr(command, "SAMPLE", 5)
    assert "21 of them compared" in verified("--all")
    assert "21 of them compared" in verified(everything=True)


def test_a_finding_is_said_and_ends_with_1(library):
    BREAKS["a hole in the middle"](library, Aggregate.collection, "b-10")
    out, error = refused()
    assert out.splitlines()[:2] == [
        "hole: stream 'b-10', version 3: expected an event of each version, found none "
        "before version 4",
        "1 hole: versions are missing before the end of a stream",
    ]
    assert error.returncode == 1
    assert str(error).startswith("Verified 21 streams, 59 events, ")
    assert str(error).endswith(": 1 FINDINGS")
    assert refused(verbosity=0)[0] == "\n".join(out.splitlines()[:2]) + "\n"


def test_of_many_findings_some_are_said_and_the_rest_counted(library, monkeypatch):
    monkeypatch.setattr(command, "SHOWN", 2)
    library.delete_many({"aggregateVersion": 1})
    out, _ = refused(sample=0)
    lines = out.splitlines()
    assert [line.split(":")[0] for line in lines[:2]] == ["hole", "hole"]
    assert lines[2].startswith("… and ")
    assert any(" hole: versions are missing" in line for line in lines[3:])
    assert any(" snapshot-orphan: a snapshot has no stream" in line for line in lines)


def test_json_is_one_document(library):
    document = json.loads(verified("--json"))
    assert document.pop("seconds") > 0
    assert document == {
        "sound": True,
        "streams": 21,
        "events": 60,
        "snapshots": 21,
        "compared": 21,
        "not_compared": {},
        "projections": None,
        "projections_compared": 0,
        "documents": 0,
        "documents_compared": 0,
        "documents_not_compared": {},
        "found": {},
        "findings": [],
    }


def test_json_holds_every_finding(anew):
    for name in BREAKS:
        if "besides" in name:
            anew.delete_many({"aggregateVersion": None})  # of which there can be one
            BREAKS[name](anew, Aggregate.collection, "b-10")
            anew.delete_many({"aggregateVersion": 8, "type": "BookLent"})
    BREAKS["a hole in the middle"](anew, Aggregate.collection, "b-10")
    anew.insert_one(event(["a", "b"], 1))
    out, error = refused("--json")
    document = json.loads(out)
    assert error.returncode == 1
    assert document["sound"] is False
    assert len(document["findings"]) == sum(document["found"].values())
    assert {
        "kind": "hole",
        "aggregate_id": "b-10",
        "versions": [3, 3],
        "subject": "",
        "expected": "an event of each version",
        "found": "none before version 4",
    } in document["findings"]


def test_json_is_bounded(store, history, monkeypatch):
    monkeypatch.setattr(verification_report, "KEPT", 3)
    history.insert_many(event(f"b-{n}", 2) for n in range(9))
    document = json.loads(refused("--json")[0])
    assert document["found"] == {"hole": 9}
    assert len(document["findings"]) == 3


def test_json_keeps_its_progress_to_stderr(library, monkeypatch):
    monkeypatch.setattr(Progress, "LOG_SECONDS", 0)
    out, err = run("verify_event_store", "--json")
    assert json.loads(out)["sound"]
    assert " events (" in err


def test_a_verification_shows_its_progress_on_a_terminal(library, monkeypatch):
    monkeypatch.setattr(Progress, "TERMINAL_SECONDS", 0)
    BREAKS["payload None"](library, Aggregate.collection, "b-09")
    out = Terminal()
    with pytest.raises(CommandError):
        call_command("verify_event_store", stdout=out, no_color=True)
    assert " events (" in out.getvalue()
    assert ", 1 findings" in out.getvalue()


@pytest.mark.parametrize(
    ("args", "streams"),
    [
        (["--type", "Reader"], 4),
        (["--type", "Reader", "--type", "Book"], 21),
        (["--id", "b-10"], 1),
        (["--id", "b-10", "--id", "b-10", "--id", "b-11"], 2),
        (["--type", "Book", "--id", "b-10"], 1),
        (["--since", "2025-12-31"], 21),
        (["--since", "2026-01-01T00:00:00Z"], 21),
        (["--since", "2026-01-01T01:30+01:00"], 0),
        (["--since", "2026-01-02"], 0),
        (["--since", "2025-12-31", "--type", "Reader"], 4),
    ],
    ids=str,
)
def test_the_command_verifies_what_is_chosen(library, args, streams):
    assert verified(*args).startswith(f"Verified {streams} streams, ")


def test_since_without_an_offset_is_in_the_current_time_zone(library):
    with timezone.override("Asia/Tokyo"):  # nine hours ahead
        assert verified("--since", "2026-01-01 09:00").startswith("Verified 21 ")
        assert verified("--since", "2026-01-01 09:01").startswith("Verified 0 ")


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (
            ["--type", "Cook"],
            "There are no events of type 'Cook'. Types: Book, Reader.",
        ),
        (["--id", "b-1"], "There is no stream 'b-1'. Ids around it: b-05, "),
        (["--id", ""], "aggregate_id must have 1 to 255 characters"),
        (["--id", "x\0"], "aggregate_id must not contain a NUL"),
        (
            ["--id", "b-10", "--type", "Reader"],
            "'b-10' is of type 'Book', not of Reader",
        ),
        (["--since", "yesterday"], "--since 'yesterday' is not a date"),
        (["--since", "24h"], "--since '24h' is not a date"),
        (["--since", ""], "--since '' is not a date"),
        (["--since", "2026-02-30"], "--since '2026-02-30' is not a date"),
        (["--sample", "-1"], "--sample -1: it must be 0 or more"),
    ],
    ids=str,
)
def test_wrong_use_is_said_and_ends_with_2(library, args, text):
    error = failure("verify_event_store", *args)
    assert text in str(error)
    assert error.returncode == WRONG_USE


@pytest.mark.parametrize("args", [["--all", "--sample", "5"], ["--sample", "many"]])
def test_options_that_make_no_sense_are_wrong_use(store, args, capsys):
    with pytest.raises(SystemExit) as caught:
        ManagementUtility(["manage.py", "verify_event_store", *args]).execute()
    assert caught.value.code == WRONG_USE
    assert "verify_event_store: error: argument --" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["a hole at the beginning", "a lost stream"])
@pytest.mark.parametrize("kind", [[], ["--type", "Book"]], ids=str)
def test_what_is_left_of_a_stream_can_be_verified(library, name, kind):
    (expected,) = BREAKS[name](library, Aggregate.collection, "b-10")
    out, error = refused("--id", "b-10", *kind)
    assert out.startswith(f"{expected[0]}: stream 'b-10', ")
    assert error.returncode == 1


def test_ctrl_c_ends_a_verification_with_130_and_says_how_far(library, monkeypatch):
    def press(self, done, *args):
        if done > 500:
            raise KeyboardInterrupt

    monkeypatch.setattr(verify, "_HEARTBEAT", {"$sampleRate": 1.0})
    monkeypatch.setattr(Progress, "show", press)
    error = failure("verify_event_store")
    assert error.returncode == INTERRUPTED
    assert str(error).startswith("Stopped: 0 streams, 0 events, ")
    assert str(error).endswith(" so far.")


def test_a_server_that_is_not_there_is_one_line(settings):
    if settings.STORE != "url":
        pytest.skip("the server is that of DATABASES")
    url = "mongodb://ann:s3cret@127.0.0.1:1/x"
    settings.OSSY_EVENT_STORE = {"URL": url, "TIMEOUT": 0.05}
    error = failure("verify_event_store")
    assert str(error).startswith("The event store is not available: ")
    assert "s3cret" not in str(error)
    assert "\n" not in str(error)
    assert error.returncode == 1


def test_the_howto_names_every_kind_of_finding():
    page = (Path(__file__).parents[2] / "docs/howto/verify.md").read_text()
    for kind, meaning in verification_report.KINDS.items():
        assert f"| `{kind}` | {meaning} |" in page


# --- any store --------------------------------------------------------------

ANY = hypothesis_settings(
    deadline=None,
    max_examples=40,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
SIZES = st.sampled_from([1, 2, 3, 7, 1000])
IDS = st.text(
    st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=3
)
STREAMS = st.dictionaries(
    IDS, st.tuples(st.sampled_from(["Book", "Reader"]), st.integers(1, 9)), max_size=8
)


def fill(history, streams, lag):
    history.delete_many({})
    Aggregate.collection.delete_many({})
    events = [
        one
        for name, (kind, length) in streams.items()
        for one in stream(name, length, aggregateType=kind)
    ]
    random.Random(lag).shuffle(events)
    if events:
        history.insert_many(events)
    AggregateRebuild.build_and_save_all()
    for name, (kind, length) in list(streams.items())[::2]:  # their snapshots lag
        history.insert_many(stream(name, length + lag, aggregateType=kind)[length:])


def lose(history, one, length, saved):
    history.delete_one(one)
    name, at = one["aggregateId"], one["aggregateVersion"]
    if at < length:
        return [("hole", name, (at, at))]
    if length == 1:
        return [("snapshot-orphan", name, (1, 1))]
    return [("snapshot-ahead", name, (saved, saved))] if saved == length else []


def make_float(history, one, length, saved):
    at = one["aggregateVersion"]
    history.update_one(one, {"$set": {"aggregateVersion": float(at)}})
    return [("event", one["aggregateId"], (at, at))]


def spoil_a_field(history, one, length, saved):
    history.update_one(one, {"$set": {"createdBy": 7}})
    return [("event", one["aggregateId"], (one["aggregateVersion"],) * 2)]


def lead(history, one, length, saved):
    ahead = length + one["aggregateVersion"]
    change = {"$set": {"aggregateVersion": ahead}}
    Aggregate.collection.update_one({"_id": one["aggregateId"]}, change)
    return [("snapshot-ahead", one["aggregateId"], (ahead, ahead))]


def change_a_state(history, one, length, saved):
    change = {"$set": {"state.extra": one["aggregateVersion"]}}
    Aggregate.collection.update_one({"_id": one["aggregateId"]}, change)
    return [("snapshot-state", one["aggregateId"], (saved, saved))]


def retype(history, one, length, saved):
    if one["aggregateVersion"] == 1:
        return []
    history.update_one(one, {"$set": {"aggregateType": "Cook"}})
    return [("type", one["aggregateId"], (one["aggregateVersion"],) * 2)]


ANY_BREAK = st.sampled_from(
    [lose, make_float, spoil_a_field, lead, change_a_state, retype]
)


@pytest.mark.usefixtures("store")
@ANY
@given(streams=STREAMS, lag=st.integers(1, 2), batch=SIZES, page=SIZES, data=st.data())
def test_any_sound_store_is_sound_and_any_broken_one_is_not(
    history, streams, lag, batch, page, data
):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resumable_scan, "BATCH", batch)
        patch.setattr(verify, "PAGE", page)
        patch.setattr(snapshot_comparison, "FOLDED", page)
        fill(history, streams, lag)
        assert told(look()) == []
        expected = []
        lagging = list(streams)[::2]
        for name, (_, length) in streams.items():
            if data.draw(st.booleans(), label=f"break {name!r}"):
                whole = length + (lag if name in lagging else 0)
                at = data.draw(st.integers(1, whole))
                one = {"aggregateId": name, "aggregateVersion": at}
                expected += data.draw(ANY_BREAK)(history, one, whole, length)
        assert told(look()) == sorted(expected, key=repr)
        chosen = [name for name in streams if data.draw(st.booleans())]
        assert told(look(ids=chosen)) == sorted(
            (one for one in expected if one[1] in chosen), key=repr
        )


# --- memory -----------------------------------------------------------------


@pytest.mark.faults
@pytest.mark.parametrize("sample", [500, None])
def test_memory_does_not_grow_with_the_store(store, history, sample):
    def peak(streams):
        for first in range(0, streams, 500):
            history.insert_many(
                one
                for number in range(first, first + 500)
                for one in stream(f"{streams}-{number:06}", 10)
            )
        AggregateRebuild.build_and_save_all()
        tracemalloc.start()
        try:
            report = look(sample=sample)
            assert report.ok
            return report.events, tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    few, early = peak(1_000)
    many, late = peak(4_000)
    assert many == 5 * few
    assert late < early * 1.25 + 500_000
