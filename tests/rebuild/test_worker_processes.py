"""Rebuilds in worker processes, which end together, whatever ends."""

import json
import os
import signal
import subprocess
import sys
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from django.core.exceptions import ImproperlyConfigured

from ossy_event_store import Aggregate, AggregateRebuild, embedded
from ossy_event_store.mongodb.ports import drive
from ossy_event_store.rebuild.tallies import tallies
from ossy_event_store.streams import reducers
from tests.library.aggregate import Book
from tests.support.processes import ON_URL, here
from tests.support.rebuild import done_ids, recorded, run, states
from tests.support.servers import until


@pytest.mark.faults
def test_several_processes_save_what_one_does(store, books, small):
    seen = []
    one = AggregateRebuild.build_and_save_all()
    expected = states(), drive(tallies(store))
    Aggregate.collection.delete_many({})
    many = AggregateRebuild.build_and_save_all(
        workers=3, progress=lambda report: seen.append(report.streams)
    )
    assert states() == expected[0]
    assert (many.streams, many.events, many.saved) == (one.streams, one.events, 21)
    assert seen == sorted(seen)
    assert seen[-1] == 21
    of_one, of_many = (
        [(t.aggregate_type, t.streams, t.events, t.failed) for t in some]
        for some in (expected[1], drive(tallies(store)))
    )
    assert of_one == of_many
    assert recorded(store)["parts"] == []


@pytest.mark.faults
@pytest.mark.parametrize("words", [["--stale"], ["--partition", "1/2"], ["--dry-run"]])
def test_several_processes_report_what_one_does(store, lend, books, small, words):
    AggregateRebuild.build_and_save_all()
    lend("b-03", "BookReturned")
    lend("b-30", "BookReturned")
    old = states()

    def rebuilt(*more):
        Aggregate.collection.delete_many({"_id": "b-30"})
        stale = {"$set": {"aggregateVersion": old["b-03"][0]}}
        Aggregate.collection.update_one({"_id": "b-03"}, stale)
        report = json.loads(run("--json", *words, *more)[0])
        return {**report, "seconds": 0}, states()

    assert rebuilt("--workers", "2") == rebuilt()


@pytest.mark.faults
def test_the_error_of_a_worker_is_raised(store, books, small, monkeypatch):
    monkeypatch.setattr(Book, "revision", "another", raising=False)
    reducers.reducer_revision.cache_clear()
    try:
        with pytest.raises(ImproperlyConfigured, match="The code of Book changed"):
            AggregateRebuild.build_and_save_all(types=["Book"], workers=2)
    finally:
        reducers.reducer_revision.cache_clear()


