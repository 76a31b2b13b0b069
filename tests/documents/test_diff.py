"""The diff of two states: complete, short, and in linear time."""

import copy
import datetime as dt
import re
import time
import uuid

import pytest
from bson import (
    Binary,
    Code,
    DatetimeMS,
    DBRef,
    Decimal128,
    Int64,
    MinKey,
    ObjectId,
    Regex,
    Timestamp,
)
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from ossy_event_store.documents.diff import Change, changes
from tests.support.bson_values import ANY, KEYS, LEAVES
from tests.support.event_documents import nested

NOON = dt.datetime(2024, 2, 29, 12, tzinfo=dt.UTC)
EAST = dt.timezone(dt.timedelta(hours=2))
NAN = float("nan")


def changed(before, after):
    """Each change as its place, and the value that was added or removed there."""
    found = changes(before, after)
    assert found.more == 0
    return [(c.where, c.kind, c.old, c.new) for c in found.items]


def kinds(before, after):
    return [(c.where, c.kind) for c in changes({"v": before}, {"v": after}).items]


# What is a change


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (1, 1.0),
        (1, True),
        (0, False),
        (0, None),
        (1, Int64(1)),
        (1.0, Int64(1)),
        (True, Int64(1)),
        (1, "1"),
        (1, Decimal128("1")),
        (0.0, -0.0),
        (0.0, NAN),
        ("", None),
        ("é", "e\u0301"),
        ({}, None),
        ({}, []),
        ([], None),
        ({"a": 1}, [1]),
        (b"a", "a"),
        (b"a", Binary(b"a", 5)),
        (NOON, NOON.isoformat()),
        (NOON, NOON + dt.timedelta(milliseconds=1)),
        (DatetimeMS(2**60), Int64(2**60)),
        (DatetimeMS(2**60), DatetimeMS(2**60 + 1)),
        (Decimal128("1.0"), Decimal128("1.00")),
        (uuid.UUID(int=1), str(uuid.UUID(int=1))),
        (ObjectId("0" * 24), "0" * 24),
        (Regex("a"), Regex("a", "i")),
        (Timestamp(1, 2), Timestamp(1, 3)),
        (MinKey(), None),
        (Code("x"), "x"),
        (Code("x", {"a": 1}), Code("x", {"a": 1.0})),
        (DBRef("c", 1), DBRef("c", Int64(1))),
        (2**70, 2**70 + 1),
        ({1, 2}, {1}),
    ],
    ids=repr,
)
def test_a_value_of_another_type_or_content_is_a_change(before, after):
    for old, new in [(before, after), (after, before)]:
        [change] = changes({"v": old}, {"v": new}).items
        assert (change.path, change.kind) == (("v",), "changed")
        assert change.old is old
        assert change.new is new  # a NaN equals nothing


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (NAN, float("-nan")),
        (NOON, NOON.astimezone(EAST)),
        (2**40, Int64(2**40)),
        (b"a", Binary(b"a", 0)),
        ([1, [2]], (1, (2,))),
        ({"a": 1, "b": {"c": 2, "d": 3}}, {"b": {"d": 3, "c": 2}, "a": 1}),
        (re.compile("a"), re.compile("a")),
        (Code("x", {"a": 1}), Code("x", {"a": 1})),
        (2**70, 2**70),
        ({1, 2}, {2, 1}),
    ],
    ids=repr,
)
def test_values_that_mongodb_stores_alike_are_no_change(before, after):
    assert kinds(before, after) == []
    assert kinds([before], [after]) == []


def test_changes_are_in_the_order_of_the_state_and_removals_come_last():
    before = {"gone": 1, "b": {"x": 1, "y": 2}, "a": 1, "same": 0}
    after = {"same": 0, "a": 2, "new": {"n": 1}, "b": {"y": 3, "z": 4}}
    assert changed(before, after) == [
        ("a", "changed", 1, 2),
        ("new", "added", None, {"n": 1}),
        ("b.y", "changed", 2, 3),
        ("b.z", "added", None, 4),
        ("b.x", "removed", 1, None),
        ("gone", "removed", 1, None),
    ]


