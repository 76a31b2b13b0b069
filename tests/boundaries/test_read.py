"""Read the events of a query."""

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
from ossy_event_store.streams.boundaries import reading
from tests.support.boundaries import declared, read_boundary


def put(kind, *tags, **fields):
    stream = {} if tags else {"aggregateId": "plain", "aggregateType": "Plain"}
    return EventStore.append_event({"type": kind, "tags": tags, **stream, **fields})


def types(events):
    return [event["type"] for event in events]


@pytest.fixture(params=[1, 500], ids=["page of 1", "page of 500"])
def _pages(request, monkeypatch):
    monkeypatch.setattr(reading, "NUMBERS_PER_PAGE", request.param)


@pytest.mark.usefixtures("_pages")
def test_an_item_is_one_of_its_types_and_all_of_its_tags(store, face):
    put("A", "x", "y")
    put("B", "x")
    put("C", "x", "y")
    put("A", "y")
    put("A")
    assert types(read_boundary(face, item("A", "B", tags=["x"]))[0]) == ["A", "B"]
    assert types(read_boundary(face, item(tags=["x", "y"]))[0]) == ["A", "C"]
    query = any_of(item("B", tags=["x"]), item("A", tags=["y"]))
    assert types(read_boundary(face, query)[0]) == ["A", "B", "A"]
    assert types(read_boundary(face, item("D", tags=["x"]))[0]) == []
    assert types(read_boundary(face, item(tags=["unknown"]))[0]) == []


@pytest.mark.usefixtures("_pages")
def test_each_event_comes_once_in_the_order_of_its_tags_and_streams(store, face):
    stored = [
        put("A", "x", aggregateId="s", aggregateType="S"),
        put("A", "y", aggregateId="t", aggregateType="T"),
        put("A", "y", "x"),
        put("A", "z", "x"),
        put("A", "z", "y"),
    ]
    query = any_of(*(item(tags=[tag]) for tag in "xyz"), item(tags=["x", "y"]))
    events, _ = read_boundary(face, query)
    ids = [event["_id"] for event in events]
    assert sorted(ids) == sorted(event["_id"] for event in stored)
    for tag in "xyz":
        mine = [event["_id"] for event in stored if tag in event["tags"]]
        assert [one for one in ids if one in mine] == mine


def test_what_is_appended_after_the_call_is_not_read(store, face):
    put("A", "x")
    read = EventStore.read_boundary(item(tags=["x"]))
    put("B", "x")
    assert types(read.events) == ["A"]


def test_the_token_is_short_and_fits_into_a_form(store, face):
    items = [
        item("A", tags=[f"a-rather-long-tag-name:{n}" * 5, "t"]) for n in range(32)
    ]
    _, token = read_boundary(face, any_of(*items))
    assert len(token) < 200
    assert token.replace("-", "").replace("_", "").isalnum()


def test_a_query_written_in_another_order_has_the_same_token(store):
    one = any_of(item("A", "B", tags=["x", "y"]), item(tags=["z"]))
    other = any_of(item(tags=["z"]), item("B", "A", tags=["y", "x"]))
    token = EventStore.read_boundary(one).token
    EventStore.append_events(
        [{"type": "A", "tags": ["x"]}], unless=Condition(other, token)
    )


@pytest.mark.usefixtures("_pages")
def test_events_of_a_declared_type_are_read_without_a_tag(store, face):
    old = put("Invoice")
    with declared("Invoice"):
        new = put("Invoice", "customer:c")
        put("Other", "customer:c")
        events, token = read_boundary(face, item("Invoice"))
        assert [event["_id"] for event in events] == [old["_id"], new["_id"]]
        both = any_of(item("Invoice"), item(tags=["customer:c"]))
        events, _ = read_boundary(face, both)
        assert types(events) == ["Invoice", "Invoice", "Other"]
        known = Condition(item("Invoice"), token)
        invoice = {"type": "Invoice", "aggregateId": "i", "aggregateType": "Invoice"}
        face(EventStore.append_events, [invoice], unless=known)
        with pytest.raises(BoundaryConflict) as error:
            face(EventStore.append_events, [invoice], unless=known)
        assert error.value.tags == ("type:Invoice",)


def test_an_event_that_is_older_than_the_declaration_matches_a_condition(store, face):
    put("Invoice")
    event = {"type": "Other", "aggregateId": "o", "aggregateType": "O"}
    with declared("Invoice", "*"):
        for query in (item("Invoice"), all_events()):
            with pytest.raises(BoundaryConflict):
                face(EventStore.append_events, [event], unless=Condition(query))
            _, token = read_boundary(face, query)
            face(EventStore.append_events, [event], unless=Condition(query, token))


@pytest.mark.usefixtures("_pages")
def test_all_events_can_be_declared(store, face):
    put("A", "x")
    with declared("*"):
        put("B")
        events, token = read_boundary(face, all_events())
        assert types(events) == ["A", "B"]
        put("C", "y")
        with pytest.raises(BoundaryConflict):
            face(
                EventStore.append_events,
                [{"type": "D", "tags": ["z"]}],
                unless=Condition(all_events(), token),
            )


@pytest.mark.parametrize(
    "query", [item("A"), all_events(), any_of(item(tags=["x"]), item("B"))]
)
def test_a_query_without_tags_or_declaration_is_refused(store, face, query):
    with pytest.raises(InvalidBoundary, match="TYPE_BOUNDARIES"):
        read_boundary(face, query)
    event = {"type": "A", "tags": ["x"]}
    with pytest.raises(InvalidBoundary, match="TYPE_BOUNDARIES"):
        face(EventStore.append_events, [event], unless=Condition(query))
    assert EventStore.count() == 0
