"""``appended()``: what was really committed in a block, in the order of the commits."""

import asyncio
import datetime as dt
from concurrent.futures import ThreadPoolExecutor

import pytest
from django.core.exceptions import ImproperlyConfigured

from ossy_event_store import Aggregate, EventStore
from ossy_event_store.mongodb import connection
from ossy_event_store.testing import (
    appended,
    appended_events,
    at,
    database,
    event,
    plugin,
)
from tests.library.aggregate import Book

pytestmark = pytest.mark.usefixtures("kit")


def lent(book, to="ann", **more):
    return {
        "aggregateId": book,
        "aggregateType": "Book",
        "type": "BookLent",
        "payload": {"to": to},
        **more,
    }


def test_the_log_has_the_events_of_the_block_and_no_others(lend):
    lend("b-0", "BookBought")
    with appended() as log:
        lend("b-1", "BookBought", "BookLent")
        with pytest.raises(RuntimeError, match="after the block"):
            len(log)
    lend("b-2", "BookBought")
    assert log == [event("BookBought", title="Emma"), event("BookLent", to="ann")]
    assert log.types == ["BookBought", "BookLent"]
    assert log.only("BookLent") == [event("BookLent")]
    assert log.only("BookReturned") == []
    assert log != [event("BookLent"), event("BookBought")]
    assert log.events == EventStore.get_event_stream("b-1") == list(log)
    assert (log[0], len(log), log[1:]) == (log.events[0], 2, log.only("BookLent"))


def test_the_order_is_that_of_the_commits_whatever_time_and_id_say():
    with appended() as log:
        for year, key in ((2030, "z"), (2020, "y"), (2025, "x")):
            with at(dt.datetime(year, 1, 1, tzinfo=dt.UTC)):
                EventStore.append_event(lent("b-1", id=key))
    assert [one["_id"] for one in log] == ["z", "y", "x"]


def test_threads_and_both_faces_count_and_what_is_rolled_back_does_not(lend):
    async def awaitable():
        async with appended() as log:
            await EventStore.aappend_event(lent("b-1"))
            await asyncio.to_thread(lend, "b-1", "BookReturned")
        return log

    with appended() as log:
        assert asyncio.run(awaitable()) == ["BookLent", "BookReturned"]
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lend, ["b-2"] * 4, ["BookBought"] * 4))
        with pytest.raises(KeyError), EventStore.transaction() as t:
            EventStore.append_event(lent("b-1", "bob"), session=t.session)
            raise KeyError
    assert log.types == ["BookLent", "BookReturned"] + 4 * ["BookBought"]


def test_a_block_that_raises_has_a_log_as_well(lend):
    with pytest.raises(KeyError), appended() as log:
        Aggregate.of(Book, {"type": "BookBought", "payload": {"title": "Emma"}})
        raise KeyError
    assert log == ["BookBought"]
    assert repr(log) == "[event('BookBought', title='Emma')]"


def test_a_failed_comparison_says_where(lend):
    with appended() as log:
        lend("b-1", "BookLent")
    expected = [event("BookLent", to="bob")]
    lines = plugin.pytest_assertrepr_compare("==", log, expected)
    assert lines == plugin.pytest_assertrepr_compare("==", expected, log)
    assert "".join(lines).count("payload.to") == 1
    for others in (("==", [], []), ("!=", log, expected), ("==", log, 7)):
        assert plugin.pytest_assertrepr_compare(*others) is None


def test_a_standalone_server_is_refused(monkeypatch):
    monkeypatch.setattr(database, "NO_CHANGE_STREAMS", -1)
    with appended():
        pass
    monkeypatch.setattr(appended_events, "token_of_now", lambda _: None)
    with pytest.raises(ImproperlyConfigured, match="needs a replica set"):
        appended().__enter__()
    assert connection.blocking()
