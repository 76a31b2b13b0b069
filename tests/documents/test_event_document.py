"""Event documents: built and read equal to the byte, or refused with a reason."""

import datetime as dt
import re
import uuid
from decimal import Decimal

import bson
import pytest
from bson import (
    Binary,
    DBRef,
    Int64,
    ObjectId,
)
from django.utils.functional import SimpleLazyObject
from django.utils.safestring import mark_safe
from django.utils.translation import gettext_lazy
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from ossy_event_store import Aggregate, EventStore
from ossy_event_store.documents import event_document
from ossy_event_store.documents.event_document import (
    COPY,
    NEW,
    RESERVED,
    build_event,
    check_event,
    check_id,
    check_version,
    checked_document,
    differences,
    read_event,
    stored_state,
)
from ossy_event_store.exceptions import InvalidEvent, InvalidState
from tests.library.aggregate import Book
from tests.support.bson_values import ANY, KEYS, LEAVES, VALUES
from tests.support.event_documents import (
    HOUR,
    NOW,
    Colour,
    built,
    nested,
    refusal,
    to_append,
    to_bytes,
)

# --- refused


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
    "data": ({"data": {}}, "data", "did you mean 'payload'"),
    "event_type": ({"event_type": "x"}, "event_type", "did you mean 'type'"),
    "userId": ({"userId": "x"}, "userId", "did you mean 'createdBy'"),
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
def test_an_id_that_is_no_string_raises_type_error_before_any_query(value):
    with pytest.raises(TypeError, match=r"aggregate_id must be a string, not \w+"):
        EventStore.get_event_stream(value)


@pytest.mark.parametrize(("value", "reason"), NOT_NAMES.values(), ids=list(NOT_NAMES))
def test_a_string_that_cannot_be_an_id_raises_value_error(value, reason):
    with pytest.raises(ValueError, match=reason):
        check_id(value)


@pytest.mark.parametrize("value", ["x", "x" * 255, "ü" * 255, " ", "$ne", "a.b", "💧"])
def test_any_other_string_is_an_id(value):
    assert check_id(value) == value


@pytest.mark.parametrize("value", [Colour.RED, mark_safe("red")])
def test_a_string_of_another_class_is_an_id_as_plain_text(value):
    assert (check_id(value), type(check_id(value))) == ("red", str)


@pytest.mark.parametrize("name", ["aggregateVersion", "created"])
def test_an_aggregate_may_not_set_the_fields_of_the_store(store, name):
    error = refusal(Aggregate.of, Book, {"type": "BookBought", name: 1})
    assert error.path == name
    assert "the store sets it" in error.reason


def test_an_aggregate_may_not_set_another_aggregate_type():
    event = {"type": "BookBought", "aggregateType": "Cook"}
    assert refusal(Aggregate.of, Book, event).path == "aggregateType"


@pytest.mark.parametrize("event", [None, "BookBought", ["type"], 5, b"x"])
def test_an_event_that_is_no_dict_is_refused(event):
    error = refusal(check_event, event, ())
    assert error.reason.startswith("an event must be a dict, not ")


def test_a_missing_type_is_refused():
    assert str(refusal(check_event, {}, ())) == "type: missing"


def test_the_reason_against_an_unknown_key_is_complete_sentences():
    reason = refusal(check_event, {"type": "T", "zzz": 1}, ()).reason
    assert re.search(r"known: .*, id[.;] Put other data in payload", reason)


def test_an_event_has_at_most_4_mib():
    frame = len(bson.encode(built({"a": b""})))
    assert built({"a": bytes(NEW.size - frame)})
    error = refusal(built, {"a": bytes(NEW.size - frame + 1)})
    assert error.reason == "has 4,194,305 bytes; an event may have 4,194,304"


def test_several_events_of_which_one_is_wrong_write_nothing(store):
    good, bad = to_append(), to_append(payload={"a": {1}})
    assert refusal(EventStore.append_events, [good, good, bad]).path == "payload.a"
    assert EventStore.collection.count_documents({}) == 0


# --- accepted


def test_an_event_has_its_fields_in_order():
    assert list(built({})) == list(event_document.FIELDS)


def test_payload_and_metadata_are_empty_and_created_by_none_by_default():
    event = build_event(
        {"type": "T"}, aggregate_id="s", aggregate_type="S", version=1, created=NOW
    )
    assert (event["payload"], event["metadata"], event["createdBy"]) == ({}, {}, None)


def test_the_callers_id_is_kept():
    assert built({}, id="mine")["_id"] == "mine"


def test_events_without_an_id_get_different_ids():
    assert built({})["_id"] != built({})["_id"]


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


# --- the loosest limits, for copies and states


def test_a_copy_may_contain_nan():
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


# --- versions and differences


@pytest.mark.parametrize("value", [0, -1, True, 1.0, "1", None, [1]])
def test_a_version_is_an_integer_from_1(value):
    assert refusal(check_version, value).path == "aggregateVersion"


def test_version_and_date_may_differ_between_two_tries():
    other = built({}, id="e") | {"aggregateVersion": 9, "created": NOW - HOUR}
    assert differences(built({}, id="e"), other) == []


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, 1.0),
        (1, Int64(1)),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        ([{"a": 1, "b": [2]}], [{"b": [2.0], "a": 1}]),
    ],
    ids=str,
)
def test_equal_values_do_not_differ(one, other):
    first, second = built({"v": one}, id="e"), built({"v": other}, id="e")
    assert differences(first, second) == []


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, True),
        (0, False),
        (1, "1"),
        (2**53 + 1, float(2**53)),
        (None, {}),
        ([1, 2], [2, 1]),
        ([1], [1, 2]),
        ({"a": 1}, {"a": 1, "b": None}),
        ("a", b"a"),
        (Binary(b"a", 128), Binary(b"a", 129)),
    ],
    ids=str,
)
def test_other_values_differ(one, other):
    first, second = built({"v": one}, id="e"), built({"v": other}, id="e")
    assert differences(first, second) == differences(second, first) == ["payload"]


@pytest.mark.parametrize("field", ["createdBy", "metadata", "payload"])
def test_what_the_caller_left_out_does_not_differ(field):
    stored = built({"a": 1}, id="e", createdBy="ann", metadata={"a": 1})
    sent = {**stored, field: None if field == "createdBy" else {}}
    assert differences(stored, sent) == [field]
    assert differences(stored, sent, stored.keys() - {field}) == []


@pytest.mark.parametrize("name", RESERVED)
def test_a_reserved_field_is_refused(name):
    with pytest.raises(InvalidEvent, match="reserved for a later version") as caught:
        check_event({"type": "T", name: 1}, ())
    assert caught.value.path == name


def test_an_event_of_the_node_package_has_no_metadata_to_differ():
    stored = built({}, id="e")
    del stored["metadata"]
    assert differences(stored, built({}, id="e", metadata={"a": 1})) == []


# --- events of the Node package


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
def test_milliseconds_that_are_no_date_are_read_as_they_are(created):
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


def test_a_hint_names_only_a_key_that_is_allowed():
    event = {"type": "T", "stream": "x"}
    assert "'aggregateId'" in refusal(check_event, event, ("aggregateId",)).reason
    assert "did you mean" not in refusal(check_event, event, ()).reason
