"""The store beside or inside of Django's own database."""

import asyncio

import pytest
from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.db import connection, connections
from django.urls import reverse
from pymongo.errors import OperationFailure

from ossy_event_store import (
    Aggregate,
    ConcurrencyError,
    EventStore,
    StoreUnavailable,
    checks,
    post_migrate,
)
from ossy_event_store.mongodb import connection as mongodb_connection
from ossy_event_store.mongodb import indexes
from ossy_event_store.mongodb.ports import drive
from tests.library.aggregate import Book
from tests.support.commands import failure

pytestmark = pytest.mark.versions

INSIDE = pytest.mark.skipif(
    settings.STORE != "mongodb", reason="needs a django_mongodb_backend alias"
)
NOT_DJONGO = pytest.mark.skipif(
    settings.STORE == "djongo",
    reason="djongo closes the client that it shares after the first test with it",
)
BOUGHT = {"type": "BookBought", "payload": {"title": "Emma"}}


@pytest.mark.django_db
def test_a_superuser_logs_in_to_the_admin(client):
    get_user_model().objects.create_superuser("ann", "ann@example.org", "secret")
    assert client.login(username="ann", password="secret")
    assert client.get(reverse("admin:index")).status_code == 200


@NOT_DJONGO
@pytest.mark.django_db
def test_migrate_creates_the_indexes(store):
    mongodb_connection.raw(store.events).drop_indexes()
    post_migrate._done.clear()
    call_command("migrate", verbosity=0)
    assert drive(indexes.missing(store)) == []


@NOT_DJONGO
@pytest.mark.django_db
def test_migrate_fails_and_names_the_streams_that_prevent_an_index(store, history):
    history.drop_index(indexes.STREAM_VERSIONS.name)
    event = {"aggregateId": "b-1", "aggregateVersion": 1}
    history.insert_many([{**event}, {**event}])
    post_migrate._done.clear()
    try:
        error = failure("migrate", verbosity=0)
    finally:
        history.delete_many({})
        drive(indexes.ensure(store))
    assert "not complete. Cannot create index aggregateId_1" in str(error)
    assert "in the streams 'b-1'." in str(error)


@pytest.mark.skipif(settings.STORE != "url", reason="connects by URL")
def test_a_site_without_a_default_database_gets_its_indexes(store, monkeypatch):
    databases = connections.settings
    monkeypatch.setitem(databases, "users", databases["default"])
    dummy = {"ENGINE": "django.db.backends.dummy"}
    monkeypatch.setitem(databases, "default", dummy)
    missing = indexes.CAUSATION.name
    mongodb_connection.raw(store.events).drop_index(missing)
    assert any(missing in one.msg for one in checks.check_server(None, ["users"]))
    post_migrate._done.clear()
    post_migrate.ensure_indexes(using="users")
    assert drive(indexes.missing(store)) == []


@NOT_DJONGO
@pytest.mark.django_db
def test_no_migration_is_missing():
    # For all apps, as a project does: none of ours has migrations to be missing.
    call_command("makemigrations", check=True, dry_run=True)


@pytest.fixture
def atomic():
    transaction = pytest.importorskip("django_mongodb_backend.transaction")
    return transaction.atomic


@INSIDE
@pytest.mark.django_db(transaction=True)
def test_an_append_joins_the_open_transaction(store, atomic):
    store.seen.clear()  # a transaction may not list indexes
    with atomic():
        book = Aggregate.of(Book, BOUGHT)
        book.add({"type": "BookReturned"}, {"type": "BookReturned"})
        assert len(EventStore.get_event_stream(book.id)) == 3
        assert asyncio.run(EventStore.aget_event_stream(book.id)) == []
    assert len(EventStore.get_event_stream(book.id)) == 3


@INSIDE
@pytest.mark.django_db(transaction=True)
def test_a_rolled_back_transaction_takes_its_events_with_it(store, atomic):
    def fail(events, saved_state):
        raise ZeroDivisionError

    first = {**BOUGHT, "aggregateId": "b-1"}
    with pytest.raises(ZeroDivisionError), atomic():
        Aggregate.of(Book, first).save().validate(fail)
    assert EventStore.get_event_stream("b-1") == []
    assert Aggregate.find("b-1") is None


@INSIDE
@pytest.mark.django_db(transaction=True)
def test_an_append_after_a_rolled_back_one_leaves_no_hole(store, atomic):
    book = Aggregate.of(Book, BOUGHT)
    with pytest.raises(ZeroDivisionError), atomic():
        book.add({"type": "BookReturned"})
        raise ZeroDivisionError
    with pytest.raises(ConcurrencyError) as error:
        book.add({"type": "BookReturned"})
    assert error.value.conflicts == [(book.id, 2, 1)]
    with pytest.raises(ConcurrencyError):
        book.save()
    with atomic():
        book = Aggregate.of(Book, book.id).add({"type": "BookReturned"})
    book.add({"type": "BookReturned"}).save()
    assert len(EventStore.get_event_stream(book.id)) == 3


