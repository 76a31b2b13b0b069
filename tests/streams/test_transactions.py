"""Several streams and the user's own documents in one transaction of the store."""

import asyncio

import pytest
from django.conf import settings
from pymongo.errors import OperationFailure

from ossy_event_store import (
    Aggregate,
    BoundaryConflict,
    ConcurrencyError,
    Condition,
    EventStore,
    IdempotencyConflict,
    InvalidTransaction,
    StreamClosed,
    TransactionAborted,
    any_of,
    item,
)
from ossy_event_store.mongodb import connection
from ossy_event_store.streams.transactions.unit_of_work import UnitOfWork
from tests.library.aggregate import Book
from tests.support.transactions import BOUGHT, LENT, RETURNED, bought, of, versions

BY_URL = pytest.mark.skipif(settings.STORE != "url", reason="connects by URL")
INSIDE = pytest.mark.skipif(
    settings.STORE != "mongodb", reason="needs a django_mongodb_backend alias"
)


# --- all or none ------------------------------------------------------------


def test_events_of_two_streams_and_own_documents_are_stored_together(store, notes):
    bought("a", "b")
    with EventStore.transaction() as t:
        of("a", t).add(LENT)
        of("b", t).add(LENT, RETURNED)
        t.database["notes"].insert_one({"_id": 1}, session=t.session)
    assert versions("a", "b") == [2, 3]
    assert notes.count_documents({}) == 1


def test_a_block_that_raises_stores_nothing(store, notes):
    bought("a")
    with pytest.raises(ZeroDivisionError), EventStore.transaction() as t:
        of("a", t).add(LENT).save()
        Aggregate.of(Book, {**BOUGHT, "aggregateId": "new"}, session=t.session)
        t.database["notes"].insert_one({"_id": 1}, session=t.session)
        assert EventStore.exists("new", session=t.session)
        raise ZeroDivisionError
    assert versions("a", "new") == [1, 0]
    assert Aggregate.find("a") is None
    assert notes.count_documents({}) == 0


def test_the_awaitable_face_does_the_same(store, notes):
    bought("a", "b", "l")

    async def move():
        async with EventStore.atransaction() as t:
            a = await Aggregate.aof(Book, "a", session=t.session)
            await a.aadd(LENT)
            b = await Aggregate.aof(Book, "b", session=t.session)
            await b.aadd(RETURNED)
            t.unchanged(await Aggregate.aof(Book, "l"))
            await t.database["notes"].insert_one({"_id": 1}, session=t.session)
        await a.aadd(RETURNED)
        with pytest.raises(ZeroDivisionError):
            async with EventStore.atransaction() as t:
                await b.aadd(LENT, session=t.session)
                raise ZeroDivisionError

    asyncio.run(move())
    assert versions("a", "b", "l") == [3, 2, 1]
    assert notes.count_documents({}) == 1


def test_an_empty_block_is_no_error(store):
    with EventStore.transaction():
        pass


def test_a_transaction_that_only_writes_own_documents_may_check_streams(store, notes):
    bought("a")
    with EventStore.transaction() as t:
        t.unchanged("a", 1)
        t.database["notes"].insert_one({"_id": 1}, session=t.session)
    with pytest.raises(ConcurrencyError), EventStore.transaction() as t:
        t.unchanged("a", 2)
        t.database["notes"].insert_one({"_id": 2}, session=t.session)
    assert notes.count_documents({}) == 1


def test_events_get_positions_in_the_order_of_the_calls(store):
    bought("a", "b")
    with EventStore.transaction() as t:
        a, b = of("a", t), of("b", t)
        for book in (a, b, a):
            book.add(LENT)
    stored = list(store.events.raw.find({"type": "BookLent"}).sort("$natural", 1))
    assert [event["aggregateId"] for event in stored] == ["a", "b", "a"]


# --- conditions -------------------------------------------------------------


def test_a_stream_that_is_not_written_has_to_be_where_it_was_read(store, elsewhere):
    bought("a", "l")
    with pytest.raises(ConcurrencyError) as error, EventStore.transaction() as t:
        of("a", t).add(LENT)
        t.unchanged(Aggregate.of(Book, "l"))
        t.unchanged("none", 1)
    assert error.value.conflicts == [("none", 1, 0)]
    limit = Aggregate.of(Book, "l")
    elsewhere(Aggregate.of(Book, "l").add, LENT)
    with pytest.raises(ConcurrencyError) as error, EventStore.transaction() as t:
        of("a", t).add(LENT)
        t.unchanged(limit)
    assert error.value.conflicts == [("l", 1, 2)]
    assert versions("a") == [1]


