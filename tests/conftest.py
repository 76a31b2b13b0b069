"""
One server a run, one database a worker, emptied before each test that asks for it.
"""

import asyncio
import contextvars
import os
import re
import shutil
import signal
import sys
import threading
from contextlib import nullcontext
from functools import cache
from pathlib import Path

import pytest
from asgiref.sync import sync_to_async
from django.conf import settings
from django.db import connections
from pymongo import MongoClient

from ossy_event_store import EventStore
from ossy_event_store.checks.outbox import PUBLIC
from ossy_event_store.mongodb import connection, indexes
from ossy_event_store.mongodb.ports import drive
from ossy_event_store.positions.head_watcher import watcher
from ossy_event_store.positions.sequencer import Sequencer
from ossy_event_store.relational import outbox
from ossy_event_store.subscriptions import declaration
from ossy_event_store.subscriptions.claim import Timings
from ossy_event_store.subscriptions.runner import Runner
from tests.support import relational
from tests.support.verification import rebuild_indexes

LINUX = hasattr(os, "sched_getaffinity")
MARKERS = {"faults", "chaos", "docs", "versions"}
# Of those that only one process runs: with more of them, it takes as long as these.
LONGEST = (
    "test_races.py",
    "test_site_that_follows.py",
    "test_store_tests.py",
    "test_every_page.py",
    "test_real_log.py",
    "test_resumable_scan.py",
    "test_connection.py",
    "test_worker_processes.py",
    "test_on_startup.py",
    "test_example.py",
)

INDEXED = ("aggregateId", "aggregateVersion", "aggregateType", "type", "created")
INDEXED += ("createdBy", "metadata.correlationId", "metadata.causationId")

# The threads of the driver, and those in which asgiref and asyncio call functions.
SERVE_ALL = ("pymongo", "ThreadPoolExecutor", "asyncio")


def pytest_configure(config):
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # A shell lets what runs in the background ignore Ctrl-C, and the processes
        # that the tests start and interrupt would inherit that.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # The workers of pytest-xdist and the processes of the tests share this server.
    os.environ["TEST_MONGODB_URL"] = settings.SERVER
    # PyMongo (4.13 to 4.20) leaves a socket to the garbage collector if the task that
    # connects it is cancelled: a request whose browser goes, a loop that ends.
    ends = [r"laddr=\('127.0.0.1', \d+\)"]  # the server has closed the other one
    for port in re.findall(r":(\d+)[/,?]", settings.SERVER):
        ends.append(rf"raddr=\('127.0.0.1', {port}\)")
    for end in ends:
        socket = rf"unclosed <socket.socket .* {end}>"
        config.addinivalue_line("filterwarnings", f"ignore:{socket}:ResourceWarning")


def asked_for(config):
    """Return the marker that each test of this run has, if there is one."""
    first, _, more = config.option.markexpr.partition(" ")
    return first if first in MARKERS and " or " not in more else None


def pytest_xdist_auto_num_workers(config):
    """Return more than there are cores: a test waits for the server as well."""
    cores = len(os.sched_getaffinity(0)) if LINUX else os.cpu_count() or 1
    # What breaks servers waits most of the time, for time-outs and elections.
    return 1 + cores * (2 if asked_for(config) == "faults" else 1)


@cache
def text_of(path):
    return path.read_text("utf-8")


def pytest_ignore_collect(collection_path, config):
    """Do not import files without a test of the marker: that takes seconds."""
    if (name := asked_for(config)) and collection_path.match("test_*.py"):
        # None lets the other rules decide.
        return None if f"mark.{name}" in text_of(collection_path) else True
    return None


def pytest_itemcollected(item):
    for name in {mark.name for mark in item.iter_markers()} & MARKERS:
        if f"mark.{name}" not in text_of(item.path):
            reason = f"{item.nodeid}: 'mark.{name}' has to be written in this file."
            raise pytest.UsageError(reason)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    """Begin with the longest files, lest the others wait for one at the end."""
    rank = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.name, len(LONGEST)))
    if settings.STORE == "mongodb":
        # Django renames the database of an alias if one test asks for it. Only one:
        # there are no transactions, so Django empties each table after each of them.
        for item in [item for item in items if "store" in item.fixturenames][:1]:
            item.add_marker(pytest.mark.django_db)
        # Until then, what reads the settings would take it for the real one.
        items.sort(key=lambda item: "store" not in item.fixturenames)


