"""Events beside what a test expects, and how a failure reads."""

import datetime as dt
import enum
from decimal import Decimal
from unittest.mock import ANY

import pytest
from bson import Binary, Decimal128, Int64, ObjectId
from hypothesis import given, settings

from ossy_event_store.documents.event_document import is_same_value
from ossy_event_store.documents.storable import COPY, stored_mapping
from ossy_event_store.testing import event
from ossy_event_store.testing.matching import (
    changed,
    diff,
    differences,
    matches,
    pattern_of,
)
from tests.support.bson_values import VALUES


class Shelf(enum.Enum):
    TOP = "top"


PAYLOAD = {
    "to": "ann",
    "fee": Decimal128("1.50"),
    "due": "2027-01-31",
    "at": dt.datetime(2027, 1, 31, tzinfo=dt.UTC),
    "weeks": 3,
    "new": True,
    "lines": [{"book": "emma", "price": 2}, {"book": "lob", "price": 1}],
    "shelf": "top",
    "ids": ["a", "b"],
    "data": Binary(b"x", 5),
}
LENT = {"type": "BookLent", "payload": PAYLOAD, "tags": ["t:1"], "createdBy": "u1"}


@pytest.mark.parametrize(
    "payload",
    [
        {},
        {"to": "ann", "weeks": 3.0},
        {"fee": Decimal("1.5"), "due": dt.date(2027, 1, 31), "shelf": Shelf.TOP},
        {"at": dt.datetime(2027, 1, 31, 1, tzinfo=dt.timezone(dt.timedelta(hours=1)))},
        {"lines": [{"price": 2}, {}]},
        {"lines": ({"price": 2}, {})},
        {"ids": {"b", "a"}, "data": Binary(b"x", 5)},
        {"to": ANY, "lines": [ANY, {"book": ANY}]},
        {"weeks": pytest.approx(3.001, abs=0.1)},
    ],
)
def test_an_event_matches_in_part(payload):
    assert [event("BookLent", **payload)] == [LENT]


@pytest.mark.parametrize(
    ("payload", "path"),
    [
        ({"to": "bob"}, "payload.to"),
        ({"by": None}, "payload.by"),
        ({"new": 1}, "payload.new"),
        ({"weeks": "3"}, "payload.weeks"),
        ({"weeks": True}, "payload.weeks"),
        ({"lines": [{"price": 2}]}, "payload.lines[1]"),
        ({"lines": [{"price": 2}, {"price": 2}]}, "payload.lines[1].price"),
        ({"lines": {"0": {}}}, "payload.lines"),
        ({"data": Binary(b"x", 6)}, "payload.data"),
        ({"at": dt.datetime(2027, 1, 31)}, "payload.at"),
    ],
)
def test_an_event_differs_at_a_path(payload, path):
    assert [one.path for one in differences(event("BookLent", **payload), LENT)] == [
        path
    ]
    assert [event("BookLent", **payload)] != [LENT]


@settings(max_examples=60, deadline=None)
@given(VALUES, VALUES)
def test_a_value_matches_exactly_what_is_stored_of_it(value, other):
    one, two = (stored_mapping({"v": v}, COPY)["v"] for v in (value, other))
    actual = {"type": "A", "payload": {"v": one}}
    # As it was given, or as it is stored; nothing that is stored is equal to NaN.
    assert (
        matches(event("A", v=one), actual, exact=True)
        or one != one
        or "NaN" in (repr(one))
    )
    if not is_same_value(one, two) and not isinstance(two, str):
        assert not matches({"type": "A", "payload": {"v": two}}, actual, exact=True)


def test_patterns_of_dicts_types_and_other_fields():
    event_id = ObjectId()
    assert matches({"type": "BookLent", "id": event_id}, {**LENT, "_id": event_id})
    assert matches({"type": "BookLent", "tags": ["t:1"], "createdBy": "u1"}, LENT)
    assert not matches({"type": "BookLent", "tags": []}, LENT)
    assert matches("BookLent", LENT)
    assert not matches("BookSold", LENT)
    assert matches({"type": "A", "payload": None}, {"type": "A", "payload": {}})
    assert repr(event("A", to="b")) == "event('A', to='b')"
    assert "with {'tags': []}" in repr(pattern_of({"type": "A", "tags": []}))
    assert event("A") != 3


@pytest.mark.parametrize("expected", [3, None, ["A"], {"typ": "A"}, {"payload": {}}])
def test_what_is_no_event_cannot_be_expected(expected):
    with pytest.raises(TypeError):
        pattern_of(expected)


# --- how a failure reads ----------------------------------------------------


def test_a_missing_event_does_not_shift_the_others():
    some = [{"type": name, "payload": {}} for name in "ABCDEFG"]
    expected = [*"ABCDE", "X", *"FG"]
    assert diff(expected, some) == (
        "1. A is as expected\n   … 3 more as expected\n5. E is as expected\n"
        "   X {} is missing\n6. F is as expected\n7. G is as expected"
    )
    assert diff(list("ABCDEFG"), some) == ""
    with pytest.raises(TypeError, match="expected must be a list of events"):
        diff("ABC", some)


def test_values_are_shown_with_all_their_characters_and_types():
    got = {"type": "A\x1b", "payload": {"a\u202e": "x\x1b[2J", "n": Int64(2**40)}}
    assert diff([event("A\x1b", **{"a\u202e": "x", "n": 1.5})], [got]) == (
        "1. A\\u001b is not as expected\n"
        "     payload.a\\u202e\n"
        '       want "x"\n'
        '       got  "x\\u001b[2J"\n'
        "     payload.n\n"
        "       want 1.5\n"
        "       got  1099511627776 (int64)"
    )
    (one,) = differences(event("A", d=Decimal("1")), {"type": "A", "payload": {"d": 1}})
    assert (one.want, one.got) == ("1 (decimal128)", "1")
    (one,) = differences(event("A", d=...), {"type": "A", "payload": {"d": 1}})
    assert one.want == "Ellipsis"


def test_long_texts_are_shown_from_where_they_differ():
    texts = {"type": "A", "payload": {"t": "x" * 300 + "y"}}
    (one,) = differences(event("A", t="x" * 300 + "z"), texts)
    assert one.want == f'"…{"x" * 40}z"'
    (one,) = differences(event("A", t="x" * 300), texts)
    assert one.got == f'"…{"x" * 40}y"'


def test_states_differ_by_value_and_type():
    (one,) = changed({"n": 1}, {"n": 1.0})
    assert (one.path, one.want, one.got) == ("n", "1", "1.0")
