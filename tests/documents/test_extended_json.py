"""BSON as JSON and back, equal to the byte; other JSON is malformed, with a path."""

import datetime as dt
import json
import re
import struct
import subprocess
import sys
import uuid

import bson
import pymongo
import pytest
from bson import (
    Binary,
    Code,
    DatetimeMS,
    DBRef,
    Decimal128,
    Int64,
    MaxKey,
    MinKey,
    ObjectId,
    Regex,
    Timestamp,
)
from hypothesis import example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from ossy_event_store.documents.bson_types import CODEC
from ossy_event_store.documents.extended_json import (
    Malformed,
    decode,
    dumps,
    encode,
    iso,
    loads,
    parse_date,
)
from tests.support.bson_values import ANY, KEYS, VALUES
from tests.support.event_documents import nested

NOW = dt.datetime(2024, 2, 29, 12, 30, 15, 123000, dt.UTC)
OID = ObjectId("65e0a1b2c3d4e5f601234567")


def as_stored(value):
    """The value as MongoDB returns it."""
    encoded = bson.encode({"value": value}, codec_options=CODEC)
    return bson.decode(encoded, CODEC)["value"]


def to_bytes(value):
    return bson.encode({"value": value}, codec_options=CODEC)


def there_and_back(value):
    return decode(loads(dumps(encode(value))))


def malformed(line):
    with pytest.raises(Malformed) as caught:
        decode(loads(line))
    return caught.value


# There and back


@hypothesis_settings(ANY, max_examples=300)
@given(VALUES)
@example({"$document": {"$document": {"$oid": "x"}}})
@example([{"$oid": str(OID)}, {"$numberLong": "5"}, {"$date": "x"}])
def test_a_value_survives_a_round_trip_to_the_byte(value):
    value = as_stored(value)
    assert to_bytes(there_and_back(value)) == to_bytes(value)


@hypothesis_settings(ANY, max_examples=100)
@given(VALUES)
def test_a_value_is_one_line(value):
    assert "\n" not in dumps(encode(as_stored(value)))


def negative_nan():
    return struct.unpack("<d", bytes.fromhex("000000000000f8ff"))[0]


@pytest.mark.parametrize(
    "value",
    [
        float("nan"),
        float("inf"),
        float("-inf"),
        -0.0,
        5e-324,
        1e22,
        Int64(0),
        Int64(-(2**31)),
        2**31,
        DatetimeMS(2**62),
        DatetimeMS(-(2**63)),
        dt.datetime(1, 1, 1, tzinfo=dt.UTC),
        dt.datetime(9999, 12, 31, 23, 59, 59, 999000, dt.UTC),
        pytest.param(
            Binary(b"abc", 3),
            marks=pytest.mark.skipif(
                pymongo.version_tuple < (4, 14), reason="PyMongo cannot decode it"
            ),
        ),
        Binary(b"", 2),
        {"$document": 5},
        {"$document": {"a": 1}, "b": 2},
        {"$date": 5},
        {"a": {"$ref": "x"}},
        {"a": {"$ref": 5, "$id": 6}},
        {"$regex": "a", "$options": "i"},
        DBRef("c", DBRef("d", {"$oid": "x"}), "e", b={"$date": 1}),
        Code("x", {"$oid": {"$date": 1}}),
        "\u2028\u0000\ufeff",
    ],
    ids=repr,
)
def test_an_odd_value_survives_a_round_trip(value):
    value = as_stored(value)
    assert to_bytes(there_and_back(value)) == to_bytes(value)


@pytest.mark.parametrize(
    "value",
    [negative_nan(), Decimal128("sNaN"), Decimal128("-NaN")],
    ids=["as x86 computes it", "signalling", "negative"],
)
def test_an_unusual_nan_survives_a_round_trip(value):
    assert to_bytes(there_and_back(value)) == to_bytes(value)


@pytest.mark.parametrize("wrap", [lambda v: {"a": v}, lambda v: [v]])
def test_a_value_as_deep_as_mongodb_allows_survives_a_round_trip(wrap):
    value = nested(178, 1, wrap)
    assert there_and_back(value) == value


@pytest.mark.parametrize("value", [5, 2**40, 2**63 - 1])
def test_a_64_bit_integer_is_encoded_at_once(value):
    # `x in range()` iterates if x is of a subclass of int.
    code = f"""
from bson import Int64
from ossy_event_store.documents.extended_json import dumps, encode
print(dumps(encode(Int64({value}))))
"""
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=20
    )
    assert str(value) in run.stdout


