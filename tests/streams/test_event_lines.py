"""An event becomes one line of JSON, and the line an equal event."""

import json

import bson
import pytest
from bson import Binary, Int64
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from ossy_event_store.documents.bson_types import CODEC
from ossy_event_store.documents.event_document import FIELDS
from ossy_event_store.documents.extended_json import Malformed
from ossy_event_store.exceptions import InvalidEvent
from ossy_event_store.streams import event_lines
from ossy_event_store.streams.event_lines import derived_id, line_of, read_line
from tests.support.bson_values import ANY, VALUES
from tests.support.event_documents import NOW, built, nested
from tests.support.event_lines import STREAM, line

# Read


def without(name):
    fields = json.loads(line())
    del fields[name]
    return json.dumps(fields)


@pytest.mark.parametrize(
    ("text", "path", "reason"),
    [
        ("{", "", "not JSON: "),
        ("[]", "", "expected a JSON object, not list; write one object a line"),
        ("[" + line() + ",", "", "mongoexport does without --jsonArray"),
        ("{\n", "", "without --jsonArray and --pretty"),
        ("5", "", "expected a JSON object, not int"),
        ("null", "", "not NoneType"),
        *(
            (without(name), name, "missing")
            for name in (*STREAM, "aggregateType", "type", "created")
        ),
        (line(aggregateType=None), "aggregateType", "missing"),
        (line(stream=1), "stream", "not a field of an event: _id, aggregateId"),
        (line(version=0), "aggregateVersion", "from 1, not 0"),
        (line(version=1.5), "aggregateVersion", "from 1, not 1.5"),
        (line(version="1"), "aggregateVersion", "from 1, not '1'"),
        (line(version=2**63), "aggregateVersion", "64 bits"),
        (line({"$oid": "65e0a1b2c3d4e5f601234567"}), "aggregateId", "not ObjectId"),
        (line(5), "aggregateId", "must be a string, not int"),
        (line(""), "aggregateId", "not 0"),
        (line("x" * 256), "aggregateId", "not 256"),
        (line("a\0"), "aggregateId", "NUL"),
        (line("\ud800"), "aggregateId", "surrogate"),
        (line(typeVersion=0), "typeVersion", "must be an integer from 1, not 0"),
        (line(typeVersion=1.5), "typeVersion", "must be an integer from 1, not 1.5"),
        (line(subjects=[]), "subjects", "reserved for a later version"),
        (line(_id=5), "_id", "must be a string, not int"),
        (line(_id={"$oid": "x"}), "_id", "not a valid ObjectId"),
        (line(payload=[]), "payload", "a dict, not list"),
        (line(payload=None), "payload", "a dict, not NoneType"),
        (line(payload={"a": [{"$oid": 5}]}), "payload.a[0]", "not Extended JSON"),
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
        (line(created={"$date": {"$numberLong": str(2**60)}}), "created", "beyond"),
        (line(created={"$oid": "65e0a1b2c3d4e5f601234567"}), "created", "not ObjectId"),
        (line(created={"$numberDouble": "NaN"}), "created", "beyond the years"),
        (line(created={"$date": "x"}), "created", "not an ISO 8601"),
        (line(payload=nested(200, 1)), "payload.a", "nested more than 178 levels"),
        (line(payload={"a": nested(400, 1)}), "", "nested"),
        (line(payload={"a": 1}).replace("1}", "1e999}", 1), "payload.a", "double"),
    ],
)
def test_a_line_that_holds_no_event_is_refused(text, path, reason):
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
    """Return the bytes of a line's event, or the error of reading it."""
    try:
        return bson.encode(read_line(text), codec_options=CODEC)
    except (Malformed, InvalidEvent) as error:
        return type(error), error.path, error.reason


