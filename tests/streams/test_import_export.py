"""Events out as lines of JSON and in again: equal, in order, and safe to repeat."""

import datetime as dt
import json

import bson
import pytest
from bson import Binary, Code, DatetimeMS, Decimal128, Int64, ObjectId
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from ossy_event_store import Aggregate, EventStore
from ossy_event_store.documents.bson_types import CODEC
from ossy_event_store.documents.event_document import FIELDS
from ossy_event_store.documents.extended_json import Malformed
from ossy_event_store.exceptions import InvalidEvent, InvalidLine
from ossy_event_store.mongodb.ports import drive, drive_each
from ossy_event_store.streams import import_export
from ossy_event_store.streams.import_export import (
    TransferReport,
    derived_id,
    export_events,
    import_events,
    line_of,
    read_line,
)
from tests.documents.test_event_document import ANY, VALUES, built, nested
from tests.library.aggregate import Book

NOW = dt.datetime(2024, 2, 29, 12, 30, 15, 123000, dt.UTC)
STREAM = ("aggregateId", "aggregateVersion")


def line(aggregate_id="b", version=1, **fields):
    return json.dumps(
        {
            "aggregateId": aggregate_id,
            "aggregateType": "Book",
            "aggregateVersion": version,
            "type": "BookLent",
            "payload": {"to": "ann"},
            "created": "2024-02-29T12:30:15.123Z",
            **fields,
        }
    )


def stream(aggregate_id, last, first=1):
    return [line(aggregate_id, version) for version in range(first, last + 1)]


def bring(store, lines, **options):
    return drive(import_events(store, list(enumerate(lines, 1)), **options))


def refusal(store, lines, **options):
    with pytest.raises(InvalidLine) as caught:
        bring(store, lines, **options)
    return caught.value


def exported(store, *queries):
    return "".join(drive_each(export_events(store, queries or [{}]))).splitlines()


def stored():
    """Every event as bytes, in order of stream and version."""
    found = EventStore.collection.find(sort=dict.fromkeys(STREAM, 1))
    return [bson.encode(event, codec_options=CODEC) for event in found]


def counts(report):
    return report.events, report.stored, report.present


@pytest.fixture
def batch(monkeypatch):
    """Batches of three lines."""
    monkeypatch.setattr(import_export, "BATCH", 3)


class Interrupted(Exception):
    pass


# In


def test_a_line_is_stored_as_it_is(store):
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
def test_a_stream_with_the_longest_id_is_taken_without_event_ids(store, name):
    assert counts(bring(store, stream(name, 2))) == (2, 2, 0)


def test_a_line_without_payload_gets_an_empty_one(store):
    text = json.loads(line())
    del text["payload"]
    bring(store, [json.dumps(text)])
    (event,) = EventStore.get_event_stream("b")
    assert (event["payload"], event["createdBy"]) == ({}, None)


def test_an_import_tells_what_it_stored(store):
    assert counts(bring(store, stream("a", 2) + stream("b", 3))) == (5, 5, 0)


def test_nothing_to_import_is_no_error(store):
    assert counts(bring(store, [])) == (0, 0, 0)


def test_blank_lines_are_passed_over_and_counted_as_lines(store):
    assert refusal(store, ["", "  \r\n", line(), "\t", "x"]).line == 5


def test_a_second_import_finds_everything_there(store, batch):
    lines = stream("a", 5) + stream("b", 2)
    bring(store, lines)
    before = stored()
    assert counts(bring(store, lines)) == (7, 0, 7)
    assert stored() == before


def test_interleaved_streams_are_taken_as_they_come(store, batch):
    lines = [line(i, v) for v in range(1, 6) for i in "abcd"]
    assert counts(bring(store, lines)) == (20, 20, 0)


def test_more_streams_than_are_remembered_are_looked_up_again(
    store, batch, monkeypatch
):
    monkeypatch.setattr(import_export, "REMEMBERED", 2)
    lines = [line(i, v) for v in range(1, 5) for i in "abcdefg"]
    assert counts(bring(store, lines)) == (28, 28, 0)


@pytest.mark.parametrize("survived", range(5))
def test_an_interrupted_import_is_simply_run_again(store, batch, survived):
    lines = [line(i, v) for v in range(1, 6) for i in "abc"]

    def breaking():
        yield from list(enumerate(lines, 1))[: 3 * survived + 1]
        raise Interrupted

    with pytest.raises(Interrupted):
        drive(import_events(store, breaking()))
    assert EventStore.collection.count_documents({}) == 3 * survived
    assert counts(bring(store, lines)) == (15, 15 - 3 * survived, 3 * survived)


