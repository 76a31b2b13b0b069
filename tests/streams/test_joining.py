"""Sessions that the caller passes: which are refused, and which are joined."""

import asyncio

import pytest
from django.conf import settings
from pymongo import MongoClient
from pymongo.write_concern import WriteConcern

from ossy_event_store import (
    Aggregate,
    ConcurrencyError,
    EventStore,
    InvalidTransaction,
)
from ossy_event_store.mongodb import connection
from tests.library.aggregate import Book
from tests.support.transactions import BOUGHT, LENT, RETURNED, bought, of, versions

BY_URL = pytest.mark.skipif(settings.STORE != "url", reason="connects by URL")
INSIDE = pytest.mark.skipif(
    settings.STORE != "mongodb", reason="needs a django_mongodb_backend alias"
)


# --- wrong use --------------------------------------------------------------


def test_an_append_inside_that_forgets_the_session_is_refused(store):
    bought("a")
    (other,) = bought("b")
    with EventStore.transaction() as t:
        of("a", t).add(LENT)
        with pytest.raises(InvalidTransaction, match=r"session=t\.session"):
            other.add(LENT)
        with pytest.raises(InvalidTransaction, match=r"session=t\.session"):
            bought("c")
        assert EventStore.count("a") == 1  # a read is harmless
    assert versions("a", "b", "c") == [2, 1, 0]


def test_transactions_are_not_nested(store):
    bought("a")
    with EventStore.transaction() as t:
        with pytest.raises(InvalidTransaction), EventStore.transaction():
            pass
        with pytest.raises(InvalidTransaction, match="cannot be nested"):
            EventStore.in_transaction(lambda t: None)
        with pytest.raises(InvalidTransaction, match="cannot be nested"):
            EventStore.append_streams({"a": [{**LENT, "aggregateType": "Book"}]})
        of("a", t).add(LENT)
    assert versions("a") == [2]


def test_a_task_that_outlives_its_block_may_append(store):
    bought("a", "b")

    async def main():
        ended = asyncio.Event()

        async def later():
            await ended.wait()
            await (await Aggregate.aof(Book, "b")).aadd(LENT)

        async with EventStore.atransaction() as t:
            await (await Aggregate.aof(Book, "a", session=t.session)).aadd(LENT)
            task = asyncio.create_task(later())
        ended.set()
        await task

    asyncio.run(main())
    assert versions("a", "b") == [2, 2]


def test_each_face_has_its_own_block(store):
    async def mixed():
        async with EventStore.transaction():
            pass

    with pytest.raises(TypeError, match=r"async with EventStore.atransaction\(\)"):
        asyncio.run(mixed())
    with pytest.raises(TypeError) as error, EventStore.atransaction():
        pass
    assert "with EventStore.transaction()" in str(error.value)


def test_a_session_of_the_other_face_is_refused(store):
    bought("a")

    async def mixed():
        async with EventStore.atransaction() as t:
            await asyncio.to_thread(Aggregate.of, Book, "a", session=t.session)

    with pytest.raises(TypeError, match="awaitable face"):
        asyncio.run(mixed())
    with pytest.raises(TypeError, match="blocking face"), EventStore.transaction() as t:
        asyncio.run(Aggregate.aof(Book, "a", session=t.session))


def test_a_transaction_is_no_session(store):
    bought("a")
    with pytest.raises(TypeError) as error, EventStore.transaction() as t:
        Aggregate.of(Book, "a", session=t)
    assert "session of PyMongo, such as t.session" in str(error.value)


@BY_URL
def test_a_session_of_another_client_is_refused(store):
    bought("a")
    with MongoClient(settings.SERVER) as client, client.start_session() as session:
        session.start_transaction()
        with pytest.raises(InvalidTransaction, match="another client"):
            Aggregate.of(Book, "a", session=session)


@INSIDE
@pytest.mark.django_db(transaction=True)
def test_atomic_is_a_transaction_already(store):
    transaction = pytest.importorskip("django_mongodb_backend.transaction")
    inside = transaction.atomic()
    with inside, pytest.raises(InvalidTransaction), EventStore.transaction():
        pass


# --- a transaction of the caller's own --------------------------------------


@pytest.fixture
def session(store):
    """A session of the store's client, without a transaction."""
    client = connection.raw(store.events).database.client
    with client.start_session() as session:
        yield session


def test_a_transaction_that_the_caller_began_is_joined(store, session, notes):
    bought("a", "b")
    with session.start_transaction():
        Aggregate.of(Book, "a", session=session).add(LENT).add(RETURNED)
        Aggregate.of(Book, "b").add(LENT, session=session)
        notes.insert_one({"_id": 1}, session=session)
        assert EventStore.count("a", session=session) == 3
        assert versions("a") == [1]
    assert versions("a", "b") == [3, 2]


def test_an_event_with_tags_is_numbered_in_the_callers_transaction(store, session):
    event = {**LENT, "aggregateType": "Book", "tags": ["reader:ann"]}
    with session.start_transaction():
        for stream in ("a", "b"):
            EventStore.append_event({**event, "aggregateId": stream}, session=session)
    numbers = [event["places"] for event in EventStore.find_events({})]
    assert numbers == [[{"t": "reader:ann", "n": 1}], [{"t": "reader:ann", "n": 2}]]


def test_a_session_needs_an_open_transaction(store, session):
    bought("a")
    with pytest.raises(InvalidTransaction, match="no open transaction"):
        Aggregate.of(Book, "a", session=session)
    session.end_session()
    with pytest.raises(InvalidTransaction, match="has ended"):
        EventStore.count("a", session=session)


def test_a_transaction_that_a_failover_could_lose_is_refused(store, session):
    bought("a")
    session.start_transaction(write_concern=WriteConcern(1))
    with pytest.raises(InvalidTransaction, match="w=1"):
        Aggregate.of(Book, "a", session=session)


def test_what_follows_a_rolled_back_event_leaves_no_hole(store, session):
    bought("a")
    session.start_transaction()
    book = Aggregate.of(Book, "a", session=session).add(LENT)
    new = Aggregate.of(Book, {**BOUGHT, "aggregateId": "b"}, session=session)
    session.abort_transaction()
    with pytest.raises(InvalidTransaction):
        book.add(RETURNED)
    for stale, actual in ((book, 1), (new, 0)):
        with pytest.raises(ConcurrencyError) as error, session.start_transaction():
            stale.add(RETURNED, session=session)
        assert error.value.actual_version == actual
    assert versions("a", "b") == [1, 0]


def test_a_lost_race_in_the_callers_transaction_is_not_repeated(
    store, session, elsewhere
):
    bought("a")
    session.start_transaction()
    book = Aggregate.of(Book, "a", session=session)
    elsewhere(Aggregate.of(Book, "a").add, LENT)
    with pytest.raises(ConcurrencyError) as error:
        book.add(RETURNED)
    assert error.value.conflicts == [("a", 1, 2)]
    assert not EventStore.find_events({"type": "BookReturned"}, default=[])
