"""Many writers on one stream, in threads, tasks and processes."""

import asyncio
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from django.conf import settings

from ossy_event_store import Aggregate, ConcurrencyError, EventStore, InvalidEvent
from ossy_event_store.mongodb import connection
from ossy_event_store.streams.races import repeating
from tests.library.aggregate import Book
from tests.support.growth import MB, held

WRITER = """
import json, sys, threading
import django
django.setup()
from ossy_event_store import Aggregate, ConcurrencyError
from tests.library.aggregate import Book

stored, lost, other = [], 0, []

def write(thread):
    global lost
    for number in range(PER_THREAD):
        name = f"{PROCESS}-{thread}-{number}"
        while True:
            try:
                book = Aggregate.of(Book, "hot")
                book.add({"type": "BookLent", "payload": {"to": name}})
                stored.append((name, book.version))
                break
            except ConcurrencyError as error:
                assert error.actual_version > error.expected_version
                lost += 1
            except BaseException as error:
                other.append(repr(error))
                return

threads = [threading.Thread(target=write, args=(n,)) for n in range(8)]
[t.start() for t in threads]
[t.join() for t in threads]
print(json.dumps({"stored": stored, "lost": lost, "other": other}))
"""


def test_the_pause_between_attempts_is_bounded_however_many_there_were():
    assert 0.25 <= repeating._backoff(5000) <= 0.5


@pytest.mark.faults
@pytest.mark.skipif(settings.STORE != "url", reason="the processes connect by URL")
def test_two_processes_of_eight_threads_lose_and_duplicate_nothing(store, lend):
    lend("hot", "BookBought")
    database = connection.raw(store.events).database.name
    code = f"""
import os
from django.conf import settings
from ossy_event_store.mongodb import location
settings.OSSY_EVENT_STORE = {{"URL": {settings.SERVER!r}, "NAME": {database!r}}}
"""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", f"PROCESS, PER_THREAD = {n}, 10\n{code}{WRITER}"],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "TEST_MONGODB_URL": settings.SERVER},
        )
        for n in range(2)
    ]
    results = [json.loads(p.communicate(timeout=120)[0]) for p in processes]
    assert [result["other"] for result in results] == [[], []]
    acknowledged = {v: n for r in results for n, v in r["stored"]}
    events = EventStore.get_event_stream("hot")[1:]
    in_store = {e["aggregateVersion"]: e["payload"]["to"] for e in events}
    assert in_store == acknowledged
    assert sorted(in_store) == list(range(2, 2 + 2 * 8 * 10))
    assert sum(result["lost"] for result in results) > 0


def test_one_of_fifty_threads_wins_a_version(store, lend):
    lend("hot", "BookBought")
    books = [Aggregate.of(Book, "hot") for _ in range(50)]

    def write(book):
        try:
            book.add({"type": "BookReturned"})
        except ConcurrencyError:
            return 0
        return 1

    with ThreadPoolExecutor(16) as pool:
        assert sum(pool.map(write, books)) == 1
    assert len(EventStore.get_event_stream("hot")) == 2


def test_one_of_fifty_tasks_wins_a_version(store, lend):
    lend("hot", "BookBought")

    async def write(book):
        try:
            await book.aadd({"type": "BookReturned"}, {"type": "BookReturned"})
        except ConcurrencyError:
            return 0
        return 1

    async def race():
        books = [await Aggregate.aof(Book, "hot") for _ in range(50)]
        return sum(await asyncio.gather(*map(write, books)))

    assert asyncio.run(race()) == 1
    assert len(EventStore.get_event_stream("hot")) == 3


def test_writers_without_an_expected_version_all_succeed(store):
    event = {"aggregateId": "hot", "aggregateType": "Book", "type": "BookReturned"}
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: EventStore.append_event(event), range(40)))
    events = EventStore.get_event_stream("hot")
    assert [event["aggregateVersion"] for event in events] == list(range(1, 41))


# --- growth -----------------------------------------------------------------


@pytest.mark.chaos
@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="reads /proc")
def test_many_appends_leave_nothing_behind(store, face):
    def held_after(count):
        for number in range(count):
            stream = {"aggregateId": f"b-{number % 100}", "aggregateType": "Book"}
            face(EventStore.append_event, {**stream, "type": "BookLent"})
        return held(store)

    before, after = held_after(500), held_after(3000)
    assert after.memory - before.memory < 2 * MB
    assert after.threads <= before.threads
    assert after.files <= before.files
    assert after.sessions < before.sessions + 50  # others may use the server


def test_an_event_that_an_index_of_the_project_refuses(store, history, face):
    name = history.create_index("payload.email", unique=True, sparse=True)
    event = {"aggregateType": "Book", "type": "T", "payload": {"email": "a@b.c"}}
    try:
        EventStore.append_event({**event, "aggregateId": "a"})
        with pytest.raises(InvalidEvent, match="not the event store's") as error:
            face(EventStore.append_event, {**event, "aggregateId": "b"})
    finally:
        history.drop_index(name)
    assert error.value.path == "payload.email"
