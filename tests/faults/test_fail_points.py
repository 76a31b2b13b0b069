"""One event, and the fail points inside of the server."""

import contextlib

import pytest
from nanoid import generate
from pymongo.errors import OperationFailure

from ossy_event_store import Aggregate, ConcurrencyError, OutcomeUnknown
from tests.library.aggregate import Book
from tests.support.faults import (
    BOUGHT,
    EXPIRED,
    SHUTTING_DOWN,
    TIMED_OUT,
    UNSATISFIABLE,
    bought,
    by_url,
    fail_command,
    lent,
    new_ids,
    raw,
    stored,
    within,
    write_as_another,
)

pytestmark = [pytest.mark.faults, by_url]


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
