"""The rows of the outbox: their order, locks, figures, retries and discards."""

import threading

import pytest
from django.apps import apps
from django.db import Error, connections, transaction

if not apps.is_installed("ossy_event_store.relational"):
    pytest.skip("the default database is no SQL database", allow_module_level=True)

from ossy_event_store import EventStore
from ossy_event_store.relational import outbox
from ossy_event_store.relational.append_waiting import Outcome, try_to_append
from ossy_event_store.relational.models import Outbox
from ossy_event_store.relational.relay import relay
from tests.support.outbox import away, commit, lent, park, readers, waiting
from tests.support.relational import POSTGRESQL, SQL

pytestmark = [pytest.mark.versions, pytest.mark.usefixtures("store")]


@pytest.fixture
def rows(monkeypatch):
    """Two events of one stream and one of another, which wait."""
    with away(monkeypatch):
        commit(lent(to="a"), lent("b-2", to="b"), lent(to="c"))
    Outbox.objects.using(SQL).update(tries=0)
    return waiting()


def test_only_the_first_row_of_a_stream_is_claimed(rows):
    first, other, second = rows
    for row, is_first in ((first, True), (other, True), (second, False)):
        with outbox.claimed(SQL, row.pk) as claimed:
            assert claimed == (row if is_first else None)
    assert outbox.first_rows(SQL) == [(r.pk, r.stream) for r in (first, other)]
    assert outbox.next_row(SQL, first.stream) == first.pk
    outbox.remove(SQL, first)
    with outbox.claimed(SQL, second.pk) as claimed:
        assert claimed == second
    with outbox.claimed(SQL, first.pk) as claimed:
        assert claimed is None


def test_rows_that_failed_most_often_are_tried_last(rows):
    first, other, _ = rows
    outbox.record_failure(SQL, first, "no", park=False)
    assert [number for number, _ in outbox.first_rows(SQL)] == [other.pk, first.pk]


@pytest.mark.parametrize("is_locked", [True, False])
def test_a_row_that_another_process_appends_is_left_alone(rows, is_locked):
    first, other, second = rows
    has_it, may_end = threading.Event(), threading.Event()

    def work():
        try:
            with outbox.claimed(SQL, first.pk if is_locked else other.pk):
                has_it.set()
                assert may_end.wait(30)
        finally:
            connections[SQL].close()

    thread = threading.Thread(target=work)
    thread.start()
    assert has_it.wait(30)
    try:
        outcome = try_to_append(SQL, first.pk)
        second_outcome = try_to_append(SQL, second.pk)
    finally:
        may_end.set()
        thread.join(30)
    left_alone = is_locked and POSTGRESQL  # SQLite cannot tell
    assert outcome is (Outcome.NOT_TRIED if left_alone else Outcome.APPENDED)
    assert second_outcome is outcome
    assert readers() == ([] if left_alone else ["a", "c"])


@pytest.mark.skipif(not POSTGRESQL, reason="SQLite has one writer at a time")
def test_a_transaction_that_commits_late_comes_late_and_holds_nobody_up(rows):
    """The order is that of the numbers only among rows that are committed."""
    has_written, may_commit = threading.Event(), threading.Event()

    def work():
        try:
            with transaction.atomic(using=SQL):
                commit(lent("b-3", to="late"))
                has_written.set()
                assert may_commit.wait(30)
        finally:
            connections[SQL].close()

    thread = threading.Thread(target=work)
    thread.start()
    assert has_written.wait(30)
    commit(lent("b-3", to="early"))
    assert readers("b-3") == ["early"]
    may_commit.set()
    thread.join(30)
    assert readers("b-3") == ["early", "late"]


# --- figures ------------------------------------------------------------------


def test_the_figures_count_what_waits_and_what_is_parked(rows):
    found = outbox.figures(SQL)
    assert (found.using, found.waiting, found.parked) == (SQL, 3, 0)
    assert 0 < found.lag_seconds < 60
    first, other, _ = rows
    outbox.record_failure(SQL, first, "no", park=True)
    outbox.remove(SQL, other)
    found = outbox.figures(SQL)
    assert (found.waiting, found.parked) == (1, 1)
    assert found.lag_seconds == 0  # what waits behind a parked row waits for people
    Outbox.objects.using(SQL).all().delete()
    assert outbox.figures(SQL) == (SQL, 0, 0, 0.0)


