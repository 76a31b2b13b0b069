"""
Every fault that a server, a set of servers or a line to them can have, made real.

The servers are of this module's own. A fault is made on the line to one of them
(``servers.Wire``), by a fail point inside of it, or by killing or freezing it; what
is in the store afterwards is read by another client, straight from the servers.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from concurrent.futures import ThreadPoolExecutor, wait

import pymongo
import pytest
from django.conf import settings as django_settings
from nanoid import generate
from pymongo.errors import (
    BulkWriteError,
    OperationFailure,
    PyMongoError,
    WriteError,
)
from pymongo.read_concern import ReadConcern
from pymongo.write_concern import WriteConcern

from ossy_event_store import (
    Aggregate,
    ConcurrencyError,
    EventStore,
    Mongo,
    OutcomeUnknown,
    StoreUnavailable,
)
from ossy_event_store.mongodb import connection, indexes, location
from ossy_event_store.mongodb.ports import END_SECONDS, drive
from ossy_event_store.mongodb.write_errors import NOT_PRIMARY, Fault, classify
from ossy_event_store.subscriptions.declaration import Subscription
from ossy_event_store.subscriptions.delivery import Delivered
from ossy_event_store.subscriptions.snapshot_subscription import Snapshots
from tests.library.aggregate import Book
from tests.support import servers
from tests.support.servers import Wire, heal, until

pytestmark = [
    pytest.mark.faults,
    pytest.mark.skipif(django_settings.STORE != "url", reason="connects by URL"),
]

BOUGHT = {"type": "BookBought", "payload": {"title": "Emma"}}
GONE = (OutcomeUnknown, StoreUnavailable)

MARGIN = 1  # second that a call may take beyond its time-out, on a busy machine
MAJORITY = WriteConcern("majority")
# A streaming monitor sees only every half second that it is to look again.
FAST = {"heartbeatFrequencyMS": 500, "serverMonitoringMode": "poll"}

OURS = "ossy_event_store"
TIMED_OUT, SHUTTING_DOWN, UNSATISFIABLE, EXPIRED = 64, 91, 100, 50


# --- servers, lines, and what is really there -------------------------------


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    """Let the driver look at a lost server again at once, not after half a second."""
    monkeypatch.setattr("pymongo.common.MIN_HEARTBEAT_INTERVAL", 0.02)


@contextlib.contextmanager
def indexed(folder, members=1, **options):
    with servers.running(folder, members, **options) as running:
        try:
            location.use(running.url())
            drive(indexes.ensure(connection.blocking()))
        finally:
            Mongo.close()
        yield running


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    """A replica set of one."""
    with indexed(tmp_path_factory.mktemp("single")) as running:
        yield running


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """A server of no set: without transactions, and without the driver's retries."""
    with indexed(tmp_path_factory.mktemp("alone"), name=None) as running:
        yield running


@pytest.fixture(scope="module")
def _three(tmp_path_factory):
    folder = tmp_path_factory.mktemp("three")
    with indexed(folder, 3, settings=servers.QUICK) as running:
        yield running


@pytest.fixture
def three(_three):
    """A replica set of three, all of them well before and after the test."""
    heal(_three)
    yield _three
    Mongo.close()
    heal(_three)


@pytest.fixture
def limit(settings):
    """A function that sets the time-out of an operation."""

    def limit(seconds):
        given = settings.OSSY_EVENT_STORE
        settings.OSSY_EVENT_STORE = {**given, "TIMEOUT": seconds}

    return limit


@pytest.fixture
def connect(limit):
    def connect(url, timeout=10):
        limit(timeout)
        location.use(url)

    yield connect
    Mongo.close()


LINES = {
    "driver retries": {},
    "store retries": {"retryWrites": "false"},
    "standalone": {},
}


@contextlib.contextmanager
def wired(connect, running, **options):
    with Wire(running.members[0]).open() as wire:
        connect(wire.url(**FAST, **options))
        try:
            yield wire
        finally:
            Mongo.close()


@pytest.fixture(params=LINES)
def line(request, connect):
    """A line to a server, by who tries again when it breaks."""
    name = "alone" if request.param == "standalone" else "single"
    running = request.getfixturevalue(name)
    with wired(connect, running, **LINES[request.param]) as wire:
        yield wire


@pytest.fixture(params=["driver retries", "store retries"])
def set_line(request, connect, single):
    """A line to a server that has transactions."""
    with wired(connect, single, **LINES[request.param]) as wire:
        yield wire


@pytest.fixture
def own_line(connect, single):
    """A line on which only the store tries again."""
    with wired(connect, single, **LINES["store retries"]) as wire:
        yield wire


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


def write_as_another(member, stream, version, event_id, write=MAJORITY):
    with collection(member, write=write) as events:
        events.insert_one(
            {
                "_id": event_id,
                "aggregateId": stream,
                "aggregateType": "Book",
                "aggregateVersion": version,
                "type": "BookReturned",
                "payload": {},
            }
        )


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


def fail_command(member, mode, *commands, app=OURS, **data):
    return member.fail_point(
        "failCommand", mode, failCommands=list(commands), appName=app, **data
    )


# --- three servers: broken, healed ------------------------------------------


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


# --- one event, and what gets lost on the line ------------------------------

LOSSES = [
    "answer",
    "request",
    "answer answer",
    "request request",
    "answer request",
    "request answer",
]
SOME = ["answer", "request answer"]


@pytest.mark.parametrize("losses", LOSSES)
def test_an_event_is_stored_once_whatever_gets_lost(line, face, losses):
    book = bought(face)
    (event_id,) = new_ids()
    line.lose("insert", *losses.split())

    assert face(book.add, *lent(event_id)).version == 2

    assert line.to_lose < len(losses.split())
    assert stored(line.member, book.id) == [book.id, event_id]


