"""One event, and the requests and answers that get lost on the line."""

import pytest

from ossy_event_store import ConcurrencyError, EventStore, OutcomeUnknown
from tests.support.faults import (
    LOSSES,
    SOME,
    bought,
    by_url,
    lent,
    new_ids,
    raw,
    stored,
    write_as_another,
)

pytestmark = [pytest.mark.faults, by_url]


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
