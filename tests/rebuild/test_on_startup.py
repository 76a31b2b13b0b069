"""What a process does when it starts: only one that serves rebuilds."""

import asyncio
import os
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from django.conf import settings as settings_of_django
from django.core.signals import request_started
from pymongo import MongoClient

from ossy_event_store import Aggregate
from ossy_event_store.documents.collections import STARTUP_LEASE
from ossy_event_store.mongodb import connection, leases
from ossy_event_store.mongodb.blocking_port import BlockingCollection
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
        # Each worker begins with its first request.
        until(lambda: answer() and log().count("at start-up") == 4)
        text = log()
    assert text.count("Rebuilt stale snapshots at start-up: 30 streams, 60 ev") == 1
    assert text.count("Another process found no stale snapshots at start-up.") == 3
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
        retrying = "Cannot rebuild stale snapshots yet, retrying"
        until(lambda: answer() and log().count(retrying) >= 4)
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


UWSGI = (
    *("-c", "import pyuwsgi; pyuwsgi.run()", "--http-socket", "127.0.0.1:{port}"),
    *("--module", "tests.wsgi", "--master", "--processes", "1", "--enable-threads"),
    *("--die-on-term", "--virtualenv", sys.prefix),
)


@ON_URL
@pytest.mark.faults
@pytest.mark.parametrize("option", ["--need-app", "--lazy-apps", "--threads=2"])
def test_uwsgi_which_forks_without_telling_python_serves(store, lend, tmp_path, option):
    pytest.importorskip("pyuwsgi")
    for number in range(200):
        lend(f"b-{number}", "BookBought")
    options = (option, "--pidfile", str(tmp_path / "pid"))
    with serving(tmp_path, *UWSGI, *options, **here(store)) as (_, answer):
        assert until(answer, 60) == b"served"
        until(lambda: Aggregate.collection.count_documents({}) == 200)
        if sys.platform == "linux":  # the parent had no thread when it forked
            pid = (tmp_path / "pid").read_text().strip()
            assert len(list(Path(f"/proc/{pid}/task").iterdir())) == 1
        assert answer() == b"served"


def test_tests_do_not_serve(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["manage.py", "runserver", "--noreload"])
    assert not on_startup.serves_unforked()


@pytest.fixture
def outside_of_tests(monkeypatch):
    """Let the start-up take this process for one that runs no tests."""
    monkeypatch.setattr(on_startup.location, "is_test_run", lambda: False)
    monkeypatch.setattr(sys, "argv", ["server"])
    monkeypatch.setattr(request_started, "receivers", [])  # without Django's own
    monkeypatch.setattr(on_startup, "_rebuild", on_startup._rebuild)
    request_started.sender_receivers_cache.clear()


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
def test_which_commands_serve(outside_of_tests, monkeypatch, argv, child, serves):
    monkeypatch.setattr(sys, "argv", argv)
    monkeypatch.delenv("RUN_MAIN", raising=False)
    if child:
        monkeypatch.setenv("RUN_MAIN", child)
    assert on_startup.serves_unforked() is serves


def called_by(function, *modules):
    """Call a function as if these modules did, each called by the one before it."""
    for name in reversed(modules):
        function = eval("lambda: call()", {"__name__": name, "call": function})
    return function()


def test_a_server_that_loads_the_site_may_fork_unless_its_event_loop_runs(
    outside_of_tests,
):
    async def serve(*modules):
        return called_by(on_startup.serves_unforked, *modules)

    wsgi = ("site.wsgi", "django.core.wsgi", "django.apps")
    asgi = ("site.asgi", "django.core.asgi", "django.apps")
    assert not called_by(on_startup.serves_unforked, *wsgi)
    assert not called_by(on_startup.serves_unforked, *asgi)
    assert asyncio.run(serve(*asgi))
    assert not asyncio.run(serve("asyncio", "django.apps"))  # a script
    assert called_by(on_startup.serves_unforked, "__main__", *wsgi[1:])