@pytest.mark.parametrize("losses", SOME)
def test_the_first_event_is_stored_once_whatever_gets_lost(line, face, losses):
    line.lose("insert", *losses.split())

    book = bought(face)

    assert book.version == 1
    assert stored(line.member, book.id) == [book.id]


@pytest.mark.parametrize("losses", SOME)
def test_an_event_for_the_end_is_stored_once_whatever_gets_lost(line, face, losses):
    book = bought(face)
    (event,) = lent(*new_ids())
    line.lose("insert", *losses.split())

    there = face(EventStore.append_event, raw(book.id, event))

    assert (there["_id"], there["aggregateVersion"]) == (event["id"], 2)
    assert stored(line.member, book.id) == [book.id, event["id"]]


@pytest.mark.parametrize("losses", ["request", "request request"])
def test_the_event_of_another_is_not_taken_for_a_lost_try(line, face, losses):
    book = bought(face)
    write_as_another(line.member, book.id, 2, f"other {book.id}")
    line.lose("insert", *losses.split())

    with pytest.raises(ConcurrencyError) as caught:
        face(book.add, *lent(*new_ids()))

    assert line.to_lose < len(losses.split())
    assert (caught.value.expected_version, caught.value.actual_version) == (1, 2)
    assert book.version == 1
    assert stored(line.member, book.id) == [book.id, f"other {book.id}"]


def test_an_own_try_is_found_even_behind_events_of_others(own_line, face, limit):
    book = bought(face)
    (event_id,) = new_ids()
    limit(0.5)
    own_line.lose("insert", "silence")
    with pytest.raises(OutcomeUnknown) as caught:
        face(book.add, *lent(event_id))
    assert caught.value.event_ids == (event_id,)
    limit(10)
    write_as_another(own_line.member, book.id, 3, f"other {book.id}")

    assert face(book.add, *lent(event_id)).version == 2

    ids = [book.id, event_id, f"other {book.id}"]
    assert stored(own_line.member, book.id) == ids


@pytest.mark.parametrize("losses", ["request", "answer", "request answer"])
def test_the_look_after_a_lost_answer_may_be_cut_as_well(own_line, face, losses):
    book = bought(face)
    (event_id,) = new_ids()
    own_line.lose("insert", "answer")
    own_line.lose("find", *losses.split())

    assert face(book.add, *lent(event_id)).version == 2

    assert own_line.to_lose == 0
    assert stored(own_line.member, book.id) == [book.id, event_id]


def test_the_ping_before_that_look_may_be_cut_as_well(own_line, face):
    book = bought(face)
    (event_id,) = new_ids()
    own_line.lose("insert", "answer")
    own_line.lose("ping", "request")

    assert face(book.add, *lent(event_id)).version == 2


# --- the same by fail points inside of the server ---------------------------


@pytest.fixture
def member(connect, single):
    """The server itself; the driver's own retries are on, as they are by default."""
    connect(single.url(**FAST))
    yield single.members[0]
    Mongo.close()


def answer_lost(member):
    """Break the connection once, after the server committed a retryable write."""
    return member.fail_point(
        "onPrimaryTransactionalWrite", {"times": 1}, closeConnection=True
    )


def refused(member, code, skip=0):
    """Refuse the insert after some, as long as it holds, in place of executing it."""
    return fail_command(member, {"skip": skip}, "insert", errorCode=code)


def test_an_answer_lost_after_the_commit_is_found_by_the_driver(member, face):
    book = bought(face)
    (event_id,) = new_ids()

    with answer_lost(member):
        assert face(book.add, *lent(event_id)).version == 2

    assert stored(member, book.id) == [book.id, event_id]


def test_an_answer_lost_and_a_retry_that_fails_give_the_event_as_stored(member, face):
    book = bought(face)
    (event_id,) = new_ids()

    with answer_lost(member), refused(member, EXPIRED, skip=1):
        assert face(book.add, *lent(event_id)).version == 2

    assert stored(member, book.id) == [book.id, event_id]


def test_an_answer_lost_and_all_retries_cut_is_unknown_in_time(member, face, limit):
    book = bought(face)
    (event_id,) = new_ids()
    limit(0.5)
    cut = fail_command(member, {"skip": 1}, "insert", closeConnection=True)
    with answer_lost(member), cut, within(0.5), pytest.raises(OutcomeUnknown):
        face(book.add, *lent(event_id))
    limit(10)

    assert face(book.add, *lent(event_id)).version == 2

    assert stored(member, book.id) == [book.id, event_id]


INTERRUPTED = 11601


def test_an_event_that_is_found_but_not_loaded_is_not_called_unavailable(
    member, face, limit
):
    (event_id,) = new_ids()
    event = {**raw(generate(), BOUGHT), "id": event_id}
    book = face(Aggregate.of, Book, event)
    limit(0.5)
    snapshots = Aggregate.collection.full_name
    cut = {"namespace": snapshots, "closeConnection": True}
    cut = fail_command(member, "alwaysOn", "find", **cut)
    with cut, pytest.raises(OutcomeUnknown) as caught:
        face(Aggregate.of, Book, event)
    assert caught.value.event_ids == (event_id,)
    assert stored(member, book.id) == [event_id]


def test_an_answer_lost_and_a_retry_refused_for_good_give_the_event(member, face):
    book = bought(face)
    (event_id,) = new_ids()

    with answer_lost(member), refused(member, INTERRUPTED, skip=1):
        with contextlib.suppress(OperationFailure):
            face(book.add, *lent(event_id))
        assert stored(member, book.id) == [book.id, event_id]
        assert book.version == 2


def test_an_error_that_looks_the_same_is_a_lost_race_with_anothers_event(member, face):
    book = bought(face)
    write_as_another(member, book.id, 2, f"other {book.id}")

    with refused(member, EXPIRED), pytest.raises(ConcurrencyError) as caught:
        face(book.add, *lent(*new_ids()))

    assert (caught.value.expected_version, caught.value.actual_version) == (1, 2)
    assert stored(member, book.id) == [book.id, f"other {book.id}"]


