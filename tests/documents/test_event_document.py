"""What an event may hold: every refusal names path and reason, all else comes back."""

import datetime as dt
import enum
import re
import subprocess
import sys
import uuid
from collections import OrderedDict
from decimal import Decimal
from types import MappingProxyType

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
from django.utils.functional import SimpleLazyObject
from django.utils.safestring import mark_safe
from django.utils.translation import gettext_lazy
from hypothesis import HealthCheck, example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from ossy_event_store import Aggregate, EventStore
from ossy_event_store.documents import event_document
from ossy_event_store.documents.bson_types import CODEC
from ossy_event_store.documents.event_document import (
    COPY,
    NEW,
    build_event,
    check_event,
    check_id,
    check_version,
    checked_document,
    differences,
    read_event,
    stored_state,
)
from ossy_event_store.documents.storable import Unstorable, Walk, stored_mapping
from ossy_event_store.exceptions import InvalidEvent, InvalidState
from tests.library.aggregate import Book

NOW = dt.datetime(2024, 2, 29, 12, 30, 15, 123000, dt.UTC)
EARLY = dt.timezone(dt.timedelta(hours=14))
LATE = dt.timezone(dt.timedelta(hours=-12))
HOUR = dt.timedelta(hours=1)


class Colour(str, enum.Enum):
    RED = "red"


class Size(enum.IntEnum):
    SMALL = 1


class OddZone(dt.tzinfo):
    """A zone that does not know its own offset, as a careless tzinfo does."""

    def utcoffset(self, when):
        return None


def built(payload, **event):
    event = check_event({"type": "Tested", "payload": payload, **event}, ())
    return build_event(
        event, aggregate_id="s", aggregate_type="S", version=1, created=NOW
    )


def to_append(**event):
    return {"type": "Tested", "aggregateId": "s", "aggregateType": "S", **event}


def to_bytes(value):
    return bson.encode({"value": value}, codec_options=CODEC)


def refusal(function, *args, **kwargs):
    with pytest.raises(InvalidEvent) as caught:
        function(*args, **kwargs)
    return caught.value


def nested(levels, value=None, wrap=lambda inner: {"a": inner}):
    """``value`` inside so many containers."""
    for _ in range(levels):
        value = wrap(value)
    return value


# Refused


WRONG_EVENTS = {
    "no type": ({"type": None}, "type", "missing"),
    "an empty type": ({"type": ""}, "type", "1 to 255 characters, not 0"),
    "a dict for a type": ({"type": {"$ne": 1}}, "type", "must be a string, not dict"),
    "bytes for a type": ({"type": b"T"}, "type", "must be a string, not bytes"),
    "a long type": ({"type": "x" * 256}, "type", "not 256"),
    "NUL in the type": ({"type": "a\0b"}, "type", "NUL"),
    "a surrogate in the type": ({"type": "\ud800"}, "type", "surrogate"),
    "a lazy type": ({"type": gettext_lazy("T")}, "type", "must be a string"),
    "a list for a payload": ({"payload": []}, "payload", "must be a dict, not list"),
    "a string for a payload": ({"payload": "x"}, "payload", "a dict, not str"),
    "None for a payload": ({"payload": None}, "payload", "a dict, not NoneType"),
    "a DBRef for a payload": ({"payload": DBRef("c", 1)}, "payload", "not DBRef"),
    "a list for metadata": ({"metadata": [1]}, "metadata", "a dict, not list"),
    "None for metadata": ({"metadata": None}, "metadata", "a dict, not NoneType"),
    "an int for createdBy": ({"createdBy": 7}, "createdBy", "a string, not int"),
    "a dict for createdBy": ({"createdBy": {}}, "createdBy", "a string, not dict"),
    "an empty createdBy": ({"createdBy": ""}, "createdBy", "not 0"),
    "a lazy createdBy": (
        {"createdBy": SimpleLazyObject(lambda: "ann")},
        "createdBy",
        "SimpleLazyObject|lazy",
    ),
    "a date for created": ({"created": NOW.date()}, "created", "a datetime, not date"),
    "a number for created": ({"created": 5}, "created", "must be a datetime, not int"),
    "text for created": ({"created": "2024"}, "created", "must be a datetime, not str"),
    "naive created": ({"created": dt.datetime(2024, 1, 1)}, "created", "no time zone"),
    "version 0": ({"aggregateVersion": 0}, "aggregateVersion", "from 1, not 0"),
    "a version of True": ({"aggregateVersion": True}, "aggregateVersion", "not True"),
    "a version of 1.0": ({"aggregateVersion": 1.0}, "aggregateVersion", "not 1.0"),
    "a huge version": ({"aggregateVersion": 2**63}, "aggregateVersion", "64 bits"),
    "an unknown key": ({"typ": 1}, "typ", "did you mean 'type'"),
    "a mongo id": ({"_id": "x"}, "_id", "did you mean 'id'"),
    "a key in snake case": ({"created_by": "x"}, "created_by", "'createdBy'"),
    "a key that is no string": ({5: 1}, "5", "not a key of an event"),
}


