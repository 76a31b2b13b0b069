"""``append_on_commit()``: the event is appended if the SQL transaction commits."""

import asyncio
import datetime as dt
import threading
import unittest
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest
from asgiref.sync import sync_to_async
from bson import Binary, Decimal128, Int64, ObjectId
from django.apps import apps
from django.contrib.auth.models import Group, User
from django.core.exceptions import ImproperlyConfigured, SynchronousOnlyOperation
from django.core.management import call_command
from django.db import connections, transaction
from django.db.models.signals import post_save
from django.test import Client, TestCase

if not apps.is_installed("ossy_event_store.relational"):
    pytest.skip("the default database is no SQL database", allow_module_level=True)

from ossy_event_store import (
    EventStore,
    IdempotencyConflict,
    InvalidEvent,
    append_on_commit,
    event_context,
    item,
)
from ossy_event_store.relational import on_commit, outbox
from ossy_event_store.relational.models import Outbox
from ossy_event_store.relational.relay import relay
from ossy_event_store.subscriptions.declaration import subscription
from tests.support.outbox import away, commit, lent, readers, waiting
from tests.support.relational import POSTGRESQL, SQL, effects, take_effect
from tests.support.servers import until
from tests.support.subscriptions import running

pytestmark = [pytest.mark.versions, pytest.mark.usefixtures("store", "quick")]


@pytest.fixture(autouse=True)
def _nobody_pauses(monkeypatch):
    monkeypatch.setattr(on_commit, "_paused_until", float("-inf"))


# --- commit and rollback ------------------------------------------------------


def test_an_event_is_appended_when_the_transaction_commits():
    with transaction.atomic(using=SQL):
        take_effect(1)
        event_id = append_on_commit(lent(), using=SQL)
        assert not EventStore.exists("b-1")
        (row,) = waiting()
        assert str(row) == f"BookLent of 'b-1' (event {event_id})"
    (event,) = EventStore.get_event_stream("b-1")
    assert event["_id"] == event_id
    assert event["aggregateVersion"] == 1
    assert waiting() == []


def test_events_of_a_transaction_keep_the_order_of_the_calls():
    commit(lent(to="a"), lent("b-2", to="b"), lent(to="c"), lent(to="d"))
    commit(lent(to="e"))
    assert readers() == ["a", "c", "d", "e"]
    assert readers("b-2") == ["b"]


def test_nothing_is_appended_when_the_transaction_is_rolled_back():
    with pytest.raises(ZeroDivisionError), transaction.atomic(using=SQL):
        append_on_commit(lent(), using=SQL)
        raise ZeroDivisionError
    with transaction.atomic(using=SQL):
        append_on_commit(lent(), using=SQL)
        transaction.set_rollback(True, using=SQL)
    assert waiting() == []
    assert not EventStore.exists("b-1")


def test_a_savepoint_that_is_rolled_back_takes_only_its_own_events_back():
    with transaction.atomic(using=SQL):
        append_on_commit(lent(to="a"), using=SQL)
        with pytest.raises(ZeroDivisionError), transaction.atomic(using=SQL):
            append_on_commit(lent(to="b"), using=SQL)
            raise ZeroDivisionError
        with transaction.atomic(using=SQL):
            append_on_commit(lent(to="c"), using=SQL)
    assert readers() == ["a", "c"]
    assert waiting() == []


def test_outside_of_a_transaction_the_event_is_appended_at_once():
    event_id = append_on_commit(lent(), using=SQL)
    assert EventStore.find_event({"_id": event_id})["payload"] == {"to": "ann"}
    assert waiting() == []


def test_a_commit_succeeds_though_mongodb_is_away(monkeypatch, caplog):
    with away(monkeypatch):
        take_effect(1)
        commit(lent(to="a"), lent(to="b"))
        append_on_commit(lent(to="c"), using=SQL)
    assert effects() == [1]
    assert [row.state for row in waiting()] == ["waiting"] * 3
    assert "MongoDB does not answer. Events wait in the outbox of sql" in caplog.text
    assert not EventStore.exists("b-1")