@pytest.mark.parametrize(
    ("value", "line"),
    [
        ({"a": 1, "ä": [None, True, 1.5]}, '{"a":1,"ä":[null,true,1.5]}'),
        (Int64(2**40), "1099511627776"),
        (Int64(7), '{"$numberLong":"7"}'),
        (NOW, '{"$date":"2024-02-29T12:30:15.123Z"}'),
        (DatetimeMS(2**60), '{"$date":{"$numberLong":"1152921504606846976"}}'),
        (OID, '{"$oid":"65e0a1b2c3d4e5f601234567"}'),
        (float("-inf"), '{"$numberDouble":"-Infinity"}'),
        (float("nan"), '{"$numberDouble":"NaN"}'),
        (Decimal128("1.10"), '{"$numberDecimal":"1.10"}'),
        (b"ab", '{"$binary":{"base64":"YWI=","subType":"00"}}'),
        (
            uuid.UUID(int=1),
            '{"$binary":{"base64":"AAAAAAAAAAAAAAAAAAAAAQ==","subType":"04"}}',
        ),
        (Regex("a", "i"), '{"$regularExpression":{"pattern":"a","options":"i"}}'),
        (Timestamp(1, 2), '{"$timestamp":{"t":1,"i":2}}'),
        (MinKey(), '{"$minKey":1}'),
        (MaxKey(), '{"$maxKey":1}'),
        (
            Code("f", {"a": Int64(1)}),
            '{"$code":"f","$scope":{"a":{"$numberLong":"1"}}}',
        ),
        (DBRef("c", OID), f'{{"$ref":"c","$id":{{"$oid":"{OID}"}}}}'),
        ({"$oid": "x"}, '{"$document":{"$oid":"x"}}'),
    ],
    ids=repr,
)
def test_a_value_is_written_as_relaxed_extended_json(value, line):
    assert dumps(encode(value)) == line


def test_a_date_is_written_in_utc_with_milliseconds():
    east = dt.timezone(dt.timedelta(hours=2))
    assert iso(dt.datetime(33, 1, 1, 1, tzinfo=east)) == "0032-12-31T23:00:00.000Z"


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ('{"$numberInt":"7"}', 7),
        ('{"$numberDouble":"1.5"}', 1.5),
        ('{"$date":{"$numberLong":"0"}}', dt.datetime(1970, 1, 1, tzinfo=dt.UTC)),
        ('{"$date":"2024-02-29T14:30:15.123+02:00"}', NOW),
        ('{"$date":"2024-02-29T12:30:15.123+0000"}', NOW),
        ('{"$date":1709209815123}', NOW),
        ('{"$date":-1000}', dt.datetime(1969, 12, 31, 23, 59, 59, tzinfo=dt.UTC)),
        ('{"$binary":"YWI=","$type":"00"}', b"ab"),
        ('{"$regex":"a","$options":"i"}', Regex("a", "i")),
        ('{"$uuid":"00000000-0000-0000-0000-000000000001"}', uuid.UUID(int=1)),
        ('{"$binary":{"base64":"YWI=","subType":"0"}}', b"ab"),
    ],
)
def test_canonical_extended_json_and_its_first_version_are_read_too(line, value):
    assert to_bytes(decode(loads(line))) == to_bytes(value)


# Malformed


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("", "not JSON: Expecting value at column 1"),
        ('{"a":1', "not JSON: .* at column 7"),
        ("{'a': 1}", "not JSON: "),
        ('{"a":1}{"a":2}', "not JSON: Extra data at column 8"),
        ('"\x01"', "not JSON: Invalid control character"),
        ('{"a":1,"a":2}', "an object has the key 'a' twice"),
        ('{"b":{"$oid":"x","c":1,"$oid":"x"}}', r"an object has the key '\$oid' twice"),
        ("NaN", r"NaN is not JSON; write \{'\$numberDouble': 'NaN'\}"),
        ("[Infinity]", "Infinity is not JSON"),
        ('{"a":-Infinity}', "-Infinity is not JSON"),
        ("[" * 100_000, "nested too deep"),
        ("[" * 600 + "]" * 600, "nested too deep"),
        ('{"a":' * 600 + "1" + "}" * 600, "nested too deep"),
        ("1" * 5000, "digits|too large|64 bits"),
        ('{"a":-' + "9" * 5000 + "}", "digits|too large|64 bits"),
    ],
    ids=lambda text: text[:30],
)
def test_a_line_that_is_not_json_is_malformed(line, reason):
    assert re.search(reason, malformed(line).reason)


