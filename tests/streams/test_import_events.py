"""An import stores the events of lines unchanged, in order, and is safe to repeat."""

import json

import pytest

from ossy_event_store import Aggregate, EventStore
from ossy_event_store.mongodb.ports import drive
from ossy_event_store.streams.event_lines import read_line
from ossy_event_store.streams.import_events import ImportLimits, import_events
from tests.library.aggregate import Book
from tests.support.event_documents import NOW
from tests.support.event_lines import (
    bring,
    counts,
    exported,
    line,
    refusal,
    stored,
    stream,
)

THREES = ImportLimits(lines=3)


class Interrupted(Exception):
    pass


# Stored


def test_a_line_is_stored_unchanged(store):
    bring(store, [line(_id="mine", createdBy="ann", metadata={"a": 1})])
    assert EventStore.get_event_stream("b") == [
        {
            "_id": "mine",
            "aggregateId": "b",
            "aggregateType": "Book",
            "aggregateVersion": 1,
            "type": "BookLent",
            "payload": {"to": "ann"},
            "created": NOW,
            "createdBy": "ann",
            "metadata": {"a": 1},
        }
    ]


def test_a_line_without_an_id_gets_one_of_stream_and_version(store):
    bring(store, stream("b", 2))
    assert [e["_id"] for e in EventStore.get_event_stream("b")] == ["b@1", "b@2"]


@pytest.mark.parametrize("name", ["x" * 255, "ü" * 255])
def test_lines_of_the_longest_stream_id_need_no_event_ids(store, name):
    assert counts(bring(store, stream(name, 2))) == (2, 2, 0)


def test_a_line_without_payload_gets_an_empty_one(store):
    text = json.loads(line())
    del text["payload"]
    bring(store, [json.dumps(text)])
    (event,) = EventStore.get_event_stream("b")
    assert (event["payload"], event["createdBy"]) == ({}, None)


def test_an_import_reports_what_it_stored(store):
    assert counts(bring(store, stream("a", 2) + stream("b", 3))) == (5, 5, 0)


def test_an_empty_import_is_not_an_error(store):
    assert counts(bring(store, [])) == (0, 0, 0)


def test_blank_lines_are_skipped_but_counted(store):
    assert refusal(store, ["", "  \r\n", line(), "\t", "x"]).line == 5


def test_a_second_import_stores_nothing(store):
    lines = stream("a", 5) + stream("b", 2)
    bring(store, lines, limits=THREES)
    before = stored()
    assert counts(bring(store, lines, limits=THREES)) == (7, 0, 7)
    assert stored() == before


def test_streams_may_interleave(store):
    lines = [line(i, v) for v in range(1, 6) for i in "abcd"]
    assert counts(bring(store, lines, limits=THREES)) == (20, 20, 0)


def test_more_streams_than_are_remembered_are_looked_up_again(store):
    lines = [line(i, v) for v in range(1, 5) for i in "abcdefg"]
    assert counts(bring(store, lines, limits=ImportLimits(lines=3, streams=2))) == (
        28,
        28,
        0,
    )


@pytest.mark.parametrize("survived", range(5))
def test_an_interrupted_import_can_be_run_again(store, survived):
    lines = [line(i, v) for v in range(1, 6) for i in "abc"]

    def breaking():
        yield from list(enumerate(lines, 1))[: 3 * survived + 1]
        raise Interrupted

    with pytest.raises(Interrupted):
        drive(import_events(store, breaking(), limits=THREES))
    assert EventStore.collection.count_documents({}) == 3 * survived
    assert counts(bring(store, lines, limits=THREES)) == (
        15,
        15 - 3 * survived,
        3 * survived,
    )


def test_an_import_that_broke_off_inside_a_batch_can_be_run_again(store):
    lines = stream("a", 5)
    EventStore.collection.insert_one(read_line(lines[0]))
    EventStore.collection.insert_one(read_line(lines[1]))
    assert counts(bring(store, lines, limits=THREES)) == (5, 3, 2)


def test_progress_is_reported_after_every_batch(store):
    seen = []
    bring(
        store,
        stream("a", 7),
        progress=lambda report: seen.append(report.events),
        limits=THREES,
    )
    assert seen == [3, 6, 7]


def test_a_live_append_continues_an_imported_stream(store):
    bring(store, stream("b", 3))
    assert Aggregate.of(Book, "b").add({"type": "BookReturned"}).version == 4