@pytest.mark.parametrize(
    ("event", "path", "reason"), WRONG_EVENTS.values(), ids=list(WRONG_EVENTS)
)
def test_a_wrong_event_is_refused_with_path_and_reason(event, path, reason):
    error = refusal(EventStore.append_event, to_append(type="T") | event)
    assert error.path == path
    assert re.search(reason, error.reason)


@pytest.mark.parametrize(
    "event", [e for e, _, _ in WRONG_EVENTS.values()], ids=list(WRONG_EVENTS)
)
def test_a_wrong_event_writes_nothing(store, event):
    with pytest.raises(InvalidEvent):
        EventStore.append_event(to_append() | event)
    assert EventStore.collection.count_documents({}) == 0


NOT_IDS = {
    "a dict": {"$ne": None},
    "a list": ["a"],
    "bytes": b"a",
    "True": True,
    "an int": 1,
    "a float": 1.5,
    "an ObjectId": ObjectId(),
    "a UUID": uuid.UUID(int=1),
    "a regex": re.compile("a"),
    "lazy text": gettext_lazy("a"),
}
NOT_NAMES = {
    "nothing": ("", "not 0"),
    "256 characters": ("x" * 256, "not 256"),
    "NUL": ("a\0", "NUL"),
    "half a pair": ("\udfff", "surrogate"),
    "the other half": ("a\ud83d", "surrogate"),
}
WRONG_IDS = list(NOT_IDS.items()) + [(k, v) for k, (v, _) in NOT_NAMES.items()]


@pytest.mark.parametrize("name", ["aggregateId", "aggregateType", "id"])
@pytest.mark.parametrize(
    "value", [v for _, v in WRONG_IDS], ids=[name for name, _ in WRONG_IDS]
)
def test_a_wrong_id_of_an_event_is_refused(name, value):
    if isinstance(value, ObjectId) and name == "id":
        pytest.skip("the store's own ids are ObjectIds")
    error = refusal(EventStore.append_event, to_append(**{name: value}))
    assert error.path == name


@pytest.mark.parametrize("value", NOT_IDS.values(), ids=list(NOT_IDS))
def test_an_id_that_is_no_string_is_a_type_error_before_any_query(value):
    with pytest.raises(TypeError, match=r"aggregate_id must be a string, not \w+"):
        EventStore.get_event_stream(value)


@pytest.mark.parametrize(("value", "reason"), NOT_NAMES.values(), ids=list(NOT_NAMES))
def test_a_string_that_cannot_be_an_id_is_a_value_error(value, reason):
    with pytest.raises(ValueError, match=reason):
        check_id(value)


@pytest.mark.parametrize("value", ["x", "x" * 255, "ü" * 255, " ", "$ne", "a.b", "💧"])
def test_any_other_string_is_an_id(value):
    assert check_id(value) == value


@pytest.mark.parametrize("value", [Colour.RED, mark_safe("red")])
def test_a_string_of_another_class_is_an_id_as_plain_text(value):
    assert (check_id(value), type(check_id(value))) == ("red", str)


@pytest.mark.parametrize("name", ["aggregateVersion", "created"])
def test_what_the_store_sets_is_refused_from_an_aggregate(store, name):
    error = refusal(Aggregate.of, Book, {"type": "BookBought", name: 1})
    assert error.path == name
    assert "the store sets it" in error.reason


def test_a_foreign_type_is_refused_from_an_aggregate():
    event = {"type": "BookBought", "aggregateType": "Cook"}
    assert refusal(Aggregate.of, Book, event).path == "aggregateType"


