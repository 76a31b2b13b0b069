"""Transactions of the store: killed, cut off, without a replica set, in a handler."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from nanoid import generate

from ossy_event_store import (
    Aggregate,
    EventStore,
    OutcomeUnknown,
    TransactionAborted,
    TransactionsUnavailable,
)
from tests.library.aggregate import Book
from tests.support.faults import (
    LOSSES,
    NO_SUCH_TRANSACTION,
    WRITE_CONFLICT,
    bought,
    by_url,
    collection,
    database,
    fail_command,
    lent,
    lifetime_of_transactions,
    new_ids,
    raw,
    stored,
    wired,
)
from tests.support.servers import until

pytestmark = [pytest.mark.faults, by_url]


def transfer(face, first, second, ids):
    """Append to two streams in a transaction, through one of the two faces."""
    if face.runner is None:
        with EventStore.transaction() as t:
            Aggregate.of(Book, first, session=t.session).add(*lent(ids[0]))
            Aggregate.of(Book, second, session=t.session).add(*lent(ids[1]))
        return

    async def move():
        async with EventStore.atransaction() as t:
            a = await Aggregate.aof(Book, first, session=t.session)
            await a.aadd(*lent(ids[0]))
            b = await Aggregate.aof(Book, second, session=t.session)
            await b.aadd(*lent(ids[1]))

    face.runner.run(move())


# --- lost on the way --------------------------------------------------------


@pytest.mark.parametrize("losses", LOSSES)
def test_a_commit_is_made_once_whatever_gets_lost(set_line, face, losses):
    a, b = bought(face), bought(face)
    ids = new_ids(2)
    set_line.lose("commitTransaction", *losses.split())
    transfer(face, a.id, b.id, ids)
    assert set_line.to_lose == 0
    assert stored(set_line.member, a.id) == [a.id, ids[0]]
    assert stored(set_line.member, b.id) == [b.id, ids[1]]


@pytest.mark.parametrize("losses", ["answer", "request"])
def test_an_insert_that_gets_lost_aborts_the_transaction(set_line, face, losses):
    a, b = bought(face), bought(face)
    ids = new_ids(2)
    set_line.lose("insert", losses)
    with pytest.raises(TransactionAborted):
        transfer(face, a.id, b.id, ids)
    assert stored(set_line.member, a.id) == [a.id]
    assert stored(set_line.member, b.id) == [b.id]


@pytest.mark.parametrize("losses", LOSSES)
@pytest.mark.parametrize("command", ["insert", "commitTransaction", "aggregate"])
def test_one_call_is_stored_once_whatever_gets_lost(set_line, face, command, losses):
    a, b = generate(), generate()
    ids = new_ids(2)
    set_line.lose(command, *losses.split())
    face(
        EventStore.append_streams,
        {a: [raw(a, lent(ids[0])[0])], b: [raw(b, lent(ids[1])[0])]},
        unchanged={generate(): 0},
    )
    assert set_line.to_lose == 0
    assert [stored(set_line.member, one) for one in (a, b)] == [[ids[0]], [ids[1]]]


def test_an_outcome_that_nobody_tells_is_unknown(own_line, limit, face):
    a, b = bought(face), bought(face)
    ids = new_ids(2)
    own_line.lose("commitTransaction", "silence")
    own_line.lose("commitTransaction", *["request"] * 200)
    limit(1)
    with pytest.raises(OutcomeUnknown) as error:
        transfer(face, a.id, b.id, ids)
    assert error.value.event_ids == tuple(ids)
    limit(10)
    own_line._losses.clear()
    # The same again finds out.
    transfer(face, a.id, b.id, ids)
    assert stored(own_line.member, a.id) == [a.id, ids[0]]
    assert stored(own_line.member, b.id) == [b.id, ids[1]]


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("insert", WRITE_CONFLICT),
        ("aggregate", WRITE_CONFLICT),
        ("commitTransaction", NO_SUCH_TRANSACTION),
    ],
)
def test_in_transaction_and_one_call_are_run_again(member, face, command, code):
    a, b = generate(), generate()
    labels = ["TransientTransactionError"]
    with fail_command(
        member, {"times": 2}, command, errorCode=code, errorLabels=labels
    ):
        face(
            EventStore.append_streams,
            {a: [raw(a, lent("1" + a)[0])], b: [raw(b, lent("1" + b)[0])]},
            unchanged={generate(): 0},
        )
    assert stored(member, a) == ["1" + a]
    with (
        fail_command(member, {"times": 1}, command, errorCode=code, errorLabels=labels),
        pytest.raises(TransactionAborted),
        EventStore.transaction() as t,
    ):
        t.unchanged(b, 1)
        Aggregate.of(Book, a, session=t.session).add(*lent("2" + a))
    assert stored(member, a) == ["1" + a]


# --- killed -----------------------------------------------------------------

KILLED = """
import os, signal
import django
django.setup()
from ossy_event_store import Aggregate, EventStore
from ossy_event_store.mongodb import blocking_port
from tests.library.aggregate import Book

