"""Pages of events are bounded by bytes."""

import threading

import pytest

from ossy_event_store.mongodb.ports import PIECE_BYTES, drive
from ossy_event_store.positions import reader
from ossy_event_store.positions.event_pages import SIZED_EVENTS, PageLimit, events_of
from ossy_event_store.subscriptions.runner import assign_positions
from tests.support.positions import event

KB = 1000


@pytest.fixture
def large(history):
    """Insert events of these sizes in KB, and give them positions."""

    def large(*sizes):
        history.insert_many(
            event("a", version, payload={"text": "x" * size * KB})
            for version, size in enumerate(sizes, 1)
        )
        assign_positions(threading.Event())

    return large


def pages(store, limit, size=2000):
    """Return the positions of each page, and whether it was the last."""
    found, after, is_full = [], 0, True
    while is_full:
        page = drive(reader.read(store, {"_id": {"$gt": after}}, size, None, limit))
        found.append([one["position"] for one in page.events])
        after, is_full = page.last, page.is_full
    return found


def test_large_events_come_in_pages_of_so_many_bytes(store, large):
    large(*[40] * 20)
    found = pages(store, PageLimit(200 * KB))
    assert [at for page in found for at in page] == list(range(1, 21))
    assert max(map(len, found)) == 4
    assert len(found) <= 6


def test_an_event_larger_than_a_page_is_a_page(store, large):
    large(10, 300, 10, 10)
    assert pages(store, PageLimit(100 * KB)) == [[1], [2], [3, 4]]


def test_large_events_among_small_ones_are_noticed(store, large):
    large(*[1] * 60, *[100] * 10, *[1] * 60)
    limit = PageLimit(200 * KB)
    limit.learn(60, 60 * KB)
    found = pages(store, limit, 60)
    assert [at for page in found for at in page] == list(range(1, 131))
    assert len(found[0]) == 60
    # Among large ones a page has one or two, and after them as many as before.
    assert max(len(page) for page in found if 65 in page) <= 6
    assert not limit.expects_large


@pytest.mark.parametrize("count", [30, 60])  # by their ids, and along the index of time
def test_no_more_large_events_are_decoded_than_fit(store, large, entries, count):
    large(*[100] * count)
    limit = PageLimit(200 * KB)
    limit.learn(60, 60 * KB)
    found, read = drive(events_of(store, list(entries.find()), None, limit))
    assert len(read) == 1
    assert len(found) <= PIECE_BYTES // (100 * KB) + 2


def test_a_limit_learns_how_many_events_fit():
    limit = PageLimit(1000 * KB)
    assert limit.expects_large
    limit.learn(100, 100 * KB)
    assert (limit.events, limit.expects_large) == (750, False)
    limit.learn(2, 900 * KB)
    assert (limit.events, limit.expects_large) == (SIZED_EVENTS, True)
    limit.learn(0, 0)  # nothing was read
    assert limit.expects_large
    limit.learn(1, 300)
    assert not limit.expects_large
