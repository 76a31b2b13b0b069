"""The rules for sound events, streams and snapshots."""

import pytest
from bson import Decimal128, Int64, ObjectId

from ossy_event_store.verification import rules
from tests.support.verification import LATELY, event


def test_heads_are_those_of_streams_whose_versions_follow_each_other():
    heads = rules.Heads()
    keys = ["a1", "a2", "b1", "b3", "c1", "d2", "e1", "e1", "f1", "f2", "f3"]
    for key in keys:
        heads.take([{"aggregateId": key[0], "aggregateVersion": int(key[1])}])
    heads.end()
    assert heads.ended == {"a": 2, "b": None, "c": 1, "d": None, "e": None, "f": 3}


def test_of_many_other_types_some_are_named():
    check = rules.StreamCheck("b")
    for version, kind in enumerate("ABCDEFGHBA", start=1):
        check.take(event("b", version, aggregateType=kind))
    findings = check.end()
    assert [(one.kind, one.versions, one.found) for one in findings] == [
        ("type", (2, 9), "type 'B'"),
        ("type", (3, 3), "type 'C'"),
        ("type", (4, 4), "type 'D'"),
        ("type", (5, 5), "type 'E'"),
        ("type", (6, 6), "type 'F'"),
    ]


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


# --- fields, by the server and by the report --------------------------------

TEXTS = ("x", "x" * 255, "ü" * 255)
VALUES = [
    *(None, 1, -1, 0, 2**40, 1.5, 1.0, "", *TEXTS, "x" * 256, "x" * 280, "x" * 281),
    *("💧" * 256, b"", b"x", [], ["x"], {}, {"x": 1}, True),
    *(ObjectId("0" * 24), LATELY, Decimal128("1"), Int64(1), ...),
]
#: The values that are sound in each field; every other value is not.
SOUND = {
    "_id": [*TEXTS, "x" * 256, "x" * 280, "💧" * 256, ObjectId("0" * 24)],
    "aggregateId": [*TEXTS],
    "aggregateType": [*TEXTS],
    "aggregateVersion": [1, 2**40, Int64(1)],
    "type": [*TEXTS],
    "payload": [{}, {"x": 1}, ...],
    "created": [1, -1, 0, 2**40, 1.5, 1.0, LATELY, Int64(1)],
    "createdBy": [None, "", *TEXTS, "x" * 256, "x" * 280, "x" * 281, "💧" * 256, ...],
    "metadata": [{}, {"x": 1}, ...],
    "tags": [[], ...],  # of ["x"] there is no place
    "places": [[], ["x"], ...],
    "tick": [1, 2**40, Int64(1), ...],
    "typeVersion": [1, 2**40, Int64(1), ...],
}


def text_of(value):
    """A text that differs for 1, 1.0, True and Int64(1)."""
    return f"{type(value).__name__} {value!r}"


@pytest.fixture
def scratch(history):
    """A collection without indexes, which would refuse some values."""
    scratch = history.database["verify_scratch"]
    scratch.drop()
    yield scratch
    scratch.drop()


@pytest.mark.parametrize("name", rules.EVENT_FIELDS)
def test_the_server_and_the_report_agree_on_which_values_are_sound(scratch, name):
    values = VALUES
    if name == "_id":
        # MongoDB refuses lists, and adds an id that is missing.
        values = [one for one in values if not isinstance(one, list)][:-1]
    # 1 and 1.0 are the same id.
    size = 1 if name == "_id" else len(values)
    sent, reported = set(), set()
    for start in range(0, len(values), size):
        page = values[start : start + size]
        scratch.insert_many(
            event("b", 1, **{name: value}, text=text_of(value)) for value in page
        )
        shape = {**rules.SHAPE, "text": 1}
        wrong = {"$or": [rules.BROKEN, rules.UNPLACED]}
        sent |= {one["text"] for one in scratch.find(wrong, shape)}
        for one in scratch.find({}, shape):
            reported |= {one["text"] for _ in rules.event_findings(one)}
        assert scratch.delete_many({}).deleted_count == len(page)
    expected = {text_of(value) for value in values}
    expected -= {text_of(value) for value in SOUND[name]}
    assert sent == reported == expected