@INSIDE
@pytest.mark.django_db(transaction=True)
def test_a_lost_race_inside_a_transaction_is_a_concurrency_error(store, atomic):
    book = Aggregate.of(Book, BOUGHT)
    stale = Aggregate.of(Book, book.id)
    book.add({"type": "BookReturned"})
    with pytest.raises(ConcurrencyError) as error, atomic():
        stale.add({"type": "BookReturned"})
    assert error.value.actual_version == 2


@INSIDE
@pytest.mark.django_db(transaction=True)
def test_a_known_event_id_inside_a_transaction_is_no_error(store, atomic):
    book = Aggregate.of(Book, {**BOUGHT, "id": "x"})
    with atomic():
        Aggregate.of(Book, {**BOUGHT, "id": "x", "aggregateId": book.id})
        book.add({"type": "BookReturned"})
    assert len(EventStore.get_event_stream(book.id)) == 2


@INSIDE
@pytest.mark.django_db(transaction=True)
def test_an_older_save_inside_a_transaction_does_not_end_it(store, atomic):
    book = Aggregate.of(Book, BOUGHT)
    old = Aggregate.of(Book, book.id)
    book.add({"type": "BookReturned"}).save()
    with atomic():
        old.save()
        Aggregate.of(Book, {**BOUGHT, "aggregateId": "other"}).save()
    assert Aggregate.find(book.id)["aggregateVersion"] == 2
    assert Aggregate.find("other")["aggregateVersion"] == 1


@INSIDE
@pytest.mark.django_db(transaction=True)
def test_a_block_after_a_failed_commit_stores_nothing_outside_of_a_transaction(
    store, atomic
):
    with pytest.raises(OperationFailure), atomic():
        Aggregate.of(Book, {**BOUGHT, "aggregateId": "b-1"})
        session_id = connection.session.session_id
        connection.connection.admin.command("killSessions", [session_id])
    assert not connection.session.in_transaction  # what the backend leaves behind
    with atomic():
        for _ in range(2):
            with pytest.raises(StoreUnavailable, match="run the block again"):
                Aggregate.of(Book, {**BOUGHT, "aggregateId": "b-1"})
    with pytest.raises(ZeroDivisionError), atomic():
        Aggregate.of(Book, {**BOUGHT, "aggregateId": "b-1"})
        raise ZeroDivisionError
    assert EventStore.get_event_stream("b-1") == []


@INSIDE
@pytest.mark.django_db(transaction=True)
def test_after_a_failed_commit_an_append_without_a_block_is_stored(store, atomic):
    with pytest.raises(OperationFailure), atomic():
        Aggregate.of(Book, {**BOUGHT, "aggregateId": "b-1"})
        session_id = connection.session.session_id
        connection.connection.admin.command("killSessions", [session_id])
    Aggregate.of(Book, {**BOUGHT, "aggregateId": "b-1"})
    assert len(asyncio.run(EventStore.aget_event_stream("b-1"))) == 1


@pytest.fixture
def other(store):
    """Another writer's transaction on the stream b-1, still open."""
    events = mongodb_connection.raw(store.events)
    event = Aggregate.of(Book, {**BOUGHT, "aggregateId": "b-1"}).save().events[0]
    snapshots = mongodb_connection.raw(store.snapshots)
    snapshots.update_one({"_id": "b-1"}, {"$set": {"aggregateVersion": 0}})
    with events.database.client.start_session() as session:
        session.start_transaction()
        second = {**event, "_id": "other", "aggregateVersion": 2}
        events.insert_one(second, session=session)
        snapshots.delete_one({"_id": "b-1"}, session=session)
        yield


@INSIDE
@pytest.mark.django_db(transaction=True)
def test_a_conflict_inside_a_transaction_is_a_concurrency_error(store, atomic, other):
    with pytest.raises(ConcurrencyError) as error, atomic():
        Aggregate.of(Book, "b-1").add({"type": "BookReturned"})
    assert (error.value.expected_version, error.value.actual_version) == (1, 2)


@INSIDE
@pytest.mark.django_db(transaction=True)
def test_a_conflict_of_a_save_inside_a_transaction_is_explained(store, atomic, other):
    book = Aggregate.of(Book, "b-1")
    with pytest.raises(StoreUnavailable, match="run it again") as error, atomic():
        book.save()
    assert error.value.__cause__.code == 112


@INSIDE
def test_the_client_is_djangos_own(store):
    assert mongodb_connection.raw(store.events).database.client is connection.connection