@pytest.mark.parametrize("event", [None, "BookBought", ["type"], 5, b"x"])
def test_an_event_that_is_no_dict_is_refused(event):
    error = refusal(check_event, event, ())
    assert error.reason.startswith("an event must be a dict, not ")


def test_a_missing_type_is_refused():
    assert str(refusal(check_event, {}, ())) == "type: missing"


def test_the_reason_against_an_unknown_key_is_whole_sentences():
    reason = refusal(check_event, {"type": "T", "zzz": 1}, ()).reason
    assert re.search(r"known: .*, id[.;] Put other data in payload", reason)


WRONG_VALUES = {
    "an int key": ({1: "x"}, "payload.1", "a key must be a string, not int"),
    "None as a key": ({None: 1}, "payload.None", "not NoneType"),
    "bytes as a key": ({b"k": 1}, "payload.b'k'", "not bytes"),
    "an int key below": ({"a": [{"b": {1: 1}}]}, "payload.a[0].b.1", "not int"),
    "NUL in a key": ({"a\0": 1}, "payload.a\0", "NUL"),
    "a surrogate in a key": ({"\ud800": 1}, "payload.\ud800", "surrogate"),
    "a surrogate in a value": ({"a": "x\udc00"}, "payload.a", "surrogate"),
    "2**63": ({"a": 2**63}, "payload.a", "64 bits; use a string"),
    "-2**63 - 1": ({"a": [-(2**63) - 1]}, "payload.a[0]", "64 bits"),
    "Decimal": ({"a": Decimal("1.10")}, "payload.a", "decimal.Decimal; use bson.D"),
    "a date": ({"a": dt.date(2024, 1, 1)}, "payload.a", "datetime.date; use an ISO"),
    "a time": ({"a": dt.time(1)}, "payload.a", "datetime.time; use an ISO"),
    "a timedelta": ({"a": dt.timedelta(1)}, "payload.a", "a number of seconds"),
    "a set": ({"a": {1}}, "payload.a", "builtins.set; use a list"),
    "a frozenset": ({"a": frozenset()}, "payload.a", "use a list"),
    "lazy text": ({"a": gettext_lazy("x")}, "payload.a", "no type for django"),
    "a lazy list": ({"a": SimpleLazyObject(list)}, "payload.a", "no type for django"),
    "a naive datetime": ({"a": dt.datetime(2024, 1, 1)}, "payload.a", "no time zone"),
    "an odd zone": (
        {"a": dt.datetime(2024, 1, 1, tzinfo=OddZone())},
        "payload.a",
        "no time zone",
    ),
    "NaN": ({"a": float("nan")}, "payload.a", "nan is not allowed; use None"),
    "inf": ({"a": [0, float("inf")]}, "payload.a[1]", "inf is not allowed"),
    "-inf": ({"a": float("-inf")}, "payload.a", "-inf is not allowed"),
    "an object": ({"a": object()}, "payload.a", "no type for builtins.object"),
    "a class": ({"a": Book}, "payload.a", "no type for builtins.type"),
    "a generator": ({"a": (i for i in ())}, "payload.a", "builtins.generator"),
    "a bytearray": ({"a": bytearray(b"x")}, "payload.a", "builtins.bytearray"),
    "a complex number": ({"a": 1j}, "payload.a", "builtins.complex"),
    "before year 1": (
        {"a": dt.datetime(1, 1, 1, 1, tzinfo=EARLY)},
        "payload.a",
        "outside of the years",
    ),
    "after year 9999": (
        {"a": dt.datetime(9999, 12, 31, 23, tzinfo=LATE)},
        "payload.a",
        "outside of the years",
    ),
    "an odd scope": ({"a": Code("x", {"b": object()})}, "payload", "object"),
    "NUL in a regex": ({"a": Regex("a\0")}, "payload", "NULL"),
    "a surrogate in a regex": ({"a": Regex("\ud800")}, "payload", "surrogate"),
    "a regex over bytes": ({"a": re.compile(b"\xff")}, "payload", "UTF-8"),
    "a surrogate in code": ({"a": Code("\ud800")}, "payload", "surrogate"),
    "a UUID of 3 bytes": ({"a": Binary(b"abc", 4)}, "payload", "uuid|UUID|length"),
    "a key and id, DBRef": ({"a": DBRef("c", object())}, "payload", "object"),
}


