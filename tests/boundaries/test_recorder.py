"""
The assertions of the DCB recorder tests of the Python library eventsourcing, ported.

A recorder reads by a query after a position, and refuses an append if events match a
query after a position. Conditions on types alone need declared types here.
"""

import threading

import pytest

from ossy_event_store import (
    BoundaryConflict,
    Condition,
    EventStore,
    InvalidBoundary,
    all_events,
    any_of,
    item,
)
from ossy_event_store.subscriptions.runner import assign_positions
from tests.support.boundaries import declared, read_boundary
from tests.support.servers import until

pytestmark = pytest.mark.usefixtures("quick")

TYPES = ("type1", "type2", "type3", "typeN", "*")
PLAIN = {"aggregateId": "plain", "aggregateType": "Plain"}
TYPE1, TYPE2, TYPE_N = (item(name) for name in ("type1", "type2", "typeN"))
TAG_X, TAG_Y, TAG_A = (item(tags=[name]) for name in ("tagX", "tagY", "tagA"))
EVENTS = [
    {"type": "type1", "tags": ["tagX"]},
    {"type": "type2", "tags": ["tagA", "tagB"]},
    {"type": "type3", "tags": ["tagA", "tagC"], "aggregateId": "tagA"},
]
STUDENT = {"type": "StudentRegistered", "tags": ["student1"]}
COURSE = {"type": "CourseRegistered", "tags": ["course1"]}
JOINED = {"type": "StudentJoined", "tags": ["course1", "student1"]}


@pytest.fixture
def recorder(store, face):
    """A store with three events that have positions, through either face."""
    with declared(*TYPES):
        EventStore.append_event(EVENTS[0])
        EventStore.append_events(EVENTS[1:])
        position_all()
        yield face


def position_all():
    assign_positions(threading.Event())


def read(face, query, after=0):
    """Return which of the events match, by their positions."""
    position_all()
    events, _ = read_boundary(face, query)
    positions = [EventStore.position_of(event) for event in events]
    return [position for position in positions if position > after]


@pytest.mark.parametrize(
    ("query", "found"),
    [
        (all_events(), [1, 2, 3]),
        (TYPE1, [1]),
        (TYPE2, [2]),
        (TYPE_N, []),
        (TAG_X, [1]),
        (TAG_Y, []),
        (item("type1", tags=["tagX"]), [1]),
        (item("type1", tags=["tagY"]), []),
        (item("type2", tags=["tagX"]), []),
        (TAG_A, [2, 3]),
        (item(tags=["tagA", "tagB"]), [2]),
        (any_of(item(tags=["tagB"]), item(tags=["tagC"])), [2, 3]),
        (any_of(TAG_X, TAG_Y), [1]),
        (item("type2", tags=["tagA"]), [2]),
        (any_of(item("type2", tags=["tagB"]), item("type3", tags=["tagC"])), [2, 3]),
        (any_of(item("type3", tags=["tagC"]), item("type2", tags=["tagB"])), [2, 3]),
    ],
)
@pytest.mark.parametrize("after", [0, 1, 2])
def test_a_query_finds_its_events_in_order(recorder, query, found, after):
    assert read(recorder, query, after) == [one for one in found if one > after]


def test_everything_is_read_in_pages_after_a_position(recorder):
    def types(*args, **options):
        found = recorder.list(EventStore.read_all, *args, **options)
        return [event["type"] for event in found]

    assert types() == ["type1", "type2", "type3"]
    assert types(1) == ["type2", "type3"]
    assert types(2) == ["type3"]
    assert types(3) == []
    assert types(1, limit=1) == ["type2"]
    assert types(limit=0) == []
    assert types(1, types=["type1"]) == []
    assert types(1, tags=["tagX"]) == []
    assert types(tags=["tagA"]) == ["type2", "type3"]
    assert recorder(EventStore.head_position) == 3


@pytest.mark.parametrize(
    ("query", "after"),
    [
        (all_events(), None),
        (all_events(), 1),
        (TYPE1, None),
        (TYPE2, 1),
        (TAG_X, None),
        (TAG_A, 1),
        (item("type1", tags=["tagX"]), None),
        (item("type2", tags=["tagA"]), 1),
        (item(tags=["tagA", "tagB"]), None),
        (any_of(item(tags=["tagB"]), item(tags=["tagC"])), None),
        (any_of(TAG_X, TAG_Y), None),
        (any_of(item("type2", tags=["tagB"]), item("type3", tags=["tagC"])), None),
    ],
)
def test_an_append_fails_if_events_match(recorder, query, after):
    event = {"type": "type4", **PLAIN}
    with pytest.raises(BoundaryConflict) as error:
        recorder(EventStore.append_events, [event], unless=Condition(query, after))
    assert error.value.event_ids
    assert EventStore.count() == 3


@pytest.mark.parametrize(
    ("query", "after"),
    [
        (TYPE_N, None),
        (TAG_Y, None),
        (TYPE1, 1),
        (TAG_X, 1),
        (item("type1", tags=["tagX"]), 1),
        (all_events(), 3),
        (TAG_A, 3),
    ],
)
def test_an_append_succeeds_if_none_match(recorder, query, after):
    event = {"type": "type4", **PLAIN}
    recorder(EventStore.append_events, [event], unless=Condition(query, after))
    assert EventStore.count() == 4


def test_an_event_without_a_position_is_after_every_position(recorder):
    event = {"type": "type4", "tags": ["tagX"]}
    EventStore.append_event(event)
    with pytest.raises(BoundaryConflict):
        recorder(EventStore.append_events, [event], unless=Condition(TAG_X, 3))
    position_all()
    recorder(EventStore.append_events, [event], unless=Condition(TAG_X, 4))


@pytest.mark.parametrize("query", [TAG_X, TAG_Y])
def test_a_position_that_is_not_assigned_is_refused(recorder, query):
    with pytest.raises(InvalidBoundary, match="position 4 is not assigned"):
        recorder(EventStore.append_events, [STUDENT], unless=Condition(query, 4))
    assert EventStore.count() == 3


def test_courses_and_students(recorder):
    append = EventStore.append_events
    recorder(
        append, [STUDENT], unless=Condition(item(STUDENT["type"], tags=["student1"]), 3)
    )
    recorder(append, [COURSE], unless=Condition(item(tags=["course1"]), 3))
    recorder(append, [JOINED], unless=Condition(item(tags=["course1", "student1"]), 3))
    assert read(recorder, item(tags=["student1"])) == [4, 6]
    assert read(recorder, item(tags=["course1"])) == [5, 6]
    assert read(recorder, item(tags=["course1", "student1"])) == [6]
    assert read(recorder, item(tags=["student1"]), 4) == [6]
    boundary = any_of(
        item(STUDENT["type"], JOINED["type"], tags=["student1"]),
        item(COURSE["type"], JOINED["type"], tags=["course1"]),
    )
    assert read(recorder, boundary) == [4, 5, 6]
    found = recorder.list(EventStore.read_all, 3)
    assert [event["tags"] for event in found] == [
        ["student1"],
        ["course1"],
        ["course1", "student1"],
    ]


def test_a_waiting_reader_gets_the_next_event(recorder):
    event = {"type": "type1", "tags": ["tagX"]}
    stored = recorder(EventStore.append_event, event)
    assert recorder(EventStore.position_of, stored) is None
    later = threading.Timer(0.05, position_all)
    later.start()
    assert until(lambda: recorder(EventStore.wait_for, stored))
    later.join()  # or it would assign positions in the store of the next test
    (found,) = recorder.list(EventStore.read_all, 3, tags=["tagX"])
    assert found["_id"] == stored["_id"]
