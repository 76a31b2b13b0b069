"""Storable values: they come back as expected, others are refused with a reason."""

import datetime as dt
import re
import subprocess
import sys
import uuid
from array import array
from collections import OrderedDict
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum
from pathlib import PurePath
from types import MappingProxyType

import bson
import pytest
from bson import (
    Binary,
    Code,
    DatetimeMS,
    DBRef,
    Decimal128,
    Int64,
    ObjectId,
    Regex,
)
from django.utils import timezone
from django.utils.functional import SimpleLazyObject
from django.utils.safestring import mark_safe
from django.utils.translation import gettext_lazy
from hypothesis import example, given
from hypothesis import settings as hypothesis_settings

from ossy_event_store import EventStore
from ossy_event_store.documents.bson_types import CODEC
from ossy_event_store.documents.event_document import (
    COPY,
    NEW,
)
from ossy_event_store.documents.storable import Unstorable, Walk, stored_mapping
from ossy_event_store.exceptions import InvalidEvent
from tests.library.aggregate import Book
from tests.support.bson_values import ANY, VALUES
from tests.support.event_documents import (
    EARLY,
    LATE,
    NOW,
    Colour,
    OddZone,
    Size,
    built,
    nested,
    refusal,
    to_append,
    to_bytes,
)


class Sign(Enum):
    PLUS = "+"


@dataclass
class Point:
    x: int


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
    "lazy text": ({"a": gettext_lazy("x")}, "payload.a", r"a lazy string; use str\("),
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
    "an Enum": ({"a": Sign.PLUS}, "payload.a", r"use its \.value"),
    "a dataclass": ({"a": Point(1)}, "payload.a", r"use dataclasses\.asdict\("),
    "a path": ({"a": PurePath("x")}, "payload.a", r"use str\("),
    "an array": ({"a": array("d", [1])}, "payload.a", r"use its \.tolist\("),
    "a class": ({"a": Book}, "payload.a", "no type for builtins.type"),
    "a generator": (
        {"a": (i for i in ())},
        "payload.a",
        r"builtins\.generator; use list\(",
    ),
    "a bytearray": ({"a": bytearray(b"x")}, "payload.a", "builtins.bytearray"),
    "a complex number": ({"a": 1j}, "payload.a", "builtins.complex"),
    "before year 1": (
        {"a": dt.datetime(1, 1, 1, 1, tzinfo=EARLY)},
        "payload.a",
        "outside the years",
    ),
    "after year 9999": (
        {"a": dt.datetime(9999, 12, 31, 23, tzinfo=LATE)},
        "payload.a",
        "outside the years",
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
def test_a_value_that_cannot_be_stored_is_refused_with_path_and_reason(
    payload, path, reason
):
    error = refusal(built, payload)
    assert error.path.startswith(path)
    assert re.search(reason, error.reason)


@pytest.mark.parametrize(
    "payload", [p for p, _, _ in WRONG_VALUES.values()], ids=list(WRONG_VALUES)
)
def test_a_value_that_cannot_be_stored_writes_nothing(store, payload):
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


def test_a_value_that_contains_itself_is_refused():
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


# --- accepted


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


def test_the_callers_payload_is_not_changed():
    payload = {"a": (1, NOW.replace(microsecond=5)), "b": {"c": []}}
    before = repr(payload)
    built(payload)
    assert repr(payload) == before


def test_a_later_change_of_the_callers_payload_does_not_reach_the_event():
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
def test_a_64_bit_integer_is_checked_at_once(value):
    # `x in range()` iterates if x is of a subclass of int.
    code = f"""
from bson import Int64
from ossy_event_store.documents.storable import NEW, stored_mapping
print(type(stored_mapping({{"a": Int64({value})}}, NEW)["a"]).__name__)
"""
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=20
    )
    assert run.stdout == "Int64\n"


def looked_through(value):
    """The walk through a document, and the document as it is stored."""
    walk = Walk(COPY)
    return walk, stored_mapping({"v": value}, walk)


@ANY
@given(VALUES)
def test_an_exact_document_comes_back_as_it_is_and_is_not_larger_than_estimated(value):
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
def test_no_document_is_larger_than_estimated(value):
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
def test_a_value_that_may_come_back_different_is_not_exact(value):
    assert not looked_through(value)[0].exact


@hypothesis_settings(ANY, max_examples=100)
@given(VALUES)
@example({"": {"": ""}})
@example([[], {}, ()])
def test_a_value_is_built_equal_to_the_byte(value):
    assert to_bytes(built({"v": value})["payload"]["v"]) == to_bytes(value)


def kinds(value):
    """The types of a value and of all values in it."""
    if isinstance(value, dict):
        return [type(value), *((k, kinds(v)) for k, v in value.items())]
    if isinstance(value, list):
        return [type(value), *map(kinds, value)]
    zone = value.tzinfo if isinstance(value, dt.datetime) else None
    return type(value), zone


class Moment(dt.datetime):
    """As libraries that freeze the time have."""


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


@pytest.mark.parametrize("use_tz", [True, False])
def test_the_advice_for_a_naive_datetime_helps(settings, use_tz):
    settings.USE_TZ = use_tz
    reason = refusal(built, {"at": dt.datetime(2026, 1, 1)}).reason
    assert "make_aware" in reason
    assert built({"at": timezone.make_aware(dt.datetime(2026, 1, 1))})
    assert "datetime.now(datetime.UTC)" in reason
    assert built({"at": dt.datetime.now(dt.UTC)})