@pytest.mark.parametrize("cuts", [1, 2, 3])
def test_connections_cut_before_the_insert_are_tried_again(member, face, cuts):
    book = bought(face)
    (event_id,) = new_ids()

    with fail_command(member, {"times": cuts}, "insert", closeConnection=True):
        assert face(book.add, *lent(event_id)).version == 2

    assert stored(member, book.id) == [book.id, event_id]


@pytest.mark.parametrize("code", [TIMED_OUT, SHUTTING_DOWN, UNSATISFIABLE])
@pytest.mark.parametrize("count", [1, 3])
def test_a_failed_write_concern_is_looked_into(member, face, code, count):
    book = bought(face)
    ids = new_ids(count)
    failed = {"code": code, "errmsg": "made up", "errInfo": {"wtimeout": code == 64}}
    command = "insert" if count == 1 else "commitTransaction"

    with fail_command(member, {"times": 1}, command, writeConcernError=failed):
        assert face(book.add, *lent(*ids)).version == 1 + count

    assert stored(member, book.id) == [book.id, *ids]


@pytest.mark.parametrize("code", [10107, 11602, 189, SHUTTING_DOWN, 262])
def test_a_server_that_says_it_is_no_primary_is_asked_again(member, face, code):
    book = bought(face)
    (event_id,) = new_ids()

    with fail_command(member, {"times": 1}, "insert", errorCode=code):
        assert face(book.add, *lent(event_id)).version == 2

    assert stored(member, book.id) == [book.id, event_id]


# --- several events: all or none --------------------------------------------


@pytest.mark.parametrize("command", ["insert", "commitTransaction"])
@pytest.mark.parametrize("losses", LOSSES)
def test_several_events_are_stored_once_whatever_gets_lost(
    set_line, face, command, losses
):
    book = bought(face)
    ids = new_ids(3)
    set_line.lose(command, *losses.split())

    assert face(book.add, *lent(*ids)).version == 4

    assert set_line.to_lose == 0
    assert stored(set_line.member, book.id) == [book.id, *ids]


@pytest.mark.parametrize("command", ["insert", "commitTransaction"])
def test_several_first_events_are_stored_once_whatever_gets_lost(
    set_line, face, command
):
    stream = generate()
    events = [raw(stream, event) for event in lent(*new_ids(3))]
    set_line.lose(command, "answer", "request", "answer")

    there = face(EventStore.append_events, events)

    assert [event["aggregateVersion"] for event in there] == [1, 2, 3]
    assert stored(set_line.member, stream) == [event["id"] for event in events]


NO_SUCH_TRANSACTION, WRITE_CONFLICT = 251, 112
TRANSIENT = ["TransientTransactionError"]


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("insert", WRITE_CONFLICT),
        ("insert", NO_SUCH_TRANSACTION),
        ("insert", 10107),
        ("commitTransaction", WRITE_CONFLICT),
        ("commitTransaction", NO_SUCH_TRANSACTION),
        ("commitTransaction", 11602),
    ],
)
@pytest.mark.parametrize("times", [1, 3])
def test_a_transaction_that_the_server_gave_up_begins_anew(
    member, face, command, code, times
):
    book = bought(face)
    ids = new_ids(2)

    with fail_command(member, {"times": times}, command, errorCode=code):
        assert face(book.add, *lent(*ids)).version == 3

    assert stored(member, book.id) == [book.id, *ids]


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


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("ends", ["commits", "aborts"])
def test_a_version_held_by_an_open_transaction_is_waited_for(
    set_line, face, count, ends
):
    book = bought(face)
    ids = new_ids(count)
    with (
        ThreadPoolExecutor(1) as pool,
        open_transaction(set_line.member, book.id, 2, f"other {book.id}") as other,
    ):
        set_line.said.clear()
        adding = pool.submit(face, book.add, *lent(*ids))
        # A plain insert waits at the server; a transaction is refused and comes back.
        tries = 3 if count > 1 else 1
        until(lambda: set_line.said.count("insert") >= tries)
        assert not adding.done()
        if ends == "commits":
            other.commit_transaction()
            with pytest.raises(ConcurrencyError) as caught:
                adding.result(10)
            assert caught.value.actual_version == 2
            ids = [f"other {book.id}"]
        else:
            other.abort_transaction()
            assert adding.result(10).version == 1 + count
    assert stored(set_line.member, book.id) == [book.id, *ids]


@pytest.mark.parametrize("count", [1, 2])
def test_the_wait_for_an_open_transaction_ends_with_the_time(
    member, face, limit, count
):
    book = bought(face)
    ids = new_ids(count)
    limit(0.5)

    with open_transaction(member, book.id, 2, f"other {book.id}"):
        with within(0.5), pytest.raises(GONE) as caught:
            face(book.add, *lent(*ids))
        if caught.type is OutcomeUnknown:
            assert caught.value.event_ids == tuple(ids)
        else:  # a transaction was refused, and there was no time to try again
            assert count > 1
    limit(10)

    assert face(book.add, *lent(*ids)).version == 1 + count
    assert stored(member, book.id) == [book.id, *ids]


def test_a_transaction_left_behind_holds_its_stream_up_for_nobody(
    own_line, face, limit
):
    book = bought(face)
    ids = new_ids(2)
    own_line.lose("insert", "silence")
    limit(0.3)
    with pytest.raises(OutcomeUnknown):
        face(book.add, *lent(*ids))
    limit(5)  # the server itself would end it after a minute

    assert face(book.add, *lent(*ids)).version == 3
    assert stored(own_line.member, book.id) == [book.id, *ids]


