"""Raw event I/O, blocking and awaitable."""

import datetime as dt

import pytest

from ossy_event_store import (
    AggregateTypeMismatch,
    ConcurrencyError,
    EventNotFound,
    EventStore,
    IdempotencyConflict,
    InvalidEvent,
    InvalidQuery,
)
from ossy_event_store.streams.lookup import _FIRST, _NAMES

LENT = {"type": "BookLent", "aggregateId": "b-1", "aggregateType": "Book"}


def versions(aggregate_id="b-1"):
    stream = EventStore.get_event_stream(aggregate_id)
    return [event["aggregateVersion"] for event in stream]


def test_an_event_is_appended_at_the_end_of_its_stream(store, face):
    assert face(EventStore.append_event, LENT)["aggregateVersion"] == 1
    assert face(EventStore.append_event, LENT)["aggregateVersion"] == 2


def test_the_returned_document_is_the_stored_one(store, face):
    moment = dt.datetime(
        2026, 3, 1, 10, 15, 0, 123456, dt.timezone(dt.timedelta(0, 3600))
    )
    event = face(
        EventStore.append_event, {**LENT, "payload": {"at": moment, "n": (1, 2)}}
    )
    assert EventStore.get_event_stream("b-1") == [event]
    assert event["payload"]["at"] == moment.replace(microsecond=123000)
    assert event["payload"]["n"] == [1, 2]


@pytest.mark.parametrize("expected", [1, 2, 7])
def test_a_wrong_expected_version_leaves_no_hole(store, face, expected):
    with pytest.raises(ConcurrencyError) as error:
        face(EventStore.append_event, LENT, expected_version=expected)
    assert error.value.actual_version == 0
    assert versions() == []


def test_an_expected_version_before_the_end_is_a_lost_race(store, face):
    face(EventStore.append_events, [LENT, LENT])
    with pytest.raises(ConcurrencyError) as error:
        face(EventStore.append_event, LENT, expected_version=1)
    assert (error.value.expected_version, error.value.actual_version) == (1, 2)
    with pytest.raises(ConcurrencyError):
        face(EventStore.append_event, LENT, expected_version=0)
    assert versions() == [1, 2]


def test_an_event_is_appended_at_the_expected_version(store, face):
    face(EventStore.append_event, LENT, expected_version=0)
    face(EventStore.append_event, LENT, expected_version=1)
    face(EventStore.append_event, {**LENT, "aggregateVersion": 3})
    assert versions() == [1, 2, 3]


def test_a_version_in_the_event_must_agree_with_the_expected_one(store, face):
    with pytest.raises(InvalidEvent, match="must be 1 to follow the expected version"):
        face(
            EventStore.append_event,
            {**LENT, "aggregateVersion": 3},
            expected_version=0,
        )


@pytest.mark.parametrize("wrong", [True, "1", 1.0, [1]])
def test_an_expected_version_is_a_whole_number(store, face, wrong):
    with pytest.raises(TypeError, match="expected_version"):
        face(EventStore.append_event, LENT, expected_version=wrong)


def test_several_events_are_appended_together(store, face):
    events = face(EventStore.append_events, [LENT, LENT, LENT])
    assert [event["aggregateVersion"] for event in events] == [1, 2, 3]


def test_events_of_two_streams_are_refused(store, face):
    with pytest.raises(InvalidEvent, match="more than one stream"):
        face(EventStore.append_events, [LENT, {**LENT, "aggregateId": "b-2"}])
    assert versions() == []


def test_a_stream_keeps_its_type(store, face):
    face(EventStore.append_event, LENT)
    with pytest.raises(AggregateTypeMismatch):
        face(EventStore.append_event, {**LENT, "aggregateType": "Reader"})


def test_an_event_id_is_stored_once(store, face):
    first = face(EventStore.append_event, {**LENT, "id": "x"})
    face(EventStore.append_event, LENT)
    assert face(EventStore.append_event, {**LENT, "id": "x"}) == first
    with pytest.raises(IdempotencyConflict):
        face(EventStore.append_event, {**LENT, "id": "x", "createdBy": "eve"})
    assert versions() == [1, 2]


