"""One thread for all that wait for a new event."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from pymongo.errors import AutoReconnect, InvalidOperation

from ossy_event_store import Mongo
from ossy_event_store.mongodb import connection
from ossy_event_store.mongodb.blocking_port import BlockingCollection
from ossy_event_store.positions import head_watcher
from ossy_event_store.positions.head_watcher import HeadWatcher
from tests.support.processes import ON_URL
from tests.support.servers import until


@pytest.fixture
def watcher(monkeypatch):
    monkeypatch.setattr(HeadWatcher, "wait_seconds", 0.1)
    monkeypatch.setattr(HeadWatcher, "first_pause_seconds", 0.01)
    watcher = HeadWatcher()
    yield watcher
    watcher.close()


@pytest.fixture
def place(entries):
    """Insert an entry with this position."""

    def place(position):
        entry = {"aggregateId": "a", "aggregateVersion": position, "eventId": position}
        entries.insert_one({"_id": position, **entry})

    return place


def test_it_wakes_those_that_wait_in_threads_and_in_a_loop(watcher, place):
    async def three():
        return await asyncio.gather(*(watcher.await_(7, 30) for _ in range(3)))

    place(7)
    assert watcher.wait(6, 30) == 7
    assert watcher.head == 7
    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(watcher.wait, 7, 30), pool.submit(asyncio.run, three())]
        place(9)
        assert [one.result() for one in waiting] == [9, [9, 9, 9]]


def test_the_head_is_returned_when_the_time_is_over(watcher, place):
    place(3)
    assert watcher.wait(0, 30) == 3
    assert watcher.wait(3, 0.01) == 3
    assert asyncio.run(watcher.await_(3, 0.01)) == 3


def test_a_forked_child_has_a_thread_of_its_own(watcher, place):
    watcher.wait(0, 0)
    inherited, end = watcher._thread, watcher._end
    watcher._process = 0  # as if this process were a child of the one that began
    watcher.close()
    assert not end.is_set()
    place(7)
    assert watcher.wait(6, 30) == 7
    assert watcher._thread is not inherited
    end.set()
    inherited.join(30)


def test_it_ends_quietly_when_the_client_is_closed_beneath_it(
    watcher, monkeypatch, caplog
):
    def fail(end):
        end.set()
        raise InvalidOperation("Cannot use MongoClient after close")

    monkeypatch.setattr(watcher, "_read_changes", fail)
    watcher.wait(0, 0)
    watcher._thread.join(30)
    assert caplog.text == ""


def test_a_notification_of_this_process_spares_asking_the_server(watcher, monkeypatch):
    asked = []
    monkeypatch.setattr(watcher, "_read_changes", asked.append)
    watcher.notify(5)
    assert watcher.wait(4, 30) == 5
    watcher.notify(6)
    assert watcher.wait(5, 30) == 6
    assert asked == []


def test_positions_that_were_dropped_are_noticed(watcher, store, entries, monkeypatch):
    scratch = entries.database["scratch"]
    scratch.insert_one({"_id": 7})
    other = replace(store, positions=BlockingCollection(scratch))
    monkeypatch.setattr(head_watcher.connection, "blocking", lambda: other)
    assert watcher.wait(6, 30) == 7
    scratch.drop()
    until(lambda: watcher.wait(7, 0) == 0)
    scratch.insert_one({"_id": 1})
    assert watcher.wait(0, 30) == 1
    watcher.close()
    scratch.drop()


def test_an_outage_is_logged_once_and_retried(watcher, place, monkeypatch, caplog):
    connect, failures = connection.blocking, iter([AutoReconnect("gone")] * 3)

    def failing():
        if error := next(failures, None):
            raise error
        return connect()

    monkeypatch.setattr(head_watcher.connection, "blocking", failing)
    place(2)
    assert watcher.wait(0, 30) == 2
    logged = [record.getMessage() for record in caplog.records]
    assert logged == ["Cannot watch for new events, retrying: gone"]


@ON_URL
def test_another_url_is_no_outage(watcher, place, entries, settings, caplog):
    place(1)
    assert watcher.wait(0, 30) == 1
    try:
        options = {"appName": "another"}
        settings.OSSY_EVENT_STORE = {**settings.OSSY_EVENT_STORE, "OPTIONS": options}
        new = Mongo.connect()
        new[entries.name].insert_one({"_id": 2})
        assert watcher.wait(1, 30) == 2
    finally:
        Mongo.close()
    assert not caplog.records


def test_the_thread_ends_while_nothing_waits_and_starts_again(
    watcher, place, monkeypatch
):
    monkeypatch.setattr(HeadWatcher, "unused_seconds", 0.05)
    place(1)
    assert watcher.wait(0, 30) == 1
    thread = watcher._thread
    until(lambda: not thread.is_alive())
    place(2)
    assert watcher.wait(1, 30) == 2
    watcher.close()
    assert not [t for t in threading.enumerate() if t.name == thread.name]
