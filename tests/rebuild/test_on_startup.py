"""What a process does when it starts: only one that serves rebuilds."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from django.core.signals import request_started

from ossy_event_store import Aggregate
from ossy_event_store.documents.collections import STARTUP_LEASE
from ossy_event_store.mongodb import connection, leases
from ossy_event_store.mongodb.ports import drive
from ossy_event_store.rebuild import on_startup
from tests import urls
from tests.support.processes import ON_URL, here, serving
from tests.support.servers import free_port, until

pytestmark = pytest.mark.versions

GUNICORN = ("-m", "gunicorn", "-w", "4", "-b", "127.0.0.1:{port}", "tests.wsgi")


@ON_URL
@pytest.mark.faults
def test_of_four_gunicorn_workers_exactly_one_rebuilds(store, lend, tmp_path):
    pytest.importorskip("gunicorn")
    for number in range(30):
        lend(f"b-{number}", "BookBought", "BookLent")
    with serving(tmp_path, *GUNICORN, **here(store)) as (log, answer):
        until(answer, 60)
        until(lambda: log().count("at start-up") == 4)
        text = log()
    assert text.count("Rebuilt stale snapshots at start-up: 30 streams, 60 ev") == 1
    assert text.count("No stale snapshots at start-up.") == 3
    assert Aggregate.collection.count_documents({"aggregateVersion": 2}) == 30


@ON_URL
@pytest.mark.faults
def test_with_mongodb_down_the_site_serves_and_logs_it(tmp_path):
    pytest.importorskip("gunicorn")
    nowhere = {
        "TEST_MONGODB_URL": f"mongodb://ann:secret@127.0.0.1:{free_port()}",
        "TEST_TIMEOUT": "0.5",
    }
    with serving(tmp_path, *GUNICORN, **nowhere) as (log, answer):
        assert until(answer, 60) == b"served"
        until(lambda: log().count("Cannot rebuild stale snapshots yet, retrying") >= 4)
        assert answer() == b"served"
        text = log()
    assert "secret" not in text
    assert "Traceback" not in text


@ON_URL
@pytest.mark.faults
@pytest.mark.parametrize("option", [[], ["--noreload"]])
def test_runserver_rebuilds_in_the_process_that_serves(store, lend, tmp_path, option):
    lend("b-1", "BookBought")
    command = ("-m", "django", "runserver", "127.0.0.1:{port}", *option)
    with serving(tmp_path, *command, **here(store)) as (_, answer):
        until(answer, 60)
        until(lambda: Aggregate.find("b-1"))
    lease = connection.raw(store.leases).find_one({"_id": STARTUP_LEASE})
    assert lease["fence"] == 1


@ON_URL
@pytest.mark.faults
def test_an_embedded_server_survives_reloads_and_ends_with_the_last_owner(tmp_path):
    folder = tmp_path / "mongo"
    here = {
        "TEST_MONGODB_URL": f"embedded://{folder}",
        "DJANGO_SETTINGS_MODULE": "tests.settings",
    }

    def mongod():
        lock = folder / "data" / "mongod.lock"
        return lock.read_text().strip() if lock.exists() else ""

    command = ("-m", "django", "runserver", "127.0.0.1:{port}")
    with serving(tmp_path, *command, **here) as (log, answer):
        until(answer, 60)
        first = until(mongod)
        until(
            lambda: (
                Path(urls.__file__).touch() or log().count("Starting development") >= 2
            )
        )
        until(answer, 60)
        command = [sys.executable, "-m", "django", "ensure_event_store"]
        subprocess.run(command, check=True, env={**os.environ, **here})
        assert mongod() == first
    until(lambda: not mongod())  # a clean end empties the lock


@ON_URL
@pytest.mark.faults
def test_blocking_means_before_the_first_request(store, lend, tmp_path):
    pytest.importorskip("gunicorn")
    lend("b-1", "BookBought")
    command = [part if part != "4" else "1" for part in GUNICORN]
    blocking = {**here(store), "TEST_REBUILD": "blocking"}
    with serving(tmp_path, *command, **blocking) as (_, answer):
        until(answer, 60)
        assert Aggregate.find("b-1")["aggregateVersion"] == 1


def test_tests_do_not_serve(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["manage.py", "runserver", "--noreload"])
    assert not on_startup.serves()


@pytest.mark.parametrize(
    ("argv", "child", "serves"),
    [
        (["manage.py", "runserver"], None, False),
        (["manage.py", "runserver"], "true", True),
        (["manage.py", "runserver", "--noreload"], None, True),
        (["manage.py", "migrate"], None, False),
        (["manage.py", "shell"], None, False),
        (["manage.py", "import_events", "x"], None, False),
        (["celery", "worker"], None, False),
        (["python"], None, False),
    ],
)
def test_which_processes_serve(monkeypatch, argv, child, serves):
    monkeypatch.setattr(on_startup.location, "is_test_run", lambda: False)
    monkeypatch.setattr(sys, "argv", argv)
    monkeypatch.delenv("RUN_MAIN", raising=False)
    if child:
        monkeypatch.setenv("RUN_MAIN", child)
    assert on_startup.serves() is serves


def test_a_server_known_only_by_its_requests_starts_with_the_first(monkeypatch):
    started = []
    monkeypatch.setattr(on_startup.location, "is_test_run", lambda: False)
    monkeypatch.setattr(sys, "argv", ["odd-server"])
    monkeypatch.setattr(on_startup, "_start", lambda **kwargs: started.append(kwargs))
    monkeypatch.setattr(request_started, "receivers", [])  # without Django's own
    on_startup.begin()
    assert started == []
    request_started.send(sender=None)
    request_started.send(sender=None)
    assert started == [{"may_block": False}]


def test_a_rebuild_is_left_to_the_process_that_holds_the_lease(store, lend):
    lend("b-1", "BookBought")
    assert drive(leases.acquire(store, STARTUP_LEASE, "other", 30))
    assert on_startup.rebuild_stale("me") is None
    drive(leases.release(store, STARTUP_LEASE, "other"))
    assert on_startup.rebuild_stale("me").saved == 1
    assert drive(leases.acquire(store, STARTUP_LEASE, "other", 30))


def test_blocking_continues_in_a_thread_while_another_process_rebuilds(
    store, settings, monkeypatch
):
    blocking = {**settings.OSSY_EVENT_STORE, "REBUILD_ON_STARTUP": "blocking"}
    settings.OSSY_EVENT_STORE = blocking
    started = []
    monkeypatch.setattr(
        on_startup.threading, "Thread", lambda **kw: started.append(kw) or Stub()
    )
    monkeypatch.setattr(on_startup, "_started_in", None)
    assert drive(leases.acquire(store, STARTUP_LEASE, "other", 30))
    on_startup._start()
    assert [thread["target"] for thread in started] == [on_startup._keep_trying]


class Stub:
    def start(self):
        pass


def test_an_unexpected_error_is_logged(store, monkeypatch, caplog):
    def fail(owner):
        raise LookupError("oh")

    monkeypatch.setattr(on_startup, "rebuild_stale", fail)
    assert on_startup._attempt("me")
    assert "Cannot rebuild stale snapshots, giving up." in caplog.text
    assert "LookupError: oh" in caplog.text


def test_it_can_be_switched_off(settings, monkeypatch):
    off = {**settings.OSSY_EVENT_STORE, "REBUILD_ON_STARTUP": False}
    settings.OSSY_EVENT_STORE = off
    started = []
    monkeypatch.setattr(on_startup.threading, "Thread", started.append)
    on_startup._start()
    assert started == []