@pytest.fixture(scope="session")
def _store_ready(django_db_setup, django_db_blocker):
    """Let the store be reached, through Django's own door where it lives there."""
    with nullcontext() if settings.STORE == "url" else django_db_blocker.unblock():
        store = connection.blocking()
        drive(indexes.ensure(store))
        # As a process does that has appended: tests drop the index and append.
        drive(indexes.look(store, indexes.STREAM_VERSIONS))
        yield


@pytest.fixture(scope="session")
def _unbound():
    """Give a collection with every right, though the run's user may only append."""
    if not settings.ADMIN:
        yield connection.raw
        return
    with MongoClient(settings.ADMIN) as client:

        def unbound(documents):
            raw = connection.raw(documents)
            options = connection.COLLECTION_OPTIONS[raw.name]
            return client[raw.database.name].get_collection(raw.name, **options)

        yield unbound


@pytest.fixture
def store(_store_ready, _unbound, pytestconfig):
    """The blocking face of an empty store with its indexes."""
    store = connection.blocking()
    events = _unbound(store.events)
    # Once there was a list in one of its fields, an index gives no order any more.
    is_spoilt = events.find_one({"$or": [{f: {"$type": "array"}} for f in INDEXED]})
    for name in connection.COLLECTION_OPTIONS:
        events.database[name].delete_many({})
    if is_spoilt:
        rebuild_indexes(events.database)
    if settings.STORE == "djongo" and (lost := drive(indexes.ensure(store))):
        # Seen in one run, and in none of the eleven that followed.
        capture = pytestconfig.pluginmanager.getplugin("capturemanager")
        with capture.global_and_fixture_disabled():
            sys.stderr.write("\n".join(["Lost:", str(lost), *_drops(store), ""]))
    return store


def _drops(store):
    """Return what the server's log says of the collections and indexes it dropped."""
    admin = connection.raw(store.events).database.client.admin
    log = admin.command("getCmdLineOpts")["parsed"]["systemLog"]["path"]
    lines = Path(log).read_text("utf-8", "replace").splitlines()
    return [line for line in lines if "CMD: drop" in line]


@pytest.fixture
def quick(monkeypatch):
    """No subscription is declared yet, and those that run look often."""
    monkeypatch.setattr(declaration, "_registered", {})
    timings = Timings(poll_seconds=0.05, write_seconds=0.02, first_pause_seconds=0.01)
    monkeypatch.setattr(Runner, "timings", timings)
    monkeypatch.setattr(Sequencer, "wait_seconds", 0.03)


@pytest.fixture(autouse=True)
def _no_thread_is_left(request, monkeypatch):
    """
    Let the thread that follows the positions end with the test that began it.

    A test must end its own threads: they would work in the store of the next one.
    """
    # Else each test would wait for its end.
    monkeypatch.setattr(watcher, "wait_seconds", 0.03)
    before = set(threading.enumerate())
    yield
    thread = watcher._thread
    watcher.close()
    if thread is not None:
        thread.join(30)
    if "live_server" not in request.fixturenames:  # its threads serve all tests
        left = [one.name for one in threading.enumerate() if one not in before]
        assert [name for name in left if not name.startswith(SERVE_ALL)] == []


@pytest.fixture(autouse=True)
def _no_connection_is_left(request):
    """
    Close what an async view has opened in the thread in which asgiref calls the ORM.

    A later test that may not use the database would meet it there.
    """
    yield
    uses_database = {"db", "transactional_db"} & set(request.fixturenames)
    if "live_server" in request.fixturenames:
        return  # the driver of the browser runs a loop in this thread
    if uses_database or request.node.get_closest_marker("django_db"):
        asyncio.run(sync_to_async(connections.close_all)())