@contextlib.contextmanager
def lifetime_of_transactions(member, seconds):
    name = "transactionLifetimeLimitSeconds"
    with member.client() as client:
        before = client.admin.command("setParameter", 1, **{name: seconds})["was"]
        try:
            yield
        finally:
            client.admin.command("setParameter", 1, **{name: before})


def test_a_commit_that_is_never_heard_holds_its_stream_up_for_nobody(
    member, face, limit
):
    book = bought(face)
    other = face(Aggregate.of, Book, book.id)
    ids, (event_id,) = new_ids(2), new_ids()
    limit(0.5)
    cut = fail_command(member, "alwaysOn", "commitTransaction", closeConnection=True)
    with cut, pytest.raises(OutcomeUnknown):
        face(book.add, *lent(*ids))
    limit(5)

    assert face(other.add, *lent(event_id)).version == 2
    assert stored(member, book.id) == [book.id, event_id]


# --- the version that the caller expects ------------------------------------


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("losses", ["none", "request answer"])
def test_a_version_beyond_the_end_never_makes_a_hole(set_line, face, count, losses):
    book = bought(face)
    events = [raw(book.id, event) for event in lent(*new_ids(count))]
    set_line.said.clear()
    set_line.lose("find", *losses.split())

    with pytest.raises(ConcurrencyError) as caught:
        face(EventStore.append_events, events, expected_version=2)

    assert (caught.value.expected_version, caught.value.actual_version) == (2, 1)
    assert set_line.to_lose == 0
    assert "insert" not in set_line.said
    assert stored(set_line.member, book.id) == [book.id]


@pytest.mark.parametrize("losses", SOME)
def test_a_stream_is_begun_once(line, face, losses):
    stream = generate()
    first, second = (raw(stream, event) for event in lent(*new_ids(2)))
    line.lose("insert", *losses.split())
    face(EventStore.append_event, first, expected_version=0)
    line.lose("insert", "request")

    with pytest.raises(ConcurrencyError) as caught:
        face(EventStore.append_event, second, expected_version=0)
    again = face(EventStore.append_event, first, expected_version=0)

    assert (caught.value.expected_version, caught.value.actual_version) == (0, 1)
    assert (again["_id"], again["aggregateVersion"]) == (first["id"], 1)
    assert stored(line.member, stream) == [first["id"]]


@pytest.mark.parametrize("losses", SOME)
def test_an_expected_version_that_is_the_end_is_appended_to_once(line, face, losses):
    book = bought(face)
    (event,) = lent(*new_ids())
    line.lose("insert", *losses.split())

    there = face(EventStore.append_event, raw(book.id, event), expected_version=1)

    assert there["aggregateVersion"] == 2
    assert stored(line.member, book.id) == [book.id, event["id"]]


# --- three servers: replication that stops, primaries that die --------------


@pytest.fixture
def replicated(connect, three):
    connect(three.url(heartbeatFrequencyMS=500))
    return three


def books_and_events():
    """A book for each face and for one event or several, and the events to add."""
    return [
        (call, bought(), new_ids(count))
        for call in (blocking, awaitable)
        for count in (1, 3)
    ]


def all_at_once(pool, tries):
    return [pool.submit(call, book.add, *lent(*ids)) for call, book, ids in tries]


def outcomes(futures):
    """What came of some calls, the errors by their class."""
    return [
        type(future.exception(30)) if future.exception(30) else future.result().version
        for future in futures
    ]


def test_without_a_majority_the_outcome_is_unknown_until_there_is_one(
    replicated, limit
):
    tries = books_and_events()
    primary = replicated.primary
    limit(1)
    with ThreadPoolExecutor(len(tries)) as pool:
        with replication_stopped(replicated):
            with within(1):
                unknown = all_at_once(pool, tries)
                assert outcomes(unknown) == [OutcomeUnknown] * 4
            for _, book, ids in tries:
                assert stored(primary, book.id, "local") == [book.id, *ids]
            with within(1):  # now each id is there already, on one server of three
                again = all_at_once(pool, tries)
                assert outcomes(again) == [OutcomeUnknown] * 4
        limit(15)
        assert outcomes(all_at_once(pool, tries)) == [2, 4, 2, 4]
    for _, book, ids in tries:
        same_everywhere(replicated, book.id, [book.id, *ids])


def test_events_that_die_with_their_primary_are_stored_by_the_next_try(replicated):
    tries = books_and_events()
    old = replicated.primary
    with ThreadPoolExecutor(len(tries)) as pool:
        with replication_stopped(replicated):
            adding = all_at_once(pool, tries)
            for _, book, ids in tries:
                until(
                    lambda b=book, i=ids: stored(old, b.id, "local") == [b.id, *i],
                )
            assert not any(future.done() for future in adding)
            old.kill()
        new = elect_another(replicated, old)
        assert outcomes(adding) == [2, 4, 2, 4]
    for _, book, ids in tries:
        assert stored(new, book.id) == [book.id, *ids]
        same_everywhere(replicated, book.id, [book.id, *ids])


def test_a_rolled_back_event_is_stored_by_its_retry_or_has_lost_its_place(
    replicated, limit
):
    tries = books_and_events()
    beaten = books_and_events()
    old = replicated.primary
    limit(1)
    with ThreadPoolExecutor(8) as pool:
        with replication_stopped(replicated):
            assert outcomes(all_at_once(pool, tries + beaten)) == [OutcomeUnknown] * 8
            old.kill()
        new = elect_another(replicated, old)
        limit(15)
        for _, book, _ in beaten:
            write_as_another(new, book.id, 2, f"other {book.id}")

        assert outcomes(all_at_once(pool, tries)) == [2, 4, 2, 4]
        assert outcomes(all_at_once(pool, beaten)) == [ConcurrencyError] * 4

    for _, book, ids in tries:
        same_everywhere(replicated, book.id, [book.id, *ids])
    for _, book, _ in beaten:
        same_everywhere(replicated, book.id, [book.id, f"other {book.id}"])