def test_an_event_without_a_stream_is_refused(store, face):
    for name in ("aggregateId", "aggregateType", "type"):
        event = {key: value for key, value in LENT.items() if key != name}
        with pytest.raises(InvalidEvent, match=f"{name}: missing"):
            face(EventStore.append_event, event)


def test_an_append_without_events_is_refused(store, face):
    with pytest.raises(InvalidEvent, match="at least one event"):
        face(EventStore.append_events, [])


def test_a_stream_is_read_after_a_version(store, face):
    face(EventStore.append_events, [LENT] * 5)
    events = face(EventStore.get_event_stream, "b-1", from_version=3)
    assert [event["aggregateVersion"] for event in events] == [4, 5]
    assert face(EventStore.get_event_stream, "nowhere") == []


@pytest.mark.parametrize("wrong", ["1", None, 1.5, True, {"$gt": 0}])
def test_from_version_is_a_whole_number(store, face, wrong):
    with pytest.raises(TypeError, match="from_version must be a whole number"):
        face(EventStore.get_event_stream, "b-1", from_version=wrong)


@pytest.mark.parametrize("wrong", [0, "", "2026-01-01", False])
def test_created_is_a_date(store, face, wrong):
    with pytest.raises(InvalidEvent, match="created: must be a datetime"):
        face(EventStore.append_event, {**LENT, "created": wrong})


@pytest.mark.parametrize("wrong", [{"$ne": None}, ["b-1"], b"b-1", None, 1])
def test_only_a_string_is_an_id(store, face, wrong):
    face(EventStore.append_event, LENT)
    with pytest.raises(TypeError, match="aggregate_id must be a string"):
        face(EventStore.get_event_stream, wrong)


def test_every_stream_is_listed_once(store, face):
    for number in range(7):
        event = {**LENT, "aggregateId": f"b-{number}"}
        EventStore.append_events([event, event])
    EventStore.append_event({**LENT, "aggregateId": "r-1", "aggregateType": "Reader"})
    streams = face.list(EventStore.get_event_streams)
    assert [stream["aggregateId"] for stream in streams] == [
        *(f"b-{number}" for number in range(7)),
        "r-1",
    ]
    assert face.list(EventStore.get_event_streams, "Reader") == [
        {"aggregateId": "r-1", "aggregateType": "Reader"}
    ]


def test_the_streams_are_listed_from_an_index_alone(store):
    EventStore.append_events([LENT] * 50)
    plan = (
        EventStore.collection.find(
            {**_FIRST, "aggregateId": {"$gt": ""}},
            _NAMES,
        )
        .sort("aggregateId")
        .limit(10)
        .explain()
    )["executionStats"]
    assert (plan["totalDocsExamined"], plan["totalKeysExamined"]) == (0, 1)


def test_events_are_found_by_a_query(store, face):
    face(EventStore.append_events, [LENT, {**LENT, "createdBy": "ann"}, LENT])
    query = {"aggregateId": {"$eq": "b-1"}, "createdBy": None}
    found = face(EventStore.find_events, query, sort=[("aggregateVersion", -1)])
    assert [event["aggregateVersion"] for event in found] == [3, 1]
    assert len(face(EventStore.find_events, query, limit=1)) == 1
    assert face(EventStore.find_event, {"createdBy": "ann"})["aggregateVersion"] == 2


def test_a_query_without_a_match_is_an_error(store, face):
    for method in (EventStore.find_event, EventStore.find_events):
        with pytest.raises(EventNotFound, match="'nobody'"):
            face(method, {"createdBy": "nobody"})


def test_a_query_cannot_run_code(store, face):
    with pytest.raises(InvalidQuery, match=r"query\.\$or\[0\]\.\$where"):
        face(EventStore.find_events, {"$or": [{"$where": "true"}]})


def test_a_pipeline_is_run(store, face):
    face(EventStore.append_events, [LENT, LENT])
    pipeline = [{"$group": {"_id": "$aggregateId", "n": {"$sum": 1}}}]
    assert face(EventStore.aggregate, pipeline) == [{"_id": "b-1", "n": 2}]


def test_a_pipeline_cannot_write(store, face):
    face(EventStore.append_event, LENT)
    for stage in ({"$out": "eventstore"}, {"$merge": {"into": "eventstore"}}):
        with pytest.raises(InvalidQuery, match="only stages that read"):
            face(EventStore.aggregate, [{"$match": {}}, stage])
    assert versions() == [1]