def test_an_import_that_broke_off_inside_a_batch_is_simply_run_again(store, batch):
    lines = stream("a", 5)
    EventStore.collection.insert_one(read_line(lines[0]))
    EventStore.collection.insert_one(read_line(lines[1]))
    assert counts(bring(store, lines)) == (5, 3, 2)


def test_progress_is_shown_after_every_batch(store, batch):
    seen = []
    bring(store, stream("a", 7), progress=lambda report: seen.append(report.events))
    assert seen == [3, 6, 7]


def test_an_imported_stream_goes_on_with_a_live_append(store):
    bring(store, stream("b", 3))
    assert Aggregate.of(Book, "b").add({"type": "BookReturned"}).version == 4


def test_an_import_goes_on_where_a_stream_ends(store, lend):
    lend("b", "BookBought", "BookLent")
    assert counts(bring(store, stream("b", 4, first=3))) == (2, 2, 0)


# In, refused


@pytest.mark.parametrize(
    ("lines", "number", "reason"),
    [
        (stream("a", 3, first=2), 1, "2 does not follow on 0, the last version"),
        ([*stream("a", 2), line("a", 4)], 3, "4 does not follow on 2"),
        ([*stream("a", 4), line("a", 6)], 5, "6 does not follow on 4"),
        ([line("a", 2), line("a", 1)], 1, "2 does not follow on 0"),
    ],
)
def test_a_gap_is_refused(store, batch, lines, number, reason):
    error = refusal(store, lines)
    assert (error.line, error.path) == (number, "aggregateVersion")
    assert reason in error.reason


def test_a_gap_after_what_is_stored_is_refused(store, lend):
    lend("b", "BookBought")
    assert "3 does not follow on 1" in refusal(store, [line("b", 3)]).reason


def test_a_refused_line_leaves_what_came_before_its_batch(store, batch):
    refusal(store, [*stream("a", 4), line("a", 6)])
    assert EventStore.collection.count_documents({}) == 3


def test_another_type_than_the_stored_is_refused(store, lend):
    lend("b", "BookBought")
    error = refusal(store, [line("b", 2, aggregateType="Cook")])
    assert error.path == "aggregateType"
    assert "is 'Cook', but stream 'b' is of type 'Book'" in error.reason


@pytest.mark.parametrize("between", [0, 3])
def test_another_type_than_an_earlier_line_is_refused(store, batch, between):
    lines = [line("b"), *stream("a", between), line("b", 2, aggregateType="Cook")]
    assert refusal(store, lines).line == len(lines)


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
def test_another_event_at_a_version_is_refused(store, batch, other, between):
    lines = [line("b"), *stream("a", between), line("b", **other)]
    error = refusal(store, lines)
    assert (error.line, error.path) == (len(lines), "aggregateVersion")
    assert "stream 'b' has another event at version 1" in error.reason


@pytest.mark.parametrize("between", [0, 3])
def test_the_same_line_twice_is_there_already(store, batch, between):
    lines = [line("b"), *stream("a", between), line("b")]
    assert counts(bring(store, lines)) == (2 + between, 1 + between, 1)


@pytest.mark.parametrize("between", [0, 3])
def test_one_id_for_two_events_is_refused(store, batch, between):
    lines = [line("b", _id="x"), *stream("a", between), line("c", _id="x")]
    error = refusal(store, lines)
    assert (error.line, error.path) == (len(lines), "_id")
    assert error.reason == "'x' is the id of another event"


def test_an_id_of_a_stored_event_is_refused(store):
    bring(store, [line("b", _id="x")])
    assert refusal(store, [line("c"), line("d", _id="x")]).line == 2


def test_a_derived_id_that_is_taken_is_refused(store):
    EventStore.append_event(
        {"aggregateId": "z", "aggregateType": "Z", "type": "T", "id": "b@1"}
    )
    assert refusal(store, stream("b", 1)).path == "_id"


def test_no_stream_gets_a_hole_when_an_id_is_refused(store):
    bring(store, [line("z", _id="x")])
    refusal(store, [line("b"), line("b", 2, _id="x"), line("b", 3), line("c")])
    assert [e["aggregateVersion"] for e in EventStore.get_event_stream("b")] in (
        [],
        [1],
    )


