"""The time that the store stamps is set; the time that it waits is not."""

import datetime as dt
import threading
import time

import pytest

from ossy_event_store import Aggregate, EventStore
from ossy_event_store.documents.context import clock
from ossy_event_store.mongodb import connection
from ossy_event_store.testing import at, travel
from tests.library.aggregate import Book

pytestmark = pytest.mark.usefixtures("kit")

NEW_YEAR = dt.datetime(2030, 1, 1, tzinfo=dt.UTC)
BOUGHT = {"type": "BookBought", "payload": {}}


def bought():
    return EventStore.append_event(
        {**BOUGHT, "aggregateId": "b-1", "aggregateType": "Book"}
    )["created"]


def test_everything_that_the_store_stamps_has_that_time(face):
    with at(NEW_YEAR):
        book = face(Aggregate.of, Book, {**BOUGHT, "aggregateId": "b-1"})
        face(face(book.add, BOUGHT).save)
        assert bought() == NEW_YEAR
        face(face(Aggregate.of, Book, "b-1").close, reason="sold")
    assert {one["created"] for one in EventStore.get_event_stream("b-1")} == {NEW_YEAR}
    found = connection.raw(connection.blocking().snapshots).find_one("b-1")
    assert found["saved"] == NEW_YEAR


def test_it_is_the_time_of_every_thread_and_ends_with_the_block():
    seen = []
    with (
        pytest.raises(KeyError),
        at(NEW_YEAR.astimezone(dt.timezone(dt.timedelta(hours=9)))),
    ):
        thread = threading.Thread(target=lambda: seen.append(bought()))
        thread.start()
        thread.join()
        raise KeyError
    assert seen == [NEW_YEAR]
    assert abs(bought() - dt.datetime.now(dt.UTC)) < dt.timedelta(minutes=1)


def test_travel_moves_the_time_that_counts_at_the_moment():
    with travel(days=1, hours=3):
        assert clock.now() - clock.real() > dt.timedelta(hours=26)
    with at(NEW_YEAR):
        with travel(-dt.timedelta(days=1)), travel(hours=1):
            assert clock.now() == dt.datetime(2029, 12, 31, 1, tzinfo=dt.UTC)
        assert clock.now() == NEW_YEAR
    assert clock._clock is clock.real


@pytest.mark.parametrize(
    ("moment", "error"), [(dt.datetime(2030, 1, 1), ValueError), ("2030", TypeError)]
)
def test_a_moment_has_a_time_zone(moment, error):
    with pytest.raises(error, match="moment must"):
        at(moment).__enter__()


def test_leases_and_deadlines_measure_real_time(lend):
    with at(dt.datetime(1990, 1, 1, tzinfo=dt.UTC)):
        began = time.monotonic()
        assert not EventStore.wait_for(1, timeout=0.05)
        assert 0.04 < time.monotonic() - began < 5
