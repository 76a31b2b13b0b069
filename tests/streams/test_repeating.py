"""A transaction that lost a race runs again, as long as there is time."""

import itertools

import pytest

from ossy_event_store import (
    Aggregate,
    ConcurrencyError,
    EventStore,
    OutcomeUnknown,
    StoreUnavailable,
    TransactionAborted,
)
from ossy_event_store.mongodb import connection
from tests.library.aggregate import Book

BOUGHT = {"type": "BookBought", "payload": {"title": "Emma"}, "aggregateId": "a"}
LENT = {"type": "BookLent", "payload": {"to": "ann"}}


def test_work_gets_a_transaction_and_gives_its_result(store):
    def work(t):
        return Aggregate.of(Book, BOUGHT, session=t.session)

    book = EventStore.in_transaction(work)
    assert book.add(LENT).version == 2


def test_work_may_be_a_coroutine_function(store):
    async def work(t):
        return await Aggregate.aof(Book, BOUGHT, session=t.session)

    async def main():
        return await (await EventStore.ain_transaction(work)).aadd(LENT)

    with_asyncio = pytest.importorskip("asyncio").run(main())
    assert with_asyncio.version == 2


def rivals(store, times):
    """Let another writer append the first few times that a stream was read."""
    runs = itertools.count(1)
    stored = connection.raw(store.events)

    def work(t):
        book = Aggregate.of(Book, "a", session=t.session)
        run = next(runs)
        if run <= times:
            new = {**book.events[-1], "_id": run, "aggregateVersion": book.version + 1}
            stored.insert_one(new)
        book.add(LENT)
        return run

    return work


def test_work_runs_again_after_a_lost_race(store):
    Aggregate.of(Book, BOUGHT)
    assert EventStore.in_transaction(rivals(store, 2)) == 3
    assert EventStore.count("a") == 4


@pytest.mark.parametrize(("attempts", "runs"), [(1, 1), (3, 3)])
def test_work_runs_at_most_as_often_as_it_may(store, attempts, runs):
    Aggregate.of(Book, BOUGHT)
    with pytest.raises(ConcurrencyError) as error:
        EventStore.in_transaction(rivals(store, 9), attempts=attempts)
    assert error.value.conflicts == [("a", runs, runs + 1)]
    assert EventStore.count("a") == 1 + runs


def test_without_a_number_the_time_decides(store, settings):
    settings.OSSY_EVENT_STORE = {**settings.OSSY_EVENT_STORE, "TIMEOUT": 0.5}
    Aggregate.of(Book, BOUGHT)
    # The latter if the time ends while the work itself asks the server.
    with pytest.raises((ConcurrencyError, StoreUnavailable)):
        EventStore.in_transaction(rivals(store, 10**6))
    assert EventStore.count("a") > 3


def test_what_work_raises_passes_through_at_once(store):
    runs = []

    def work(t):
        runs.append(t)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        EventStore.in_transaction(work)
    assert len(runs) == 1


def test_an_unknown_outcome_is_not_tried_again(store):
    runs = []

    def work(t):
        runs.append(t)
        raise OutcomeUnknown(["x"])

    with pytest.raises(OutcomeUnknown):
        EventStore.in_transaction(work)
    assert len(runs) == 1


def test_a_conflict_of_own_writes_is_tried_again(notes):
    notes.insert_one({"_id": 1, "n": 0})
    other = notes.database.client.start_session()
    other.start_transaction()
    notes.update_one({"_id": 1}, {"$inc": {"n": 1}}, session=other)
    runs = itertools.count(1)

    def work(t):
        if next(runs) == 3:
            other.commit_transaction()
        notes.update_one({"_id": 1}, {"$inc": {"n": 1}}, session=t.session)

    with pytest.raises(TransactionAborted):
        EventStore.in_transaction(work, attempts=1)
    with pytest.raises(TransactionAborted):  # its snapshot is from before that commit
        EventStore.in_transaction(
            lambda t: (notes.find_one(session=t.session), work(t)), attempts=1
        )
    EventStore.in_transaction(work)
    assert notes.find_one()["n"] == 2
    other.end_session()


@pytest.mark.parametrize("wrong", [None, 7, "work"])
def test_work_must_be_a_function(store, face, wrong):
    with pytest.raises(TypeError, match="work must be a function"):
        face(EventStore.in_transaction, wrong)


def test_the_blocking_face_takes_no_coroutine_function(store):
    async def work(t):
        """Never awaited."""

    with pytest.raises(TypeError, match=r"ain_transaction"):
        EventStore.in_transaction(work)
    with pytest.raises(TypeError, match="returned a coroutine, which was not run"):
        EventStore.in_transaction(lambda t: work(t))


@pytest.mark.parametrize("wrong", [0, -1, "3", 1.5, True])
def test_attempts_must_be_a_number_from_one(store, face, wrong):
    with pytest.raises((TypeError, ValueError), match="attempts"):
        face(EventStore.in_transaction, lambda t: None, attempts=wrong)