@pytest.mark.parametrize(
    ("line", "path", "reason"),
    [
        ("1e999", "", "too large for a double"),
        ('{"a":[0,{"b":-1e999}]}', "a[1].b", "too large for a double"),
        ('{"a":{"$oid":"x"}}', "a", "not Extended JSON: 'x' is not a valid ObjectId"),
        ('{"a":{"$oid":5}}', "a", "not Extended JSON"),
        ('{"a":{"$oid":null}}', "a", "not Extended JSON"),
        ('{"a":{"$oid":"x","b":1}}', "a", "not Extended JSON"),
        ('[[{"$numberLong":"x"}]]', "[0][0]", "not Extended JSON"),
        ('{"a":{"$numberLong":1.5}}', "a", "not Extended JSON"),
        ('{"a":{"$numberInt":"1.5"}}', "a", "not Extended JSON"),
        ('{"a":{"$numberDouble":"x"}}', "a", "not Extended JSON"),
        ('{"a":{"$numberDecimal":"x"}}', "a", "not Extended JSON"),
        ('{"a":{"$numberDouble":"NaN()"}}', "a", "not Extended JSON"),
        ('{"a":{"$numberDouble":"NaN(zz)"}}', "a", "not Extended JSON"),
        ('{"a":{"$numberDouble":"NaN(00)"}}', "a", "not Extended JSON"),
        ('{"a":{"$numberDouble":"NaN(0000000000000000)"}}', "a", "not Extended JSON"),
        ('{"a":{"$numberDecimal":"NaN(00)"}}', "a", "not Extended JSON"),
        ('{"a":{"$numberDecimal":"1.5(zz)"}}', "a", "not Extended JSON"),
        ('{"a":{"$date":true}}', "a", "expected an ISO 8601 string, not bool"),
        ('{"a":{"$date":9223372036854775808}}', "a", "64 bits"),
        ('{"a":{"$date":null}}', "a", "not NoneType"),
        ('{"a":{"$date":{"$numberLong":"x"}}}', "a", "not a number of milliseconds"),
        ('{"a":{"$date":{"$numberLong":[]}}}', "a", "not a number of milliseconds"),
        ('{"a":{"$date":{"$numberLong":1e999}}}', "a", "number|double"),
        ('{"a":{"$date":{"$numberLong":"9223372036854775808"}}}', "a", "number|64"),
        ('{"a":{"$date":{"$numberInt":"1"}}}', "a", "expected an ISO 8601 string"),
        ('{"a":{"$date":"2024-01-01T00:00:00Z","b":1}}', "a", "not Extended JSON"),
        ('{"a":{"$binary":5}}', "a", "not Extended JSON"),
        ('{"a":{"$binary":{"base64":"!","subType":"00"}}}', "a", "not Extended JSON"),
        ('{"a":{"$binary":{"base64":"YQ==","subType":"04"}}}', "a", "not Extended"),
        ('{"a":{"$uuid":"x"}}', "a", "not Extended JSON"),
        ('{"a":{"$timestamp":{"t":-1,"i":0}}}', "a", "not Extended JSON"),
        ('{"a":{"$timestamp":5}}', "a", "not Extended JSON"),
        ('{"a":{"$minKey":2}}', "a", "not Extended JSON"),
        ('{"a":{"$code":5}}', "a", "not Extended JSON"),
        ('{"a":{"$regularExpression":{"pattern":5,"options":""}}}', "a", "not Ext"),
        ('{"a":{"$document":{"b":{"$oid":"x"}}}}', "a.b", "not Extended JSON"),
    ],
)
def test_json_that_is_not_extended_json_is_malformed_with_its_path(line, path, reason):
    error = malformed(line)
    assert error.path == path
    assert re.search(reason, error.reason)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, "expected an ISO 8601 string, not NoneType"),
        (5, "not int"),
        ("", "not an ISO 8601 date and time"),
        ("yesterday", "not an ISO 8601"),
        ("x" * 1000, "^'x{40}' is not an ISO 8601"),
        ("2024-01-01", "no time zone"),
        ("2024-01-01T00:00:00", "no time zone; add Z"),
        ("2024-02-30T00:00:00Z", "not an ISO 8601"),
        ("0000-01-01T00:00:00Z", "not an ISO 8601"),
        ("10000-01-01T00:00:00Z", "not an ISO 8601"),
        ("+010000-01-01T00:00:00Z", "not an ISO 8601"),
        ("0001-01-01T00:00:00+01:00", "outside the years 1 to 9999"),
        ("9999-12-31T23:59:59-01:00", "outside the years 1 to 9999"),
        ("2024-01-01T00:00:00.0001Z", "finer than a millisecond"),
        ("2024-01-01T00:00:00.123456Z", "finer than a millisecond"),
        ("2024-01-01T00:00:00.0000001Z", "finer than a millisecond|not an ISO"),
        ("2024-01-01T00:00:00.123000789Z", "finer than a millisecond|not an ISO"),
        ("2024-01-01T00:00:00+00:00:00.000001", "finer|not an ISO|offset"),
        ("2024-01-01T00:00:00\ud800Z", "not an ISO 8601"),
        ("2024-01-01T00:00:00,123456Z", "finer than a millisecond|not an ISO"),
        ("2024-01-01T00:00:00,0000001Z", "finer than a millisecond|not an ISO"),
        ("20240101T000000.0001Z", "finer than a millisecond|not an ISO"),
    ],
)
def test_text_that_is_no_date_is_malformed(text, reason):
    with pytest.raises(Malformed) as caught:
        parse_date(text)
    assert re.search(reason, caught.value.reason)


