"""A full scan: a sound store is never accused, and what is broken is found."""

import random
from dataclasses import replace

import pytest
from bson import Int64, ObjectId

from ossy_event_store import Aggregate, AggregateRebuild
from ossy_event_store.mongodb import connection
from ossy_event_store.verification.report import UNSOUND
from ossy_event_store.verification.run import Run
from tests.support.flaky import Flaky, no_pause
from tests.support.verification import (
    BREAKS,
    LONG_AGO,
    NODE,
    SMALL,
    UNIQUE,
    break_stream,
    event,
    found,
    in_order,
    look,
    stream,
)


def test_a_sound_store_is_sound(library, face):
    report = look(face, sizes=SMALL)
    assert report.ok
    assert found(report) == []
    assert (report.streams, report.events, report.snapshots) == (21, 60, 21)
    assert report.compared == 21
    assert report.not_compared == {}


def test_an_empty_store_is_sound(store, face):
    report = look(face)
    assert report.ok
    assert (report.streams, report.events, report.snapshots) == (0, 0, 0)


# --- what is broken ---------------------------------------------------------

LOOKS = {
    "all": {},
    "all, in small pages": {"sizes": SMALL},
    "types": {"types": ["Reader", "Book"]},
    "ids, in small pages": {"sizes": SMALL, "ids": ["b-09", "b-10", "b-11"]},
    "since": {"since": LONG_AGO},
}
#: Without an event of its stream, a snapshot has no time.
UNSEEN = {"since": ["a lost stream"]}


@pytest.mark.parametrize("name", BREAKS)
def test_what_is_broken_is_found_and_nothing_else(library, name):
    # The reducer of readers uses no field that could be broken.
    of = "b-09" if name.startswith(("payload", "type", "no type")) else "b-10"
    expected = break_stream(library, name, of)
    for which, options in LOOKS.items():
        seen = [] if name in UNSEEN.get(which, ()) else expected
        assert found(look(**options)) == seen, which


@pytest.mark.parametrize("face", ["awaitable"], indirect=True)
@pytest.mark.parametrize(
    "name",
    [
        "two holes",
        "a lost end",
        "a lost stream",
        "another type in the middle",
        "another event of version None",
        "a snapshot of an unknown type",
        "a snapshot's version as a float",
        "a wrong value in a state",
    ],
)
def test_what_is_broken_is_found_by_the_awaitable_face(library, name, face):
    expected = break_stream(library, name)
    assert found(look(face)) == expected
    assert found(look(face, sizes=SMALL, ids=["b-10", "b-11"])) == expected


def test_what_is_broken_in_several_streams_is_reported_for_each(library):
    expected = []
    for of in ("b-09", "b-10"):
        expected += break_stream(library, "two holes", of)
    library.delete_many({"aggregateId": "b-00"})
    expected.append(("snapshot-orphan", "b-00", (1, 1)))
    assert found(look(sizes=SMALL)) == in_order(expected)


def test_a_snapshot_with_a_finding_is_not_compared(library):
    break_stream(library, "a snapshot ahead", "b-10")
    break_stream(library, "a lost stream", "b-09")
    assert look().not_compared == {UNSOUND: 2}


def test_suspects_are_remembered_up_to_a_limit(library):
    library.delete_many({"aggregateVersion": 1, "aggregateType": "Book"})
    Aggregate.collection.delete_many({})
    report = look(sizes=replace(SMALL, suspects=2))
    assert report.found["hole"] == 12
    assert report.total == 12