def test_a_live_append_between_two_batches_is_noticed(store, batch):
    def append(report):
        if report.events == 3:
            EventStore.append_event(
                {"aggregateId": "b", "aggregateType": "Book", "type": "BookLost"}
            )

    error = refusal(store, stream("b", 6), progress=append)
    assert (error.line, error.path) == (4, "aggregateVersion")
    assert error.reason == "somebody else appended this version meanwhile"


def test_a_live_append_is_kept(store, batch):
    test_a_live_append_between_two_batches_is_noticed(store, batch)
    types = [e["type"] for e in EventStore.get_event_stream("b")]
    assert types == ["BookLent"] * 3 + ["BookLost"]


def without(name):
    fields = json.loads(line())
    del fields[name]
    return json.dumps(fields)


@pytest.mark.parametrize(
    ("text", "path", "reason"),
    [
        ("{", "", "not JSON: "),
        ("[]", "", "expected a JSON object, not list"),
        ("5", "", "expected a JSON object, not int"),
        ("null", "", "not NoneType"),
        *(
            (without(name), name, "missing")
            for name in (*STREAM, "aggregateType", "type", "created")
        ),
        (line(aggregateType=None), "aggregateType", "missing"),
        (line(stream=1), "stream", "not a field of an event: _id, aggregateId"),
        (line(version=0), "aggregateVersion", "from 1, not 0"),
        (line(version=1.0), "aggregateVersion", "from 1, not 1.0"),
        (line(version="1"), "aggregateVersion", "from 1, not '1'"),
        (line(version=2**63), "aggregateVersion", "64 bits"),
        (line({"$oid": "65e0a1b2c3d4e5f601234567"}), "aggregateId", "not ObjectId"),
        (line(5), "aggregateId", "must be a string, not int"),
        (line(""), "aggregateId", "it has 0"),
        (line("x" * 256), "aggregateId", "it has 256"),
        (line("a\0"), "aggregateId", "NUL"),
        (line("\ud800"), "aggregateId", "surrogate"),
        (line(_id=5), "_id", "must be a string, not int"),
        (line(_id={"$oid": "x"}), "_id", "not a valid ObjectId"),
        (line(payload=[]), "payload", "a dict, not list"),
        (line(payload=None), "payload", "a dict, not NoneType"),
        (line(payload={"a": [{"$oid": 5}]}), "payload.a[0]", "not extended JSON"),
        (line(payload={"a\0": 1}), "payload.a\0", "NUL"),
        (line(payload={"a": "\udc00"}), "payload.a", "surrogate"),
        (line(payload={"a": 2**64}), "payload.a", "64 bits"),
        (line(metadata="x"), "metadata", "a dict, not str"),
        (line(metadata=None), "metadata", "a dict, not NoneType"),
        (line(createdBy=5), "createdBy", "a string, not int"),
        (line(created="2024-02-29"), "created", "no time zone"),
        (line(created="2024-02-30T00:00:00Z"), "created", "not an ISO 8601"),
        (line(created="2024-01-01T00:00:00.123456Z"), "created", "finer than"),
        (line(created=True), "created", "not bool"),
        (line(created=[]), "created", "not list"),
        (line(created={}), "created", "not dict"),
        (line(created=1e300), "created", "beyond the years"),
        (line(created={"$date": {"$numberLong": str(2**60)}}), "created", "datetime"),
        (line(created={"$date": "x"}), "created", "not an ISO 8601"),
        (line(payload=nested(200, 1)), "payload.a", "nested deeper than 178"),
        (line(payload={"a": nested(400, 1)}), "", "nested"),
        (line(payload={"a": 1}).replace("1}", "1e999}", 1), "payload.a", "double"),
    ],
)
def test_a_line_that_is_no_event_is_refused(text, path, reason):
    with pytest.raises((Malformed, InvalidEvent)) as caught:
        read_line(text)
    assert caught.value.path.startswith(path)
    assert reason in caught.value.reason


JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**65), 2**65)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
    | st.sampled_from([1.0, -1.0, 1e308, "1e999", "-1e999", "$oid", "\ud800"]),
    lambda values: st.lists(values) | st.dictionaries(st.text(), values),
    max_leaves=8,
)


def outcome(text):
    """What comes of a line: the bytes of its event, or what is wrong with it."""
    try:
        return bson.encode(read_line(text), codec_options=CODEC)
    except (Malformed, InvalidEvent) as error:
        return type(error), error.path, error.reason