@pytest.mark.parametrize(
    ("before", "after", "found"),
    [
        ([1, 2], [1, 2, 3], [("v[2]", "added")]),
        ([1, 1], [1, 1, 1], [("v[2]", "added")]),
        ([1, 2, 3, 4], [1, 4], [("v[1]", "removed"), ("v[2]", "removed")]),
        ([1, 2], [0, 1, 2], [("v[0]", "added")]),
        ([1, 2, 3], [1, 9, 3], [("v[1]", "changed")]),
        ([{"a": 1}, {"a": 2}], [{"a": 2}], [("v[0]", "removed")]),
        (
            [1, {"a": 2}, 3, 4],
            [1, {"a": 5}, 4],
            [("v[1].a", "changed"), ("v[2]", "removed")],
        ),
        ([[1]], [[1, 2]], [("v[0][1]", "added")]),
        (
            [{"a": [0], "b": 1}],
            [{"a": [0], "b": 2}, 5],
            [("v[0].b", "changed"), ("v[1]", "added")],
        ),
        ([], [None], [("v[0]", "added")]),
        ([1, 2, 3, 2, 1], [1, 2, 1], [("v[2]", "removed"), ("v[3]", "removed")]),
    ],
)
def test_a_list_that_grew_or_shrank_is_a_small_change(before, after, found):
    assert kinds(before, after) == found


def test_changes_beyond_the_limit_are_counted():
    before = {f"k{i}": i for i in range(10)}
    found = changes(before, {}, limit=3)
    assert [change.where for change in found.items] == ["k0", "k1", "k2"]
    assert found.more == 7
    assert changes(before, {}, limit=10).more == 0
    assert changes({}, before, limit=0).more == 10


# Where


@pytest.mark.parametrize(
    ("path", "where"),
    [
        ((), ""),
        (("customer", "address", 2, "street"), "customer.address[2].street"),
        (("a", "a.b", "c"), 'a["a.b"].c'),
        (("a b",), '["a b"]'),
        (("",), '[""]'),
        (("$set",), '["$set"]'),
        (("2",), '["2"]'),
        (("größe", "_id"), "größe._id"),
        (('a"]["b',), r'["a\"][\"b"]'),
        (("a\u202eb",), r'["a\u202eb"]'),
        (("a\ufe0f",), r'["a\ufe0f"]'),
        (("k" * 81,), f'["{"k" * 78}…]'),
    ],
)
def test_a_path_is_written_for_people(path, where):
    assert Change(path, "added", None, 1).where == where


# Any state


STATES = st.dictionaries(
    KEYS | st.sampled_from("abc"),
    st.recursive(
        LEAVES | st.sampled_from([NAN, 0, 0.0, -0.0, False, 1, Int64(1), True, "x"]),
        lambda inner: (
            st.lists(inner, max_size=5)
            | st.dictionaries(KEYS | st.sampled_from("abc"), inner, max_size=4)
        ),
        max_leaves=15,
    ),
    max_size=5,
)
SMALL = st.dictionaries(
    st.sampled_from("abc"),
    st.recursive(
        st.sampled_from([0, 0.0, -0.0, NAN, False, None, "x"]),
        lambda inner: (
            st.lists(inner, max_size=6)
            | st.dictionaries(st.sampled_from("abc"), inner, max_size=3)
        ),
        max_leaves=15,
    ),
)


CONTENT = {
    dt.datetime: lambda value: value,
    Binary: lambda value: repr(bytes(value)) + str(value.subtype or ""),
    Regex: lambda value: (value.pattern, value.flags),
}


# Lists of what is nearly alike: an item is the same only if all in it is.
ALIKE = st.lists(
    st.builds(
        lambda a, b, c: {"a": [a, {"n": b}], "b": b, "c": [[a], c]},
        *[st.sampled_from([0, 0, 0, 0.0])] * 3,
    ),
    max_size=5,
).map(lambda items: {"v": items})


