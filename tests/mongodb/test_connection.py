"""Clients: when they connect, who owns them, and how they report failures."""

import asyncio
import ctypes
import gc
import os
import socket
import subprocess
import sys
import threading
import time
import warnings
import weakref
from pathlib import Path

import pytest
from asgiref.sync import async_to_sync
from django.core.exceptions import ImproperlyConfigured, SynchronousOnlyOperation

from ossy_event_store import (
    Aggregate,
    AggregateRebuild,
    EventStore,
    Mongo,
    OutcomeUnknown,
    StoreUnavailable,
    embedded,
)
from ossy_event_store.health import figures
from ossy_event_store.mongodb import connection, topology
from ossy_event_store.verify import averify_event_store, verify_event_store
from tests.library.aggregate import Book
from tests.support.processes import ON_URL


@pytest.fixture
def nobody_there(settings):
    """Settings with a port where nothing listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        settings.OSSY_EVENT_STORE = {
            "URL": f"mongodb://ann:secret@127.0.0.1:{port}",
            "TIMEOUT": 0.3,
        }
        yield
    Mongo.close()


@ON_URL
def test_an_unavailable_server_is_reported_in_time_and_without_the_password(
    nobody_there, face
):
    began = time.monotonic()
    for method, argument in (
        (Aggregate.of, (Book, "b-1")),
        (Aggregate.of, (Book, {"type": "BookBought"})),
        (EventStore.get_event_stream, ("b-1",)),
        (EventStore.find_events, ({},)),
        (Mongo.connect, ()),
    ):
        with pytest.raises(StoreUnavailable) as error:
            face(method, *argument)
        text = str(error.value)
        assert "secret" not in text
        assert len(text) < 250
    assert time.monotonic() - began < 5 * 0.3 + 2


def test_the_store_writes_only_to_collections_with_its_name():
    own = set(connection.COLLECTION_OPTIONS) - {"eventstore", "aggregates"}
    assert own
    assert all(name.startswith("eventstore_") for name in own)


@ON_URL
def test_wrong_credentials_are_refused_at_once_each_time(store, face, settings):
    server = settings.SERVER.replace("//", "//ann:wrong@")
    settings.OSSY_EVENT_STORE = {"URL": server, "TIMEOUT": 9}
    began = time.monotonic()
    for _ in range(3):
        with pytest.raises(StoreUnavailable, match="Authentication failed"):
            face(EventStore.get_event_stream, "b-1")
    assert time.monotonic() - began < 3
    Mongo.close()


@ON_URL
def test_connect_returns_the_database(store, face):
    database = face(Mongo.connect)
    assert database.name == connection.raw(store.events).database.name


@ON_URL
def test_a_process_has_one_client(store):
    assert connection.blocking() is connection.blocking()


@ON_URL
def test_a_closed_store_connects_again(store, lend):
    lend("b-1", "BookBought")
    Mongo.close()
    assert len(EventStore.get_event_stream("b-1")) == 1


@ON_URL
def test_a_client_that_is_closed_while_it_is_used_is_an_error_of_the_tree(
    store, face, lend
):
    lend("b-1", "BookBought")
    book = Aggregate.of(Book, "b-1")

    async def aclose():
        await (await EventStore.acollection()).database.client.close()

    if face.runner:
        face.runner.run(aclose())
    else:
        connection.raw(store.events).database.client.close()
    event = {"type": "BookLent", "aggregateId": "b-1", "aggregateType": "Book"}
    for method, *arguments in (
        (Aggregate.of, Book, "b-1"),
        (Aggregate.find, "b-1"),
        (book.add, {"type": "BookLent"}),
        (book.save,),
        (EventStore.append_event, event),
        (EventStore.append_events, [event, event]),
        (EventStore.get_event_stream, "b-1"),
        (EventStore.find_event, {}),
        (EventStore.find_events, {}),
        (EventStore.aggregate, []),
        (EventStore.exists, "b-1"),
        (EventStore.count,),
        (EventStore.get_stream_info, "b-1"),
        (EventStore.position_of, book),
        (EventStore.wait_for, 1),
        (AggregateRebuild.build_and_save_all,),
        (AggregateRebuild.build_and_save, "Book", "b-1"),
        (AggregateRebuild.dry_run,),
        (verify_event_store,),
    ):
        with pytest.raises((StoreUnavailable, OutcomeUnknown)):
            if method is verify_event_store and face.runner:
                face.runner.run(averify_event_store())
            else:
                face(method, *arguments)
    for method in (EventStore.get_event_streams, EventStore.read_all):
        with pytest.raises(StoreUnavailable, match="after close"):
            face.list(method)
    assert not figures()["ok"] or face.runner
    Mongo.close()
    assert len(EventStore.get_event_stream("b-1")) == 1


@ON_URL
def test_settings_that_no_client_accepts_leave_the_old_client_open(store, settings):
    good = settings.OSSY_EVENT_STORE
    settings.OSSY_EVENT_STORE = {**good, "OPTIONS": {"maxPoolSize": -7}}
    with pytest.raises(ImproperlyConfigured, match="remove the option maxPoolSize"):
        connection.blocking()
    settings.OSSY_EVENT_STORE = good
    assert EventStore.get_event_stream("b-1") == []


def fork_in_c():
    """Fork without telling Python, as uWSGI does."""
    return ctypes.PyDLL(None).fork()


@ON_URL
@pytest.mark.parametrize("fork", [os.fork, fork_in_c])
def test_a_forked_child_has_its_own_client(store, lend, fork):
    lend("b-1", "BookBought")
    parent = id(connection.raw(store.events).database.client)
    read, write = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # fork with threads
        child = fork()
    if not child:
        try:
            other = connection.raw(connection.blocking().events).database.client
            events = EventStore.get_event_stream("b-1")
            answer = f"{id(other) != parent} {len(events)}"
        except BaseException as error:
            answer = repr(error)
        os.write(write, answer.encode())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(write)
    with os.fdopen(read) as answer:
        assert answer.read() == "True 1"


def test_each_event_loop_has_a_client_that_is_closed_with_it(store):
    clients = []

    async def use():
        await EventStore.aget_event_stream("b-1")
        clients.append((await EventStore.acollection()).database.client)
        assert (await EventStore.acollection()).database.client is clients[-1]

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", ".* after loop.shutdown_asyncgens")
        warnings.filterwarnings("ignore", "unclosed <socket.socket")  # see conftest
        for _ in range(3):
            asyncio.run(use())
        assert len({id(client) for client in clients}) == 3
        assert all(client._closed for client in clients)
        clients.clear()
        gc.collect()


@pytest.mark.parametrize(
    "run", [asyncio.run, lambda coroutine: async_to_sync(do)(coroutine)]
)
def test_an_event_loop_that_has_ended_is_forgotten(store, run):
    seen = []

    async def use():
        await EventStore.aget_event_stream("b-1")
        client = (await EventStore.acollection()).database.client
        seen.extend(map(weakref.ref, (client, asyncio.get_running_loop())))

    run(use())
    gc.collect()
    assert [one() for one in seen] == [None, None]


async def do(coroutine):
    return await coroutine


def test_a_loop_that_was_only_closed_is_forgotten_by_the_next_one(store):
    loop = asyncio.new_event_loop()
    loop.run_until_complete(EventStore.aget_event_stream("b-1"))
    client = connection._process.awaitable[loop].client
    loop.run_until_complete(client.close())
    loop.close()
    asyncio.run(EventStore.aget_event_stream("b-1"))
    assert loop not in connection._process.awaitable


@ON_URL
def test_tasks_that_find_another_server_in_the_settings_all_use_it(store, settings):
    async def use():
        await Mongo.aconnect()
        old = (await EventStore.acollection()).database.client
        options = {"appName": "another"}
        settings.OSSY_EVENT_STORE = {**settings.OSSY_EVENT_STORE, "OPTIONS": options}
        found = await asyncio.gather(*(EventStore.acollection() for _ in range(5)))
        return id(old), {id(collection.database.client) for collection in found}

    old, new = asyncio.run(use())
    assert len(new) == 1
    assert old not in new


@ON_URL
def test_a_server_is_started_outside_of_the_event_loop(store, settings, monkeypatch):
    def start(folder, mongod):
        with pytest.raises(RuntimeError):
            asyncio.get_running_loop()
        started.append(folder)
        return settings.SERVER

    started = []
    monkeypatch.setattr(embedded, "start", start)
    settings.OSSY_EVENT_STORE = {"URL": "embedded://some/folder"}

    async def use():
        return await asyncio.gather(*(EventStore.acollection() for _ in range(3)))

    found = asyncio.run(use())
    assert len({id(collection.database.client) for collection in found}) == 1
    assert set(started) == {"some/folder"}


def test_the_version_for_the_driver_is_looked_up_once(store, monkeypatch):
    asyncio.run(EventStore.aget_event_stream("b-1"))
    monkeypatch.setattr(topology.metadata, "version", None)  # no longer callable
    asyncio.run(EventStore.aget_event_stream("b-1"))


@pytest.mark.faults
@pytest.mark.no_cover  # it keeps objects, and makes this twice as long
def test_a_thousand_event_loops_leave_nothing_behind(store):
    def run(times):
        for _ in range(times):
            asyncio.run(EventStore.aget_event_stream("b-1"))
        gc.collect()
        files = len([*Path("/proc/self/fd").iterdir()])
        return files, threading.active_count(), len(gc.get_objects())

    run(50)
    files, threads, objects = run(50)
    after = run(1000)
    assert after[:2] == (files, threads)
    # A client with its loop has hundreds.
    assert after[2] < objects + 20 * 1000


@ON_URL
def test_a_client_outlives_the_deadline_of_its_first_operation(store, settings):
    """In PyMongo 4.13.0 the monitors inherited the deadline, and timed out forever."""
    settings.OSSY_EVENT_STORE = {**settings.OSSY_EVENT_STORE, "TIMEOUT": 0.5}

    async def use():
        until = time.monotonic() + 1.5
        while time.monotonic() < until:
            assert await EventStore.aget_event_stream("b-1") == []
            await asyncio.sleep(0.1)

    asyncio.run(use())


def test_a_blocking_call_in_a_coroutine_is_refused_as_by_the_orm(store):
    async def use():
        EventStore.get_event_stream("b-1")

    with pytest.raises(SynchronousOnlyOperation, match="with an 'a' in front"):
        asyncio.run(use())


def test_many_tasks_share_one_client(store):
    async def use():
        events = [
            EventStore.aappend_event(
                {"aggregateId": f"b-{n}", "aggregateType": "Book", "type": "BookBought"}
            )
            for n in range(40)
        ]
        stored = await asyncio.gather(*events)
        return {event["aggregateVersion"] for event in stored}

    assert asyncio.run(use()) == {1}


@pytest.mark.versions
def test_import_and_setup_do_not_connect():
    code = """
import socket, threading
def refuse(*args, **kwargs): raise SystemExit("something connected")
socket.socket.connect = refuse
import django
from django.conf import settings
settings.configure(
    INSTALLED_APPS=["ossy_event_store"],
    OSSY_EVENT_STORE={"URL": "mongodb://127.0.0.1:1"},
)
django.setup()
import ossy_event_store
assert threading.active_count() == 1, threading.enumerate()
print("quiet")
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "quiet", "")