def test_a_stream_may_be_required_not_to_exist(store):
    bought("a")
    with EventStore.transaction() as t:
        of("a", t).add(LENT)
        t.unchanged("none", 0)
    assert versions("a") == [2]


def test_every_stream_that_failed_is_named_the_first_in_the_old_attributes(
    store, elsewhere
):
    stale = bought("a", "b", "c")
    for book in stale:
        elsewhere(Aggregate.of(Book, book.id).add, LENT)
    with pytest.raises(ConcurrencyError) as error, EventStore.transaction() as t:
        stale[0].add(LENT, session=t.session)
        stale[1].add(LENT, session=t.session)
    assert error.value.conflicts == [("a", 1, 2), ("b", 1, 2)]
    assert error.value.aggregate_id == "a"
    assert (error.value.expected_version, error.value.actual_version) == (1, 2)
    with pytest.raises(ConcurrencyError, match=r"'b'.*'c'") as error:
        EventStore.append_streams(
            {"b": [{**LENT, "aggregateType": "Book"}]},
            expected={"b": 1},
            unchanged={"a": 2, "c": 1},
        )
    assert error.value.conflicts == [("b", 1, 2), ("c", 1, 2)]
    assert versions("a", "b", "c") == [2, 2, 2]


def test_a_stream_cannot_be_required_at_two_versions(store):
    bought("a")
    with pytest.raises(InvalidTransaction) as error, EventStore.transaction() as t:
        t.unchanged("a", 1)
        t.unchanged("a", 2)
    assert "at version 1 and at version 2" in str(error.value)


def test_a_stream_that_is_written_may_be_named_as_well(store):
    bought("a", "b")
    with EventStore.transaction() as t:
        t.unchanged(of("a", t))
        a = of("a", t).add(LENT)
        t.unchanged(a)
        t.unchanged("b", 1)
        b = of("b", t).add(LENT)
        t.unchanged(b)
    assert versions("a", "b") == [2, 2]
    with pytest.raises(ConcurrencyError) as error, EventStore.transaction() as t:
        of("a", t).add(LENT)
        t.unchanged("a", 1)
    assert error.value.conflicts == [("a", 1, 2)]


@pytest.mark.parametrize("wrong", [7, None, object(), ("a", 1), b"a"])
def test_only_an_aggregate_or_an_id_can_be_unchanged(store, wrong):
    with pytest.raises(TypeError, match="subject"), EventStore.transaction() as t:
        t.unchanged(wrong)


@pytest.mark.parametrize("wrong", [None, "1", -1, True, 1.0])
def test_an_id_needs_its_version(store, wrong):
    with pytest.raises((TypeError, ValueError)) as error, EventStore.transaction() as t:
        t.unchanged("a", wrong)
    assert "version" in str(error.value)


def test_an_aggregate_has_its_own_version(store):
    (book,) = bought("a")
    with pytest.raises(TypeError, match="version"), EventStore.transaction() as t:
        t.unchanged(book, 1)


def skew(elsewhere):
    """Let two open transactions each check the stream that the other one writes."""
    bought("a", "b")
    with EventStore.transaction() as t:
        of("a", t).add(LENT)
        t.unchanged(of("b", t))
        elsewhere(other_half)


def other_half():
    with EventStore.transaction() as t:
        of("b", t).add(LENT)
        t.unchanged(of("a", t))


def test_two_writers_never_both_pass_conditions_that_exclude_each_other(
    store, elsewhere
):
    with pytest.raises(ConcurrencyError) as error:
        skew(elsewhere)
    assert error.value.conflicts == [("b", 1, 2)]
    assert versions("a", "b") == [1, 2]


def test_without_guards_both_would_pass(store, elsewhere, monkeypatch):
    send = UnitOfWork._send

    async def without_guards(self, versions, guards):
        await send(self, versions, [])

    monkeypatch.setattr(UnitOfWork, "_send", without_guards)
    skew(elsewhere)
    assert versions("a", "b") == [2, 2]


def test_a_plain_append_takes_no_guard_and_is_never_refused_for_one(store, elsewhere):
    bought("a", "l")
    with EventStore.transaction() as t:
        of("a", t).add(LENT)
        t.unchanged(of("l", t))  # at version 1, in this transaction's snapshot
        elsewhere(Aggregate.of(Book, "l").add, LENT)
    assert versions("a", "l") == [2, 2]
    places = [
        event.get("places") for event in store.events.raw.find({"aggregateId": "l"})
    ]
    assert places == [None, None]