@pytest.fixture(autouse=True)
def _no_outbox(monkeypatch):
    """No SQL database has an outbox, unless a test says which: most use none."""
    monkeypatch.setattr(outbox, "candidates", list)
    if not outbox.is_installed():
        # The tests of append_on_commit() import it, which a check takes for a use.
        monkeypatch.delitem(sys.modules, PUBLIC, raising=False)


@pytest.fixture(scope="session")
def _migrated(tmp_path_factory, django_db_blocker):
    """A file with the tables; to migrate takes longer than most of the tests."""
    folder = tmp_path_factory.mktemp("sql")
    file = {**relational.SQLITE, "NAME": str(folder / "db")}
    with relational.alias(django_db_blocker, file), relational.tables():
        return shutil.copy(folder / "db", folder / "migrated")


@pytest.fixture
def sql_database(request, tmp_path, monkeypatch, django_db_blocker):
    """An alias ``sql`` that has the tables, and nothing in them; it has an outbox."""
    monkeypatch.setattr(outbox, "candidates", lambda: [relational.SQL])
    monkeypatch.setattr(outbox, "_with_table", set())
    if relational.POSTGRESQL:
        server = relational.alias(django_db_blocker, relational.SERVER)
        with server, relational.tables():
            yield
        return
    file = shutil.copy(request.getfixturevalue("_migrated"), tmp_path)
    database = {**relational.SQLITE, "NAME": str(file)}
    with relational.alias(django_db_blocker, database):
        yield


@pytest.fixture
def sql(request, store):
    """An empty store, and an SQL database with an outbox beside that of the site."""
    if not outbox.is_installed():
        pytest.skip("the default database is no SQL database")
    request.getfixturevalue("sql_database")


@pytest.fixture
def history(store, _unbound):
    """The events as a collection in which even a role's user may change them."""
    return _unbound(store.events)


@pytest.fixture
def notes(store):
    """A collection of the project's own, in the database of the store."""
    if settings.ADMIN:
        pytest.skip("the roles are for the store's collections")
    found = connection.raw(store.events).database["notes"]
    found.drop()
    yield found
    found.drop()


@pytest.fixture
def of_node_3(store, history):
    """A store that was pointed at a database of the Node package 3.x."""
    found = history.index_information()
    history.drop()
    event = {"resourceId": "r", "type": "@shop/schema/order", "event": "Placed"}
    history.insert_many([{**event, "version": version} for version in (1, 2)])
    yield
    history.drop()
    for name, index in found.items():
        options = {
            key: value for key, value in index.items() if key not in ("key", "v")
        }
        history.create_index(index["key"], name=name, **options)


@pytest.fixture
def lend(store):
    """Append some events to the stream of a book, past every check of the domain."""

    def lend(aggregate_id, *types):
        return EventStore.append_events(
            [
                {
                    "aggregateId": aggregate_id,
                    "aggregateType": "Book",
                    "type": kind,
                    "payload": {"to": "ann", "title": "Emma"},
                }
                for kind in types
            ]
        )

    return lend


class Face:
    """Calls a method of the blocking face, or its twin with an ``a`` in front."""

    def __init__(self, runner=None):
        self.runner = runner

    def __call__(self, method, *args, **kwargs):
        if self.runner is None:
            return method(*args, **kwargs)
        twin = getattr(method.__self__, f"a{method.__name__}")
        return self.run(twin(*args, **kwargs))

    def run(self, coroutine):
        """Run a coroutine in the context of the test, not in that of the first one."""
        return self.runner.run(coroutine, context=contextvars.copy_context())

    def list(self, method, *args, **kwargs):
        """Call a method that iterates, and return all of its items."""
        if self.runner is None:
            return list(method(*args, **kwargs))
        twin = getattr(method.__self__, f"a{method.__name__}")

        async def items():
            return [item async for item in twin(*args, **kwargs)]

        return self.run(items())


@pytest.fixture(params=["blocking", "awaitable"])
def face(request):
    if request.param == "blocking":
        yield Face()
        return
    with asyncio.Runner() as runner:
        yield Face(runner)
