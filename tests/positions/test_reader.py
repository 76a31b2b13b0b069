"""Reading the events of all streams in global order, through both faces."""

import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from statistics import median
from time import monotonic

import pytest
from bson import ObjectId
from django.conf import settings
from pymongo import MongoClient, monitoring

from ossy_event_store import Aggregate, EventNotFound, EventStore
from ossy_event_store.exceptions import PositionsBroken
from ossy_event_store.mongodb import connection
from ossy_event_store.mongodb.blocking_port import BlockingCollection
from ossy_event_store.mongodb.leases import new_owner
from ossy_event_store.mongodb.ports import drive
from ossy_event_store.positions import event_pages, reader
from ossy_event_store.positions.leased_sequencer import run_sequencer
from tests.library.aggregate import Book

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


def test_all_events_are_read_in_global_order(face, lend, assign):
    lend("a", "BookBought", "BookLent")
    lend("b", "BookBought")
    lend("a", "BookRead")
    assign()
    read = face.list(EventStore.read_all)
    assert [event["position"] for event in read] == [1, 2, 3, 4]
    assert [(e["aggregateId"], e["aggregateVersion"]) for e in read] == [
        ("a", 1),
        ("a", 2),
        ("b", 1),
        ("a", 3),
    ]
    stored = EventStore.get_event_stream("a")
    assert [{**event, "position": 4} for event in stored[2:]] == read[3:]


def test_events_without_a_position_are_not_read(face, lend, assign):
    assign()
    lend("a", "BookBought")
    assert face.list(EventStore.read_all) == []
    assert face(EventStore.head_position) == 0
    assign()
    assert face(EventStore.head_position) == 1


@pytest.mark.parametrize("page", [1, 3, 1000])
def test_a_range_and_types_are_read(face, lend, assign, monkeypatch, page):
    monkeypatch.setattr("ossy_event_store.positions.reader.PAGE_SIZE", page)
    for number in range(5):
        lend(f"book-{number}", "BookBought", "BookLent")
    EventStore.append_event(
        {"aggregateId": "s", "aggregateType": "Ship", "type": "BookLent"}
    )
    assign()

    def positions(*arguments, **options):
        found = face.list(EventStore.read_all, *arguments, **options)
        return [event["position"] for event in found]

    assert positions(7) == [8, 9, 10, 11]
    assert positions(after=11) == positions(after=99) == []
    assert positions(limit=0) == []
    assert positions(limit=4) == [1, 2, 3, 4]
    assert positions(2, limit=100) == [3, 4, 5, 6, 7, 8, 9, 10, 11]
    assert positions(types=["BookLent"]) == [2, 4, 6, 8, 10, 11]
    assert positions(types=["BookLent"], aggregate_types=["Ship"]) == [11]
    assert positions(4, types=["BookLent", "BookBought"], limit=2) == [5, 6]
    assert positions(types=[]) == positions(aggregate_types=["Nothing"]) == []


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"after": -1}, ValueError),
        ({"after": "1"}, TypeError),
        ({"limit": -1}, ValueError),
        ({"limit": True}, TypeError),
        ({"types": [{"$gt": ""}]}, TypeError),
        ({"aggregate_types": [""]}, ValueError),
    ],
)
def test_wrong_arguments_are_refused(face, store, wrong, error):
    with pytest.raises(error):
        face.list(EventStore.read_all, **wrong)


def test_an_event_that_was_deleted_outside_the_store_is_named(
    face, lend, assign, history
):
    lend("a", "BookBought", "BookLent")
    assign()
    history.delete_one({"aggregateVersion": 2})
    with pytest.raises(PositionsBroken, match=r"Position 2 .* version 2 of stream 'a'"):
        face.list(EventStore.read_all)


def test_an_event_with_an_odd_id_is_read(face, lend, assign, history):
    lend("a", "BookBought")
    event = history.find_one()
    history.insert_one({**event, "_id": {"of": "another"}, "aggregateId": "b"})
    history.insert_one({**event, "_id": ObjectId(), "aggregateId": "c"})
    assign()
    read = face.list(EventStore.read_all)
    assert sorted(event["aggregateId"] for event in read) == ["a", "b", "c"]


SECOND = timedelta(seconds=1)