def test_a_loader_does_not_see_what_a_frozen_primary_takes_with_it(replicated, limit):
    tries = books_and_events()
    old = replicated.primary
    one = WriteConcern(1)
    with replication_stopped(replicated):
        for call, book, _ in tries:
            write_as_another(old, book.id, 2, f"lost {book.id}", one)
            assert len(stored(old, book.id, "local")) == 2
            with pytest.raises(ConcurrencyError) as caught:
                event = raw(book.id, lent(*new_ids())[0])
                call(EventStore.append_event, event, expected_version=2)
            assert caught.value.actual_version == 1
        loaded = [call(Aggregate.of, Book, book.id) for call, book, _ in tries]
        old.freeze()
    try:
        new = elect_another(replicated, old)
        limit(15)
        for (call, book, ids), again in zip(tries, loaded, strict=True):
            assert call(again.add, *lent(*ids)).version == 1 + len(ids)
            assert stored(new, book.id) == [book.id, *ids]
    finally:
        old.thaw()
    for _, book, ids in tries:
        same_everywhere(replicated, book.id, [book.id, *ids])


def test_a_client_that_knows_only_the_old_primary_makes_no_hole(three, connect):
    old = three.primary
    connect(f"mongodb://{old.host}/?directConnection=true", timeout=2)
    tries = [(blocking, bought(), new_ids(count)) for count in (1, 3)]
    ids_read = [book.id for _, book, _ in tries]
    with ThreadPoolExecutor(2 * len(tries)) as pool:
        old.freeze()
        try:
            adding = all_at_once(pool, tries)
            loading = [pool.submit(Aggregate.of, Book, stream) for stream in ids_read]
            new = elect_another(three, old)
            for stream in ids_read:
                write_as_another(new, stream, 2, f"other {stream}")
        finally:
            old.thaw()
        assert not [came for came in outcomes(adding) if isinstance(came, int)]
        loaded = [load.result() for load in loading if load.exception(30) is None]
    Mongo.close()
    connect(three.url(heartbeatFrequencyMS=500))
    appended = set()
    for book in loaded:
        with contextlib.suppress(ConcurrencyError):
            book.add(*lent(f"after {book.id}"))
            appended.add(book.id)
    for stream in ids_read:
        after = [f"after {stream}"] if stream in appended else []
        same_everywhere(three, stream, [stream, f"other {stream}", *after])


def test_a_primary_that_steps_down_amid_a_write_hands_it_on(replicated):
    tries = books_and_events()
    old = replicated.primary
    name = "hangAfterCollectionInserts"
    hang = old.fail_point(
        name, "alwaysOn", collectionNS=f"{database()}.{connection.EVENTS}"
    )
    with ThreadPoolExecutor(len(tries)) as pool:
        with hang, old.client() as client:
            adding = all_at_once(pool, tries)
            client.admin.command(
                "waitForFailPoint", name, timesEntered=len(tries), maxTimeMS=10_000
            )
            client.admin.command("replSetStepDown", 2, force=True)
        assert outcomes(adding) == [2, 4, 2, 4]
    for _, book, ids in tries:
        same_everywhere(replicated, book.id, [book.id, *ids])


def test_a_snapshot_of_a_rolled_back_event_is_discarded_with_a_warning(
    replicated, caplog
):
    tries = books_and_events()
    old = replicated.primary
    with replication_stopped(replicated):
        phantoms = []
        for _, book, _ in tries:
            write_as_another(old, book.id, 2, f"lost {book.id}", WriteConcern(1))
            with collection(old, "local") as events:
                seen = list(events.find({"aggregateId": book.id}))
            phantoms.append(Aggregate(Book, book.id, seen))
        old.kill()
    elect_another(replicated, old)
    for (call, book, ids), phantom in zip(tries, phantoms, strict=True):
        call(phantom.save)
        assert call(Aggregate.find, book.id)["aggregateVersion"] == 2

        loaded = call(Aggregate.of, Book, book.id)

        assert (loaded.version, loaded.saved_version) == (1, 0)
        assert loaded.view() == {"loans": 0, "title": "Emma"}
        assert repr(book.id) in caplog.records[-1].getMessage()
        assert caplog.records[-1].levelname == "WARNING"
        assert call(Aggregate.find, book.id) is None
        call(call(loaded.add, *lent(*ids)).save)
        assert call(Aggregate.find, book.id)["aggregateVersion"] == 1 + len(ids)
        same_everywhere(replicated, book.id, [book.id, *ids])


def test_a_followed_snapshot_that_dies_with_its_primary_is_written_by_the_next(
    replicated,
):
    book = bought()
    events = EventStore.get_event_stream(book.id)
    declared = Subscription("snapshots", Snapshots)
    followed = Snapshots(connection.blocking(), None, declared)
    old = replicated.primary
    there = collection(old, "local", connection.SNAPSHOTS)
    with ThreadPoolExecutor(1) as pool, there as snapshots:
        with replication_stopped(replicated):
            delivered = pool.submit(drive, followed.deliver(events, 0))
            until(lambda: snapshots.find_one({"_id": book.id}))
            old.kill()
        elect_another(replicated, old)
        # What it returns lets the checkpoint pass these events for good.
        assert delivered.result(30) == Delivered(moved=False, parked=[])
    assert Aggregate.find(book.id)["aggregateVersion"] == 1


# --- servers that are slow, silent or dead ----------------------------------


@pytest.mark.parametrize(
    ("count", "command"), [(1, "insert"), (2, "commitTransaction")]
)
def test_an_answer_that_never_comes_is_an_unknown_outcome_in_time(
    set_line, face, limit, count, command
):
    book = bought(face)
    ids = new_ids(count)
    limit(0.3)
    set_line.lose(command, "silence")

    with within(0.3), pytest.raises(OutcomeUnknown) as caught:
        face(book.add, *lent(*ids))

    assert caught.value.event_ids == tuple(ids)
    assert book.version == 1
    limit(10)
    assert face(book.add, *lent(*ids)).version == 1 + count
    assert stored(set_line.member, book.id) == [book.id, *ids]