def canonical(value):
    """A value that equals only the same value: with types, and keys in order."""
    if isinstance(value, dict):
        return {key: canonical(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [canonical(item) for item in value]
    if isinstance(value, re.Pattern):
        value = Regex.from_native(value)
    if type(value) is int and not -(2**31) <= value < 2**31:
        value = Int64(value)
    kind = bytes if type(value) is Binary and value.subtype == 0 else type(value)
    return kind.__name__, CONTENT.get(type(value), repr)(value)


def thawed(value):
    if isinstance(value, dict):
        return {key: thawed(item) for key, item in value.items()}
    return [thawed(i) for i in value] if isinstance(value, list | tuple) else value


def applied(before, found):
    """The state with the changes applied; removals from the end on."""
    state = thawed(before)
    removed = [change for change in found if change.kind == "removed"]
    for change in [c for c in found if c.kind == "changed"] + removed[::-1]:
        *path, last = change.path
        place = state
        for key in path:
            place = place[key]
        assert canonical(place[last]) == canonical(change.old)
        if change.kind == "changed":
            place[last] = change.new
        else:
            del place[last]
    for change in found:
        if change.kind == "added":
            *path, last = change.path
            place = state
            for key in path:
                place = place[key]
            if isinstance(place, list):
                place.insert(last, change.new)
            else:
                assert last not in place
                place[last] = change.new
    return state


@pytest.mark.no_cover  # others run each line of it
@hypothesis_settings(ANY, max_examples=100)
@given(STATES)
def test_a_state_does_not_differ_from_itself(state):
    assert changes(state, copy.deepcopy(state)).items == []


@pytest.mark.no_cover  # others run each line of it
@hypothesis_settings(ANY, max_examples=150)
@given(STATES | SMALL, STATES | SMALL)
def test_the_changes_turn_one_state_into_the_other(before, after):
    found = changes(before, after, limit=10_000)
    assert canonical(applied(before, found.items)) == canonical(after)


@pytest.mark.no_cover  # others run each line of it
@hypothesis_settings(ANY, max_examples=250)
@given(SMALL | ALIKE, SMALL | ALIKE)
def test_the_changes_turn_one_small_state_into_the_other(before, after):
    found = changes(before, after, limit=10_000)
    assert canonical(applied(before, found.items)) == canonical(after)
    assert bool(found.items) == (canonical(before) != canonical(after))


# Deep and large


@pytest.mark.parametrize(
    ("wrap", "step"),
    [(lambda v: {"a": v}, ".a"), (lambda v: [v], "[0]"), (lambda v: [v, 1], "[0]")],
)
@pytest.mark.parametrize("levels", [150, 5000])
def test_states_of_any_depth_are_compared(wrap, step, levels):
    before, after = (nested(levels, v, wrap) for v in ([1], [1, 2]))
    assert kinds(before, after) == [(f"v{step * levels}[1]", "added")]
    assert kinds([after], [after, before]) == [("v[1]", "added")]


def seconds(before, after):
    start = time.process_time()
    changes(before, after)
    return time.process_time() - start


def shrinking(levels, extra):
    """Lists in lists, each of another size than in the other state."""
    return nested(levels, extra, lambda v: [[0] * 2000, v] + [9] * extra)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({str(i): {"n": i} for i in range(100_000)}, {}),
        ({}, {str(i): i for i in range(100_000)}),
        ({str(i): i for i in range(100_000)}, {str(i): -i for i in range(100_000)}),
        ({"v": list(range(100_000))}, {"v": [i for i in range(100_000) if i != 500]}),
        ({"v": list(range(100_000))}, {"v": list(range(99_000, -1, -1))}),
        ({"v": shrinking(100, 0)}, {"v": shrinking(100, 1)}),
    ],
    ids=["removed", "added", "changed", "one taken", "turned round", "nested"],
)
def test_a_large_state_is_compared_in_linear_time(before, after):
    assert seconds(before, after) < 2  # a tenth of it, on a machine that is idle


def test_after_many_comparisons_lists_are_still_compared_right():
    before, after = {"v": [1, 2, 3, 4, 5]}, {"v": [1, 2, 4, 5]}
    found = changes(before, after, comparisons=3).items
    assert applied(before, found) == after
    assert len(found) == 3