@hypothesis_settings(ANY, max_examples=300)
@given(value=JSON_VALUES, escaped=st.booleans(), field=st.sampled_from(FIELDS))
def test_the_quick_way_reads_a_plain_line_as_the_other_does(value, escaped, field):
    whole = json.loads(line()) | {field: value}
    text = json.dumps(whole, ensure_ascii=escaped)
    for number in ("1e999", "-1e999"):  # which no dumps writes
        text = text.replace(f'"{number}"', number)
    with pytest.MonkeyPatch.context() as patch:
        as_it_is = outcome(text)
        patch.setattr(event_lines, "_is_plain", lambda text: False)
        assert as_it_is == outcome(text)


@pytest.mark.parametrize(
    "value", ["a", "ä€", 5, 2**62, 1.0, 1e300, True, None, [], {"b": [{}]}], ids=str
)
def test_a_line_without_types_or_escapes_is_read_the_quick_way(monkeypatch, value):
    text = line(payload={"a": value}).encode().decode("unicode_escape")
    monkeypatch.setattr(event_lines, "decode", None)
    monkeypatch.setattr(event_lines, "checked_document", None)
    assert read_line(text)["payload"] == {"a": value}


def test_a_line_too_large_for_mongodb_is_refused():
    with pytest.raises(InvalidEvent, match="an event may have 16,777,216"):
        read_line(line(payload={"a": "x" * 2**24}))


# Written and read


@hypothesis_settings(ANY, max_examples=150)
@given(VALUES)
def test_a_line_is_read_back_equal_to_the_byte(value):
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
def test_the_line_of_an_odd_event_is_read_back_equal(event):
    try:
        event = built(**event)
    except InvalidEvent:
        return
    read = read_line(line_of(event))
    assert bson.encode(read, codec_options=CODEC) == bson.encode(
        event, codec_options=CODEC
    )


def test_an_event_as_deep_as_mongodb_allows_is_read_back():
    event = built({}) | {"payload": {"a": nested(177, 1)}}
    assert read_line(line_of(event)) == event


def test_a_version_of_64_bits_is_read_back(store):
    event = built({}, id=derived_id("s", 3)) | {"aggregateVersion": Int64(3)}
    assert read_line(line_of(event)) == event


def test_an_id_derived_from_a_version_of_64_bits_uses_its_number():
    assert read_line(line(version={"$numberLong": "3"}))["_id"] == "b@3"


def test_an_object_id_of_null_is_refused_and_not_generated():
    with pytest.raises(Malformed):
        read_line(line(_id={"$oid": None}))


@pytest.mark.parametrize(
    "created",
    [
        1709209815123,
        {"$date": 1709209815123},
        {"$date": {"$numberLong": "1709209815123"}},
        {"$date": "2024-02-29T12:30:15.123+0000"},
        {"$numberLong": "1709209815123"},
        {"$numberDouble": "1709209815123.0"},
    ],
    ids=json.dumps,
)
def test_a_date_is_read_as_each_of_mongodbs_tools_writes_it(created):
    assert read_line(line(created=created))["created"] == NOW


@pytest.mark.parametrize(
    "version", [{"$numberInt": "3"}, {"$numberDouble": "3.0"}, 3.0]
)
def test_a_version_is_read_as_each_of_mongodbs_tools_writes_it(version):
    event = read_line(line(version=version))
    assert repr((event["aggregateVersion"], event["_id"])) == "(3, 'b@3')"


def test_milliseconds_in_a_line_are_a_date(store):
    assert read_line(line(created=1709209815123))["created"] == NOW


def test_a_line_with_a_reserved_field_is_refused():
    with pytest.raises(Malformed, match="reserved for a later version"):
        read_line(line(subjects=["a"]))


@pytest.mark.parametrize("version", [1, 2, 3.0])
def test_the_version_of_a_type_is_kept(version):
    found = read_line(line(typeVersion=version))
    assert (found["typeVersion"], type(found["typeVersion"])) == (version, int)
    assert read_line(line_of(found)) == found