@pytest.mark.parametrize(
    ("count", "command"), [(1, "insert"), (2, "insert"), (2, "commitTransaction")]
)
def test_a_server_slower_than_the_time_is_an_unknown_outcome(
    member, face, limit, count, command
):
    book = bought(face)
    ids = new_ids(count)
    limit(0.3)
    slow = fail_command(
        member, "alwaysOn", command, blockConnection=True, blockTimeMS=800
    )

    with lifetime_of_transactions(member, 1):
        with slow, within(0.3), pytest.raises(OutcomeUnknown):
            face(book.add, *lent(*ids))

        limit(10)
        assert face(book.add, *lent(*ids)).version == 1 + count
    assert stored(member, book.id) == [book.id, *ids]


def test_a_slow_read_is_a_store_that_is_not_available_and_nothing_was_sent(
    set_line, face, limit
):
    book = bought(face)
    (event,) = lent(*new_ids())
    calls = [
        lambda: face(Aggregate.of, Book, book.id),
        lambda: face(EventStore.get_event_stream, book.id),
        lambda: face(EventStore.find_events, {"aggregateId": book.id}),
        lambda: face(EventStore.append_event, raw(book.id, event)),
        lambda: face(EventStore.append_event, raw(book.id, event), expected_version=1),
    ]
    limit(0.1)
    set_line.said.clear()
    for call in calls:
        set_line.lose("find", "silence")
        with within(0.1), pytest.raises(StoreUnavailable):
            call()
    assert "insert" not in set_line.said
    limit(10)
    assert stored(set_line.member, book.id) == [book.id]


def calls_of_a_new_client(face, book, event):
    return [
        lambda: face(Aggregate.of, Book, book.id),
        lambda: face(Aggregate.find, book.id),
        lambda: face(EventStore.get_event_stream, book.id),
        lambda: face(EventStore.append_event, raw(book.id, event)),
        lambda: face(book.add, event),
        lambda: face(book.add, event, *lent(*new_ids())),
        lambda: face(book.save),
    ]


def forget_connections(face):
    face(Mongo.connect)  # so that there is one to forget
    if face.runner is None:
        connection._close_own_client()
        connection._process.blocking = None
    else:
        face.runner.run(Mongo.aclose())


@pytest.mark.parametrize("state", ["frozen", "dead"])
def test_a_server_that_never_answers_has_been_sent_nothing(
    single, member, face, limit, state
):
    book = bought(face)
    (event,) = lent(*new_ids())
    forget_connections(face)
    limit(0.2)
    with out_of_order(single, state):
        for call in calls_of_a_new_client(face, book, event):
            with within(0.2), pytest.raises(StoreUnavailable):
                call()
    limit(10)
    assert face(book.add, event).version == 2
    assert stored(member, book.id) == [book.id, event["id"]]


@contextlib.contextmanager
def out_of_order(running, state):
    (member,) = running.members
    if state == "frozen":
        member.freeze()
    else:
        member.kill()
    try:
        yield
    finally:
        if state == "frozen":
            member.thaw()
        else:
            member.start()
        until(running.find_primary)


@pytest.mark.parametrize("state", ["frozen", "dead"])
@pytest.mark.parametrize("count", [1, 2])
def test_a_server_that_goes_away_ends_every_call_in_time(
    single, member, face, limit, state, count
):
    book = bought(face)
    ids = new_ids(count)
    limit(0.3)
    with lifetime_of_transactions(member, 1):
        with out_of_order(single, state):
            end = END_SECONDS if count > 1 else 0
            with within(0.3 + end), pytest.raises(GONE) as caught:
                face(book.add, *lent(*ids))
            if state == "frozen":  # it lies in the server's buffer
                assert caught.type is OutcomeUnknown
            with within(0.3), pytest.raises(StoreUnavailable):
                face(Aggregate.of, Book, book.id)
        limit(10)
        assert face(book.add, *lent(*ids)).version == 1 + count
    assert stored(member, book.id) == [book.id, *ids]


def test_a_server_that_has_no_role_yet_is_not_available(connect, face, tmp_path):
    member = servers.Member(tmp_path / "new", ("--replSet", servers.SET))
    member.start()
    try:
        connect(f"mongodb://{member.host}/?directConnection=true", timeout=0.2)
        for count in (1, 2):
            with pytest.raises(GONE):
                face(Aggregate(Book, "b-1", []).add, *lent(*new_ids(count)))
    finally:
        Mongo.close()
        member.kill()


def test_a_connection_that_was_opened_too_early_is_not_used_for_ever(
    connect, face, tmp_path
):
    """One that was opened before the member had a role never gets sessions."""
    member = servers.Member(tmp_path / "new", ("--replSet", servers.SET))
    member.start()
    try:
        connect(f"mongodb://{member.host}/?directConnection=true")
        face(Mongo.connect)
        config = {"_id": servers.SET, "members": [{"_id": 0, "host": member.host}]}
        with member.client() as client:
            client.admin.command("replSetInitiate", config)
            servers.until(lambda: client.admin.command("hello")["isWritablePrimary"])
        drive(indexes.ensure(connection.blocking()))

        book = bought(face)
        assert face(book.add, *lent(*new_ids(2))).version == 3
    finally:
        Mongo.close()
        member.kill()


