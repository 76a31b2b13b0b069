"""Export and import events with tags, and verify their numbers."""

import datetime as dt
import json

import pytest
from django.conf import settings

from ossy_event_store import EventStore, InvalidLine, item
from ossy_event_store.mongodb.ports import drive
from ossy_event_store.streams.export_events import export_events
from ossy_event_store.streams.import_events import import_events
from ossy_event_store.verify import verify_event_store
from tests.support.boundaries import declared

pytestmark = pytest.mark.skipif(settings.STORE != "url", reason="it empties the store")


async def all_of(lines):
    return "".join([line async for line in lines])


def exported(store):
    text = drive(all_of(export_events(store, [{}])))
    return text.splitlines()


def imported(store, lines):
    numbered = enumerate(map(json.dumps, lines), 1)
    return drive(import_events(store, numbered))


def line(stream, version, *tags, **fields):
    return {
        "aggregateId": stream,
        "aggregateType": "S",
        "aggregateVersion": version,
        "type": "A",
        "created": "2026-01-01T00:00:00Z",
        **({"tags": tags} if tags else {}),
        **fields,
    }


def places(event):
    return {place["t"]: place["n"] for place in event.get("places", ())}


def findings():
    return [str(one) for one in verify_event_store().findings]


def test_an_export_can_be_imported_with_its_order(store, history):
    for tags in (["b", "x"], ["a", "x"], ["b"], ["a", "x"]):
        EventStore.append_event({"type": "A", "tags": tags})
    lines = exported(store)
    before = list(EventStore.read_boundary(item(tags=["x"])).events)
    history.delete_many({})
    imported(store, map(json.loads, lines))
    assert list(EventStore.read_boundary(item(tags=["x"])).events) == before
    assert imported(store, map(json.loads, lines)).present == 4
    assert findings() == []
    assert places(EventStore.append_event({"type": "A", "tags": ["x"]})) == {"x": 4}


def test_lines_without_places_get_the_next_numbers(store):
    EventStore.append_event(
        {"type": "A", "tags": ["x"], "aggregateId": "s"} | {"aggregateType": "S"}
    )
    imported(store, [line("s", 2, "x", "y"), line("t", 1), line("t", 2, "y", tick=7)])
    events = EventStore.find_events(
        {}, sort=[("aggregateId", 1), ("aggregateVersion", 1)]
    )
    assert [places(event) for event in events] == [
        {"x": 1},
        {"x": 2, "y": 1},
        {},
        {"y": 2},
    ]
    assert [event.get("tick") for event in events] == [1, 2, None, 3]
    assert findings() == []


def test_lines_of_a_declared_type_get_a_place(store):
    with declared("A"):
        imported(store, [line("t", 1), line("t", 2, "y")])
        assert places(EventStore.find_event({"aggregateVersion": 2}))["type:A"] == 2
        assert findings() == []


def test_a_number_that_is_taken_is_refused(store):
    EventStore.append_event({"type": "A", "tags": ["x"]})
    taken = line("t", 1, "x", places=[{"t": "x", "n": 1}], tick=1)
    with pytest.raises(InvalidLine, match="number 1 in 'x' is taken") as error:
        imported(store, [line("s", 1), taken])
    assert error.value.line == 2


@pytest.mark.parametrize(
    "wrong",
    [
        {"tags": "x"},
        {"tags": ["x", "x"]},
        {"tags": ["type:x"]},
        {"tags": ["x"], "places": []},
        {"tags": ["x"], "places": [{"t": "x"}]},
        {"tags": ["x"], "places": [{"t": "x", "n": 0}]},
        {"tags": ["x"], "places": [{"t": 1, "n": 1}]},
        {"tags": ["x"], "places": [{"t": "y", "n": 1}]},
        {"tags": ["x"], "places": [{"t": "x", "n": 1}, {"t": "x", "n": 2}]},
    ],
)
def test_wrong_tags_or_places_are_refused(store, wrong):
    with pytest.raises(InvalidLine, match=r"tags|places"):
        imported(store, [line("t", 1, **wrong)])
    assert EventStore.count() == 0


def test_verify_finds_what_is_wrong_with_tags(store, history):
    for number in range(5):
        EventStore.append_event({"type": "A", "tags": ["x"], "id": f"e{number}"})
    assert findings() == []
    history.delete_one({"_id": "e2"})
    assert [one for one in findings() if "tag" in one] != []
    history.delete_many({})
    stored = EventStore.append_event({"type": "A", "tags": ["x"]})
    history.update_one({"_id": stored["_id"]}, {"$set": {"tags": ["x", "y"]}})
    assert any("a place in each of its tags" in one for one in findings())


def test_verify_finds_events_of_a_declared_type_without_a_place(store, history):
    old = EventStore.append_event({"type": "A", "tags": ["x"]})
    with declared("A", "*"):
        assert findings() == []
        EventStore.append_event({"type": "A", "tags": ["x"]})
        assert findings() == []
        again = {**old, "_id": "late", "aggregateVersion": 3, "tick": 3}
        again |= {"places": [{"t": "x", "n": 3}], "created": dt.datetime(2999, 1, 1)}
        history.insert_one(again)
        found = findings()
    assert len(found) == 2
    assert all("a process without the setting" in one for one in found)


@pytest.mark.parametrize("tags", ["x", 7, [7], [], {"x": 1}])
@pytest.mark.parametrize("places", ["x", [7], [{"t": 1}], {"t": "x"}])
def test_verify_withstands_what_other_programs_store(store, history, tags, places):
    EventStore.append_event({"type": "A", "tags": ["a"]})
    event = EventStore.append_event({"type": "A", "tags": ["a"]})
    changed = {"tags": tags, "places": places}
    history.update_one({"_id": event["_id"]}, {"$set": changed})
    assert isinstance(findings(), list)