def die(*args, **options):
    os.kill(os.getpid(), signal.SIGKILL)

{when}
with EventStore.transaction() as t:
    Aggregate.of(Book, "{a}", session=t.session).add({{"type": "BookReturned"}})
    Aggregate.of(Book, "{b}", session=t.session).add({{"type": "BookReturned"}})
    t.database["notes"].insert_one({{"_id": "{a}"}}, session=t.session)
    {inside}
"""
DEATHS = {
    "in the block": ("", "die()", 0),
    "before the insert": ("blocking_port.BlockingCollection.insert_many = die", "", 0),
    "before the commit": ("blocking_port.BlockingClient.commit = die", "", 0),
    "after the commit": (
        "commit = blocking_port.BlockingClient.commit\n"
        "async def then_die(self, session):\n"
        "    await commit(self, session)\n"
        "    die()\n"
        "blocking_port.BlockingClient.commit = then_die",
        "",
        1,
    ),
}


@pytest.mark.parametrize(("when", "inside", "stays"), DEATHS.values(), ids=DEATHS)
def test_of_a_killed_process_all_or_nothing_stays(member, single, when, inside, stays):
    a, b = bought(), bought()
    code = KILLED.format(when=when, inside=inside, a=a.id, b=b.id)
    environment = {
        **os.environ,
        "TEST_MONGODB_URL": single.url(),
        "TEST_STORE_NAME": database(),
        "DJANGO_SETTINGS_MODULE": "tests.settings",
    }
    command = [sys.executable, "-c", code]
    with lifetime_of_transactions(member, 2):
        done = subprocess.run(command, env=environment, cwd=Path.cwd(), check=False)
        # What the process left open keeps others out no longer than that.
        third = Aggregate.of(Book, a.id).add(*lent(*new_ids()))
    assert done.returncode == -signal.SIGKILL
    assert third.version == 2 + stays
    assert len(stored(member, a.id)) == 2 + stays
    assert len(stored(member, b.id)) == 1 + stays
    with collection(member) as events:
        assert events.database["notes"].count_documents({"_id": a.id}) == stays


# --- a handler --------------------------------------------------------------

FOLLOWER = """
import os, random, signal, sys, threading
import django
django.setup()
from ossy_event_store import Aggregate, subscription
from ossy_event_store.subscriptions.runner import Runner
from tests.library.aggregate import Reader

@subscription("{name}", types=["BookLent"], session=True, batch=3)
def note(event, session):
    Aggregate.execute(
        Reader,
        "{name}",
        lambda reader: {{"type": "Noted", "payload": {{"of": event["_id"]}}}},
        session=session,
    )

def later():
    os.kill(os.getpid(), signal.SIGKILL)

if len(sys.argv) > 1:
    threading.Timer(float(sys.argv[1]), later).start()
Runner(["{name}"]).run()
"""


def test_what_a_handler_appends_in_its_session_exists_once_for_each_event(
    member, single
):
    name, book, count = generate(), bought(), 60
    code = FOLLOWER.format(name=name)
    environment = {
        **os.environ,
        "TEST_MONGODB_URL": single.url(),
        "TEST_STORE_NAME": database(),
        "DJANGO_SETTINGS_MODULE": "tests.settings",
    }

    def run(*arguments):
        return subprocess.Popen(
            [sys.executable, "-c", code, *arguments], env=environment
        )

    def noted():
        found = [event["payload"]["of"] for event in EventStore.get_event_stream(name)]
        assert len(set(found)) == len(found)
        return [one for one in found if one.startswith(name)]

    def lend():
        for number in range(count):
            EventStore.append_event(raw(book.id, lent(f"{name}-{number}")[0]))

    lender = threading.Thread(target=lend)
    lender.start()
    deaths = 0
    for seconds in (1.2, 1.5, 1.8, 2.1):
        process = run(str(seconds))
        process.wait(60)
        deaths += process.returncode == -signal.SIGKILL
    assert deaths == 4
    lender.join()
    last = run()
    try:
        until(lambda: len(noted()) >= count, seconds=60)
    finally:
        last.terminate()
        last.wait(30)
    assert noted() == [f"{name}-{number}" for number in range(count)]


# --- without a replica set --------------------------------------------------


def test_a_standalone_server_has_no_transactions(connect, alone, face):
    with wired(connect, alone):
        book = bought(face)
        event = raw(book.id, lent(*new_ids())[0])
        with pytest.raises(TransactionsUnavailable):
            transfer(face, book.id, book.id, new_ids(2))
        with pytest.raises(TransactionsUnavailable):
            face(EventStore.append_streams, {book.id: [event]})
        with pytest.raises(TransactionsUnavailable):
            face(book.continue_as, generate())
        with pytest.raises(TransactionsUnavailable), EventStore.transaction() as t:
            t.database["notes"].insert_one({"_id": 1}, session=t.session)
        assert stored(alone.members[0], book.id) == [book.id]
        assert face(book.add, event and lent(*new_ids())[0]).close().version == 3