def test_a_condition_of_a_boundary_takes_part(store):
    query = any_of(item("BookLent", tags=["reader:ann"]))
    event = {**LENT, "aggregateId": "a", "aggregateType": "Book"}
    tagged = {**event, "tags": ["reader:ann"]}

    def lend(t):
        EventStore.append_events([tagged], unless=Condition(query), session=t.session)
        EventStore.append_event({**event, "aggregateId": "b"}, session=t.session)

    EventStore.in_transaction(lend)
    with pytest.raises(BoundaryConflict):
        EventStore.in_transaction(lend)
    assert versions("a", "b") == [1, 1]


# --- races ------------------------------------------------------------------


def test_other_writers_do_not_wait_for_an_open_block(store, elsewhere):
    bought("a")
    with pytest.raises(ConcurrencyError) as error, EventStore.transaction() as t:
        of("a", t).add(LENT)
        elsewhere(Aggregate.of(Book, "a").add, RETURNED)  # at once
    assert error.value.conflicts == [("a", 1, 2)]
    assert EventStore.get_event_stream("a")[-1]["type"] == "BookReturned"


def test_a_conflict_with_an_open_transaction_is_told_apart(store):
    (book,) = bought("a")
    events = connection.raw(store.events)
    with events.database.client.start_session() as session:
        session.start_transaction()
        events.insert_one(
            {**book.events[0], "_id": "x", "aggregateVersion": 2}, session=session
        )
        with pytest.raises(TransactionAborted) as error, EventStore.transaction() as t:
            of("a", t).add(LENT)
        assert "run it again" in str(error.value)
        assert error.value.__cause__.code == 112
        session.abort_transaction()
    assert versions("a") == [1]


def test_a_conflict_over_own_documents_aborts_the_transaction(store, notes):
    notes.insert_one({"_id": 1, "n": 0})
    bought("a")
    with notes.database.client.start_session() as session:
        session.start_transaction()
        notes.update_one({"_id": 1}, {"$inc": {"n": 1}}, session=session)
        with pytest.raises(TransactionAborted), EventStore.transaction() as t:
            of("a", t).add(LENT)
            t.database["notes"].update_one(
                {"_id": 1}, {"$inc": {"n": 1}}, session=t.session
            )
        session.abort_transaction()
    assert versions("a") == [1]


def test_an_error_of_own_writes_passes_through_as_it_is(store, notes):
    notes.insert_one({"_id": 1})
    bought("a")
    with pytest.raises(OperationFailure) as error, EventStore.transaction() as t:
        of("a", t).add(LENT)
        t.database["notes"].insert_one({"_id": 1}, session=t.session)
    assert error.value.code == 11000
    assert versions("a") == [1]


# --- reads inside -----------------------------------------------------------


def test_reads_inside_find_what_the_transaction_has_appended(store, elsewhere):
    bought("a", "b")
    with EventStore.transaction() as t:
        of("a", t).add(LENT)
        s = {"session": t.session}
        assert of("a", t).view()["loans"] == 1
        of("b", t).add(LENT)
        assert len(EventStore.get_event_stream("b", **s)) == 2
        of("b", t).add(RETURNED)
        assert EventStore.count("b", **s) == 3
        of("b", t).add(LENT)
        assert EventStore.get_stream_info("b", **s)["aggregateVersion"] == 4
        of("b", t).add(RETURNED)
        assert len(EventStore.find_events({"type": "BookReturned"}, **s)) == 2
        assert EventStore.find_event({"aggregateId": "a", "type": "BookLent"}, **s)
        of("b", t).add(LENT)
        (total,) = EventStore.aggregate([{"$count": "n"}], **s)
        assert total == {"n": 8}
        assert elsewhere(versions, "a", "b") == [1, 1]
    assert versions("a", "b") == [2, 6]


def test_raw_appends_take_part_and_know_what_the_transaction_appended(store):
    event = {**LENT, "aggregateId": "a", "aggregateType": "Book"}
    with EventStore.transaction() as t:
        EventStore.append_event(event, expected_version=0, session=t.session)
        EventStore.append_events([event, event], session=t.session)
        with pytest.raises(ConcurrencyError) as error:
            EventStore.append_event(event, expected_version=1, session=t.session)
        assert error.value.conflicts == [("a", 1, 3)]
        with pytest.raises(ValueError, match="wait must be False"):
            EventStore.append_event(event, wait=True, session=t.session)
    assert [e["aggregateVersion"] for e in EventStore.get_event_stream("a")] == [
        1,
        2,
        3,
    ]


def test_two_aggregates_of_one_stream_do_not_append_the_same_version(store):
    bought("a")
    with pytest.raises(ConcurrencyError), EventStore.transaction() as t:
        first, second = of("a", t), of("a", t)
        first.add(LENT)
        second.add(LENT)
    assert versions("a") == [1]