@pytest.mark.parametrize(
    "name", ["a hole in the middle", "payload [1]", "a lost stream"]
)
def test_what_is_broken_is_found_although_the_connection_breaks(
    store, library, name, monkeypatch
):
    of = "b-09" if name.startswith("payload") else "b-10"
    expected = break_stream(library, name, of)
    whole = Run.walk
    breaks = random.Random(name)

    def walk(self, *args):
        store = self.store
        events = Flaky(store.events, [breaks.randrange(4) for _ in range(3)])
        self.store = replace(store, events=events)
        try:
            return whole(self, *args)
        finally:
            self.store = store

    monkeypatch.setattr(Run, "walk", walk)
    monkeypatch.setattr(type(connection.blocking().client), "pause", no_pause)
    assert found(look(sizes=SMALL)) == expected


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
def test_two_events_of_one_version_are_found(library, loose, name):
    library.insert_many([dict(one) for one in TWICE[name]])
    versions = sorted({int(one["aggregateVersion"]) for one in TWICE[name]})
    of = TWICE[name][0]["aggregateId"]
    expected = [("duplicate", of, (version, version)) for version in versions]
    if TWICE[name][0]["aggregateType"] != "Book":
        expected.append(("type", of, (versions[0], versions[-1])))
    if name.endswith("a float"):
        expected.append(("event", of, (2, 2)))
    everything = [{"sizes": replace(SMALL, events=size)} for size in (1, 2, 3, 1000)]
    chosen = [{"types": ["Book"]}, {"ids": [of]}, {"since": LONG_AGO}]
    chosen = [{"sizes": SMALL, **options} for options in chosen]
    for options in everything + chosen:
        report = look(**options)
        assert found(report) == in_order(expected), options
        assert report.found["index"] == 1
        # Either of the two may be in the snapshot.
        assert report.not_compared == {UNSOUND: 1}


def test_two_events_of_a_list_of_streams_are_reported_one_by_one(with_lists):
    with_lists.drop_index(UNIQUE.name)
    with_lists.insert_many(event(["x", "y"], 1) for _ in range(2))
    assert found(look()) == [("event", None, (1, 1))] * 2


def test_a_duplicate_names_the_events(library, loose):
    library.insert_many([event("b-10", 3, _id=f"again-{n}") for n in range(9)])
    (finding,) = (one for one in look().findings if one.kind == "duplicate")
    assert str(finding).startswith(
        "duplicate: stream 'b-10', version 3: expected one event, found 10: "
    )
    assert "again-0, " in str(finding)
    assert str(finding).endswith(", …")


# --- what is sound ----------------------------------------------------------


def test_a_stream_without_a_snapshot_is_sound(library):
    Aggregate.collection.delete_one({"_id": "b-10"})
    report = look()
    assert report.ok
    assert (report.streams, report.snapshots) == (21, 20)


def test_a_snapshot_of_the_node_package_is_sound(library):
    snapshot = {"_id": "b-10", "aggregateType": "Book", "title": "Emma"}
    Aggregate.collection.replace_one({"_id": "b-10"}, snapshot)
    assert look().ok


def test_documents_of_another_program_are_ignored(with_lists):
    documents = [
        {"_id": ObjectId(), "aggregateType": "Book", "aggregateVersion": 1},
        {"_id": ObjectId()},
        {"_id": "nothing", "aggregateType": 5, "aggregateVersion": 99},
        {"_id": "nothing", "aggregateType": "Book"},
        {"_id": "b-10", "aggregateType": [], "aggregateVersion": 99},
    ]
    for document in documents:
        query = {"_id": document["_id"]}
        Aggregate.collection.replace_one(query, document, upsert=True)
        assert look().ok, document
        assert look(ids=["b-10", "nothing"]).ok, document


def test_events_of_the_node_package_are_sound(store, history, face):
    events = stream("n-1", 3, **NODE)
    events += stream("n-2", 2, created=Int64(1), createdBy=None)
    history.insert_many(events)
    assert look(face).ok


def test_imported_events_are_sound(store, history):
    history.insert_many(stream("n-1", 1, _id="x" * 255 + "@1"))
    assert look().ok


def test_a_long_stream_is_verified_in_batches(store, history, face):
    history.insert_many(stream("b-1", 2500))
    AggregateRebuild.build_and_save_all()
    assert look(face).ok
    history.delete_one({"aggregateVersion": 1000})
    assert found(look(face)) == [("hole", "b-1", (1000, 1000))]


# --- what it reads ----------------------------------------------------------


def test_of_a_sound_store_only_the_check_of_the_fields_reads_documents(library):
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
