"""Decide and append in one call, with any number of concurrent writers."""

import asyncio
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from ossy_event_store import (
    Aggregate,
    AggregateTypeMismatch,
    ConcurrencyError,
    EventStore,
    InvalidEvent,
    StoreUnavailable,
)
from tests.library.aggregate import Book, Reader
from tests.support import servers

BOUGHT = {"type": "BookBought", "payload": {"title": "Emma"}}
LENT = {"type": "BookLent", "payload": {"to": "ann"}}
RETURNED = {"type": "BookReturned"}


def types(aggregate_id="book"):
    return [event["type"] for event in EventStore.get_event_stream(aggregate_id)]


def lend_if_free(book):
    return None if book.view().get("lent_to") else LENT


def test_decided_events_are_appended(store, lend, face):
    lend("book", "BookBought")
    book = face(Aggregate.execute, Book, "book", lend_if_free)
    assert book.version == 2
    assert book.view()["lent_to"] == "ann"
    assert types() == ["BookBought", "BookLent"]


def test_no_decision_appends_nothing(store, lend, face):
    lend("book", "BookBought", "BookLent")
    for nothing in (None, [], (), iter(())):
        book = face(Aggregate.execute, Book, "book", lambda book: nothing)  # noqa: B023
        assert book.version == 2
    assert types() == ["BookBought", "BookLent"]


def test_several_events_are_appended_together(store, lend, face):
    def decide(book):
        yield LENT
        yield RETURNED

    lend("book", "BookBought")
    assert face(Aggregate.execute, Book, "book", decide).version == 3


def test_it_can_begin_a_stream(store, face):
    seen = []

    def decide(book):
        seen.append((book.version, list(book.events), book.saved_state))
        return BOUGHT

    assert face(Aggregate.execute, Book, "new", decide).version == 1
    assert seen == [(0, [], {})]
    assert types("new") == ["BookBought"]


class Rivals:
    """Writers in another thread that win the next races, one event each."""

    def __init__(self, *kinds):
        self.kinds = list(kinds)

    def write(self, version):
        if self.kinds:
            thread = threading.Thread(target=self._append, args=(version,))
            thread.start()
            thread.join()

    def _append(self, version):
        event = {"aggregateId": "book", "aggregateType": "Book", "payload": {"to": "x"}}
        event["type"] = self.kinds.pop(0)
        EventStore.append_event(event, expected_version=version)


def test_after_a_lost_race_it_decides_again_with_the_new_events(store, lend, face):
    lend("book", "BookBought")
    rivals, seen = Rivals("BookLent", "BookReturned"), []

    def decide(book):
        seen.append([event["type"] for event in book.events])
        rivals.write(book.version)
        return {"type": "BookRead"}

    book = face(Aggregate.execute, Book, "book", decide)
    assert seen == [
        ["BookBought"],
        ["BookBought", "BookLent"],
        ["BookBought", "BookLent", "BookReturned"],
    ]
    assert types() == ["BookBought", "BookLent", "BookReturned", "BookRead"]
    assert book.events == EventStore.get_event_stream("book")
    assert book.view()["loans"] == 1


def test_after_a_lost_race_it_still_uses_the_snapshot(store, lend, face):
    lend("book", "BookBought", "BookLent")
    Aggregate.of(Book, "book").save()
    rivals = Rivals("BookReturned", "BookLent")

    def decide(book):
        rivals.write(book.version)
        return RETURNED

    book = face(Aggregate.execute, Book, "book", decide)
    assert (book.saved_version, book.version) == (2, 5)
    assert book.view() == {"loans": 2, "title": "Emma", "lent_to": None}


def test_the_loser_of_a_race_to_begin_a_stream_decides_again(store, face):
    rivals, seen = Rivals("BookBought"), []

    def decide(book):
        seen.append(book.version)
        rivals.write(book.version)
        return RETURNED

    assert face(Aggregate.execute, Book, "book", decide).version == 2
    assert seen == [0, 1]


def test_the_last_lost_race_is_raised(store, lend, face):
    lend("book", "BookBought")
    rivals = Rivals("BookLent", "BookReturned", "BookLent")

    def decide(book):
        rivals.write(book.version)
        return RETURNED

    with pytest.raises(ConcurrencyError) as caught:
        face(Aggregate.execute, Book, "book", decide, attempts=2)
    assert (caught.value.expected_version, caught.value.actual_version) == (2, 3)
    assert types() == ["BookBought", "BookLent", "BookReturned"]


def test_the_lost_race_is_raised_when_the_time_is_up(store, lend, face, settings):
    set_timeout(settings, 2)
    end = time.monotonic() + 2.5
    lend("book", "BookBought")
    rivals = Rivals("BookRead")

    def decide(book):
        if not rivals.kinds:
            servers.until(lambda: time.monotonic() > end)
        rivals.write(book.version)
        return RETURNED

    with pytest.raises(ConcurrencyError) as caught:
        face(Aggregate.execute, Book, "book", decide)
    assert (caught.value.expected_version, caught.value.actual_version) == (1, 2)
    assert types() == ["BookBought", "BookRead"]


def test_a_decision_that_takes_too_long_stores_nothing(store, lend, face, settings):
    set_timeout(settings, 0.5)
    end = time.monotonic() + 1
    lend("book", "BookBought")

    def decide(book):
        servers.until(lambda: time.monotonic() > end)
        return RETURNED

    with pytest.raises(StoreUnavailable, match="time was up before"):
        face(Aggregate.execute, Book, "book", decide)
    assert types() == ["BookBought"]