@pytest.mark.parametrize(
    ("payload", "path", "reason"), WRONG_VALUES.values(), ids=list(WRONG_VALUES)
)
def test_what_mongodb_cannot_hold_is_refused_with_path_and_reason(
    payload, path, reason
):
    error = refusal(built, payload)
    assert error.path.startswith(path)
    assert re.search(reason, error.reason)


@pytest.mark.parametrize(
    "payload", [p for p, _, _ in WRONG_VALUES.values()], ids=list(WRONG_VALUES)
)
def test_what_mongodb_cannot_hold_writes_nothing(store, payload):
    with pytest.raises(InvalidEvent):
        EventStore.append_event(to_append(payload=payload))
    assert EventStore.collection.count_documents({}) == 0


@pytest.mark.parametrize(
    "value",
    [
        Code("x", {"b": dt.datetime(2024, 1, 1)}),
        DBRef("c", dt.datetime(2024, 1, 1)),
        Code("x", {"b": float("nan")}),
    ],
    ids=["naive in a scope", "naive in a DBRef", "NaN in a scope"],
)
def test_a_rule_holds_inside_the_types_of_bson_too(value):
    assert refusal(built, {"a": value}).path.startswith("payload")


@pytest.mark.parametrize(
    "value", [Code("x", {"b": object()}), "x" * NEW.size], ids=["type", "size"]
)
def test_the_path_of_a_refusal_in_metadata_begins_with_metadata(value):
    assert refusal(built, {}, metadata={"a": value}).path.startswith("metadata")


def test_the_message_about_a_surrogate_can_be_sent_as_text():
    assert str(refusal(built, {"\ud800": 1})).encode()


@pytest.mark.parametrize(
    "wrap", [lambda inner: {"a": inner}, lambda inner: [inner], lambda inner: (inner,)]
)
def test_64_levels_are_stored_and_65_refused(wrap):
    assert built({"a": nested(NEW.depth - 1, 1, wrap)})
    error = refusal(built, {"a": nested(NEW.depth, 1, wrap)})
    assert "nested more than 64 levels deep" in error.reason
    assert error.path.startswith("payload.a")


def test_a_value_that_holds_itself_is_refused():
    circle = []
    circle.append(circle)
    assert "nested more than" in refusal(built, {"a": circle}).reason


@pytest.mark.parametrize(
    "wrap",
    [lambda inner: Code("x", {"a": inner}), lambda inner: DBRef("c", inner)],
    ids=["code", "DBRef"],
)
def test_the_types_of_bson_are_nested_no_deeper_than_others(wrap):
    assert "nested more than" in refusal(built, {"a": nested(400, 1, wrap)}).reason


def test_an_event_has_exactly_4_mib_at_most():
    frame = len(bson.encode(built({"a": b""})))
    assert built({"a": bytes(NEW.size - frame)})
    error = refusal(built, {"a": bytes(NEW.size - frame + 1)})
    assert error.reason == "has 4,194,305 bytes; an event may have 4,194,304"


def test_several_events_of_which_one_is_wrong_write_nothing(store):
    good, bad = to_append(), to_append(payload={"a": {1}})
    assert refusal(EventStore.append_events, [good, good, bad]).path == "payload.a"
    assert EventStore.collection.count_documents({}) == 0


# Accepted


def test_an_event_has_its_fields_in_order():
    assert list(built({})) == list(event_document.FIELDS)


def test_payload_and_metadata_are_empty_and_created_by_none_by_default():
    event = build_event(
        {"type": "T"}, aggregate_id="s", aggregate_type="S", version=1, created=NOW
    )
    assert (event["payload"], event["metadata"], event["createdBy"]) == ({}, {}, None)


def test_an_id_of_the_callers_is_kept():
    assert built({}, id="mine")["_id"] == "mine"


def test_every_event_without_an_id_gets_another():
    assert built({})["_id"] != built({})["_id"]