@pytest.mark.parametrize("losses", SOME)
def test_a_read_is_tried_again_when_the_connection_is_cut(line, face, losses):
    book = bought(face)
    face(book.save)
    face(book.add, *lent(f"second {book.id}"))
    line.lose("find", *losses.split())
    assert face(Aggregate.of, Book, book.id).version == 2
    line.lose("find", *losses.split())
    events = face(EventStore.get_event_stream, book.id)
    assert [event["aggregateVersion"] for event in events] == [1, 2]
    line.lose("find", *losses.split())
    assert face(EventStore.find_event, {"_id": book.id})["_id"] == book.id
    line.lose("aggregate", *losses.split())
    assert face(
        EventStore.aggregate, [{"$match": {"aggregateId": book.id}}, {"$count": "n"}]
    ) == [{"n": 2}]
    assert line.to_lose == 0


# --- snapshots --------------------------------------------------------------


@pytest.mark.parametrize("losses", ["none", *SOME])
def test_a_late_save_of_an_older_state_changes_nothing(line, face, losses):
    old = bought(face)
    new = face(Aggregate.of, Book, old.id)
    face(new.add, *lent(*new_ids()))
    for book in (new, old, new, old):
        line.lose("update", *losses.split())
        # Without the driver's retries a cut is an error; the caller may save again.
        until(lambda b=book: is_saved(face, b))
        assert face(Aggregate.find, old.id)["aggregateVersion"] == 2
    again = face(Aggregate.of, Book, old.id)
    assert (again.saved_version, again.events) == (2, [])
    assert again.view()["loans"] == 1


def is_saved(face, book):
    try:
        face(book.save)
    except StoreUnavailable:
        return False
    return True


def test_saves_amid_cuts_never_go_back(member):
    book = bought()
    books = [book]
    for _ in range(8):
        book = Aggregate.of(Book, book.id).add(*lent(*new_ids()))
        books.append(book)
    seen = []
    all_saved = threading.Event()
    chance = {"activationProbability": 0.3}

    def look():
        while not all_saved.is_set():
            found = Aggregate.find(book.id)
            seen.append(found["aggregateVersion"] if found else 0)

    with ThreadPoolExecutor(1 + len(books)) as pool:
        looking = pool.submit(look)
        with fail_command(member, chance, "update", closeConnection=True):
            saving = [
                pool.submit(until, lambda b=b: is_saved(blocking, b)) for b in books
            ]
            wait(saving)
        all_saved.set()
        looking.result(30)
    assert all(saved.result() for saved in saving)
    assert seen == sorted(seen)
    assert Aggregate.find(book.id)["aggregateVersion"] == len(books)


# --- what the driver's errors say, each one made real -----------------------


@contextlib.contextmanager
def rival(member, **options):
    """Events of a plain client with no retries, and an error that it should meet."""
    app = generate()
    with pymongo.MongoClient(
        "127.0.0.1",
        member.port,
        directConnection=True,
        retryWrites=False,
        appname=app,
        serverSelectionTimeoutMS=3000,
        **FAST,
    ) as client:
        yield (
            client[database()].get_collection(
                connection.EVENTS, write_concern=WriteConcern("majority", **options)
            ),
            app,
        )


def event_of(stream, version=1, **more):
    return {"aggregateId": stream, "aggregateVersion": version, **more}


def error_of(call, *args, **kwargs):
    with pytest.raises(PyMongoError) as caught:
        call(*args, **kwargs)
    return caught.value


def insert_in_transaction(events, documents, before_commit=None):
    client = events.database.client
    with (
        client.start_session() as session,
        session.start_transaction(write_concern=events.write_concern),
    ):
        events.insert_many(documents, session=session)
        if before_commit:
            before_commit(session)


@pytest.mark.parametrize(
    ("data", "name", "fault"),
    [
        ({"closeConnection": True}, "AutoReconnect", Fault.UNKNOWN),
        ({"errorCode": 10107}, "NotPrimaryError", Fault.UNKNOWN),
        ({"errorCode": 189}, "NotPrimaryError", Fault.UNKNOWN),
        ({"errorCode": 11602}, "NotPrimaryError", Fault.UNKNOWN),
        ({"errorCode": 11600}, "NotPrimaryError", Fault.UNKNOWN),
        ({"errorCode": SHUTTING_DOWN}, "NotPrimaryError", Fault.UNKNOWN),
        ({"errorCode": EXPIRED}, "ExecutionTimeout", Fault.UNKNOWN),
        ({"errorCode": 262}, "OperationFailure", Fault.UNKNOWN),
        ({"errorCode": WRITE_CONFLICT}, "OperationFailure", Fault.TRANSIENT),
        ({"errorCode": 365}, "OperationFailure", Fault.TRANSIENT),
        ({"errorCode": 13}, "OperationFailure", Fault.FATAL),
    ],
)
def test_an_insert_that_was_refused_or_cut_is_classified(member, data, name, fault):
    with rival(member) as (events, app):
        for documents in (1, 2):
            with fail_command(member, {"times": 1}, "insert", app=app, **data):
                many = [event_of(generate()) for _ in range(documents)]
                if documents == 1:
                    error = error_of(events.insert_one, many[0])
                else:
                    error = error_of(events.insert_many, many)
            assert (type(error).__name__, classify(error)) == (name, fault)


@pytest.mark.parametrize("code", [TIMED_OUT, SHUTTING_DOWN, UNSATISFIABLE])
def test_a_write_concern_that_failed_is_an_unknown_outcome(member, code):
    failed = {"code": code, "errmsg": "made up"}
    fail = {"writeConcernError": failed}
    with rival(member) as (events, app):
        with fail_command(member, {"times": 1}, "insert", app=app, **fail):
            one = error_of(events.insert_one, event_of(generate()))
        with fail_command(member, {"times": 1}, "insert", app=app, **fail):
            many = error_of(
                events.insert_many, [event_of(generate()) for _ in range(2)]
            )
    assert type(one).__name__ == "WriteConcernError"
    assert isinstance(many, BulkWriteError)
    assert many.details["writeErrors"] == []
    assert [classify(one), classify(many)] == [Fault.UNKNOWN] * 2