@pytest.mark.parametrize(
    "recorded",
    [
        lambda number: BEGIN + number * SECOND,
        lambda number: BEGIN - number * SECOND,
        lambda number: BEGIN + number % 7 * SECOND,
        lambda number: BEGIN,
        # Most are outside of the time between the first and the last.
        lambda number: BEGIN + (number % 9) * timedelta(days=1),
        # The first is so old that others fill the span.
        lambda number: BEGIN - (number == 40) * timedelta(days=9),
        lambda number: 1700000000000 + number,
        lambda number: None,
        lambda number: BEGIN + number * SECOND if number % 2 else "then",
    ],
    ids=[
        "in order",
        "backwards",
        "mixed",
        "all at once",
        "far apart",
        "one long ago",
        "numbers",
        "none",
        "words",
    ],
)
def test_each_event_is_read_whenever_it_was_recorded(
    face, history, entries, assign, monkeypatch, recorded
):
    monkeypatch.setattr(event_pages, "TIME_SCAN_EVENTS", 5)
    ids = [ObjectId(), "a@1", 1, True, 1.5, {"of": "another"}, b"bytes", None]
    foreign = [
        {
            "_id": ids[number] if number < len(ids) else f"b@{number}",
            "aggregateId": f"book-{number}",
            "aggregateType": "Book",
            "aggregateVersion": 1,
            "type": "BookBought",
            "payload": {"number": number},
            "created": recorded(number),
        }
        for number in range(60)
    ]
    # Placed one after the other, as live ones are, whatever their time.
    for at in range(0, 60, 15):
        history.insert_many(foreign[at : at + 15])
        assign()
    streams = {entry["_id"]: entry["aggregateId"] for entry in entries.find()}
    for page in 20, 31, 1000:  # the first page of a reader is read by its sizes
        monkeypatch.setattr(reader, "PAGE_SIZE", page)
        read = face.list(EventStore.read_all)
        assert [event["position"] for event in read] == list(range(1, 61))
        assert [e["aggregateId"] for e in read] == [streams[p] for p in range(1, 61)]
        assert sorted(e["payload"]["number"] for e in read) == list(range(60))
        for event in read:
            assert event["aggregateId"] == f"book-{event['payload']['number']}"


def test_old_events_are_not_looked_up_one_by_one(store, lend, assign):
    """Neighbours are read along the index of time; only two are read by id."""
    for number in range(40):
        lend(f"book-{number:02}", "BookBought", "BookLent")
    assign()
    filters = []

    class Listener(monitoring.CommandListener):
        def started(self, event):
            if event.command.get("find") == connection.EVENTS:
                filters.append(event.command["filter"])

        def succeeded(self, event):
            pass

        def failed(self, event):
            pass

    with MongoClient(settings.SERVER, event_listeners=[Listener()]) as client:
        source = connection.raw(store.events).database
        other = client[source.name]
        seen = replace(
            store,
            events=BlockingCollection(other[connection.EVENTS]),
            positions=BlockingCollection(other[connection.POSITIONS]),
        )
        limit = event_pages.PageLimit()
        limit.learn(100, 30_000)  # they are small
        found = drive(reader.read(seen, {}, 80, None, limit))
    assert [event["position"] for event in found.events] == list(range(1, 81))
    by_id = [len(query["_id"]["$in"]) for query in filters if "_id" in query]
    assert by_id == [2]


def test_a_position_is_waited_for(face, lend, assign):
    assign()
    lend("a", "BookBought")
    assert face(EventStore.wait_for, 0)
    assert not face(EventStore.wait_for, 1, 0.05)
    later = threading.Thread(target=assign)
    later.start()
    assert face(EventStore.wait_for, 1, 30)
    later.join()
    assert face(EventStore.head_position) == 1


# --- the position of one event


@pytest.fixture
def assigning(store, entries):
    """Assign positions in a thread, as run_subscriptions does."""
    stop = threading.Event()
    thread = threading.Thread(
        target=run_sequencer, args=(lambda: store, stop, new_owner())
    )
    thread.start()
    yield
    stop.set()
    thread.join()


BOUGHT = {"type": "BookBought", "aggregateId": "a", "aggregateType": "Book"}


def test_the_position_comes_with_the_append(face, assigning):
    assert face(EventStore.append_event, BOUGHT, wait=True)["position"] == 1
    more = face(EventStore.append_events, [BOUGHT, BOUGHT], wait=True)
    assert [event["position"] for event in more] == [2, 3]
    assert [event["aggregateVersion"] for event in more] == [2, 3]


def test_an_append_that_waits_in_vain_says_so(face, store, settings):
    settings.OSSY_EVENT_STORE = {**settings.OSSY_EVENT_STORE, "TIMEOUT": 0.3}
    assert face(EventStore.append_event, BOUGHT, wait=True)["position"] is None
    assert len(EventStore.get_event_stream("a")) == 1


def test_an_append_in_a_transaction_cannot_wait(store):
    with pytest.raises(ValueError, match="wait must be False inside a transaction"):
        reader.check_wait(True, replace(store, outside=store))


def test_an_event_has_a_position_once_one_was_assigned(face, lend, assign):
    (event,) = lend("a", "BookBought")
    aggregate = Aggregate.of(Book, "a")
    wanted = (event, aggregate, event["_id"])
    assert [face(EventStore.position_of, one) for one in wanted] == [None] * 3
    assign()
    assert [face(EventStore.position_of, one) for one in wanted] == [1] * 3
    with pytest.raises(EventNotFound):
        face(EventStore.position_of, "nothing")


def test_a_writer_that_waits_for_each_position_is_not_slowed_down(assigning):
    waits = []
    for _ in range(30):
        event = EventStore.append_event(BOUGHT)
        began = monotonic()
        assert EventStore.wait_for(event)
        waits.append(monotonic() - began)
    # Far below the rest between two batches that 30 events a second once got.
    assert median(waits) < 0.04
