"""Deadlines: every call of the ports has one, whatever the server does."""

import asyncio
import contextlib
import inspect
import time
from types import SimpleNamespace

import pytest
from django.conf import settings as django_settings
from pymongo import AsyncMongoClient, MongoClient, UpdateOne
from pymongo.errors import BulkWriteError, NetworkTimeout, PyMongoError, WriteError
from pymongo.uri_parser import parse_uri

from ossy_event_store import StoreUnavailable
from ossy_event_store.mongodb import connection
from ossy_event_store.mongodb.awaitable_port import AwaitableClient, AwaitableCollection
from ossy_event_store.mongodb.blocking_port import BlockingClient, BlockingCollection
from ossy_event_store.mongodb.deadline import explained, in_time
from ossy_event_store.mongodb.ports import Client, Documents, drive
from tests.support.servers import Wire

pytestmark = pytest.mark.skipif(
    django_settings.STORE != "url" or bool(django_settings.ADMIN),
    reason="connects by URL, past the store",
)

COLLECTION = "of_test_deadline"
GREETINGS = {"hello", "isMaster", "ismaster"}  # so that a server is known
SHORT = 0.05  # seconds that a call may take once the server is silent
# Else a server that was not heard of for once would be missing for ten seconds.
POLL = {"heartbeatFrequencyMS": 500, "serverMonitoringMode": "poll"}
FOREVER = 8.0  # seconds until the socket gives up on a call that has no deadline


@pytest.fixture
def wire(store, monkeypatch):
    """A line to the server of this run, where a collection has six documents."""
    monkeypatch.setattr("pymongo.common.MIN_HEARTBEAT_INTERVAL", 0.02)
    ((host, port), *_) = parse_uri(django_settings.SERVER)["nodelist"]
    assert host in ("127.0.0.1", "localhost")
    with Wire(SimpleNamespace(port=port)).open() as wire:
        documents = connection.raw(store.events).database[COLLECTION]
        documents.insert_many([{"n": n} for n in range(6)])
        wire.database = documents.database.name
        yield wire
        documents.drop()


class Ports:
    """Both ports of one face, over a line that can fall silent."""

    def __init__(self, run, collection, client, wire, settings):
        self.run = run
        self.collection = collection
        self.client = client
        self.wire = wire
        self.settings = settings
        self.since = 0.0

    def set_timeout(self, seconds):
        given = self.settings.OSSY_EVENT_STORE
        self.settings.OSSY_EVENT_STORE = {**given, "TIMEOUT": seconds}

    def silence(self, *but):
        """Let the server answer no commands any more, and give calls little time."""
        self.wire.only = {*GREETINGS, *but}
        self.set_timeout(SHORT)
        self.since = time.monotonic()

    @property
    def seconds(self):
        """Seconds since the server fell silent."""
        return time.monotonic() - self.since


@contextlib.contextmanager
def opened(face, wire, settings, forever=FOREVER):
    url = wire.url(**POLL, socketTimeoutMS=round(forever * 1000))
    name = wire.database
    if face == "blocking":
        with MongoClient(url) as client:
            collection = BlockingCollection(client[name][COLLECTION])
            ports = Ports(drive, collection, BlockingClient(client), wire, settings)
            client.admin.command("ping")
            yield ports
            wire.only = None
        return
    with asyncio.Runner() as runner:
        client = AsyncMongoClient(url)
        collection = AwaitableCollection(client[name][COLLECTION])
        ports = Ports(runner.run, collection, AwaitableClient(client), wire, settings)
        runner.run(ports.client.command("ping"))
        yield ports
        wire.only = None
        runner.run(client.close())


@pytest.fixture(params=["blocking", "awaitable"])
def ports(request, wire, settings):
    with opened(request.param, wire, settings) as ports:
        yield ports


# --- what to call -----------------------------------------------------------


def call(name, *args, **options):
    """Return a case: a call of the collection while the server is silent."""

    async def case(ports):
        ports.silence()
        await getattr(ports.collection, name)(*args, **options)

    return case


def first_batch(name, *args):
    async def case(ports):
        ports.silence()
        await anext(getattr(ports.collection, name)(*args))

    return case