@hypothesis_settings(ANY, max_examples=300)
@given(value=JSON_VALUES, escaped=st.booleans(), field=st.sampled_from(FIELDS))
def test_a_plain_line_is_read_as_any_other_is(value, escaped, field):
    whole = json.loads(line()) | {field: value}
    text = json.dumps(whole, ensure_ascii=escaped)
    for number in ("1e999", "-1e999"):  # which no dumps writes
        text = text.replace(f'"{number}"', number)
    with pytest.MonkeyPatch.context() as patch:
        as_it_is = outcome(text)
        patch.setattr(import_export, "_is_plain", lambda text: False)
        assert as_it_is == outcome(text)


@pytest.mark.parametrize(
    "value", ["a", "ä€", 5, 2**62, 1.0, 1e300, True, None, [], {"b": [{}]}], ids=str
)
def test_a_line_without_types_or_escapes_is_not_looked_through(monkeypatch, value):
    text = line(payload={"a": value}).encode().decode("unicode_escape")
    monkeypatch.setattr(import_export, "decode", None)
    monkeypatch.setattr(import_export, "checked_document", None)
    assert read_line(text)["payload"] == {"a": value}


def test_a_line_too_large_for_mongodb_is_refused():
    with pytest.raises(InvalidEvent, match="an event may have 16,777,216"):
        read_line(line(payload={"a": "x" * 2**24}))


def test_a_refused_line_is_told_with_its_number(store):
    error = refusal(store, [line(), "", line(version="x")])
    assert str(error).startswith("line 3, aggregateVersion: must be a whole number")


def test_a_batch_ends_when_it_is_large(store, monkeypatch):
    monkeypatch.setattr(import_export, "LARGE", 2 * len(line()))
    counted = []
    bring(store, stream("b", 7), progress=lambda report: counted.append(report.events))
    assert counted == [3, 6, 7]


# A dry run


def test_a_dry_run_stores_nothing(store, batch):
    report = bring(store, stream("a", 7), dry_run=True)
    assert counts(report) == (7, 0, 0)
    assert EventStore.collection.count_documents({}) == 0


def test_a_dry_run_finds_what_is_there(store, batch):
    bring(store, stream("a", 4))
    assert counts(bring(store, stream("a", 7), dry_run=True)) == (7, 0, 4)


@pytest.mark.parametrize("between", [0, 3])
def test_a_dry_run_takes_the_same_line_twice(store, batch, between):
    lines = [line("b"), *stream("a", between), line("b")]
    assert counts(bring(store, lines, dry_run=True)) == (2 + between, 0, 1)


def test_a_dry_run_of_more_streams_than_are_remembered_is_like_the_import(
    store, batch, monkeypatch
):
    monkeypatch.setattr(import_export, "REMEMBERED", 2)
    lines = [line(i, v) for v in range(1, 5) for i in "abcdefg"]
    assert bring(store, lines, dry_run=True).events == 28


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
def test_a_dry_run_refuses_what_the_import_refuses(store, batch, lines):
    bring(store, [line("there", _id="taken")])
    dry = refusal(store, lines, dry_run=True)
    assert str(dry) == str(refusal(store, lines))


# Out


def test_an_event_is_one_line_with_its_fields_in_order(store):
    bring(store, [line(_id="mine")])
    (text,) = exported(store)
    assert text == (
        '{"_id":"mine","aggregateId":"b","aggregateType":"Book","aggregateVersion":1,'
        '"type":"BookLent","payload":{"to":"ann"},"created":"2024-02-29T12:30:15.123Z",'
        '"createdBy":null}'
    )


def test_a_derived_id_is_left_out(store):
    bring(store, stream("b", 1))
    assert "_id" not in json.loads(exported(store)[0])


def test_an_export_is_in_order_of_stream_and_version(store, lend):
    for name in "ba":
        lend(name, "BookBought", "BookLent")
    found = [tuple(map(json.loads(text).get, STREAM)) for text in exported(store)]
    assert found == [("a", 1), ("a", 2), ("b", 1), ("b", 2)]


def test_an_export_tells_how_far_it_is(store, lend):
    lend("b", "BookBought", "BookLent")
    seen = []
    list(drive_each(export_events(store, [{}], lambda r: seen.append(r.events))))
    assert seen == [2]


def test_an_export_of_nothing_is_empty(store):
    assert exported(store) == []