@pytest.mark.parametrize(
    ("value", "stored"),
    [
        (Colour.RED, "red"),
        (Size.SMALL, 1),
        (mark_safe("<b>"), "<b>"),
        ((1, (2,)), [1, [2]]),
        (OrderedDict(b=1, a=2), {"b": 1, "a": 2}),
        (MappingProxyType({"a": 1}), {"a": 1}),
        (SimpleLazyObject(lambda: {"a": 1}), {"a": 1}),
        ({Colour.RED: Colour.RED}, {"red": "red"}),
        (bson.SON([("z", 1), ("a", 2)]), {"z": 1, "a": 2}),
        (-(2**63), Int64(-(2**63))),
        (NOW.replace(microsecond=123999), NOW),
        (dt.datetime(1, 1, 1, 12, tzinfo=LATE), dt.datetime(1, 1, 2, tzinfo=dt.UTC)),
        (DatetimeMS(0), dt.datetime(1970, 1, 1, tzinfo=dt.UTC)),
        (DatetimeMS(2**60), DatetimeMS(2**60)),
        (Binary(b"x", 0), b"x"),
        (re.compile("a", re.IGNORECASE), Regex("a", "iu")),
    ],
    ids=str,
)
def test_a_value_is_stored_as_the_plain_value_it_stands_for(value, stored):
    (found,) = built({"a": value})["payload"].values()
    assert found == stored
    assert type(found) is type(stored)


def test_the_key_of_an_enum_is_stored_as_plain_text():
    assert {type(key) for key in built({Colour.RED: 1})["payload"]} == {str}


def test_what_was_given_is_not_changed():
    payload = {"a": (1, NOW.replace(microsecond=5)), "b": {"c": []}}
    before = repr(payload)
    built(payload)
    assert repr(payload) == before


def test_a_later_change_of_what_was_given_does_not_reach_the_event():
    payload = {"a": []}
    event = built(payload)
    payload["a"].append(1)
    assert event["payload"] == {"a": []}


# PyMongo reads every document with a $ref and an $id as a DBRef.


@pytest.mark.parametrize(
    "value",
    [
        {"$id": 1, "$ref": "c"},
        {"a": 1, "$ref": "c", "$id": 1},
        {"$ref": "c", "$id": 1, "a": 1, "$db": "d"},
    ],
    ids=str,
)
def test_the_keys_of_what_looks_like_a_dbref_keep_their_order(value):
    try:
        event = built({"a": value})
    except InvalidEvent:
        return
    assert to_bytes(event["payload"]) == to_bytes({"a": value})


def test_the_payload_of_an_event_is_a_dict_whatever_its_keys():
    try:
        event = built({"$ref": "c", "$id": 1})
    except InvalidEvent:
        return
    assert isinstance(event["payload"], dict)


@pytest.mark.parametrize("value", [0, 2**63 - 1])
def test_a_64_bit_integer_is_checked_in_no_time(value):
    # A range is asked for an int of another class by walking through all of it.
    code = f"""
from bson import Int64
from ossy_event_store.documents.storable import NEW, stored_mapping
print(type(stored_mapping({{"a": Int64({value})}}, NEW)["a"]).__name__)
"""
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=20
    )
    assert run.stdout == "Int64\n"


