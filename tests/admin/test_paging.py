"""Cursors, and the work of a page: it does not grow with the store."""

import datetime as dt
from contextlib import contextmanager

import pytest
from bson import ObjectId

from ossy_event_store.admin import event_lookups, stream_lookups
from ossy_event_store.admin.paging import Cursor, Search
from ossy_event_store.mongodb.ports import drive
from tests.support.verification import rebuild_indexes

START = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
EVENTS_EACH = 10  # of a stream


def fill(history, first, last):
    """Insert streams of ten events each that overlap in time."""
    documents = []
    for number in range(first, last):
        for version in range(1, EVENTS_EACH + 1):
            documents.append(
                {
                    "_id": ObjectId(),
                    "aggregateId": f"book-{number:06}",
                    "aggregateType": "Book",
                    "aggregateVersion": version,
                    "type": f"Type{version}",
                    "payload": {"n": version},
                    "created": START + dt.timedelta(seconds=number * 10 + version * 7),
                    "createdBy": f"person-{number % 7}",
                    "metadata": {"correlationId": f"visit-{number}"},
                }
            )
    history.insert_many(documents)


@contextmanager
def work(database):
    """Count the index keys and documents that the server reads inside, by profiler."""
    database.command("profile", 0)
    database.drop_collection("system.profile")
    database.command("profile", 2)
    counted = {}
    try:
        yield counted
    finally:
        database.command("profile", 0)
    reads = {"op": {"$in": ["query", "command"]}}
    entries = list(database["system.profile"].find(reads))
    database.drop_collection("system.profile")
    assert entries
    for name in ("keysExamined", "docsExamined"):
        counted[name] = sum(entry.get(name, 0) for entry in entries)


def middle(streams):
    """Return a cursor far from both ends."""
    return Cursor(START + dt.timedelta(seconds=streams * 5), ObjectId())


PAGES = {
    "streams": lambda store, n: stream_lookups.streams(store, Search()),
    "streams, older": lambda store, n: stream_lookups.streams(
        store, Search(), older=middle(n)
    ),
    "streams, newer": lambda store, n: stream_lookups.streams(
        store, Search(), newer=middle(n)
    ),
    "streams of a type": lambda store, n: stream_lookups.streams(
        store, Search(aggregate_type="Book")
    ),
    "streams of an author": lambda store, n: stream_lookups.streams(
        store, Search(created_by="person-3")
    ),
    "streams by prefix": lambda store, n: stream_lookups.streams_by_id(store, "book-0"),
    "streams by prefix, older": lambda store, n: stream_lookups.streams_by_id(
        store, "book-", after=f"book-{n // 2:06}"
    ),
    "events": lambda store, n: event_lookups.events(store, Search()),
    "events, older": lambda store, n: event_lookups.events(
        store, Search(), older=middle(n)
    ),
    "events of a type": lambda store, n: event_lookups.events(
        store, Search(type="Type3")
    ),
    "events of a type and an author": lambda store, n: event_lookups.events(
        store, Search(type="Type3", created_by="person-3")
    ),
    "events until a day": lambda store, n: event_lookups.events(
        store, Search(until=START + dt.timedelta(seconds=n * 5))
    ),
    "event types": lambda store, n: event_lookups.event_types(store),
    "timeline": lambda store, n: stream_lookups.timeline(
        store, "book-000007", 1, 100, True
    ),
    "last event": lambda store, n: stream_lookups.last_event(store, "book-000007"),
}


def costs(store, history, streams):
    """Return the work of each page in a store with this many streams."""
    found = {}
    for name, page in PAGES.items():
        with work(history.database) as found[name]:
            drive(page(store, streams))
    return found


def test_a_page_costs_the_same_in_a_store_ten_times_as_large(store, history):
    # Once a document had a list there, an index on a field gives no order any more.
    rebuild_indexes(history.database)
    fill(history, 0, 300)
    small = costs(store, history, 300)
    fill(history, 300, 3000)
    large = costs(store, history, 3000)
    for name, page in small.items():
        for what, count in page.items():
            assert large[name][what] <= 1.5 * count + 5, (name, small, large)


def test_the_work_of_a_scan_is_counted(store, history):
    fill(history, 0, 100)
    with work(history.database) as counted:
        list(history.find({"payload.n": 3}))
    assert counted["docsExamined"] == 100 * EVENTS_EACH


def test_a_page_with_few_matches_ends_early_and_the_next_continues(store, history):
    fill(history, 0, 300)
    history.update_one({}, {"$set": {"type": "Rare", "createdBy": "ann"}})
    search = Search(created_by="person-3", type="Type10")
    found, pages, older = [], 0, None
    while True:
        page = drive(event_lookups.events(store, search, older=older, size=7))
        found += page.items
        pages += 1
        older = page.older
        if older is None:
            break
    expected = {"createdBy": "person-3", "type": "Type10"}
    assert len(found) == history.count_documents(expected) > 7
    assert len({event["_id"] for event in found}) == len(found)
    assert pages > 1


def test_a_cursor_survives_its_text():
    for created in (START, 1.5, 7, None):
        for event_id in (ObjectId(), "payment-4711", "ü"):
            cursor = Cursor(created, event_id)
            assert Cursor.parse(str(cursor)) == cursor


@pytest.mark.parametrize("text", ["", "x", "AAAA", "BQAAAAA", "ü", "=", "a" * 5000])
def test_a_text_that_is_not_a_cursor_is_refused(text):
    with pytest.raises(ValueError, match="not a cursor"):
        Cursor.parse(text)
