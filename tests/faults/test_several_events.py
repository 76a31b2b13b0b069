"""Several events are stored all or none, once."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from nanoid import generate

from ossy_event_store import Aggregate, ConcurrencyError, EventStore, OutcomeUnknown
from tests.library.aggregate import Book
from tests.support.faults import (
    GONE,
    LOSSES,
    NO_SUCH_TRANSACTION,
    WRITE_CONFLICT,
    bought,
    by_url,
    fail_command,
    lent,
    new_ids,
    open_transaction,
    raw,
    stored,
    within,
)
from tests.support.servers import until

pytestmark = [pytest.mark.faults, by_url]


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