def test_an_import_continues_a_stream(store, lend):
    lend("b", "BookBought", "BookLent")
    assert counts(bring(store, stream("b", 4, first=3))) == (2, 2, 0)


# Refused


@pytest.mark.parametrize(
    ("lines", "number", "reason"),
    [
        (stream("a", 3, first=2), 1, "2 does not follow 0, the last version"),
        ([*stream("a", 2), line("a", 4)], 3, "4 does not follow 2"),
        ([*stream("a", 4), line("a", 6)], 5, "6 does not follow 4"),
        ([line("a", 2), line("a", 1)], 1, "2 does not follow 0"),
    ],
)
def test_a_gap_is_refused(store, lines, number, reason):
    error = refusal(store, lines, limits=THREES)
    assert (error.line, error.path) == (number, "aggregateVersion")
    assert reason in error.reason


def test_a_gap_after_the_stored_events_is_refused(store, lend):
    lend("b", "BookBought")
    assert "3 does not follow 1" in refusal(store, [line("b", 3)]).reason


def test_a_refused_line_leaves_the_batches_before_it_stored(store):
    refusal(store, [*stream("a", 4), line("a", 6)], limits=THREES)
    assert EventStore.collection.count_documents({}) == 3


def test_a_type_other_than_that_of_the_stored_stream_is_refused(store, lend):
    lend("b", "BookBought")
    error = refusal(store, [line("b", 2, aggregateType="Cook")])
    assert error.path == "aggregateType"
    assert "is 'Cook', but stream 'b' is of type 'Book'" in error.reason


@pytest.mark.parametrize("between", [0, 3])
def test_a_type_other_than_that_of_an_earlier_line_is_refused(store, between):
    lines = [line("b"), *stream("a", between), line("b", 2, aggregateType="Cook")]
    assert refusal(store, lines, limits=THREES).line == len(lines)


@pytest.mark.parametrize(
    "other",
    [
        {"_id": "other"},
        {"payload": {"to": "bob"}},
        {"type": "BookLost"},
        {"created": "2024-02-29T12:30:15.124Z"},
        {"createdBy": "bob"},
        {"metadata": {"a": 1}},
    ],
)
@pytest.mark.parametrize("between", [0, 3])
def test_another_event_at_a_version_is_refused(store, other, between):
    lines = [line("b"), *stream("a", between), line("b", **other)]
    error = refusal(store, lines, limits=THREES)
    assert (error.line, error.path) == (len(lines), "aggregateVersion")
    assert "stream 'b' has another event at version 1" in error.reason


@pytest.mark.parametrize("between", [0, 3])
def test_a_repeated_line_counts_as_stored_already(store, between):
    lines = [line("b"), *stream("a", between), line("b")]
    assert counts(bring(store, lines, limits=THREES)) == (2 + between, 1 + between, 1)


@pytest.mark.parametrize("between", [0, 3])
def test_the_same_id_on_two_events_is_refused(store, between):
    lines = [line("b", _id="x"), *stream("a", between), line("c", _id="x")]
    error = refusal(store, lines, limits=THREES)
    assert (error.line, error.path) == (len(lines), "_id")
    assert error.reason == "'x' is the id of another event"


def test_an_id_of_a_stored_event_is_refused(store):
    bring(store, [line("b", _id="x")])
    assert refusal(store, [line("c"), line("d", _id="x")]).line == 2


def test_a_derived_id_that_another_event_has_is_refused(store):
    EventStore.append_event(
        {"aggregateId": "z", "aggregateType": "Z", "type": "T", "id": "b@1"}
    )
    assert refusal(store, stream("b", 1)).path == "_id"


def test_a_refused_id_leaves_no_hole_in_a_stream(store):
    bring(store, [line("z", _id="x")])
    refusal(store, [line("b"), line("b", 2, _id="x"), line("b", 3), line("c")])
    assert [e["aggregateVersion"] for e in EventStore.get_event_stream("b")] in (
        [],
        [1],
    )