# PyMongo before 4.14 cannot encode the last of them.
SUBTYPES = [1, 2, 5, 6, 9, 128] + [255] * (pymongo.version_tuple >= (4, 14))
LETTERS = st.characters(exclude_categories=["Cs"])
ODD_KEYS = ["a.b", "$set", "", "_id", "__proto__", "$oid", "$date", "$document", "$ne"]
KEYS = st.sampled_from(ODD_KEYS) | st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=6
).filter(lambda key: key not in ("$ref", "$id", "$db"))
CLEAN = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=6
)
SIMPLE = st.one_of(
    st.none(),
    st.booleans(),
    st.text(LETTERS, max_size=12),
    st.integers(-(2**63), 2**63 - 1),
    st.integers(-(2**63), 2**63 - 1).map(Int64),
    st.integers(-9, 9).map(Int64),
    st.floats(allow_nan=False, allow_infinity=False),
)
ZONES = st.integers(-840, 840).map(lambda m: dt.timezone(dt.timedelta(minutes=m)))
LEAVES = SIMPLE | st.one_of(
    st.binary(max_size=20),
    st.binary(min_size=12, max_size=12).map(ObjectId),
    st.uuids(),
    st.builds(Binary, st.binary(max_size=9), st.sampled_from(SUBTYPES)),
    st.builds(Binary, st.binary(min_size=16, max_size=16), st.sampled_from([3, 4])),
    st.datetimes(dt.datetime(1, 1, 2), dt.datetime(9999, 12, 30), timezones=ZONES),
    st.integers(-(2**63), 2**63 - 1).map(DatetimeMS),
    st.sampled_from(
        ["0", "-0", "1.10", "NaN", "Infinity", "-Infinity", "1E+6111", "1E-6176"]
    ).map(Decimal128),
    st.builds(Regex, CLEAN, st.sampled_from(["", "i", "im", "imsux"])),
    st.builds(Code, st.text(LETTERS, max_size=9)),
    st.builds(Code, CLEAN, st.dictionaries(KEYS, SIMPLE, max_size=3)),
    st.builds(Timestamp, st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1)),
    st.sampled_from([MinKey(), MaxKey()]),
    st.builds(DBRef, CLEAN, SIMPLE, st.none() | CLEAN),
    st.builds(lambda ref, id: {"$ref": ref, "$id": id}, CLEAN, SIMPLE),
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(KEYS, inner, max_size=4)
    ),
    max_leaves=12,
)
ANY = hypothesis_settings(
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def looked_through(value):
    """What a walk says of a document, and the document."""
    walk = Walk(COPY)
    return walk, stored_mapping({"v": value}, walk)


@ANY
@given(VALUES)
def test_what_is_exact_is_stored_as_it_is_and_no_larger_than_told(value):
    try:
        walk, document = looked_through(value)
    except Unstorable:
        return
    if walk.exact:
        encoded = bson.encode(document, codec_options=CODEC)
        assert len(encoded) <= 4 * walk.size + 5
        assert bson.decode(encoded, codec_options=CODEC) == document


@pytest.mark.parametrize(
    "value",
    [
        "\N{GRINNING FACE}" * 1000,
        ["\N{GRINNING FACE}"] * 1000,
        {"\N{GRINNING FACE}" * 1000: None},
        {str(n): {} for n in range(1000)},
        [[[]]] * 1000,
        [None] * 1_000,
        [5.0] * 1_000,
        [uuid.UUID(int=5)] * 1000,
        [ObjectId("0" * 24)] * 1000,
        b"x" * 1000,
    ],
    ids=lambda value: str(value)[:20],
)
def test_no_document_is_larger_than_told(value):
    walk, document = looked_through(value)
    assert walk.exact
    assert len(bson.encode(document, codec_options=CODEC)) <= 4 * walk.size + 5


@pytest.mark.parametrize(
    "value",
    [
        2**31,
        Int64(5),
        Decimal128("1"),
        re.compile("a"),
        mark_safe("a"),
        {"a": [{"$ref": 1}]},
        {mark_safe("$ref"): 1},
    ],
    ids=str,
)
def test_what_may_come_back_another_is_not_exact(value):
    assert not looked_through(value)[0].exact


@hypothesis_settings(ANY, max_examples=100)
@given(VALUES)
@example({"": {"": ""}})
@example([[], {}, ()])
def test_a_value_is_built_equal_to_the_byte(value):
    assert to_bytes(built({"v": value})["payload"]["v"]) == to_bytes(value)


def kinds(value):
    """The types of a value and of all that is in it."""
    if isinstance(value, dict):
        return [type(value), *((k, kinds(v)) for k, v in value.items())]
    if isinstance(value, list):
        return [type(value), *map(kinds, value)]
    zone = value.tzinfo if isinstance(value, dt.datetime) else None
    return type(value), zone


class Moment(dt.datetime):
    """As those of libraries that freeze the time."""


class Bytes(bytes):
    pass


class Uuid(uuid.UUID):
    pass


@hypothesis_settings(ANY, max_examples=200)
@given(VALUES)
@example(2**31)
@example(Moment(2026, 1, 1, tzinfo=dt.UTC))
@example(Bytes(b"x"))
@example(Uuid(int=1))
@example(re.compile("x"))
@example([{"a": (Int64(1), -(2**31), -(2**31) - 1)}])
def test_a_value_is_built_of_the_types_that_it_is_loaded_with(value):
    event = built({"v": value})
    loaded = bson.decode(bson.encode(event, codec_options=CODEC), CODEC)
    assert kinds(loaded) == kinds(event)


@hypothesis_settings(ANY, max_examples=80)
@given(value=VALUES, metadata=st.dictionaries(KEYS, LEAVES, max_size=3))
def test_an_event_is_built_returned_and_loaded_equal_to_the_byte(
    store, value, metadata
):
    stream = str(uuid.uuid4())
    event = {"type": "Tested", "payload": {"v": value}, "metadata": metadata}
    stored = EventStore.append_event(
        {**event, "aggregateId": stream, "aggregateType": "S"}
    )
    (loaded,) = EventStore.get_event_stream(stream)
    expected = build_event(
        {**event, "id": stored["_id"]},
        aggregate_id=stream,
        aggregate_type="S",
        version=1,
        created=stored["created"],
    )
    assert to_bytes(expected) == to_bytes(stored) == to_bytes(loaded)
    assert expected == stored == loaded


# The loosest limits, for copies and for states


def test_a_copy_may_hold_what_is_not_a_number():
    document = built({}) | {"payload": {"a": float("inf")}}
    assert checked_document(document, COPY)["payload"] == {"a": float("inf")}


def test_a_copy_as_deep_as_is_allowed_can_be_stored_and_read(store):
    document = built({}) | {"payload": {"a": nested(COPY.depth - 1, 1)}}
    copied = checked_document(document, COPY)
    EventStore.collection.insert_one(copied)
    assert EventStore.get_event_stream("s") == [copied]


def test_a_copy_as_large_as_is_allowed_can_be_stored(store):
    frame = len(bson.encode(built({"a": b""})))
    document = built({}) | {"payload": {"a": bytes(COPY.size - frame)}}
    EventStore.collection.insert_one(checked_document(document, COPY))
    assert EventStore.collection.count_documents({}) == 1


def test_a_copy_without_metadata_stays_without():
    document = built({})
    del document["metadata"]
    assert "metadata" not in checked_document(document, COPY)


@pytest.mark.parametrize("state", [None, [], "x", 5])
def test_a_state_that_is_no_dict_is_refused(state):
    with pytest.raises(InvalidState, match=r"S\.view must return a dict, not"):
        stored_state(state, "S")


def test_a_state_that_cannot_be_stored_is_refused_with_its_path():
    with pytest.raises(InvalidState) as caught:
        stored_state({"a": [{"b": Decimal(1)}]}, "S")
    assert caught.value.path == "state.a[0].b"


# Versions and differences


@pytest.mark.parametrize("value", [0, -1, True, 1.0, "1", None, [1]])
def test_a_version_is_a_whole_number_from_1(value):
    assert refusal(check_version, value).path == "aggregateVersion"


def test_version_and_date_are_no_difference_between_two_tries():
    other = built({}, id="e") | {"aggregateVersion": 9, "created": NOW - HOUR}
    assert differences(built({}, id="e"), other) == []


@pytest.mark.parametrize(
    ("one", "other"),
    [(1, 1.0), (1, Int64(1)), (1, True), ({"a": 1, "b": 2}, {"b": 2, "a": 1})],
    ids=str,
)
def test_values_of_other_bytes_are_a_difference(one, other):
    first, second = built({"v": one}, id="e"), built({"v": other}, id="e")
    assert differences(first, second) == ["payload"]


def test_an_event_of_the_node_package_has_no_metadata_to_differ():
    stored = built({}, id="e")
    del stored["metadata"]
    assert differences(stored, built({}, id="e", metadata={"a": 1})) == []


# Events of the Node package


def test_an_event_without_metadata_is_read_with_an_empty_one():
    assert read_event({"created": NOW})["metadata"] == {}


@pytest.mark.parametrize(
    ("milliseconds", "date"),
    [
        (0, dt.datetime(1970, 1, 1, tzinfo=dt.UTC)),
        (Int64(1709209815123), NOW),
        (1709209815123.0, NOW),
        (1709209815123.9, NOW),
        (-1, dt.datetime(1969, 12, 31, 23, 59, 59, 999000, dt.UTC)),
        (-0.5, dt.datetime(1969, 12, 31, 23, 59, 59, 999000, dt.UTC)),
    ],
)
def test_milliseconds_are_read_as_a_date(milliseconds, date):
    assert read_event({"created": milliseconds, "metadata": {}})["created"] == date


@pytest.mark.parametrize("created", [8.64e15, float("nan"), float("inf"), -(2**62)])
def test_milliseconds_that_no_date_can_have_are_read_without_complaint(created):
    assert read_event({"created": created})["metadata"] == {}


def test_a_stream_of_the_node_package_is_read(store):
    EventStore.collection.insert_one(
        {
            "aggregateId": "n",
            "aggregateType": "S",
            "aggregateVersion": 1,
            "type": "T",
            "payload": {},
            "created": 1709209815123,
            "createdBy": "u",
        }
    )
    (event,) = EventStore.get_event_stream("n")
    assert (event["created"], event["metadata"]) == (NOW, {})