def test_databases_with_the_table_are_known(monkeypatch, tmp_path):
    assert outbox.has_table(SQL)
    assert outbox.had_table(SQL)
    empty = {"ENGINE": "django.db.backends.sqlite3", "NAME": str(tmp_path / "empty")}
    complete = connections.configure_settings(
        {"default": {}, "empty": {"OPTIONS": {}, **empty}}
    )["empty"]
    monkeypatch.setitem(connections.settings, "empty", complete)
    try:
        assert not outbox.has_table("empty")
        assert not outbox.had_table("empty")
    finally:
        connections["empty"].close()
        del connections["empty"]


def test_a_mongodb_and_a_database_that_a_router_excludes_have_none(
    monkeypatch, settings
):
    monkeypatch.undo()  # of the conftest's

    class NotThere:
        def allow_migrate(self, db, app_label, **hints):
            return db != "closed"

    settings.DATABASE_ROUTERS = [NotThere()]
    for alias, engine in {
        "closed": "django.db.backends.sqlite3",
        "open": "django.db.backends.sqlite3",
        "mongo": "django_mongodb_backend",
    }.items():
        monkeypatch.setitem(connections.settings, alias, {"ENGINE": engine})
    assert {"closed", "open", "mongo"} & set(outbox.candidates()) == {"open"}
    monkeypatch.setattr(apps, "is_installed", lambda name: False)
    assert outbox.candidates() == []


# --- operating ----------------------------------------------------------------


def test_a_parked_row_is_retried_on_request(rows):
    first, _, second = rows
    park(first, "no")
    assert relay(SQL, threading.Event()) == 1  # the other stream's
    assert [row.pk for row in outbox.parked_rows(SQL, 9)] == [first.pk]
    assert outbox.retry(SQL, second.pk) == 0
    assert outbox.retry(SQL, first.pk) == 1
    assert outbox.retry(SQL) == 0
    assert relay(SQL, threading.Event()) == 2
    assert readers() == ["a", "c"]


def test_a_discarded_row_is_never_appended_and_stays_as_a_record(rows):
    first = rows[0]
    assert outbox.discard(SQL, first.pk, "wrong", "ann") is None  # it is not parked
    park(first, "no")
    with pytest.raises(ValueError, match="needs a reason"):
        outbox.discard(SQL, first.pk, " ")
    row = outbox.discard(SQL, first.pk, " wrong\0 ", "ann")
    assert (row.reason, row.discarded_by, row.state) == ("wrong", "ann", "discarded")
    assert row.discarded is not None
    assert outbox.discard(SQL, first.pk, "again") is None
    assert outbox.retry(SQL) == 0
    relay(SQL, threading.Event())
    assert readers() == ["c"]
    assert [row.pk for row in outbox.discarded_rows(SQL, 9)] == [first.pk]
    assert outbox.figures(SQL).waiting == 0


def test_the_id_of_a_discarded_event_may_be_used_again(monkeypatch):
    with away(monkeypatch):
        commit(lent(id="e-1"))
    (row,) = waiting()
    park(row, "no")
    outbox.discard(SQL, row.pk, "wrong")
    commit(lent(id="e-1", to="bob"))
    assert readers() == ["bob"]


def test_a_row_that_another_process_deleted_meanwhile_is_not_parked(rows):
    first = rows[0]
    outbox.remove(SQL, first)
    outbox.record_failure(SQL, first, "no", park=True)
    outbox.remove(SQL, first)
    assert outbox.figures(SQL).parked == 0


def test_an_error_that_is_not_about_the_table_passes_through(monkeypatch):
    def fail(using):
        raise Error("disk full")

    monkeypatch.setattr(outbox, "rows", fail)
    with pytest.raises(Error, match="disk full"):
        commit(lent())
    assert not EventStore.exists("b-1")