@pytest.mark.parametrize(
    "text",
    [
        "2024-02-29T12:30:15.123Z",
        "2024-02-29T12:30:15.123000Z",
        "2024-02-29T12:30:15.123000000Z",
        "2024-02-29T14:30:15.123+02:00",
        "2024-02-29 12:30:15.123+00:00",
    ],
)
def test_a_date_may_be_written_in_several_ways(text):
    assert parse_date(text) == NOW


def test_a_path_grows_from_the_inside_out():
    error = Malformed("wrong").inside("[2]").inside("b").inside("a")
    assert (error.path, error.reason, str(error)) == ("a.b[2]", "wrong", "wrong")


DOLLARS = st.sampled_from(
    [
        "$oid",
        "$date",
        "$numberLong",
        "$numberInt",
        "$numberDouble",
        "$numberDecimal",
        "$binary",
        "$uuid",
        "$regex",
        "$options",
        "$regularExpression",
        "$timestamp",
        "$code",
        "$scope",
        "$ref",
        "$id",
        "$db",
        "$dbPointer",
        "$minKey",
        "$maxKey",
        "$undefined",
        "$symbol",
        "$type",
        "$document",
        "$foo",
        "t",
        "i",
        "base64",
        "subType",
        "pattern",
        "options",
    ]
)
TEXTS = st.text(max_size=6) | st.sampled_from(
    [
        "NaN",
        "1",
        "-1",
        "1e999",
        "YQ==",
        "04",
        "00",
        "ff",
        "2024-01-01T00:00:00Z",
        "9" * 30,
    ]
)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([2**63, 10**400, float("inf")])
    | st.floats(allow_nan=False)
    | TEXTS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(DOLLARS, inner, max_size=3)
        | st.dictionaries(KEYS | DOLLARS, inner, max_size=3)
        | st.builds(
            lambda base64, kind: {"$binary": {"base64": base64, "subType": kind}},
            inner,
            inner,
        )
        | st.builds(lambda t, i: {"$timestamp": {"t": t, "i": i}}, inner, inner)
        | st.builds(
            lambda p, o: {"$regularExpression": {"pattern": p, "options": o}},
            inner,
            inner,
        )
        | st.builds(lambda date: {"$date": {"$numberLong": date}}, inner)
    ),
    max_leaves=8,
)


@hypothesis_settings(ANY, max_examples=300)
@given(JSON)
@example({"$type": False, "$binary": None})
def test_json_of_any_shape_is_decoded_or_malformed(value):
    try:
        decode(value)
    except Malformed as error:
        assert error.reason


@hypothesis_settings(ANY, max_examples=200)
@given(
    JSON.map(json.dumps)
    | st.text(max_size=20)
    | st.text('[]{}",:0123eE.-', max_size=20)
)
def test_text_of_any_shape_is_read_or_malformed(line):
    try:
        decode(loads(line))
    except Malformed as error:
        assert error.reason
