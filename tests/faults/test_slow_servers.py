"""Servers that are slow, silent or dead."""

import contextlib
import os
import subprocess
import sys
import uuid

import pytest

from ossy_event_store import (
    Aggregate,
    EventStore,
    Mongo,
    OutcomeUnknown,
    StoreUnavailable,
)
from ossy_event_store.mongodb import connection, indexes
from ossy_event_store.mongodb.ports import END_SECONDS, drive
from tests.library.aggregate import Book
from tests.support import servers
from tests.support.faults import (
    GONE,
    SOME,
    bought,
    by_url,
    fail_command,
    lent,
    lifetime_of_transactions,
    new_ids,
    raw,
    stored,
    within,
)
from tests.support.servers import until
from tests.support.subscriptions import checkpoint

pytestmark = [pytest.mark.faults, by_url]


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


def forget_connections(face, connect=True):
    if connect:
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
def test_a_process_that_ends_does_not_wait_for_a_server_that_is_gone(
    single, member, face, state
):
    bought(face)  # its session is open
    with out_of_order(single, state), within(connection.CLOSE_SECONDS):
        forget_connections(face, connect=False)


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


# --- a process that is to stop ----------------------------------------------

SUBSCRIBER = """
import sys
import django
from django.conf import settings
settings.OSSY_EVENT_STORE = {"URL": sys.argv[1], "NAME": sys.argv[2], "TIMEOUT": 1}
django.setup()
from django.core.management import call_command
from ossy_event_store import subscription

@subscription("diary", session=True, start="now")
def diary(event, session):
    print("handling", flush=True)
    sys.stdin.readline()

@subscription("mails", start="now")
def mail(event):
    pass

@subscription("letters", start="now")
async def write(event):
    pass

call_command("run_subscriptions")
"""
BOUGHT = {"type": "BookBought", "aggregateType": "Book"}
SPARE_SECONDS = 20  # beyond TIMEOUT, on a busy machine; without a bound it never ends


@pytest.mark.chaos  # a busy machine would need far more time
@pytest.mark.parametrize("busy", [False, True], ids=["idle", "in a transaction"])
def test_a_process_that_runs_subscriptions_ends_soon_though_mongodb_is_frozen(
    single, member, busy
):
    store = connection.blocking()
    subscriptions = connection.raw(store.subscriptions)
    subscriptions.delete_many({})
    name = subscriptions.database.name
    command = [sys.executable, "-c", SUBSCRIBER, single.url(), name]
    with subprocess.Popen(
        command,
        env={**os.environ, "DJANGO_SETTINGS_MODULE": "tests.settings"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        try:
            assert process.stdout.readline().startswith(b"Running ")
            names = ("diary", "mails", "letters")
            until(lambda: all((checkpoint(store, n) or {}).get("fence") for n in names))
            if busy:
                EventStore.append_event({**BOUGHT, "aggregateId": uuid.uuid4().hex})
                assert process.stdout.readline() == b"handling\n"
            with out_of_order(single, "frozen"):
                process.terminate()
                process.stdin.write(b"\n")
                process.stdin.flush()
                process.wait(1 + SPARE_SECONDS)
        finally:
            process.kill()