def test_after_a_failure_other_commits_do_not_wait_for_mongodb(monkeypatch):
    calls = []
    monkeypatch.setattr(
        on_commit, "try_to_append", lambda *args: calls.append(args) or away_now
    )
    away_now = on_commit.Outcome.AWAY
    commit(lent(), lent(), lent())
    commit(lent())
    assert len(calls) == 1
    monkeypatch.setattr(on_commit, "PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(on_commit, "_paused_until", 0.0)
    commit(lent())
    commit(lent())
    assert len(calls) == 3


def test_an_event_of_a_stream_that_has_one_waiting_waits_behind_it(monkeypatch):
    with away(monkeypatch):
        commit(lent(to="a"))
    commit(lent(to="b"), lent("b-2"))
    assert not EventStore.exists("b-1")
    assert readers("b-2") == ["ann"]
    assert [row.aggregate_id for row in waiting()] == ["b-1", "b-1"]


def test_an_sql_database_that_fails_after_the_append_leaves_the_row(
    monkeypatch, caplog
):
    def fail(using, row):
        raise outbox.Error("database is locked")

    with monkeypatch.context() as patch:
        patch.setattr(outbox, "remove", fail)
        commit(lent())
    assert "Could not finish appending an event of the outbox of sql" in caplog.text
    assert readers() == ["ann"]
    (row,) = waiting()
    on_commit._append_now(SQL, row.pk)
    assert readers() == ["ann"]
    assert waiting() == []


# --- the event ----------------------------------------------------------------


def test_every_value_comes_back_equal(monkeypatch):
    payload = {
        "date": dt.datetime(2026, 2, 28, 12, 30, 0, 123000, dt.UTC),
        "decimal": Decimal128("1.10"),
        "bytes": b"\0\xff",
        "uuid": uuid.UUID(int=7),
        "id": ObjectId(),
        "long": Int64(5),
        "binary": Binary(b"x", 128),
        "float": 1.0,
        "text": "naïve \u2028 \U0001f600 \0",
        "$odd": [{"$date": 1}, None, True, 2**62],
    }
    metadata, created = (
        {"request": uuid.UUID(int=9)},
        dt.datetime(2020, 1, 1, tzinfo=dt.UTC),
    )
    event = lent(payload=payload, createdBy="eve", metadata=metadata, created=created)
    with away(monkeypatch):
        commit({**event, "id": "e-1"})
    (row,) = waiting()
    on_commit._append_now(SQL, row.pk)
    directly = EventStore.append_event({**event, "aggregateId": "b-2", "id": "e-2"})
    (stored,) = EventStore.get_event_stream("b-1")
    assert stored == {**directly, "_id": "e-1", "aggregateId": "b-1"}
    assert stored["payload"] == payload
    assert type(stored["payload"]["long"]) is Int64


def test_the_event_is_dated_by_the_call_and_not_by_the_append(monkeypatch):
    with away(monkeypatch):
        commit(lent())
    called = dt.datetime.now(dt.UTC)
    (row,) = waiting()
    on_commit._append_now(SQL, row.pk)
    (event,) = EventStore.get_event_stream("b-1")
    assert event["created"] <= called


@pytest.mark.parametrize(
    ("event", "path"),
    [
        ([], ""),
        ({}, "type"),
        ({"type": "BookLent", "aggregateType": "Book"}, "aggregateId"),
        ({"type": "BookLent", "aggregateId": "b-1"}, "aggregateType"),
        (lent(aggregateVersion=3), "aggregateVersion"),
        (lent(expected_version=3), "expected_version"),
        (lent(tags=["x", 7]), "tags[1]"),
        (lent(payload={"x": float("nan")}), "payload.x"),
        (lent(payload={"x": {1, 2}}), "payload.x"),
        (lent(id=7), "id"),
    ],
)
def test_a_wrong_event_is_refused_before_anything_is_written(event, path):
    with transaction.atomic(using=SQL), pytest.raises(InvalidEvent) as refused:
        append_on_commit(event, using=SQL)
    assert refused.value.path == path
    assert waiting() == []


def test_an_event_keeps_its_tags():
    with transaction.atomic(using=SQL):
        append_on_commit(lent(tags=["reader:ann"]), using=SQL)
        append_on_commit({"type": "Joined", "tags": ["reader:ann"]}, using=SQL)
        append_on_commit(lent(tags=[]), using=SQL)
    events = EventStore.read_boundary(item(tags=["reader:ann"])).events
    assert [event["aggregateId"] for event in events] == ["b-1", "reader:ann"]


def test_the_refusal_of_a_version_says_why():
    with pytest.raises(InvalidEvent, match="nobody can be told of a conflict"):
        append_on_commit(lent(aggregateVersion=1), using=SQL)


# --- ids of the caller ---------------------------------------------------------


def test_an_event_that_is_stored_or_waits_already_is_appended_once(monkeypatch):
    with away(monkeypatch):
        assert commit(lent(id="e-1"), lent(id="e-1")) == ["e-1", "e-1"]
        assert commit(lent(id="e-1")) == ["e-1"]
    (row,) = waiting()
    on_commit._append_now(SQL, row.pk)
    assert commit(lent(id="e-1")) == ["e-1"]
    assert readers() == ["ann"]
    assert waiting() == []


def test_another_event_with_the_id_of_one_that_waits_is_refused(monkeypatch):
    with away(monkeypatch):
        commit(lent(id="e-1"))
        with transaction.atomic(using=SQL):
            take_effect(1)
            with pytest.raises(IdempotencyConflict) as conflict:
                append_on_commit(lent(id="e-1", to="bob", createdBy="x"), using=SQL)
    assert conflict.value.differences == ("createdBy", "payload")
    assert effects() == [1]  # the transaction goes on
    assert len(waiting()) == 1


def test_ids_that_look_alike_are_kept_apart(monkeypatch):
    of_id = ObjectId("65e0a1b2c3d4e5f601234567")
    ids = ["e", "E", "e ", "\u00e9", "e\u0301", of_id, str(of_id), "b" * 255]
    with away(monkeypatch):
        commit(*(lent(id=one) for one in ids))
    assert len(waiting()) == len(ids)
    streams = ["b", "B", "b ", "\u00e9", "e\u0301"]
    commit(*(lent(stream) for stream in streams))  # none waits behind another's
    assert all(readers(stream) == ["ann"] for stream in streams)


@pytest.mark.faults
@pytest.mark.skipif(not POSTGRESQL, reason="SQLite has one writer at a time")
def test_two_transactions_that_write_one_id_leave_one_row(monkeypatch):
    both = threading.Barrier(2)

    def write(number):
        try:
            with transaction.atomic(using=SQL):
                both.wait(30)
                append_on_commit(lent(id="e-1"), using=SQL)
        finally:
            connections[SQL].close()

    with away(monkeypatch), ThreadPoolExecutor(2) as pool:
        list(pool.map(write, range(2)))
    assert len(waiting()) == 1


# --- where it cannot be called ---------------------------------------------------


@pytest.mark.parametrize("using", ["nowhere", "\ud800"])
def test_an_alias_that_does_not_exist_is_refused(using):
    with pytest.raises(ValueError, match="is not an alias in DATABASES: default, sql"):
        append_on_commit(lent(), using=using)


def test_an_alias_that_is_no_string_is_refused():
    with pytest.raises(TypeError, match="using must be a string, not list"):
        append_on_commit(lent(), using=["default"])


def test_an_alias_of_a_mongodb_is_refused(monkeypatch):
    settings = {"ENGINE": "django_mongodb_backend", "NAME": "x"}
    monkeypatch.setitem(connections.settings, "mongo", settings)
    with pytest.raises(ValueError, match="'mongo' is no SQL database"):
        append_on_commit(lent(), using="mongo")


def test_a_database_without_the_table_is_named():
    def rename(old, new):
        with connections[SQL].cursor() as cursor:
            cursor.execute(f"ALTER TABLE {old} RENAME TO {new}")

    rename(Outbox._meta.db_table, "elsewhere")
    try:
        with pytest.raises(ImproperlyConfigured, match="migrate --database sql"):
            append_on_commit(lent(), using=SQL)
        with (
            pytest.raises(ImproperlyConfigured, match="migrate --database sql"),
            transaction.atomic(using=SQL),
        ):
            append_on_commit(lent(id="e-1"), using=SQL)
        assert not outbox.has_table(SQL)
    finally:
        rename("elsewhere", Outbox._meta.db_table)


def test_a_site_without_the_app_is_told_to_install_it(monkeypatch):
    monkeypatch.setattr(apps, "is_installed", lambda name: False)
    with pytest.raises(ImproperlyConfigured, match="to INSTALLED_APPS and run"):
        append_on_commit(lent(), using=SQL)


def test_manual_transaction_management_is_refused():
    transaction.set_autocommit(False, using=SQL)
    try:
        with pytest.raises(transaction.TransactionManagementError, match="atomic"):
            append_on_commit(lent(), using=SQL)
    finally:
        transaction.rollback(using=SQL)
        transaction.set_autocommit(True, using=SQL)
    assert waiting() == []


def test_a_coroutine_calls_it_in_the_function_with_the_transaction():
    async def directly():
        append_on_commit(lent(), using=SQL)

    with pytest.raises(SynchronousOnlyOperation):
        asyncio.run(directly())

    def work():
        try:
            return commit(lent())
        finally:
            connections[SQL].close()

    async def in_a_thread():
        return await sync_to_async(work)()

    assert asyncio.run(in_a_thread()) == [
        event["_id"] for event in EventStore.get_event_stream("b-1")
    ]


# --- with the rest of Django ------------------------------------------------------


class InATestCase(TestCase):
    databases = frozenset({SQL})
    __test__ = False  # the alias exists only within a test

    def test(self):
        commit(lent())
        assert not EventStore.exists("b-1")  # the transaction of the test goes on
        with self.captureOnCommitCallbacks(using=SQL, execute=True) as callbacks:
            commit(lent(to="bob"))
        assert len(callbacks) == 1
        assert not EventStore.exists("b-1")  # the first one waits
        with self.captureOnCommitCallbacks(using=SQL, execute=True):
            commit(lent("b-2", to="bob"), lent("b-2", to="cid"))
        assert readers("b-2") == ["bob", "cid"]


def test_a_test_case_runs_the_appends_that_it_captures():
    result = unittest.TestResult()
    unittest.TestSuite([InATestCase("test")]).run(result)
    assert result.testsRun == 1
    assert result.wasSuccessful(), [*result.errors, *result.failures]
    assert waiting() == []


def test_an_event_of_a_handler_is_part_of_its_transaction(store, lend):
    broken = [True]

    @subscription("receipts", using=SQL, types=["BookBought"], backoff=(0.01, 0.02))
    def handle(event):
        take_effect(event["position"])
        append_on_commit(lent(event["aggregateId"]), using=SQL)
        if broken:
            raise broken.pop()

    broken[0] = ValueError("once")
    lend("b-1", "BookBought")
    lend("b-2", "BookBought")
    with running("receipts"):
        until(lambda: EventStore.count("b-1") == 2 and EventStore.count("b-2") == 2)
    assert effects() == [1, 2]
    assert waiting() == []


def test_rows_are_not_left_to_a_router(settings):
    class Elsewhere:
        def db_for_write(self, model, **hints):
            return "default"

        db_for_read = db_for_write

    settings.DATABASE_ROUTERS = [Elsewhere()]
    assert commit(lent())
    assert readers() == ["ann"]
    assert not Outbox.objects.using(SQL).exists()


def test_two_databases_have_their_own_outbox(monkeypatch, tmp_path):
    options = {"ENGINE": "django.db.backends.sqlite3", "NAME": str(tmp_path / "two")}
    known = {"default": {}, "second": {"OPTIONS": {}, **options}}
    complete = connections.configure_settings(known)["second"]
    monkeypatch.setitem(connections.settings, "second", complete)
    call_command("migrate", outbox.LABEL, database="second", verbosity=0)
    try:
        with away(monkeypatch):
            with transaction.atomic(using="second"), transaction.atomic(using=SQL):
                append_on_commit(lent(to="a"), using="second")
                append_on_commit(lent(to="b"), using=SQL)
            with pytest.raises(ZeroDivisionError), transaction.atomic(using="second"):
                append_on_commit(lent("b-2"), using=SQL)  # not of this block
                append_on_commit(lent("b-3"), using="second")
                raise ZeroDivisionError
        found = [[row.aggregate_id for row in waiting(a)] for a in ("second", SQL)]
        assert found == [["b-1"], ["b-1", "b-2"]]
        assert [relay(alias, threading.Event()) for alias in ("second", SQL)] == [1, 2]
        assert readers() == ["a", "b"]
    finally:
        connections["second"].close()
        del connections["second"]


# --- on the site's own database ----------------------------------------------------


@pytest.fixture
def site(monkeypatch, settings, transactional_db):
    """A site whose groups append an event whenever they are saved."""
    monkeypatch.setattr(outbox, "candidates", lambda: ["default"])
    settings.ROOT_URLCONF = "tests.support.outbox_site"

    def saved(sender, instance, using, **kwargs):
        append_on_commit(lent(f"group-{instance.name}"), using=using)

    post_save.connect(saved, sender=Group)
    yield
    post_save.disconnect(saved, sender=Group)


@pytest.mark.parametrize("has_requests", [False, True])
@pytest.mark.parametrize("fails", [False, True])
def test_a_request_that_fails_appends_nothing_if_it_is_a_transaction(
    site, monkeypatch, has_requests, fails
):
    monkeypatch.setitem(
        connections.settings["default"], "ATOMIC_REQUESTS", has_requests
    )
    client = Client(raise_request_exception=False)
    response = client.post("/groups/", {"fails": fails and "x"})
    assert response.status_code == (500 if fails else 200)
    if not fails:
        # Whether the stream existed before the view returned.
        assert response.json() == {"before": not has_requests}
    assert EventStore.exists("group-a") == (not (fails and has_requests))
    assert Group.objects.exists() == EventStore.exists("group-a")
    assert waiting("default") == []


def test_what_is_saved_in_the_admin_is_appended(site, client):
    client.force_login(User.objects.create_superuser("eve"))
    response = client.post("/admin/auth/group/add/", {"name": "b"})
    assert response.status_code == 302
    assert readers("group-b") == ["ann"]
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        Group.objects.create(name="c")
        raise ZeroDivisionError
    assert not EventStore.exists("group-c")


# --- who, and because of what -------------------------------------------------


def test_an_event_has_the_context_of_the_call_and_not_of_the_relay(monkeypatch):
    with away(monkeypatch):
        with event_context(createdBy="ann", correlationId="c", note="n"):
            commit(lent(to="a", metadata={"own": 1}))
        commit(lent(to="b", metadata={"own": 2}))
    with event_context(createdBy="operator", correlationId="relay"):
        assert relay(SQL, threading.Event()) == 2
        with transaction.atomic(using=SQL), event_context.carried({}):
            append_on_commit(lent(to="c"), using=SQL)
    assert [
        (event["createdBy"], event["metadata"])
        for event in EventStore.get_event_stream("b-1")
    ] == [
        ("ann", {"own": 1, "correlationId": "c", "note": "n"}),
        (None, {"own": 2}),
        (None, {}),
    ]


def test_the_same_call_in_another_context_appends_once(monkeypatch):
    for number in (1, 2):
        with event_context(createdBy=f"user-{number}", request=number):
            commit(lent(id="once", metadata={"own": 1.0, "a": {"b": 1, "c": 2}}))
    with away(monkeypatch):
        for number in (3, 4):
            with event_context(createdBy=f"user-{number}"):
                commit(lent(id="once", metadata={"a": {"c": 2, "b": 1}, "own": 1}))
    assert relay(SQL, threading.Event()) == 1
    (event,) = EventStore.get_event_stream("b-1")
    assert event["createdBy"] == "user-1"
    assert event["metadata"]["request"] == 1
    assert waiting() == []