@pytest.mark.parametrize("code", sorted(NOT_PRIMARY))
def test_a_single_write_that_the_primary_gave_up_is_an_unknown_outcome(code):
    """Seen when a primary steps down during a write; no fail point does it."""
    assert classify(WriteError("made up", code)) is Fault.UNKNOWN


def test_a_duplicate_is_told_alone_among_several_and_in_a_transaction(member):
    with rival(member) as (events, _):
        taken = generate()
        events.insert_one(event_of(taken, _id=taken))
        errors = [
            error_of(events.insert_one, event_of(taken)),
            error_of(events.insert_one, event_of(generate(), _id=taken)),
            error_of(events.insert_many, [event_of(taken, 2), event_of(taken)]),
            error_of(insert_in_transaction, events, [event_of(taken)]),
        ]
    assert [classify(error) for error in errors] == [Fault.DUPLICATE] * 4


def test_what_no_retry_can_mend_is_fatal(member):
    with rival(member) as (events, _):
        database = events.database
        strict = database.create_collection(
            generate(), validator={"payload": {"$type": "object"}}
        )
        try:
            huge = {"payload": {"text": "x" * (16 * 1024 * 1024)}}
            errors = [
                error_of(strict.insert_one, {}),
                error_of(strict.insert_many, [{}, {}]),
                error_of(insert_in_transaction, strict, [{}]),
                error_of(strict.insert_one, huge),
            ]
        finally:
            strict.drop()
    assert errors[0].code == 121
    assert [classify(error) for error in errors] == [Fault.FATAL] * 4


def test_a_user_without_the_right_is_fatal(tmp_path):
    folder = tmp_path / "guarded"
    with (
        servers.running(folder, name=None, options=("--auth",)) as guarded,
        guarded.members[0].client() as client,
    ):
        error = error_of(client.test.events.insert_one, {})
    assert error.code == 13
    assert classify(error) is Fault.FATAL


def test_no_server_is_unsent():
    nobody = f"mongodb://127.0.0.1:{servers.free_port()}/"
    with pymongo.MongoClient(nobody, serverSelectionTimeoutMS=50) as client:
        assert classify(error_of(client.test.events.insert_one, {})) is Fault.UNSENT


@pytest.mark.parametrize(
    ("command", "data", "fault"),
    [
        ("insert", {"closeConnection": True}, Fault.TRANSIENT),
        ("insert", {"errorCode": 10107}, Fault.TRANSIENT),
        ("insert", {"errorCode": WRITE_CONFLICT}, Fault.TRANSIENT),
        ("insert", {"errorCode": NO_SUCH_TRANSACTION}, Fault.TRANSIENT),
        ("insert", {"errorCode": 13}, Fault.FATAL),
        ("commitTransaction", {"closeConnection": True}, Fault.UNKNOWN),
        ("commitTransaction", {"errorCode": 10107}, Fault.UNKNOWN),
        ("commitTransaction", {"errorCode": 11602}, Fault.UNKNOWN),
        ("commitTransaction", {"errorCode": SHUTTING_DOWN}, Fault.UNKNOWN),
        ("commitTransaction", {"errorCode": EXPIRED}, Fault.UNKNOWN),
        ("commitTransaction", {"errorCode": NO_SUCH_TRANSACTION}, Fault.TRANSIENT),
        ("commitTransaction", {"errorCode": WRITE_CONFLICT}, Fault.TRANSIENT),
        (
            "commitTransaction",
            {"writeConcernError": {"code": TIMED_OUT, "errmsg": "made up"}},
            Fault.UNKNOWN,
        ),
        (
            "commitTransaction",
            {"writeConcernError": {"code": SHUTTING_DOWN, "errmsg": "made up"}},
            Fault.UNKNOWN,
        ),
    ],
)
def test_an_error_in_a_transaction_is_classified(member, command, data, fault):
    with rival(member) as (events, app):
        # Twice: the driver repeats a commit once by itself.
        times = 2 if command == "commitTransaction" else 1
        with fail_command(member, {"times": times}, command, app=app, **data):
            error = error_of(insert_in_transaction, events, [event_of(generate())])
    assert classify(error) is fault


def test_real_ends_of_a_transaction_are_classified(member):
    def kill(session):
        session.client.admin.command("killSessions", [session.session_id])

    with rival(member) as (events, _), rival(member) as (others, _):
        killed = error_of(
            insert_in_transaction, events, [event_of(generate())], before_commit=kill
        )
        held = generate()
        with open_transaction(member, held, 1, held):
            conflict = error_of(insert_in_transaction, others, [event_of(held)])
            with pymongo.timeout(0.2):
                waited = error_of(others.insert_one, event_of(held))
    assert (killed.code, classify(killed)) == (NO_SUCH_TRANSACTION, Fault.TRANSIENT)
    assert (conflict.code, classify(conflict)) == (WRITE_CONFLICT, Fault.TRANSIENT)
    assert waited.timeout
    assert classify(waited) is Fault.UNKNOWN


def test_a_real_write_concern_time_out_is_an_unknown_outcome(replicated):
    primary = replicated.primary
    with replication_stopped(replicated), rival(primary, wtimeout=100) as (events, _):
        alone, first = generate(), generate()
        errors = [
            error_of(events.insert_one, event_of(alone, _id=alone)),
            error_of(events.insert_many, [event_of(first), event_of(first, 2)]),
            error_of(insert_in_transaction, events, [event_of(generate())]),
        ]
        # The driver does not say that the one which is there is not for good.
        again = error_of(events.insert_one, event_of(alone, _id=alone))
    names = [type(error).__name__ for error in errors]
    assert names[:2] == ["WTimeoutError", "BulkWriteError"]
    assert [classify(error) for error in errors] == [Fault.UNKNOWN] * 3
    assert "writeConcernError" not in again.details
    assert classify(again) is Fault.DUPLICATE
