"""Append events with tags, and under conditions."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import pytest

from ossy_event_store import (
    Aggregate,
    AggregateTypeMismatch,
    BoundaryConflict,
    ConcurrencyError,
    Condition,
    EventStore,
    IdempotencyConflict,
    IndexMissing,
    InvalidBoundary,
    InvalidEvent,
    any_of,
    item,
)
from ossy_event_store.mongodb.indexes import TAG_PLACES
from ossy_event_store.streams.boundaries import placing
from tests.library.aggregate import Book
from tests.support.boundaries import append_elsewhere


def tagged(*tags, kind="Subscribed", **fields):
    return {"type": kind, "tags": list(tags), **fields}


def numbers(event):
    return {place["t"]: place["n"] for place in event.get("places", ())}


def test_an_event_takes_the_next_number_in_each_of_its_tags(store, face):
    append = EventStore.append_event
    first = face(append, tagged("course:c1", "student:s1"))
    second = face(append, tagged("course:c1", "student:s2"))
    assert numbers(first) == {"course:c1": 1, "student:s1": 1}
    assert numbers(second) == {"course:c1": 2, "student:s2": 1}
    assert [first["tick"], second["tick"]] == [1, 2]
    assert EventStore.get_event_stream("course:c1") == [first, second]


def test_the_first_tag_names_the_stream(store, face):
    event = face(EventStore.append_event, tagged("course:c1", "student:s1"))
    assert event["aggregateId"] == "course:c1"
    assert event["aggregateType"] == "course"
    assert event["aggregateVersion"] == 1


def test_several_events_take_numbers_one_after_the_other(store, face):
    events = face(
        EventStore.append_events,
        [tagged("a"), tagged("a", "b", aggregateId="a"), {"type": "Untagged"}],
    )
    assert [numbers(event) for event in events] == [{"a": 1}, {"a": 2, "b": 1}, {}]
    assert [event["tick"] for event in events] == [1, 2, 3]
    assert "places" not in events[2]


def test_an_untagged_event_carries_the_tick_of_its_stream_on(store, face):
    stream = {"aggregateId": "s", "aggregateType": "S"}
    append = EventStore.append_event
    face(append, tagged("a", **stream))
    assert face(append, {"type": "Untagged", **stream})["tick"] == 2
    assert face(append, tagged("b", **stream))["tick"] == 3


def test_an_event_without_tags_has_none_of_the_fields(store, lend, face):
    event = face(
        EventStore.append_event, {**tagged(), "aggregateId": "s", "aggregateType": "S"}
    )
    assert not {"tags", "places", "tick"} & event.keys()


def test_a_condition_without_a_token_allows_no_event_that_matches(store, face):
    taken = Condition(any_of(item("Registered", tags=["username:ann"])))
    event = tagged("username:ann", kind="Registered")
    (stored,) = face(EventStore.append_events, [event], unless=taken)
    with pytest.raises(BoundaryConflict) as error:
        face(EventStore.append_events, [event], unless=taken)
    assert error.value.event_ids == (stored["_id"],)
    assert error.value.tags == ("username:ann",)
    other = tagged("username:bob", kind="Registered")
    free = Condition(item("Registered", tags=["username:bob"]))
    face(EventStore.append_events, [other], unless=free)
    assert EventStore.count() == 2


def test_a_condition_with_a_token_allows_the_events_that_were_known(store, face):
    query = any_of(item("Subscribed", tags=["course:c1"]))
    EventStore.append_event(tagged("course:c1", "student:s1"))
    read = EventStore.read_boundary(query)
    assert len(list(read.events)) == 1
    known = Condition(query, after=read.token)
    face(EventStore.append_events, [tagged("course:c1", "student:s2")], unless=known)
    with pytest.raises(BoundaryConflict) as error:
        face(
            EventStore.append_events, [tagged("course:c1", "student:s3")], unless=known
        )
    again = Condition(query, after=error.value.token)
    face(EventStore.append_events, [tagged("course:c1", "student:s3")], unless=again)


def test_a_condition_guards_a_tag_that_the_event_does_not_have(store, face):
    query = any_of(item(tags=["limit:l"]))
    token = EventStore.read_boundary(query).token
    (event,) = face(
        EventStore.append_events, [tagged("a")], unless=Condition(query, token)
    )
    assert event["tags"] == ["a"]
    assert numbers(event) == {"a": 1, "limit:l": 1}
    assert list(EventStore.read_boundary(query).events) == []
    # The guard is no match, so the same token serves again.
    face(EventStore.append_events, [tagged("a")], unless=Condition(query, token))


def test_an_event_that_is_stored_already_is_returned_whatever_the_condition(
    store, face
):
    taken = Condition(any_of(item(tags=["username:ann"])))
    event = tagged("username:ann", id="once")
    first = face(EventStore.append_events, [event], unless=taken)
    assert face(EventStore.append_events, [event], unless=taken) == first
    with pytest.raises(IdempotencyConflict) as error:
        face(EventStore.append_events, [{**event, "tags": ["other"]}], unless=taken)
    assert "tags" in error.value.differences


def test_a_race_lost_in_a_tag_is_run_again(store, history, face, monkeypatch):
    read = placing.read_heads
    rivals = iter(range(3))

    async def outrun(*args):
        heads = await read(*args)
        if next(rivals, None) is not None:
            append_elsewhere(history, "Overtook", "hot")
        return heads

    monkeypatch.setattr(placing, "read_heads", outrun)
    stream = {"aggregateId": "s", "aggregateType": "S"}
    event = face(EventStore.append_event, tagged("hot", **stream), expected_version=0)
    assert numbers(event) == {"hot": 4}
    with pytest.raises(ConcurrencyError):
        face(EventStore.append_event, tagged("hot", **stream), expected_version=0)


def test_a_race_lost_in_a_tag_is_looked_at_by_the_condition(
    store, history, face, monkeypatch
):
    """A newcomer that does not match only costs the round; one that does refuses."""
    read = placing.read_heads
    kinds = ["Other", "Other", "Subscribed"]

    async def outrun(*args):
        heads = await read(*args)
        if kinds:
            append_elsewhere(history, kinds.pop(0), "course:c1")
        return heads

    monkeypatch.setattr(placing, "read_heads", outrun)
    condition = Condition(item("Subscribed", tags=["course:c1"]))
    stream = {"aggregateId": "s", "aggregateType": "S"}
    event = tagged("course:c1", kind="Other", **stream)
    with pytest.raises(BoundaryConflict):
        face(EventStore.append_events, [event], unless=condition)
    assert kinds == []
    assert EventStore.count() == 3


def test_an_aggregate_appends_tags(store, lend, face):
    lend("b-1", "BookBought")
    book = Aggregate.of(Book, "b-1")
    book.add({"type": "BookLent", "payload": {"to": "ann"}, "tags": ["reader:ann"]})
    assert numbers(book.events[-1]) == {"reader:ann": 1}
    book.add({"type": "BookReturned"})
    assert book.events[-1]["tick"] == 2


@pytest.mark.parametrize(
    ("tags", "path"),
    [
        ("a", "tags"),
        ([1], "tags[0]"),
        (["a", "a"], "tags[1]"),
        (["x" * 256], "tags[0]"),
        ([""], "tags[0]"),
        (["\0"], "tags[0]"),
        (["type:A"], "tags[0]"),
        (["stream:a"], "tags[0]"),
        (["*"], "tags[0]"),
        ([f"t{n}" for n in range(17)], "tags"),
        ({"a": 1}, "tags"),
    ],
)
def test_wrong_tags_are_refused(store, tags, path):
    event = {"type": "A", "aggregateId": "s", "aggregateType": "S", "tags": tags}
    with pytest.raises(InvalidEvent) as error:
        EventStore.append_event(event)
    assert error.value.path == path


def test_a_token_of_another_query_is_refused(store, face):
    token = EventStore.read_boundary(any_of(item(tags=["a"]))).token
    for after in (token, "nonsense", token + "x", "", "b1", "b1é", "b1=", token[:-2]):
        with pytest.raises(InvalidBoundary, match="after: "):
            face(
                EventStore.append_events,
                [tagged("a")],
                unless=Condition(item(tags=["b"]), after),
            )


def test_a_token_from_the_future_is_refused(store, history, face):
    for _ in range(3):
        EventStore.append_event(tagged("a"))
    token = EventStore.read_boundary(item(tags=["a"])).token
    history.delete_many({})
    with pytest.raises(InvalidBoundary, match="restored"):
        face(
            EventStore.append_events,
            [tagged("a")],
            unless=Condition(item(tags=["a"]), token),
        )


def test_a_stream_named_after_a_tag_may_have_events_without_it(store, face):
    append = EventStore.append_event
    plain = {"type": "A", "aggregateId": "course:c1", "aggregateType": "course"}
    face(append, plain)
    assert face(append, tagged("course:c1"))["aggregateVersion"] == 2
    face(append, plain)
    event = face(append, tagged("course:c1"))
    assert (event["aggregateVersion"], numbers(event)) == (4, {"course:c1": 2})
    other = {"aggregateId": "other", "aggregateType": "Other"}
    face(append, tagged("course:c1", **other))
    event = face(append, tagged("course:c1"))
    assert (event["aggregateVersion"], numbers(event)) == (5, {"course:c1": 4})
    assert [e["tick"] for e in EventStore.find_events({"tags": "course:c1"})] == [
        *(1, 3, 4, 5),
    ]
    with pytest.raises(ConcurrencyError) as error:
        face(append, tagged("course:c1"), expected_version=7)
    assert error.value.actual_version == 5
    EventStore.append_event({**plain, "aggregateId": "course:c2", "aggregateType": "X"})
    with pytest.raises(AggregateTypeMismatch):
        face(append, tagged("course:c2"))


def test_without_its_index_nothing_is_appended_with_tags(store, history, face):
    plain = {"type": "A", "aggregateId": "s", "aggregateType": "S"}
    found = history.index_information()[TAG_PLACES.name]
    history.drop_index(TAG_PLACES.name)
    store.seen.clear()
    try:
        with pytest.raises(IndexMissing, match="the same number in a tag"):
            face(EventStore.append_event, tagged("a"))
        condition = Condition(item(tags=["a"]))
        with pytest.raises(IndexMissing):
            face(EventStore.append_events, [plain], unless=condition)
        with pytest.raises(IndexMissing):
            face(EventStore.read_boundary, item(tags=["a"]))
        face(EventStore.append_event, plain)
        assert EventStore.count() == 1
    finally:
        history.create_index(found["key"], **TAG_PLACES.options)
        store.seen.clear()


def test_batches_that_share_a_tag_are_all_stored(store):
    def write(number):
        stream = {"aggregateId": f"s-{number}", "aggregateType": "S"}
        pair = [tagged("hot", **stream), tagged("hot", f"own-{number}", **stream)]
        return EventStore.append_events(pair)

    with ThreadPoolExecutor(8) as pool:
        stored = [one for pair in pool.map(write, range(16)) for one in pair]
    found = sorted(numbers(one)["hot"] for one in EventStore.find_events({}))
    assert found == list(range(1, 33))
    assert sorted(numbers(one)["hot"] for one in stored) == found


def test_many_tasks_append_to_one_tag(store):
    async def write():
        streams = [{"aggregateId": f"s-{n}", "aggregateType": "S"} for n in range(40)]
        events = [tagged("hot", **stream) for stream in streams]
        return await asyncio.gather(*map(EventStore.aappend_event, events))

    stored = asyncio.run(write())
    assert sorted(numbers(one)["hot"] for one in stored) == list(range(1, 41))
    assert len({one["tick"] for one in stored}) == 40
