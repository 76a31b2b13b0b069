"""Several streams in one call: versions, conditions, retries, ids, bad input."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from ossy_event_store import (
    AggregateTypeMismatch,
    ConcurrencyError,
    EventStore,
    IdempotencyConflict,
    InvalidEvent,
    Mongo,
)
from tests.support.processes import ON_URL
from tests.support.sent_commands import Listener

LENT = {"type": "BookLent", "payload": {"to": "ann"}, "aggregateType": "Book"}
RETURNED = {"type": "BookReturned", "aggregateType": "Book"}


def places(result):
    return {
        stream: [event["aggregateVersion"] for event in events]
        for stream, events in result.items()
    }


@pytest.fixture
def append(face, store):
    def append(streams, **conditions):
        return face(EventStore.append_streams, streams, **conditions)

    return append


# --- what is stored ---------------------------------------------------------


def test_events_of_several_streams_are_stored_and_returned(append):
    result = append({"a": [LENT, RETURNED], "b": [LENT]})
    assert places(result) == {"a": [1, 2], "b": [1]}
    for stream in ("a", "b"):
        kinds = [event["type"] for event in result[stream]]
        stored = EventStore.get_event_stream(stream)
        assert kinds == [event["type"] for event in stored]


def test_without_an_expected_version_events_go_to_the_end(append):
    append({"a": [LENT]})
    assert places(append({"a": [RETURNED], "b": [LENT]})) == {"a": [2], "b": [1]}


@pytest.mark.parametrize("count", [2, 30, 150])
def test_there_may_be_many_streams(append, count):
    append({f"s{n}": [LENT] for n in range(count)}, unchanged={"x": 0, "y": 0})
    assert EventStore.count() == count
    streams = {f"s{n}": [RETURNED] for n in range(count)}
    result = append(streams, expected=dict.fromkeys(streams, 1), unchanged={"x": 0})
    assert all(versions == [2] for versions in places(result).values())


def test_the_version_may_be_in_the_event_itself(append):
    append({"a": [LENT]})
    with pytest.raises(ConcurrencyError):
        append({"a": [{**RETURNED, "aggregateVersion": 3}], "b": [LENT]})
    event = {**RETURNED, "aggregateVersion": 2, "aggregateId": "a"}
    assert places(append({"a": [event]})) == {"a": [2]}


# --- conditions -------------------------------------------------------------


@pytest.mark.parametrize(
    ("expected", "unchanged", "conflicts"),
    [
        ({"a": 1, "b": 0}, {}, []),
        ({"a": 0}, {}, [("a", 0, 1)]),
        ({"a": 2}, {}, [("a", 2, 1)]),
        ({"b": 1}, {}, [("b", 1, 0)]),
        ({"a": 0, "b": 1}, {}, [("a", 0, 1), ("b", 1, 0)]),
        ({}, {"c": 1, "none": 0}, []),
        ({}, {"c": 0}, [("c", 0, 1)]),
        ({}, {"c": 2}, [("c", 2, 1)]),
        ({}, {"none": 1}, [("none", 1, 0)]),
        ({"a": 3}, {"c": 2, "none": 1}, [("a", 3, 1), ("c", 2, 1), ("none", 1, 0)]),
        ({"a": 1}, {"c": 1}, []),
        ({"a": 1}, {"c": 5}, [("c", 5, 1)]),
    ],
)
def test_conditions_on_streams_that_are_written_and_that_are_not(
    append, expected, unchanged, conflicts
):
    append({"a": [LENT], "c": [LENT]})
    new = {"a": [RETURNED], "b": [LENT]}
    if not conflicts:
        result = append(new, expected=expected, unchanged=unchanged)
        assert places(result) == {"a": [2], "b": [1]}
        return
    with pytest.raises(ConcurrencyError) as error:
        append(new, expected=expected, unchanged=unchanged)
    assert error.value.conflicts == conflicts
    assert EventStore.count() == 2


def test_a_stream_of_another_type_is_refused(append):
    append({"a": [LENT]})
    for expected in ({}, {"a": 1}):
        with pytest.raises(AggregateTypeMismatch):
            append(
                {"a": [{**LENT, "aggregateType": "Reader"}], "b": [LENT]},
                expected=expected,
            )
    assert EventStore.count() == 1


@pytest.fixture
def sent(store, settings):
    """Names of the commands that are sent, each with what it was called with."""
    listener = Listener()
    options = {"event_listeners": [listener]}
    settings.OSSY_EVENT_STORE = {**settings.OSSY_EVENT_STORE, "OPTIONS": options}
    yield listener.sent
    Mongo.close()


@ON_URL
@pytest.mark.parametrize("unchanged", [{}, {"l": 0, "m": 0}])
def test_conditions_cost_one_read(sent, unchanged):
    EventStore.append_event({**LENT, "aggregateId": "first"})
    sent.clear()
    EventStore.append_streams(
        {"a": [LENT], "b": [LENT]}, expected={"a": 0, "b": 0}, unchanged=unchanged
    )
    sent.pop("listIndexes", None)  # once a process
    commands = {name: len(found) for name, found in sent.items()}
    assert commands == {"aggregate": 1, "insert": 1, "commitTransaction": 1}


# --- ids --------------------------------------------------------------------


def test_the_same_call_again_stores_nothing_and_returns_the_same(append):
    streams = {
        "a": [{**LENT, "id": "1"}, {**RETURNED, "id": "2"}],
        "b": [{**LENT, "id": "3"}],
    }
    first = append(streams, expected={"a": 0}, unchanged={"c": 0})
    append({"a": [LENT], "c": [LENT]})  # the conditions do not count any more
    again = append(streams, expected={"a": 0}, unchanged={"c": 0})
    assert places(again) == places(first)
    assert EventStore.count() == 5


def test_ids_that_are_stored_with_other_content_or_in_part_are_refused(append):
    append({"a": [{**LENT, "id": "1"}]})
    for streams in (
        {"a": [{**RETURNED, "id": "1"}], "b": [LENT]},
        {"b": [{**LENT, "id": "1"}]},
        {"a": [{**LENT, "id": "1"}], "b": [{**LENT, "id": "2"}]},
    ):
        with pytest.raises(IdempotencyConflict):
            append(streams)
    with pytest.raises(InvalidEvent, match="the same id"):
        append({"a": [{**LENT, "id": "5"}], "b": [{**LENT, "id": "5"}]})
    assert EventStore.count() == 1


# --- races ------------------------------------------------------------------


def test_racers_without_conditions_all_succeed(store):
    def work(number):
        for _ in range(5):
            EventStore.append_streams({"a": [LENT], "b": [LENT], f"s{number}": [LENT]})

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert EventStore.count("a") == EventStore.count("b") == 20
    assert EventStore.count() == 60


def test_of_racers_with_the_same_condition_one_wins(store):
    def work(number):
        try:
            EventStore.append_streams({f"s{number}": [LENT]}, unchanged={"none": 0})
            EventStore.append_streams({"one": [LENT]}, expected={"one": 0})
        except ConcurrencyError as error:
            return error.conflicts
        return "won"

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(work, range(8)))
    assert results.count("won") == 1
    assert results.count([("one", 0, 1)]) == 7
    assert EventStore.count() == 9


def test_racers_with_the_same_ids_store_them_once(store):
    streams = {"a": [{**LENT, "id": "1"}], "b": [{**LENT, "id": "2"}]}

    def work(_):
        return EventStore.append_streams(streams, expected={"a": 0, "b": 0})

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(work, range(8)))
    assert all(places(result) == {"a": [1], "b": [1]} for result in results)
    assert EventStore.count() == 2


# --- bad input --------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        (([],), TypeError, "streams must be a dict"),
        (({},), ValueError, "streams is empty"),
        (({"a": LENT},), TypeError, "streams['a'] must be a list of events"),
        (({"a": []},), InvalidEvent, "streams['a']: expected at least one event"),
        (({1: [LENT]},), TypeError, "each key of streams must be a string"),
        (({"": [LENT]},), ValueError, "each key of streams must have 1 to 255"),
        (({"a": [7]},), InvalidEvent, "streams['a']: an event must be a dict"),
        (({"a": [{}]},), InvalidEvent, "streams['a'].type: missing"),
        (
            ({"a": [{"type": "BookLent"}]},),
            InvalidEvent,
            "streams['a'].aggregateType: missing",
        ),
        (
            ({"a": [{**LENT, "aggregateId": "b"}]},),
            InvalidEvent,
            "streams['a'].aggregateId: is 'b'; leave it out",
        ),
        (({"a": [LENT]}, {"b": 1}), ValueError, "expected has 'b'"),
        (({"a": [LENT]}, None, {"a": 1}), ValueError, "unchanged has 'a'"),
        (({"a": [LENT]}, {"a": "1"}), TypeError, "expected['a'] must be a whole"),
        (({"a": [LENT]}, {"a": -1}), ValueError, "expected['a'] is -1"),
        (({"a": [LENT]}, None, {"b": None}), TypeError, "unchanged['b'] must be"),
        (({"a": [LENT]}, None, {"b": True}), TypeError, "unchanged['b'] must be"),
        (({"a": [LENT]}, None, {7: 1}), TypeError, "each key of unchanged must be"),
        (({"a": [LENT]}, [1]), TypeError, "expected must be a dict"),
        (
            ({"a": [{**LENT, "type": "$StreamClosed"}]},),
            InvalidEvent,
            "streams['a'].type: only close()",
        ),
    ],
)
def test_bad_input_is_refused(append, arguments, error, text):
    names = ("expected", "unchanged")
    with pytest.raises(error) as caught:
        append(arguments[0], **dict(zip(names, arguments[1:], strict=False)))
    assert text in str(caught.value)
    assert EventStore.count() == 0