@pytest.mark.faults
@pytest.mark.skipif(sys.platform == "win32", reason="embedded:// needs flock")
def test_workers_use_the_throw_away_server_of_their_parent(tmp_path):
    try:
        embedded.find_mongod(None)
    except ImproperlyConfigured:
        pytest.skip("needs a mongod for embedded://")
    (tmp_path / "throw_away.py").write_text(
        "INSTALLED_APPS = ['ossy_event_store', 'tests.library']\n"
        "OSSY_EVENT_STORE = {'URL': 'embedded://'}\n"
    )
    (tmp_path / "use.py").write_text(
        "if __name__ == '__main__':\n"
        "    import django; django.setup()\n"
        "    from django.core.management import call_command\n"
        "    call_command('ensure_event_store', verbosity=0)\n"
        "    from ossy_event_store import *\n"
        "    for name in ('a', 'b'):\n"
        "        EventStore.append_event({'aggregateId': name,\n"
        "            'aggregateType': 'Reader', 'type': 'Joined'})\n"
        "    print(AggregateRebuild.build_and_save_all(workers=2).saved)\n"
    )
    done = subprocess.run(
        [sys.executable, "use.py"],
        cwd=tmp_path,
        env={
            **os.environ,
            "PYTHONPATH": str(Path.cwd()),
            "DJANGO_SETTINGS_MODULE": "throw_away",
        },
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.stdout == "2\n", done.stderr


def test_workers_need_settings_that_they_can_import(store, books, small, monkeypatch):
    monkeypatch.delenv("DJANGO_SETTINGS_MODULE")
    with pytest.raises(
        ImproperlyConfigured,
        match="variable DJANGO_SETTINGS",
    ):
        AggregateRebuild.build_and_save_all(workers=2)


SLOW = """
import os, sys
import django
django.setup()
from django.core.management import call_command
call_command("rebuild_aggregates", "--noinput", *sys.argv[1:])
"""


# Imported by every process that folds: a book whose reducer waits at one stream.
HELD = """
import os, time
from pathlib import Path
from tests.settings import *
from tests.library.aggregate import Book
from ossy_event_store.mongodb import resumable_scan
from ossy_event_store.rebuild import ranges
from ossy_event_store.rebuild.fold_streams import SnapshotBuilder
from ossy_event_store.rebuild.progress import RebuildProgress
ranges.MIN_RANGE_EVENTS, resumable_scan.BATCH = 2, 3
SnapshotBuilder.write_batch, RebuildProgress.save_seconds = 2, 0
here = Path(os.environ["HERE"])
whole = Book.view
def view(events, state):
    one = events[0]["aggregateId"]
    with (here / "folded").open("a") as file:
        file.write(one + chr(10))
    if one == os.environ.get("HOLD") and (here / "hold").exists():
        (here / "pid").write_text(str(os.getpid()))
        while True:
            time.sleep(60)
    return whole(events, state)
Book.view = staticmethod(view)
Book.revision = "held"
"""


@pytest.fixture
def held(store, books, tmp_path):
    """Start a rebuild in another process, which stops at one stream."""
    (tmp_path / "held_settings.py").write_text(HELD)
    (tmp_path / "hold").touch()
    env = {
        **os.environ,
        **here(store),
        "HERE": str(tmp_path),
        "PYTHONPATH": f"{tmp_path}{os.pathsep}{Path.cwd()}",
        "DJANGO_SETTINGS_MODULE": "held_settings",
    }
    with ExitStack() as stack:

        def start(*words, hold=""):
            (tmp_path / "folded").write_text("")
            process = subprocess.Popen(
                [sys.executable, "-c", SLOW, *words],
                env={**env, "HOLD": hold},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            stack.callback(process.communicate)
            stack.callback(process.kill)
            return process

        start.folder = tmp_path
        start.folded = lambda: (tmp_path / "folded").read_text().split()
        yield start


def pid_of(held):
    """Return the process that waits at the stream."""

    def found():
        with suppress(OSError, ValueError):
            return int((held.folder / "pid").read_text())
        return None

    return until(found, 60)


def is_gone(pid):
    with suppress(OSError):
        os.kill(pid, 0)
        return False
    return True


@ON_URL
@pytest.mark.faults
def test_a_killed_worker_is_an_error_and_a_resumed_rebuild_does_the_rest(store, held):
    process = held("--workers", "2", hold="b-13")
    pid = pid_of(held)
    # Meanwhile the other worker does all that it can.
    done = until(lambda: (d := done_ids(store)) and len(d) >= 12 and d, 60)
    os.kill(pid, signal.SIGKILL)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert (
        "RebuildBroken" in err or "The process that rebuilt the streams of Book" in err
    )
    assert "killed by signal 9" in err
    assert "--resume" in err
    (held.folder / "hold").unlink()
    done = done_ids(store)
    process = held("--workers", "2", "--resume")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert f"{len(done):,} streams done before" in out
    assert not done & set(held.folded())
    assert "b-13" in held.folded()
    assert len(states()) == 21
    books = next(t for t in drive(tallies(store)) if t.aggregate_type == "Book")
    assert (books.streams, books.events) == (20, 39)
    assert recorded(store)["parts"] == []


@ON_URL
@pytest.mark.faults
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_all_workers_end_with_the_command(store, held, number):
    process = held("--workers", "2", hold="b-13")
    pid = pid_of(held)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    until(lambda: is_gone(pid))
    if number != signal.SIGKILL:
        assert "Stopped: " in err


@ON_URL
@pytest.mark.faults
def test_several_processes_resume_one_that_was_killed(store, held):
    process = held(hold="b-13")
    pid_of(held)
    until(lambda: "b-10" in done_ids(store))
    process.kill()
    process.communicate(timeout=60)
    (held.folder / "hold").unlink()
    done = done_ids(store)
    process = held("--workers", "2", "--resume")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert not done & set(held.folded())
    assert len(states()) == 21
