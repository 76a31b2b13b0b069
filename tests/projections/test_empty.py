"""Between two tests the store is emptied, if its database is one of tests."""

import pytest
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command

from ossy_event_store import Aggregate, EventStore, Mongo, empty_test_database
from ossy_event_store.documents.collections import TEST_RUN
from ossy_event_store.mongodb import location
from ossy_event_store.projections.generations import collection_name
from ossy_event_store.subscriptions.declaration import subscription
from tests.library.aggregate import Book

pytestmark = pytest.mark.skipif(
    bool(settings.ADMIN), reason="tests that empty a store need every right"
)

OURS = ("aggregates", "eventstore", "projection_")


@pytest.fixture
def database(store):
    database = Mongo.connect()
    yield database
    database.drop_collection(TEST_RUN)


def test_one_test_sees_nothing_of_the_one_before(database, quick):
    got = []
    subscription("mails")(got.append)
    database["others"].insert_one({})
    empty_test_database()
    for _ in range(2):
        book = Aggregate.of(Book, {"type": "BookBought", "aggregateId": "b-1"}).save()
        database[collection_name("readers", 1)].insert_one({})
        call_command("run_subscriptions", until_caught_up=True, verbosity=0)
        assert [event["aggregateVersion"] for event in got] == [book.version]
        empty_test_database()
        got.clear()
        names = database.list_collection_names()
        filled = {name for name in names if database[name].find_one({})}
        assert "others" in filled
        # The tables of Django are in this database as well, if it is that of an alias.
        assert not any(name.startswith(OURS) for name in filled)
    database.drop_collection("others")


@pytest.mark.skipif(settings.STORE == "mongodb", reason="Django makes that database")
def test_a_database_with_events_that_no_test_run_left_is_not_emptied(database, lend):
    lend("b-1", "BookBought")
    with pytest.raises(ImproperlyConfigured, match="which marks a database of tests"):
        empty_test_database()
    assert len(EventStore.get_event_stream("b-1")) == 1


def test_nothing_is_emptied_outside_of_tests(database, lend, monkeypatch):
    empty_test_database()
    lend("b-1", "BookBought")
    with monkeypatch.context() as patch:
        patch.setattr(location, "is_test_run", lambda: False)
        with pytest.raises(ImproperlyConfigured, match="only for tests"):
            empty_test_database()
    assert len(EventStore.get_event_stream("b-1")) == 1
