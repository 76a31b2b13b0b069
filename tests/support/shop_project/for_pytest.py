"""For pytest. Each test uses the same names, and expects nothing of the one before."""

import asyncio

import pytest
from shop.aggregate import Book
from shop.models import Loan
from shop.projections import Readers
from shop.subscriptions import NoAddress, mails

from ossy_event_store import Aggregate
from ossy_event_store.testing import (
    appended,
    arun_subscriptions,
    event,
    run_subscriptions,
)


def lend(to):
    lent = {"type": "BookLent", "payload": {"to": to}, "aggregateId": "emma-1"}
    return Aggregate.of(Book, lent)


@pytest.mark.django_db
@pytest.mark.parametrize("to", ["ann", "bob"])
def test_everything_follows_a_loan(event_store, to):
    mails.clear()
    with appended() as log:
        lend(to)
    assert log == [event("BookLent", to=to)]
    run_subscriptions()
    assert mails == [to]
    assert Readers.get(to) == {"lent": 1}
    assert sorted(loan.reader for loan in Loan.objects.all()) == sorted([to, "async"])
    assert Aggregate.find("emma-1")["state"] == {"lent": 1}
    assert event_store.exists("emma-1")


@pytest.mark.parametrize("which", ["mails", "readers"])
def test_without_an_sql_database(event_store, which):
    mails.clear()
    lend("ann")
    run_subscriptions(which)
    assert (mails, Readers.get("ann")) in ((["ann"], None), ([], {"lent": 1}))


@pytest.mark.django_db(transaction=True)
def test_in_coroutines(event_store):
    async def main():
        async with appended() as log:
            await Aggregate.aof(Book, {"type": "BookLent", "payload": {"to": "ann"}})
        await arun_subscriptions("mails", "async_loans")
        return log

    mails.clear()
    assert asyncio.run(main()) == [event("BookLent")]
    assert mails == ["ann"]


def test_a_handler_that_fails(event_store):
    lend("")
    with pytest.raises(NoAddress, match="emma-1"):
        run_subscriptions("mails")


def test_that_fails_with_a_diff(event_store):
    with appended() as log:
        lend("ann")
    assert log == [event("BookLent", to="bob")]
