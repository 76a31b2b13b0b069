"""
Servers and lines that break, and what is really in the store afterwards.

A fault is made on the line to a server (``servers.Wire``), by a fail point inside
of it, or by killing or freezing it; what is in the store afterwards is read by
another client, straight from the servers.
"""

import asyncio
import contextlib
import time

import pytest
from django.conf import settings as django_settings
from nanoid import generate
from pymongo.errors import PyMongoError
from pymongo.read_concern import ReadConcern
from pymongo.write_concern import WriteConcern

from ossy_event_store import Aggregate, Mongo, OutcomeUnknown, StoreUnavailable
from ossy_event_store.mongodb import connection, indexes, location
from ossy_event_store.mongodb.ports import drive
from tests.library.aggregate import Book
from tests.support import servers
from tests.support.servers import Wire, heal, until

by_url = pytest.mark.skipif(django_settings.STORE != "url", reason="connects by URL")

BOUGHT = {"type": "BookBought", "payload": {"title": "Emma"}}
GONE = (OutcomeUnknown, StoreUnavailable)

MARGIN = 1  # second that a call may take beyond its time-out, on a busy machine
MAJORITY = WriteConcern("majority")
# A streaming monitor sees only every half second that it is to look again.
FAST = {"heartbeatFrequencyMS": 500, "serverMonitoringMode": "poll"}

OURS = "ossy_event_store"
TIMED_OUT, SHUTTING_DOWN, UNSATISFIABLE, EXPIRED = 64, 91, 100, 50
NO_SUCH_TRANSACTION, WRITE_CONFLICT = 251, 112

LINES = {
    "driver retries": {},
    "store retries": {"retryWrites": "false"},
    "standalone": {},
}
LOSSES = [
    "answer",
    "request",
    "answer answer",
    "request request",
    "answer request",
    "request answer",
]
SOME = ["answer", "request answer"]

# --- servers and lines ------------------------------------------------------


@contextlib.contextmanager
def indexed(folder, members=1, **options):
    with servers.running(folder, members, **options) as running:
        try:
            location.use(running.url())
            drive(indexes.ensure(connection.blocking()))
        finally:
            Mongo.close()
        yield running


@contextlib.contextmanager
def wired(connect, running, **options):
    with Wire(running.members[0]).open() as wire:
        connect(wire.url(**FAST, **options))
        try:
            yield wire
        finally:
            Mongo.close()


# --- what is really there ---------------------------------------------------


def database():
    return location.resolve().name


@contextlib.contextmanager
def collection(member, read="majority", name=connection.EVENTS, write=MAJORITY):
    """The events as another program sees them, on one member."""
    with member.client() as client:
        yield client[database()].get_collection(
            name, read_concern=ReadConcern(read), write_concern=write
        )


def stored(member, stream, read="majority"):
    """The ids of the events of a stream, after a look for doubles and holes."""
    with collection(member, read) as events:
        found = list(events.find({"aggregateId": stream}).sort("aggregateVersion", 1))
    versions = [event["aggregateVersion"] for event in found]
    assert versions == list(range(1, len(found) + 1))
    return [event["_id"] for event in found]


def write_as_another(member, stream, version, event_id, write=MAJORITY, **more):
    with collection(member, write=write) as events:
        events.insert_one(
            {
                "_id": event_id,
                "aggregateId": stream,
                "aggregateType": "Book",
                "aggregateVersion": version,
                "type": "BookReturned",
                "payload": {},
                **more,
            }
        )


# --- books, events and calls ------------------------------------------------


def bought(call=None):
    """A book with one event; its stream and the id of that event are the same."""
    stream = generate()
    event = {**BOUGHT, "id": stream, "aggregateId": stream}
    return (call or blocking)(Aggregate.of, Book, event)


def lent(*ids):
    return [{"type": "BookLent", "payload": {"to": "ann"}, "id": i} for i in ids]


def new_ids(count=1):
    return [generate() for _ in range(count)]


def raw(stream, event):
    return {**event, "aggregateId": stream, "aggregateType": "Book"}


def blocking(method, *args, **kwargs):
    return method(*args, **kwargs)


def awaitable(method, *args, **kwargs):
    twin = getattr(method.__self__, f"a{method.__name__}")

    async def once():
        try:
            return await twin(*args, **kwargs)
        finally:
            await Mongo.aclose()

    return asyncio.run(once())


@contextlib.contextmanager
def within(seconds):
    began = time.monotonic()
    yield
    assert time.monotonic() - began < seconds + MARGIN


# --- a server or a set: broken, healed --------------------------------------


def fail_command(member, mode, *commands, app=OURS, **data):
    return member.fail_point(
        "failCommand", mode, failCommands=list(commands), appName=app, **data
    )


@contextlib.contextmanager
def replication_stopped(running):
    with contextlib.ExitStack() as stack:
        for member in running.secondaries:
            stack.enter_context(member.fail_point("stopReplProducer", "alwaysOn"))
        yield


def elect_another(running, old):
    """Let a secondary take over from a primary that is dead or frozen; return it."""
    new, _ = others = [member for member in running.members if member is not old]

    def is_elected():
        with contextlib.suppress(PyMongoError), new.client() as client:
            client.admin.command("replSetStepUp")
        with contextlib.suppress(PyMongoError), new.client() as client:
            return client.admin.command("hello")["isWritablePrimary"]
        return False

    assert all(member.is_running for member in others)
    until(is_elected)
    return new


def same_everywhere(running, stream, ids):
    heal(running)
    for member in running.members:
        until(lambda m=member: stored(m, stream) == ids)


@contextlib.contextmanager
def open_transaction(member, stream, version, event_id):
    """Hold a version in a transaction of another; it is aborted at the end."""
    with member.client() as client, client.start_session() as session:
        session.start_transaction(write_concern=MAJORITY)
        client[database()].eventstore.insert_one(
            {"_id": event_id, "aggregateId": stream, "aggregateVersion": version},
            session=session,
        )
        yield session


@contextlib.contextmanager
def lifetime_of_transactions(member, seconds):
    name = "transactionLifetimeLimitSeconds"
    with member.client() as client:
        before = client.admin.command("setParameter", 1, **{name: seconds})["was"]
        try:
            yield
        finally:
            client.admin.command("setParameter", 1, **{name: before})