def next_batch(name, *args):
    async def case(ports):
        found = getattr(ports.collection, name)(*args)
        assert len(await anext(found)) == 2
        ports.silence()
        await anext(found)

    return case


def early_end(name, *args):
    async def case(ports):
        found = getattr(ports.collection, name)(*args)
        await anext(found)
        ports.silence()
        await found.aclose()  # kills the cursor

    return case


async def command(ports):
    ports.silence()
    await ports.client.command("ping")


def leave(name):
    async def case(ports):
        async with getattr(ports.client, name)() as session:
            await ports.collection.find_one({}, session=session)
            ports.silence()

    return case


async def commit(ports):
    async with ports.client.transaction() as session:
        await ports.collection.insert_one({}, session=session)
        ports.silence("killSessions")


async def commit_early(ports):
    async with ports.client.transaction() as session:
        await ports.collection.insert_one({}, session=session)
        ports.silence("killSessions")
        await ports.client.commit(session)


async def abort(ports):
    try:
        async with ports.client.transaction() as session:
            session_id = session.session_id
            await ports.collection.insert_one({}, session=session)
            ports.silence()
            raise KeyError("not of the driver")
    finally:
        ports.wire.only = None
        await ports.client.end_transaction(session_id)


async def in_transaction(ports):
    ports.silence("killSessions")
    await ports.client.in_transaction(ports.collection, [{}, {}])


async def end_transaction(ports):
    async with ports.client.session() as session:
        ports.silence()
        await ports.client.end_transaction(session.session_id)


async def find_after_all_writes(ports):
    ports.silence()
    await ports.client.find_after_all_writes(ports.collection, {})


async def find_once_pinged(ports):
    ports.silence("ping")
    await ports.client.find_after_all_writes(ports.collection, {})


ONE = {"$set": {"x": 1}}
SCAN = ({}, 2)
CASES_OF_COLLECTION = {
    "find_one": [call("find_one", {})],
    "find": [call("find", {})],
    "batches": [f("batches", *SCAN) for f in (first_batch, next_batch, early_end)],
    "aggregate": [f("aggregate", [], 2) for f in (first_batch, next_batch, early_end)],
    "insert_one": [call("insert_one", {})],
    "insert_many": [call("insert_many", [{}, {}])],
    "replace_one": [call("replace_one", {}, {})],
    "update_one": [call("update_one", {}, ONE)],
    "update_many": [call("update_many", {}, ONE)],
    "find_one_and_update": [call("find_one_and_update", {}, ONE)],
    "delete_one": [call("delete_one", {})],
    "delete_many": [call("delete_many", {})],
    "bulk_write": [call("bulk_write", [UpdateOne({}, ONE)])],
    "count": [call("count")],
    "count_where": [call("count_where", {})],
    "index_information": [call("index_information")],
    "create_index": [call("create_index", [("n", 1)])],
    "database_command": [call("database_command", "ping")],
}
CASES_OF_CLIENT = {
    "command": [command],
    "session": [leave("session")],
    "snapshot_session": [leave("snapshot_session")],
    "transaction": [commit, abort],
    "commit": [commit_early],
    "in_transaction": [in_transaction],
    "end_transaction": [end_transaction],
    "find_after_all_writes": [find_after_all_writes, find_once_pinged],
}
# Nothing is sent to a server.
NO_CALLS = {"either", "pause", "meanwhile", "drop_connections"}
# Those that fail silently, or send nothing.
SILENT = {end_transaction, *CASES_OF_CLIENT["session"]}
SILENT |= {*CASES_OF_CLIENT["snapshot_session"]}
SILENT |= {CASES_OF_COLLECTION[name][2] for name in ("batches", "aggregate")}
CASES = [
    pytest.param(case, id=f"{name} {number}")
    for name, cases in (CASES_OF_COLLECTION | CASES_OF_CLIENT).items()
    for number, case in enumerate(cases)
]


def methods(cls):
    return {
        name
        for name, value in vars(cls).items()
        if inspect.isfunction(value) and not name.startswith("_")
    }


@pytest.mark.parametrize(
    ("cases", "faces"),
    [
        (CASES_OF_COLLECTION, [Documents, BlockingCollection, AwaitableCollection]),
        (CASES_OF_CLIENT, [Client, BlockingClient, AwaitableClient]),
    ],
    ids=["collection", "client"],
)
def test_every_method_of_a_port_is_called_below(cases, faces):
    for face in faces:
        assert methods(face) - NO_CALLS == set(cases), face