@pytest.mark.parametrize("mode", ["background", "blocking", False])
def test_no_thread_exists_before_the_first_request(
    outside_of_tests, monkeypatch, settings, mode
):
    setting = {**settings.OSSY_EVENT_STORE, "REBUILD_ON_STARTUP": mode}
    settings.OSSY_EVENT_STORE = setting
    attempts, before = [], set(threading.enumerate())
    may_end = threading.Event()

    def attempt(owner, rebuild):
        may_end.wait(30)
        attempts.append(threading.current_thread())
        return True

    monkeypatch.setattr(on_startup, "_attempt", attempt)
    on_startup.begin()
    assert set(threading.enumerate()) == before
    if mode == "blocking":
        may_end.set()
    request_started.send(sender=None)
    assert len(attempts) == (mode == "blocking")
    may_end.set()
    request_started.send(sender=None)
    for thread in set(threading.enumerate()) - before:
        thread.join(30)
    assert len(attempts) == (mode is not False)


@pytest.mark.parametrize("mode", ["background", "blocking"])
def test_inside_of_an_event_loop_the_rebuild_has_a_thread_without_one(
    outside_of_tests, monkeypatch, settings, mode
):
    setting = {**settings.OSSY_EVENT_STORE, "REBUILD_ON_STARTUP": mode}
    settings.OSSY_EVENT_STORE = setting
    attempts = []

    def attempt(owner, rebuild):
        with pytest.raises(RuntimeError):
            asyncio.get_running_loop()
        attempts.append(owner)
        return True

    async def serve():
        called_by(on_startup.begin, "site.asgi", "django.core.asgi", "django.apps")

    monkeypatch.setattr(on_startup, "_attempt", attempt)
    asyncio.run(serve())
    on_startup._rebuild.thread.join(30)
    assert len(attempts) == 1


@pytest.fixture
def rebuild():
    return on_startup._Rebuild()


def test_a_rebuild_is_left_to_the_process_that_holds_the_lease(store, lend, rebuild):
    lend("b-1", "BookBought")
    assert drive(leases.acquire(store, STARTUP_LEASE, "other", 30))
    assert on_startup.rebuild_stale("me", rebuild) is None
    drive(leases.release(store, STARTUP_LEASE, "other"))
    assert on_startup.rebuild_stale("me", rebuild).saved == 1
    assert drive(leases.acquire(store, STARTUP_LEASE, "other", 30))


def test_processes_that_start_together_rely_on_one_look(
    store, lend, rebuild, monkeypatch
):
    lend("b-1", "BookBought")
    assert on_startup.rebuild_stale("first", rebuild).saved == 1
    lend("b-2", "BookBought")
    assert on_startup.rebuild_stale("second", rebuild).saved == 0
    with monkeypatch.context() as patch:  # one that started later
        patch.setattr(on_startup, "RECENT_SECONDS", 0)
        assert on_startup.rebuild_stale("third", on_startup._Rebuild()).saved == 1
    lend("b-3", "BookBought")
    with monkeypatch.context() as patch:  # one with other reducers
        patch.setattr(on_startup, "revision_of", lambda Root: "new")
        assert on_startup.rebuild_stale("fourth", rebuild).saved == 1


def test_a_rebuild_ends_quietly_with_its_process(
    store, lend, rebuild, monkeypatch, caplog
):
    """The end may come at any moment, and closes the client beneath the rebuild."""
    lend("b-1", "BookBought")
    rebuild.ending.set()
    assert on_startup._attempt("me", rebuild)
    assert drive(leases.acquire(store, STARTUP_LEASE, "other", 30))  # it is released
    drive(leases.release(store, STARTUP_LEASE, "other"))
    raw = connection.raw(store.events)
    client = MongoClient(settings_of_django.SERVER)
    client.close()
    closed = BlockingCollection(client[raw.database.name][raw.name])
    monkeypatch.setattr(
        on_startup.connection, "blocking", lambda: replace(store, leases=closed)
    )
    assert on_startup._attempt("me", rebuild)
    assert caplog.text == ""
    rebuild.ending.clear()
    assert not on_startup._attempt("me", rebuild)
    assert "after close" in caplog.text


def test_an_unexpected_error_is_logged(store, rebuild, monkeypatch, caplog):
    def fail(owner, rebuild):
        raise LookupError("oh")

    monkeypatch.setattr(on_startup, "rebuild_stale", fail)
    assert on_startup._attempt("me", rebuild)
    assert "Cannot rebuild stale snapshots, giving up." in caplog.text
    assert "LookupError: oh" in caplog.text