def test_a_live_append_between_two_batches_is_noticed_and_kept(store):
    def append(report):
        if report.events == 3:
            EventStore.append_event(
                {"aggregateId": "b", "aggregateType": "Book", "type": "BookLost"}
            )

    error = refusal(store, stream("b", 6), progress=append, limits=THREES)
    assert (error.line, error.path) == (4, "aggregateVersion")
    assert error.reason == "another writer appended this version meanwhile"
    types = [e["type"] for e in EventStore.get_event_stream("b")]
    assert types == ["BookLent"] * 3 + ["BookLost"]


def test_an_error_names_the_number_of_the_line(store):
    error = refusal(store, [line(), "", line(version="x")])
    assert str(error).startswith("line 3, aggregateVersion: must be an integer from 1")


def test_a_batch_ends_at_its_limit_of_characters(store):
    limits = ImportLimits(characters=2 * len(line()))
    seen = []
    bring(
        store,
        stream("b", 7),
        progress=lambda report: seen.append(report.events),
        limits=limits,
    )
    assert seen == [3, 6, 7]


# A dry run


def test_a_dry_run_stores_nothing(store):
    report = bring(store, stream("a", 7), dry_run=True, limits=THREES)
    assert counts(report) == (7, 0, 0)
    assert EventStore.collection.count_documents({}) == 0


def test_a_dry_run_counts_the_stored_events(store):
    bring(store, stream("a", 4), limits=THREES)
    assert counts(bring(store, stream("a", 7), dry_run=True, limits=THREES)) == (
        7,
        0,
        4,
    )


@pytest.mark.parametrize("between", [0, 3])
def test_a_dry_run_accepts_a_repeated_line(store, between):
    lines = [line("b"), *stream("a", between), line("b")]
    assert counts(bring(store, lines, dry_run=True, limits=THREES)) == (
        2 + between,
        0,
        1,
    )


def test_a_dry_run_copes_with_more_streams_than_are_remembered(store):
    limits = ImportLimits(lines=3, streams=2)
    lines = [line(i, v) for v in range(1, 5) for i in "abcdefg"]
    assert bring(store, lines, dry_run=True, limits=limits).events == 28


@pytest.mark.parametrize(
    "lines",
    [
        [line("a", 2)],
        [line("b"), line("b", aggregateType="Cook")],
        [line("there", payload={})],
        [line("b"), line("b", payload={})],
        [line("b", _id="taken")],
        [line("b", _id="x"), line("c", _id="x")],
        ["x"],
    ],
    ids=[
        "gap",
        "type",
        "stored",
        "twice",
        "id taken",
        "id twice",
        "no JSON",
    ],
)
def test_a_dry_run_refuses_what_the_import_refuses(store, lines):
    bring(store, [line("there", _id="taken")], limits=THREES)
    dry = refusal(store, lines, dry_run=True, limits=THREES)
    assert str(dry) == str(refusal(store, lines, limits=THREES))


# The Node package


def test_an_event_of_the_node_package_is_imported_as_it_was_read(
    store, node_event, history
):
    before = EventStore.get_event_stream("n")
    lines = exported(store)
    history.delete_many({})
    bring(store, lines)
    assert EventStore.get_event_stream("n") == before


def test_a_stored_event_of_the_node_package_is_skipped(store, node_event):
    assert counts(bring(store, exported(store))) == (1, 0, 1)


@pytest.mark.parametrize("field", ["createdBy", "payload"])
def test_a_stored_event_of_the_node_package_without_a_field_is_skipped(
    store, node_event, history, field
):
    history.update_one({}, {"$unset": {field: ""}})
    assert counts(bring(store, exported(store))) == (1, 0, 1)


@pytest.mark.parametrize("version", ["1", None, float("nan")])
def test_a_document_that_is_not_an_event_does_not_stop_an_import(
    store, history, version
):
    history.insert_one({"aggregateId": "b", "aggregateVersion": version})
    assert counts(bring(store, stream("b", 2))) == (2, 2, 0)


def test_an_event_whose_version_is_stored_as_a_double_is_recognised(store, history):
    bring(store, stream("b", 1))
    before = exported(store)
    history.update_one({}, {"$set": {"aggregateVersion": 1.0}})
    assert counts(bring(store, before)) == (1, 0, 1)


def test_a_line_that_an_index_of_the_project_refuses(store, history):
    name = history.create_index("payload.to", unique=True, sparse=True)
    try:
        error = refusal(store, stream("b", 2))
    finally:
        history.drop_index(name)
    assert (error.line, error.path) == (2, "payload.to")
    assert "not the event store's" in error.reason