def test_an_error_of_decide_passes_through(store, lend, face):
    lend("book", "BookBought")

    def decide(book):
        raise LookupError("no such reader")

    with pytest.raises(LookupError, match="no such reader"):
        face(Aggregate.execute, Book, "book", decide)
    assert types() == ["BookBought"]


def test_a_lost_race_on_another_stream_is_not_repeated(store, lend, face):
    lend("book", "BookBought")
    calls = []

    def decide(book):
        calls.append(1)
        raise ConcurrencyError("another", 3, 4)

    with pytest.raises(ConcurrencyError):
        face(Aggregate.execute, Book, "book", decide)
    assert len(calls) == 1


def test_a_stream_of_another_type_is_refused(store, lend, face):
    lend("book", "BookBought")
    with pytest.raises(AggregateTypeMismatch):
        face(Aggregate.execute, Reader, "book", lambda reader: BOUGHT)


def test_nothing_is_stored_if_one_event_is_refused(store, lend, face):
    lend("book", "BookBought")
    with pytest.raises(InvalidEvent, match=r"payload\.at"):
        face(
            Aggregate.execute,
            Book,
            "book",
            lambda book: [LENT, {"type": "X", "payload": {"at": {1}}}],
        )
    assert types() == ["BookBought"]


@pytest.mark.parametrize("decision", ["BookLent", b"x", 7, True])
def test_a_decision_without_an_event_is_a_type_error(store, face, decision):
    with pytest.raises(TypeError, match="must return an event"):
        face(Aggregate.execute, Book, "book", lambda book: decision)


def test_an_async_decide_is_a_type_error(store, face):
    async def decide(book):
        return LENT

    with pytest.raises(TypeError, match="not coroutine"):
        face(Aggregate.execute, Book, "book", decide)


@pytest.mark.parametrize("attempts", [0, -1, 1.5, True, "2"])
def test_attempts_are_a_whole_number_from_1(store, face, attempts):
    with pytest.raises((TypeError, ValueError), match=r"attempts (is|must be)"):
        face(Aggregate.execute, Book, "book", lend_if_free, attempts=attempts)


@pytest.mark.parametrize("wrong", [None, LENT])
def test_decide_is_a_function(store, face, wrong):
    with pytest.raises(TypeError, match="decide must be a function"):
        face(Aggregate.execute, Book, "book", wrong)


@pytest.mark.parametrize("wrong", [{"$gt": ""}, ["a"], None, b"book"])
def test_an_id_is_a_string(store, face, wrong):
    with pytest.raises(TypeError, match="aggregate_id"):
        face(Aggregate.execute, Book, wrong, lend_if_free)


def test_an_event_id_is_stored_once(store, lend, face):
    lend("book", "BookBought")
    event = {**LENT, "id": "loan-17"}
    first = face(Aggregate.execute, Book, "book", lambda book: event)
    again = face(Aggregate.execute, Book, "book", lambda book: event)
    assert first.version == again.version == 2
    assert types() == ["BookBought", "BookLent"]


def numbers(aggregate_id):
    events = EventStore.get_event_stream(aggregate_id)
    assert [e["aggregateVersion"] for e in events] == list(range(1, len(events) + 1))
    return sorted(event["payload"]["n"] for event in events)


@pytest.fixture
def patient(settings):
    """Two hundred take ten seconds on a machine that has much else to do."""
    settings.OSSY_EVENT_STORE = {**settings.OSSY_EVENT_STORE, "TIMEOUT": 60}


@pytest.mark.faults  # it is long
def test_all_of_200_threads_succeed(store, patient):
    def write(n):
        return Aggregate.execute(
            Book, "hot", lambda book: {"type": "BookRead", "payload": {"n": n}}
        ).version

    with ThreadPoolExecutor(200) as pool:
        versions = list(pool.map(write, range(200)))
    assert sorted(versions) == list(range(1, 201))
    assert numbers("hot") == list(range(200))


@pytest.mark.faults  # it is long
def test_all_of_200_tasks_succeed(store, patient):
    async def write(n):
        event = {"type": "BookRead", "payload": {"n": n}}
        return (await Aggregate.aexecute(Book, "hot", lambda book: event)).version

    async def write_all():
        return await asyncio.gather(*map(write, range(200)))

    assert sorted(asyncio.run(write_all())) == list(range(1, 201))
    assert numbers("hot") == list(range(200))


def test_concurrent_writers_of_one_process_take_turns(store):
    decided = Counter()

    def write(n):
        def decide(book):
            decided[n] += 1
            return {"type": "BookRead", "payload": {"n": n}}

        Aggregate.execute(Book, "hot", decide)

    with ThreadPoolExecutor(32) as pool:
        list(pool.map(write, range(200)))
    # Without turns, most races are lost: some 5 decisions an event.
    assert sum(decided.values()) < 2.5 * 200


def set_timeout(settings, seconds):
    settings.OSSY_EVENT_STORE = {**settings.OSSY_EVENT_STORE, "TIMEOUT": seconds}


def test_nested_decisions_on_two_streams_do_not_deadlock(store, lend, settings):
    """Two writers each hold a turn and want the other's; both continue."""
    set_timeout(settings, 60)  # a turn is waited for a quarter of it
    lend("a", "BookBought")
    lend("b", "BookBought")
    began = time.monotonic()

    def write(outer, inner):
        for _ in range(3):
            Aggregate.execute(
                Book,
                outer,
                lambda book: Aggregate.execute(Book, inner, lambda b: RETURNED) and [],
            )
            Aggregate.execute(Book, outer, lambda book: RETURNED)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, *zip(*[("a", "b"), ("b", "a")] * 4, strict=True)))
    assert len(types("a")) == len(types("b")) == 1 + 8 * 3
    assert time.monotonic() - began < 15