def test_the_collection_has_majority_concerns(store):
    assert EventStore.collection.write_concern.document == {"w": "majority"}
    assert EventStore.collection.read_concern.level == "majority"
    assert EventStore.collection.name == "eventstore"


# Queries that nothing matches, or that are malformed


def test_a_query_without_a_match_returns_the_default(store, face):
    query = {"createdBy": "nobody"}
    assert face(EventStore.find_events, query, default=[]) == []
    face(EventStore.append_event, LENT)
    assert len(face(EventStore.find_events, {}, default=[])) == 1


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ({"payload.x": {1, 2}}, r"query\.payload\.x: .*use a list"),
        ({"payload": {"n": [2**70]}}, r"query\.payload\.n\[0\]: .*64 bits"),
        ({"type": "\ud800"}, r"query\.type: .*surrogate"),
        ({"created": dt.datetime(2026, 1, 1)}, r"query\.created: .*no time zone"),
        ({"$nonsense": 1}, "query: unknown top level operator"),
        ({"type": {"$in": 5}}, "query: .in needs an array"),
    ],
)
def test_a_malformed_query_is_refused(store, face, query, reason):
    with pytest.raises(InvalidQuery, match=reason):
        face(EventStore.find_events, query)


@pytest.mark.parametrize(
    ("stage", "reason"),
    [
        ({"$match": {"n": 2**70}}, r"pipeline\[0\].*64 bits"),
        ({"$limit": "x"}, "pipeline: "),
        ({"$group": {}}, "pipeline: "),
    ],
)
def test_a_malformed_pipeline_is_refused(store, face, stage, reason):
    with pytest.raises(InvalidQuery, match=reason):
        face(EventStore.aggregate, [stage])


@pytest.mark.parametrize(
    "sort", ["created", {"created": 1}, [("created", 2)], [(1, 1)], ["x"]]
)
def test_a_malformed_sort_is_refused(store, face, sort):
    with pytest.raises(InvalidQuery, match="sort"):
        face(EventStore.find_events, {}, sort=sort)


# What a stream is, without reading it


def test_a_stream_exists_once_it_has_an_event(store, face):
    assert face(EventStore.exists, "b-1") is False
    face(EventStore.append_event, LENT)
    assert face(EventStore.exists, "b-1") is True


def test_events_are_counted(store, face):
    face(EventStore.append_events, [LENT, LENT])
    face(EventStore.append_event, {**LENT, "aggregateId": "b-2"})
    assert face(EventStore.count, "b-1") == 2
    assert face(EventStore.count, "nowhere") == 0
    assert face(EventStore.count) == 3


def test_the_info_of_a_stream_is_that_of_its_ends(store, face):
    times = [dt.datetime(2026, 1, day, tzinfo=dt.UTC) for day in (1, 2, 3)]
    for time in times:
        face(EventStore.append_event, {**LENT, "created": time})
    assert face(EventStore.get_stream_info, "b-1") == {
        "aggregateId": "b-1",
        "aggregateType": "Book",
        "aggregateVersion": 3,
        "firstCreated": times[0],
        "lastCreated": times[2],
        "isClosed": False,
        "predecessor": None,
        "successor": None,
    }
    assert face(EventStore.get_stream_info, "nowhere") is None


@pytest.mark.parametrize(
    ("ask", "keys", "documents"),
    [
        (EventStore.exists, 1, 1),
        (EventStore.get_stream_info, 2, 2),
        (EventStore.count, 301, 0),
    ],
)
def test_what_a_stream_is_is_read_from_an_index(store, history, ask, keys, documents):
    for name in ("a", "b-1", "c"):
        EventStore.append_events([{**LENT, "aggregateId": name}] * 300)
    database = history.database
    database.command("profile", 2)
    try:
        ask("b-1")
    finally:
        database.command("profile", 0)
        profile = list(database["system.profile"].find({"ns": history.full_name}))
        database.drop_collection("system.profile")
    # Comparing two plans may take a key more.
    assert sum(one["keysExamined"] for one in profile) <= keys + 1
    assert sum(one["docsExamined"] for one in profile) == documents