def test_execute_decides_inside(store):
    bought("a")
    with EventStore.transaction() as t:
        Aggregate.execute(Book, "a", lambda book: LENT, session=t.session)
        Aggregate.execute(
            Book, "a", lambda book: [RETURNED] * book.version, session=t.session
        )
    assert versions("a") == [4]


def test_a_condition_that_comes_after_the_last_event_was_sent_is_refused(store):
    bought("a", "b")
    with pytest.raises(InvalidTransaction) as error, EventStore.transaction() as t:
        of("a", t).add(LENT)
        assert EventStore.count("a", session=t.session) == 2
        t.unchanged("b", 1)
    assert "Call unchanged() before" in str(error.value)
    assert versions("a") == [1]
    with EventStore.transaction() as t:
        of("a", t).add(LENT)
        assert EventStore.count("a", session=t.session) == 2
        t.unchanged("b", 1)
        of("a", t).add(RETURNED)
    assert versions("a") == [3]


# --- idempotency ------------------------------------------------------------


def transfer(t):
    EventStore.append_event(
        {**LENT, "id": "1", "aggregateId": "a", "aggregateType": "Book"},
        session=t.session,
    )
    EventStore.append_event(
        {**LENT, "id": "2", "aggregateId": "b", "aggregateType": "Book"},
        session=t.session,
    )
    t.database["notes"].insert_one({}, session=t.session)


def test_a_transaction_that_is_repeated_has_its_effects_once(store, notes):
    for _ in range(3):
        EventStore.in_transaction(transfer)
    assert versions("a", "b") == [1, 1]
    assert notes.count_documents({}) == 1


def test_an_event_that_is_stored_already_stays_as_it_is_beside_new_ones(store, notes):
    raw = {**LENT, "id": "1", "aggregateId": "a", "aggregateType": "Book"}
    first = EventStore.append_event(raw)
    EventStore.in_transaction(transfer)
    assert versions("a", "b") == [1, 1]
    assert EventStore.get_event_stream("a") == [first]
    assert notes.count_documents({}) == 1


def test_an_id_with_other_content_is_refused(store):
    EventStore.append_event(
        {**RETURNED, "id": "1", "aggregateId": "a", "aggregateType": "Book"}
    )
    with pytest.raises(IdempotencyConflict):
        EventStore.in_transaction(transfer)
    assert versions("a", "b") == [1, 0]


def test_an_id_that_the_transaction_has_used_is_found(store):
    bought("a")
    with EventStore.transaction() as t:
        book = of("a", t).add({**LENT, "id": "1"})
        of("a", t).add({**LENT, "id": "1"})
        with pytest.raises(IdempotencyConflict):
            book.add({**RETURNED, "id": "1"})
    assert versions("a") == [2]


# --- after the end ----------------------------------------------------------


def test_an_aggregate_goes_on_after_the_commit(store):
    bought("a")
    with EventStore.transaction() as t:
        book = of("a", t).add(LENT)
    book.add(RETURNED).save()
    assert Aggregate.find("a")["aggregateVersion"] == 3


@pytest.mark.parametrize("call", ["add", "save", "close"])
def test_an_aggregate_of_a_rolled_back_transaction_is_refused(store, call):
    bought("a")
    with pytest.raises(ZeroDivisionError), EventStore.transaction() as t:
        book = of("a", t).add(LENT)
        raise ZeroDivisionError
    with pytest.raises(InvalidTransaction, match="Load it again"):
        getattr(book, call)(*([RETURNED] if call == "add" else []))
    assert versions("a") == [1]


def test_nothing_works_after_the_end(store):
    bought("a")
    with EventStore.transaction() as t:
        assert repr(t) == "<Transaction open>"
    assert repr(t) == "<Transaction ended>"
    with pytest.raises(InvalidTransaction, match="has ended"):
        t.unchanged("a", 1)
    with pytest.raises(InvalidTransaction, match="has ended"):
        Aggregate.of(Book, "a", session=t.session)
    with pytest.raises(InvalidTransaction, match="has ended"):
        EventStore.append_event(
            {**LENT, "aggregateId": "a", "aggregateType": "Book"}, session=t.session
        )
    assert versions("a") == [1]


def test_a_context_manager_is_used_once(store):
    manager = EventStore.transaction()
    with manager:
        pass
    with pytest.raises(InvalidTransaction, match="for each block"), manager:
        pass


# --- the end of streams -----------------------------------------------------


def test_nothing_follows_a_stream_that_the_transaction_has_closed(store):
    bought("a")
    with EventStore.transaction() as t:
        of("a", t).close()
        with pytest.raises(StreamClosed):
            of("a", t).add(LENT)
        with pytest.raises(StreamClosed):
            EventStore.append_event(
                {**LENT, "aggregateId": "a", "aggregateType": "Book"}, session=t.session
            )
    assert versions("a") == [2]