@pytest.mark.parametrize("case", CASES)
def test_a_call_to_a_silent_server_ends(ports, case):
    if case in SILENT:
        ports.run(case(ports))
    elif case is abort:
        with pytest.raises(KeyError):
            ports.run(case(ports))
    else:
        # As it is: those who retry have to tell the errors of PyMongo apart.
        with pytest.raises(PyMongoError) as error:
            ports.run(case(ports))
        assert error.value.timeout
    assert ports.seconds < FOREVER


@pytest.mark.parametrize(
    "case",
    [
        call("find_one", {}, unbounded=True),
        call("find", {}, unbounded=True),
        call("count_where", {}, unbounded=True),
        call("create_index", [("n", 1)], unbounded=True),
    ],
    ids=["find_one", "find", "count_where", "create_index"],
)
@pytest.mark.parametrize("face", ["blocking", "awaitable"])
def test_an_unbounded_call_takes_as_long_as_it_takes(wire, settings, face, case):
    forever = 4 * SHORT  # each call is tried twice
    with opened(face, wire, settings, forever) as ports:
        with pytest.raises(PyMongoError):
            ports.run(case(ports))
        assert ports.seconds > forever


@pytest.mark.parametrize("name", ["batches", "aggregate"])
@pytest.mark.parametrize("face", ["blocking", "awaitable"])
def test_an_unbounded_scan_takes_as_long_as_it_takes(wire, settings, face, name):
    forever = 4 * SHORT

    async def scan(ports):
        query = {} if name == "batches" else []
        found = getattr(ports.collection, name)(query, 2, unbounded=True)
        assert len(await anext(found)) == 2
        ports.silence()
        await anext(found)

    with opened(face, wire, settings, forever) as ports:
        with pytest.raises(PyMongoError):
            ports.run(scan(ports))
        assert ports.seconds > forever


def test_a_scan_is_bounded_a_batch_at_a_time(ports):
    async def scan():
        seen = []
        async for batch in ports.collection.batches({}, 2, sort=[("n", 1)]):
            seen += [document["n"] for document in batch]
            ports.set_timeout(1)
            if len(seen) == 2:
                time.sleep(1.1)  # noqa: ASYNC251 - longer than a batch may take
        return seen

    assert ports.run(scan()) == list(range(6))


# --- one deadline around several calls ----------------------------------------


@pytest.mark.parametrize("unbounded", [False, True])
def test_an_outer_deadline_replaces_those_of_the_calls(ports, unbounded):
    async def work():
        ports.silence()
        ports.set_timeout(60)
        with in_time(2 * SHORT):
            for _ in range(50):  # each in the time that is left
                with contextlib.suppress(PyMongoError):
                    await ports.collection.find({}, unbounded=unbounded)
            await ports.collection.find({}, unbounded=unbounded)

    with pytest.raises(StoreUnavailable):
        ports.run(work())
    assert ports.seconds < FOREVER


def test_explained_turns_a_timeout_into_store_unavailable(ports):
    async def work():
        ports.silence()
        with explained():
            await ports.collection.find({})

    with pytest.raises(StoreUnavailable):
        ports.run(work())
    assert ports.seconds < FOREVER


def test_the_cause_of_an_error_is_kept():
    cause = NetworkTimeout("no answer")
    with pytest.raises(StoreUnavailable) as error, in_time():
        raise cause
    assert error.value.__cause__ is cause


@pytest.mark.parametrize(
    "error",
    [
        WriteError("Not primary while writing", 189),
        BulkWriteError({"writeErrors": [{"index": 0, "code": 189}]}),
    ],
    ids=["single", "bulk"],
)
def test_a_write_that_a_member_refuses_as_it_steps_down_is_explained(error):
    """Seen when a primary stepped down while a snapshot was saved."""
    with pytest.raises(StoreUnavailable), in_time():
        raise error


def test_a_write_that_is_refused_for_its_content_is_not_explained_away():
    with pytest.raises(WriteError), in_time():
        raise WriteError("Document failed validation", 121)
