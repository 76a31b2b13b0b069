"""
Ordered scans that the server pushes, and what they do when it breaks or falls silent.

The servers are of this module's own; a scan is read here through both faces.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses

import pymongo
import pytest
from django.conf import settings as django_settings
from pymongo.errors import InvalidOperation, PyMongoError

from ossy_event_store import Aggregate, AggregateRebuild, EventStore, Mongo
from ossy_event_store.mongodb import connection, indexes, location, resumable_scan
from ossy_event_store.mongodb.blocking_port import BlockingCollection
from ossy_event_store.mongodb.indexes import STREAM_VERSIONS
from ossy_event_store.mongodb.ports import drive, drive_each
from ossy_event_store.streams.export_events import export_events
from tests.support import servers
from tests.support.servers import Wire

pytestmark = [
    pytest.mark.faults,
    pytest.mark.skipif(django_settings.STORE != "url", reason="connects by URL"),
]

STREAMS, LENGTH = 12, 10
NOTE = 200_000  # characters of each event
SIZE = 7  # events a batch: a stream's events are in two or three
FAST = {"heartbeatFrequencyMS": 500, "serverMonitoringMode": "poll"}
EVENTS = [
    (f"s-{stream:02}", version)
    for stream in range(STREAMS)
    for version in range(1, LENGTH + 1)
]


@contextlib.contextmanager
def filled(folder, members=1, **options):
    with servers.running(folder, members, **options) as running:
        try:
            location.use(running.url())
            drive(indexes.ensure(connection.blocking()))
            EventStore.collection.insert_many(map(event, EVENTS))
        finally:
            Mongo.close()
        yield running


def event(key):
    return {
        "_id": "{}@{}".format(*key),
        "aggregateId": key[0],
        "aggregateType": "Book",
        "aggregateVersion": key[1],
        "type": "BookReturned",
        # Too large, all together, for what sockets hold on the way.
        "payload": {"note": "x" * NOTE},
    }


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    with filled(tmp_path_factory.mktemp("single")) as running:
        yield running


@pytest.fixture(scope="module")
def _three(tmp_path_factory):
    folder = tmp_path_factory.mktemp("three")
    with filled(folder, 3, settings=servers.QUICK) as running:
        yield running


@pytest.fixture
def three(_three):
    """A replica set of three, all of them well before and after the test."""
    servers.heal(_three)
    yield _three
    Mongo.close()
    servers.heal(_three)


@pytest.fixture
def connect(settings, monkeypatch):
    """A function that connects both faces; batches are small."""
    monkeypatch.setattr(resumable_scan, "BATCH", SIZE)
    monkeypatch.setattr("pymongo.common.MIN_HEARTBEAT_INTERVAL", 0.02)

    def connect(url, timeout=10):
        given = settings.OSSY_EVENT_STORE
        settings.OSSY_EVENT_STORE = {**given, "TIMEOUT": timeout}
        location.use(url)

    yield connect
    Mongo.close()


@pytest.fixture
def wire(connect, single):
    """A line to the server; a scan that hears nothing for a second starts again."""
    with Wire(single.members[0]).open() as wire:
        connect(wire.url(**FAST), timeout=1)
        try:
            yield wire
        finally:
            Mongo.close()


# --- two ways to read, through both faces ------------------------------------


def all_events(store):
    return resumable_scan.scan(store, {})


def along_an_index(store):
    keys = list(STREAM_VERSIONS.keys)
    return resumable_scan.walk(store, store.events, keys, {}, {"payload": 0})


def keys_of(documents):
    return [(d["aggregateId"], d["aggregateVersion"]) for d in documents]


@pytest.fixture(params=[all_events, along_an_index])
def read(request):
    return request.param


@pytest.fixture(params=["blocking", "awaitable"])
def through(request):
    """A function that runs a coroutine of a store, through one face."""

    async def awaited(work):
        try:
            return await work(await connection.awaitable())
        finally:
            await Mongo.aclose()

    if request.param == "blocking":
        return lambda work: drive(work(connection.blocking()))
    return lambda work: asyncio.run(awaited(work))


@pytest.fixture
def keys(through, read):
    """A function that reads all keys; it calls another one after each batch."""

    def keys(after_each=lambda count: None):
        async def drained(store):
            found = []
            async for batch in read(store):
                found += keys_of(batch)
                after_each(len(found))
            return found

        return through(drained)

    return keys


# Keys alone would all be on their way after the first batch.
of_large_documents = pytest.mark.parametrize("read", [all_events], indirect=True)


# --- pushed ------------------------------------------------------------------


def test_the_server_is_asked_for_one_batch_and_pushes_the_others(wire, keys):
    assert keys() == EVENTS
    assert wire.said.count("find") == 1
    assert wire.said.count("getMore") == 1


def test_a_scan_that_ends_early_does_not_disturb_others(connect, single, read):
    connect(single.url(**FAST))
    store = connection.blocking()
    for _ in range(3):
        batches = read(store)
        assert drive(anext(batches))
        assert drive(anext(batches))
        drive(batches.aclose())
        assert len(drive(store.events.find({}))) == len(EVENTS)


@pytest.fixture(scope="module")
def much(single):
    """The URL of a database with three times as much: sockets may hold 32 MB."""
    url = single.url(**FAST).replace("/?", "/much?")
    try:
        location.use(url)
        drive(indexes.ensure(connection.blocking()))
        for key in EVENTS:
            note = "x" * NOTE * 3
            EventStore.collection.insert_one({**event(key), "payload": {"note": note}})
    finally:
        Mongo.close()
    return url


def test_no_more_is_pushed_than_is_read(connect, single, much, through):
    connect(much)
    with single.primary.client() as client:

        def getmores():
            return client.admin.command("serverStatus")["opcounters"]["getmore"]

        async def read(store):
            before, pushed = getmores(), -1
            batches = all_events(store)
            found = keys_of(await anext(batches))
            while getmores() == before:
                found += keys_of(await anext(batches))
            # Some are on their way by now; then the server waits for the reader.
            while getmores() - before > pushed:
                pushed = getmores() - before
                await store.client.pause(0.3)
            async for batch in batches:
                found += keys_of(batch)
            return pushed, found

        pushed, found = through(read)
    assert 1 < pushed < len(EVENTS) // SIZE - 2
    assert found == EVENTS


def test_a_scan_that_timed_out_leaves_no_connection_with_more_on_the_way(
    connect, single, through
):
    """PyMongo gives it back to the pool within a second."""
    connect(single.url(**FAST), timeout=1)

    async def read(store):
        with pymongo.timeout(0.5):
            async for _ in all_events(store):
                await store.client.pause(0.3)

    async def work(store):
        with pytest.raises(PyMongoError) as caught:
            await read(store)
        assert caught.value.timeout
        for _ in range(40):
            assert await store.events.find_one({"_id": "s-01@1"}, projection=["_id"])
            await store.client.pause(0.05)

    through(work)


def drained(batches):
    with contextlib.suppress(StopAsyncIteration):
        while True:
            yield drive(anext(batches))


@pytest.mark.parametrize("size", [1, 2])
def test_a_scan_keeps_no_connection_that_others_wait_for(connect, single, size):
    connect(single.url(maxPoolSize=size), timeout=5)
    Aggregate.collection.delete_many({})
    report = AggregateRebuild.build_and_save_all()
    assert report.ok
    assert report.saved == STREAMS


def test_within_a_session_nothing_is_pushed(wire):
    events = EventStore.collection
    with events.database.client.start_session() as session:
        documents = BlockingCollection(events, session)
        batches = documents.batches({}, SIZE, pushed=True)
        assert sum(map(len, drained(batches))) == len(EVENTS)
    assert wire.said.count("getMore") > 5


def test_a_download_is_not_pushed(wire):
    lines = list(drive_each(export_events(connection.blocking(), [{}])))
    assert sum(part.count("\n") for part in lines) == len(EVENTS)
    assert wire.said.count("getMore") > 5


def test_a_server_that_cannot_push_is_asked_for_each_batch(wire, through):
    """As a mongos that does not support it, or with such a PyMongo."""

    class Refusing:
        def __init__(self, events):
            self.events = events

        async def batches(self, query, size, *, pushed=False, **options):
            if pushed:
                raise InvalidOperation("Exhaust cursors are not supported by mongos")
            async for batch in self.events.batches(query, size, **options):
                yield batch

    async def read(store):
        refusing = dataclasses.replace(store, events=Refusing(store.events))
        return [
            key
            async for batch in resumable_scan.scan(refusing, {})
            for key in keys_of(batch)
        ]

    assert through(read) == EVENTS
    assert wire.said.count("getMore") > 5


# --- broken ------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["request", "answer", "silence"])
def test_a_line_that_breaks_or_falls_silent(wire, keys, loss):
    lost = []

    def lose(count):
        if not lost:
            lost.append(loss)
            wire.lose("getMore", loss)
            if loss != "silence":  # which uses up the time at once
                wire.lose("find", loss)

    assert keys(lose) == EVENTS
    assert wire.to_lose == 0


def test_a_server_that_is_silent_from_the_beginning(wire, keys):
    wire.lose("find", "silence")
    with pytest.raises(PyMongoError) as caught:
        keys()
    assert caught.value.timeout


def test_a_server_that_stays_silent_ends_the_scan(wire, keys):
    def lose(count):
        wire.lose("getMore", *["silence"] * 2)
        wire.lose("find", *["silence"] * 2)

    with pytest.raises(PyMongoError) as caught:
        keys(lose)
    assert caught.value.timeout


@of_large_documents
def test_a_cursor_that_is_killed_between_two_pushes(connect, single, keys):
    connect(single.url(**FAST))
    killed = []

    def kill(count):
        if not killed and count >= 3 * SIZE:
            with single.primary.client() as client:
                killed.extend(cursors(client))
                client[location.resolve().name].command(
                    "killCursors", connection.EVENTS, cursors=killed
                )

    assert keys(kill) == EVENTS
    assert killed


def cursors(client):
    """The ids of the cursors that are open, in use or not."""
    idle = {"$currentOp": {"allUsers": True, "idleCursors": True}}
    found = client.admin.aggregate([idle, {"$match": {"cursor": {"$exists": True}}}])
    space = f"{location.resolve().name}.{connection.EVENTS}"
    return [op["cursor"]["cursorId"] for op in found if op["ns"] == space]


@of_large_documents
def test_a_primary_that_steps_down(three, connect, keys):
    connect(three.url(**FAST), timeout=8)
    stepped = []

    def step_down(count):
        if not stepped and count >= 3 * SIZE:
            stepped.append(three.primary)
            with stepped[0].client() as client, contextlib.suppress(PyMongoError):
                client.admin.command("replSetStepDown", 5, force=True)

    assert keys(step_down) == EVENTS
    assert stepped


@of_large_documents
def test_a_primary_that_freezes(three, connect, keys):
    connect(three.url(**FAST), timeout=8)
    frozen = []

    def freeze(count):
        if not frozen and count >= 3 * SIZE:
            frozen.append(three.primary)
            frozen[0].freeze()

    try:
        assert keys(freeze) == EVENTS
    finally:
        for member in frozen:
            member.thaw()
    assert frozen


@of_large_documents
def test_a_primary_that_dies(three, connect, keys):
    connect(three.url(**FAST), timeout=8)
    dead = []

    def kill(count):
        if not dead and count >= 3 * SIZE:
            dead.append(three.primary)
            dead[0].kill()

    assert keys(kill) == EVENTS
    assert dead
