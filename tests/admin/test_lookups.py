"""The work of a page does not grow with the store: measured by MongoDB's profiler."""

import datetime as dt
from contextlib import contextmanager

import pytest
from bson import ObjectId

from ossy_event_store.admin import lookups
from ossy_event_store.admin.lookups import Cursor, Search
from ossy_event_store.mongodb.ports import drive

START = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
A_STREAM = 10  # events of each


def fill(history, first, last):
    """Insert streams of ten events each, of which each goes on for a while."""
    documents = []
    for number in range(first, last):
        for version in range(1, A_STREAM + 1):
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
    """Count the index keys and the documents that the server looks at inside."""
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
    """A place far from both ends."""
    return Cursor(START + dt.timedelta(seconds=streams * 5), ObjectId())


PAGES = {
    "streams": lambda store, n: lookups.streams(store, Search()),
    "streams, later": lambda store, n: lookups.streams(
        store, Search(), older=middle(n)
    ),
    "streams, before": lambda store, n: lookups.streams(
        store, Search(), newer=middle(n)
    ),
    "streams of a type": lambda store, n: lookups.streams(
        store, Search(aggregate_type="Book")
    ),
    "streams of a person": lambda store, n: lookups.streams(
        store, Search(created_by="person-3")
    ),
    "streams by prefix": lambda store, n: lookups.streams_by_id(store, "book-0"),
    "streams by prefix, later": lambda store, n: lookups.streams_by_id(
        store, "book-", after=f"book-{n // 2:06}"
    ),
    "events": lambda store, n: lookups.events(store, Search()),
    "events, later": lambda store, n: lookups.events(store, Search(), older=middle(n)),
    "events of a type": lambda store, n: lookups.events(store, Search(type="Type3")),
    "events of two": lambda store, n: lookups.events(
        store, Search(type="Type3", created_by="person-3")
    ),
    "events of a day": lambda store, n: lookups.events(
        store, Search(until=START + dt.timedelta(seconds=n * 5))
    ),
    "event types": lambda store, n: lookups.event_types(store),
    "timeline": lambda store, n: lookups.timeline(store, "book-000007", 1, 100, True),
    "last event": lambda store, n: lookups.last_event(store, "book-000007"),
}


def test_a_page_costs_the_same_in_a_store_ten_times_as_large(store, history):
    sizes = {}
    for first, streams in [(0, 300), (300, 3000)]:
        fill(history, first, streams)
        for name, page in PAGES.items():
            with work(history.database) as counted:
                drive(page(store, streams))
            sizes[name, streams] = counted
    for name in PAGES:
        small, large = sizes[name, 300], sizes[name, 3000]
        for what, count in large.items():
            assert count <= 1.5 * small[what] + 5, (name, what, small, large)


def test_the_work_that_is_compared_is_seen(store, history):
    fill(history, 0, 100)
    with work(history.database) as counted:
        list(history.find({"payload.n": 3}))
    assert counted["docsExamined"] == 100 * A_STREAM


def test_a_page_that_finds_little_ends_early_and_goes_on(store, history):
    fill(history, 0, 300)
    history.update_one({}, {"$set": {"type": "Rare", "createdBy": "ann"}})
    search = Search(created_by="person-3", type="Type10")
    found, pages, older = [], 0, None
    while True:
        page = drive(lookups.events(store, search, older=older, size=7))
        found += page.items
        pages += 1
        older = page.older
        if older is None:
            break
    expected = {"createdBy": "person-3", "type": "Type10"}
    assert len(found) == history.count_documents(expected) > 7
    assert len({event["_id"] for event in found}) == len(found)
    assert pages > 1


def test_a_place_comes_back_from_its_text():
    for created in (START, 1.5, 7, None):
        for event_id in (ObjectId(), "payment-4711", "ü"):
            place = Cursor(created, event_id)
            assert Cursor.parse(str(place)) == place


@pytest.mark.parametrize("text", ["", "x", "AAAA", "BQAAAAA", "ü", "=", "a" * 5000])
def test_a_text_that_is_no_place_is_refused(text):
    with pytest.raises(ValueError, match="not a place"):
        Cursor.parse(text)
