"""For Django's runner; each class may run in another process."""

from django.test import SimpleTestCase

from ossy_event_store import Aggregate, append_on_commit
from ossy_event_store.testing import (
    EventStoreMixin,
    EventStoreTestCase,
    EventStoreTransactionTestCase,
    event,
)

from .aggregate import Book
from .models import Loan
from .projections import Readers
from .subscriptions import NoAddress, mails


class Cases:
    def test_everything_follows_a_loan(self):
        mails.clear()
        with self.appended() as log:
            self.lend("ann")
        assert log == [event("BookLent", to="ann")]
        self.run_subscriptions()
        assert mails == ["ann"]
        assert Readers.get("ann") == {"lent": 1}
        assert Loan.objects.count() == 2

    test_and_the_next_test_sees_nothing_of_it = test_everything_follows_a_loan

    def test_a_handler_that_fails(self):
        self.lend("")
        with self.assertRaises(NoAddress):  # noqa: PT027 - without pytest
            self.run_subscriptions("mails")
        self.run_subscriptions("loans")
        assert Loan.objects.get().reader == ""

    async def test_in_a_coroutine(self):
        mails.clear()
        async with self.appended() as log:
            await Aggregate.aof(Book, {"type": "BookLent", "payload": {"to": "ann"}})
        assert log == [event("BookLent")]
        await self.arun_subscriptions()
        assert mails == ["ann"]
        assert await Loan.objects.acount() == 2

    def lend(self, to):
        lent = {"type": "BookLent", "payload": {"to": to}, "aggregateId": "emma-1"}
        return Aggregate.of(Book, lent)


class Tests(Cases, EventStoreTestCase):
    def test_an_event_of_the_outbox(self):
        lent = {"type": "BookLent", "payload": {"to": "ann"}}
        with self.appended() as log, self.captureOnCommitCallbacks(execute=True):
            append_on_commit({**lent, "aggregateId": "b", "aggregateType": "Book"})
        assert log == [event("BookLent")]


class TransactionTests(Cases, EventStoreTransactionTestCase):
    pass


class SimpleTests(EventStoreMixin, SimpleTestCase):
    def test_no_sql_database_is_needed(self):
        assert list(Readers.collection.find()) == []