def test_out_in_and_out_again_is_the_same_to_the_byte(store, history, lend, batch):
    lend("b", "BookBought", "BookLent")
    EventStore.append_event(
        {
            "aggregateId": "odd",
            "aggregateType": "Odd",
            "type": "T",
            "payload": {
                "$oid": "x",
                "b": Binary(b"x", 5),
                "c": Code("f", {"a": 1}),
                "d": [DatetimeMS(2**60), Decimal128("1.0"), Int64(1), ObjectId()],
            },
            "metadata": {"a.b": None},
            "createdBy": "ann",
            "created": dt.datetime(1, 1, 1, tzinfo=dt.UTC),
        }
    )
    lines, before = exported(store), stored()
    history.delete_many({})
    bring(store, lines)
    assert stored() == before
    assert exported(store) == lines


@hypothesis_settings(ANY, max_examples=150)
@given(VALUES)
def test_the_line_of_an_event_is_read_equal_to_the_byte(value):
    event = built({"v": value})
    read = read_line(line_of(event))
    assert bson.encode(read, codec_options=CODEC) == bson.encode(
        event, codec_options=CODEC
    )


@pytest.mark.parametrize(
    "event",
    [
        {"payload": {"$ref": "c", "$id": 1}},
        {"payload": {"v": Binary(bytes(16), 3)}},
        {"payload": {"v": nested(60)}, "metadata": {"$document": {"$date": 1}}},
        {"payload": {}, "id": "s@1"},
        {"payload": {}, "id": "s@2"},
        {"payload": {}, "id": "{"},
    ],
    ids=str,
)
def test_the_line_of_an_odd_event_is_read_equal(event):
    try:
        event = built(**event)
    except InvalidEvent:
        return
    read = read_line(line_of(event))
    assert bson.encode(read, codec_options=CODEC) == bson.encode(
        event, codec_options=CODEC
    )


def test_a_copy_as_deep_as_mongodb_allows_is_read_from_its_line():
    event = built({}) | {"payload": {"a": nested(177, 1)}}
    assert read_line(line_of(event)) == event


def test_a_version_of_64_bits_goes_out_and_in(store):
    event = built({}, id=derived_id("s", 3)) | {"aggregateVersion": Int64(3)}
    assert read_line(line_of(event)) == event


def test_the_id_derived_from_a_version_of_64_bits_is_that_of_the_number():
    assert read_line(line(version={"$numberLong": "3"}))["_id"] == "b@3"


def test_an_object_id_that_is_null_is_refused_rather_than_made_up():
    with pytest.raises(Malformed):
        read_line(line(_id={"$oid": None}))


# The Node package


@pytest.fixture
def node(store):
    """An event as the Node package writes it."""
    event = {
        "_id": ObjectId("65e0a1b2c3d4e5f601234567"),
        "type": "BookBought",
        "aggregateId": "n",
        "aggregateType": "Book",
        "aggregateVersion": 1,
        "payload": {"title": "Emma"},
        "created": 1709209815123,
        "createdBy": "u",
    }
    EventStore.collection.insert_one(event)
    return event


def test_an_event_of_the_node_package_goes_out_with_a_date(store, node):
    (text,) = exported(store)
    assert json.loads(text)["created"] == "2024-02-29T12:30:15.123Z"


def test_an_event_of_the_node_package_comes_in_as_it_is_read(store, node, history):
    before = EventStore.get_event_stream("n")
    lines = exported(store)
    history.delete_many({})
    bring(store, lines)
    assert EventStore.get_event_stream("n") == before


def test_an_event_of_the_node_package_that_is_there_is_passed_over(store, node):
    assert counts(bring(store, exported(store))) == (1, 0, 1)


@pytest.mark.parametrize("field", ["createdBy", "payload"])
def test_an_event_of_the_node_package_without_a_field_is_passed_over(
    store, node, history, field
):
    history.update_one({}, {"$unset": {field: ""}})
    assert counts(bring(store, exported(store))) == (1, 0, 1)


def test_an_event_without_a_date_does_not_end_an_export(store, node, history):
    history.update_one({}, {"$unset": {"created": ""}})
    assert len(exported(store)) == 1


def test_milliseconds_in_a_line_are_a_date(store):
    assert read_line(line(created=1709209815123))["created"] == NOW


@pytest.mark.parametrize("created", [8.64e15, float("nan"), 2**62])
def test_milliseconds_that_no_date_can_have_do_not_end_an_export(
    node, created, store, history
):
    history.update_one({}, {"$set": {"created": created}})
    assert len(exported(store)) == 1


# The report


def test_a_report_without_time_has_no_rate():
    assert TransferReport(events=5).rate == 0


def test_a_report_has_events_a_second():
    assert TransferReport(events=10, seconds=4).rate == 2.5
