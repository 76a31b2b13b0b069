"""Rebuilds in processes and shares, resumed after a kill, and tried without writing."""

import io
import json
import os
import signal
import subprocess
import sys
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from bson import encode
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.management import CommandError, call_command
from pymongo.errors import AutoReconnect, BulkWriteError

from ossy_event_store import (
    Aggregate,
    AggregateRebuild,
    EventStore,
    RebuildBroken,
    RebuildReport,
    embedded,
)
from ossy_event_store.documents.diff import changes
from ossy_event_store.management.commands import rebuild_aggregates as command
from ossy_event_store.management.commands._base import INTERRUPTED, WRONG_USE
from ossy_event_store.mongodb import connection, resumable_scan
from ossy_event_store.mongodb.ports import drive, drive_each
from ossy_event_store.rebuild import fold_streams, progress, ranges, worker_processes
from ossy_event_store.rebuild import report as rebuild_report
from ossy_event_store.rebuild.dry_run import LOOKED
from ossy_event_store.rebuild.ranges import Part, Partition, Span
from ossy_event_store.rebuild.report import DryRun
from ossy_event_store.rebuild.tallies import tallies
from ossy_event_store.streams import reducers
from tests.library.aggregate import Book
from tests.support.processes import ON_URL, here
from tests.support.servers import until

EACH = ("BookBought", "BookLent", "BookReturned")


@pytest.fixture(autouse=True)
def _same_server(monkeypatch):
    """Spare a spawned process the start of a server, which its settings would need."""
    monkeypatch.setenv("TEST_MONGODB_URL", settings.SERVER)


@pytest.fixture
def books(lend):
    """Twenty books of one to three events, and a reader."""
    for number in range(20):
        lend(f"b-{number:02}", *EACH[: 1 + number % 3])
    EventStore.append_event(
        {"aggregateId": "r-1", "aggregateType": "Reader", "type": "Joined"}
    )


@pytest.fixture
def small(monkeypatch):
    """Ranges, pages, batches and writes of few."""
    monkeypatch.setattr(ranges, "LEAST", 2)
    monkeypatch.setattr(ranges, "PAGE", 3)
    monkeypatch.setattr(resumable_scan, "BATCH", 3)
    monkeypatch.setattr(fold_streams, "WRITE", 2)
    monkeypatch.setattr(progress, "EVERY", 0)


@pytest.fixture
def shout(monkeypatch):
    """Change the reducer of books: titles in capitals, and a field of another type."""

    def shout():
        whole = Book.view

        def view(events, saved_state):
            state = whole(events, saved_state)
            title = state.get("title")
            return {
                **state,
                "title": title and title.upper(),
                "loans": float(state["loans"]),
            }

        monkeypatch.setattr(Book, "view", staticmethod(view))
        monkeypatch.setattr(Book, "revision", "shouted", raising=False)
        reducers.revision_of.cache_clear()

    yield shout
    monkeypatch.undo()
    reducers.revision_of.cache_clear()


def states():
    fields = ("aggregateVersion", "revision", "state")
    return {s["_id"]: [s[f] for f in fields] for s in Aggregate.collection.find()}


def everything(store):
    """All of a database: documents, collections and indexes."""
    database = connection.raw(store.events).database
    return {
        name: (
            sorted(encode(document) for document in database[name].find()),
            database[name].index_information(),
        )
        for name in database.list_collection_names()
    }


def run(*words, **options):
    out, err = io.StringIO(), io.StringIO()
    words = ("rebuild_aggregates", "--noinput", *words)
    call_command(*words, stdout=out, stderr=err, **options)
    return out.getvalue(), err.getvalue()


def wrong(*words):
    with pytest.raises(CommandError) as caught:
        run(*words)
    assert caught.value.returncode == WRONG_USE
    return str(caught.value)


def note(store, name="rebuild progress"):
    return connection.raw(store.leases).find_one({"_id": name})


# --- shares -----------------------------------------------------------------


def test_every_id_is_in_exactly_one_share():
    for number in range(200):
        shares = [n for n in range(7) if f"stream-ä-{number}" in Partition(n, 7)]
        assert len(shares) == 1


def test_a_share_is_the_same_in_every_release():
    """Else two machines in a rolling deploy would leave streams out."""
    found = [next(n for n in range(4) if i in Partition(n, 4)) for i in ("a", "b", "ü")]
    assert found == [3, 1, 1]


@pytest.mark.parametrize("stale", [False, True])
def test_shares_fold_every_stream_once_while_streams_are_made(
    store, face, lend, books, small, stale
):
    folded = []
    for share in range(3):
        before = set(states())
        lend(f"between-{share}", "BookBought")
        report = face(
            AggregateRebuild.build_and_save_all, partition=(share, 3), stale=stale
        )
        new = set(states()) - before
        assert all(i in Partition(share, 3) for i in new)
        assert report.streams == report.saved == len(new)
        folded += new
    assert len(folded) == len(set(folded))
    assert {f"b-{n:02}" for n in range(20)} | {"r-1"} <= set(folded)


def test_a_share_reads_the_events_of_no_other(history, books):
    database = history.database
    database.command("profile", 2)
    try:
        AggregateRebuild.build_and_save_all(types=["Book"], partition=(0, 4))
    finally:
        database.command("profile", 0)
    profiled = list(database["system.profile"].find({"ns": {"$regex": "eventstore$"}}))
    database.drop_collection("system.profile")
    own = [n for n in range(20) if f"b-{n:02}" in Partition(0, 4)]
    assert 0 < len(own) < 20
    assert sum(p["docsExamined"] for p in profiled) == sum(1 + n % 3 for n in own)
    (ids,) = [p for p in profiled if p["command"].get("aggregate")]
    assert ids["keysExamined"] <= 20 + 1


def test_a_share_leaves_the_overview_alone(store, books):
    AggregateRebuild.build_and_save_all(partition=(0, 2))
    assert drive(tallies(store)) == []


# --- ranges -----------------------------------------------------------------


def in_span(span):
    fields = {"_id": 0, "aggregateId": 1}
    return [
        event["aggregateId"] for event in EventStore.collection.find(span.query, fields)
    ]


@pytest.mark.parametrize("number", [1, 2, 3, 5, 100])
def test_ranges_hold_every_stream_whole_and_once(store, books, small, number):
    spans = drive(ranges.split(store, Span("Book"), number))
    assert len(spans) <= number
    found = [set(in_span(span)) for span in spans]
    assert sum(map(len, found)) == 20
    assert set.union(*found) == {f"b-{n:02}" for n in range(20)}


def test_ranges_have_about_as_many_events_each(store, lend, small):
    for number in range(60):
        lend(f"b-{number:02}", *["BookReturned"] * (1 + number % 2))
    counts = [len(in_span(s)) for s in drive(ranges.split(store, Span("Book"), 6))]
    assert len(counts) == 6
    assert all(10 <= count <= 17 for count in counts)


def test_a_long_stream_is_in_one_range(store, lend, small):
    lend("a", "BookBought")
    lend("b", *["BookReturned"] * 40)
    lend("c", "BookBought")
    spans = drive(ranges.split(store, Span("Book"), 8))
    assert [sorted(set(in_span(span))) for span in spans] in (
        [["a", "b"], ["c"]],
        [["a"], ["b"], ["c"]],
    )


def test_ranges_are_found_on_an_index_alone(history, store, books, small):
    database = history.database
    database.command("profile", 2)
    try:
        drive(ranges.split(store, Span("Book"), 4))
    finally:
        database.command("profile", 0)
    profiled = list(database["system.profile"].find({"ns": {"$regex": "eventstore$"}}))
    database.drop_collection("system.profile")
    assert profiled
    assert sum(p["docsExamined"] for p in profiled) == 0


def test_few_events_are_not_split(store, books):
    assert drive(ranges.split(store, Span("Book"), 8)) == [Span("Book")]


def test_a_range_says_what_it_is():
    assert str(Span("Book")) == "Book"
    assert str(Span("Book", "a", "b")) == "Book after 'a' up to 'b'"


# --- processes --------------------------------------------------------------


@pytest.mark.slow
def test_processes_save_what_one_process_does(store, books, small):
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
    assert note(store)["parts"] == []


@pytest.mark.slow
@pytest.mark.parametrize("words", [["--stale"], ["--partition", "1/2"], ["--dry-run"]])
def test_processes_do_a_share_what_is_stale_and_a_dry_run(
    store, lend, books, small, words
):
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


@pytest.mark.slow
def test_a_process_that_fails_says_why(store, books, small, monkeypatch):
    monkeypatch.setattr(Book, "revision", "another", raising=False)
    reducers.revision_of.cache_clear()
    try:
        with pytest.raises(ImproperlyConfigured, match="The code of Book changed"):
            AggregateRebuild.build_and_save_all(types=["Book"], workers=2)
    finally:
        reducers.revision_of.cache_clear()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="embedded:// needs flock")
def test_processes_share_a_throw_away_server(tmp_path):
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


def test_processes_need_settings_that_they_can_import(store, books, small, monkeypatch):
    monkeypatch.delenv("DJANGO_SETTINGS_MODULE")
    with pytest.raises(ImproperlyConfigured, match="need the environment"):
        AggregateRebuild.build_and_save_all(workers=2)


@pytest.mark.parametrize(
    "error",
    [
        AutoReconnect("gone"),
        BulkWriteError({"writeErrors": [{"code": 1}]}),
        RebuildBroken("Book", -9),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_is_sent_as_it_is(error):
    assert worker_processes._portable(error) is error


def test_an_error_that_cannot_be_sent_is_told():
    class Local(Exception):
        pass

    assert str(worker_processes._portable(Local("x"))) == "Local: x"


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
from ossy_event_store.rebuild import fold_streams, progress, ranges
ranges.LEAST, resumable_scan.BATCH, fold_streams.WRITE, progress.EVERY = 2, 3, 2, 0
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
    """Start a rebuild in another process that comes to a stop at one stream."""
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
    """Return which process waits at the stream."""

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


def done_ids(store):
    """The streams that the note says are done."""
    found = set()
    for part in map(progress._part, note(store)["parts"]):
        if part.ended or part.done is not None:
            span = Span(part.span.kind, part.span.after, part.done or part.span.until)
            found |= set(in_span(span))
    return found


@ON_URL
@pytest.mark.slow
def test_a_killed_process_is_an_error_and_a_resumed_rebuild_does_the_rest(store, held):
    process = held("--workers", "2", hold="b-13")
    pid = pid_of(held)
    # The other process does all that it can meanwhile.
    done = until(lambda: (d := done_ids(store)) and len(d) >= 12 and d, 60)
    os.kill(pid, signal.SIGKILL)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert (
        "RebuildBroken" in err or "The process that folded the streams of Book" in err
    )
    assert "killed by signal 9" in err
    assert "--resume" in err
    (held.folder / "hold").unlink()
    done = done_ids(store)
    process = held("--workers", "2", "--resume")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert f"{len(done):,} streams were done before" in out
    assert not done & set(held.folded())
    assert "b-13" in held.folded()
    assert len(states()) == 21
    books = next(t for t in drive(tallies(store)) if t.aggregate_type == "Book")
    assert (books.streams, books.events) == (20, 39)
    assert note(store)["parts"] == []


@ON_URL
@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_all_processes_end_with_the_command(store, held, number):
    process = held("--workers", "2", hold="b-13")
    pid = pid_of(held)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    until(lambda: is_gone(pid))
    if number != signal.SIGKILL:
        assert "Stopped: " in err


@ON_URL
@pytest.mark.slow
def test_one_process_that_was_killed_is_resumed_by_several(store, held):
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


# --- resume -----------------------------------------------------------------


@pytest.fixture
def broken_off(store, books, small, monkeypatch):
    """Break a rebuild off at a stream, as a kill would, and return what is done."""

    def broken_off(at="b-10", **choice):
        whole = Book.view

        def view(events, state):
            if events[0]["aggregateId"] == at:
                raise KeyboardInterrupt
            return whole(events, state)

        with monkeypatch.context() as patch:
            patch.setattr(Book, "view", staticmethod(view))
            with pytest.raises(KeyboardInterrupt):
                AggregateRebuild.build_and_save_all(**choice)

    return broken_off


@pytest.fixture
def folded(monkeypatch):
    """Which books are folded from now on."""
    seen, whole = [], Book.view

    def view(events, state):
        seen.append(events[0]["aggregateId"])
        return whole(events, state)

    monkeypatch.setattr(Book, "view", staticmethod(view))
    return seen


def test_a_resumed_rebuild_folds_what_was_not_written(store, face, broken_off, folded):
    broken_off()
    done = set(states())
    assert len(done) >= 6
    Aggregate.collection.delete_one({"_id": "b-00"})  # it is not looked at again
    folded.clear()
    report = face(AggregateRebuild.build_and_save_all, resume=True)
    assert not done & set(folded)
    assert (report.streams, report.resumed) == (21 - len(done), len(done))
    assert "b-00" not in states()
    assert len(states()) == 20
    books = drive(tallies(store))[0]
    assert (books.streams, books.events) == (20, 39)


def test_what_is_folded_but_not_written_is_not_done(store, broken_off, folded):
    broken_off("b-11")
    assert "b-10" in folded
    assert "b-10" not in states()
    assert done_ids(store) == set(states())


def test_a_rebuild_that_is_done_is_forgotten(store, face, broken_off):
    broken_off()
    face(AggregateRebuild.build_and_save_all, resume=True)
    report = face(AggregateRebuild.build_and_save_all, resume=True)
    assert (report.streams, report.resumed) == (21, 0)
    assert report.anew == "no rebuild of this choice had broken off"


def test_a_rebuild_without_resume_begins_anew_and_is_noted_anew(store, broken_off):
    broken_off("b-10")
    broken_off("b-01")
    assert len(done_ids(store)) <= 1


def test_a_changed_reducer_begins_anew_and_says_so(store, broken_off, shout):
    broken_off()
    shout()
    out, _ = run("--resume")
    assert "Begun anew: the reducer of Book has changed since." in out
    assert "Rebuilt 21 streams" in out
    assert {state[1] for i, state in states().items() if i[0] == "b"} == {"shouted"}


def test_other_types_begin_again_and_say_so(store, broken_off):
    broken_off(types=["Book"])
    report = AggregateRebuild.build_and_save_all(resume=True)
    assert report.anew == "the one that broke off was of other types: Book"
    assert report.streams == 21


def test_every_share_is_resumed_for_itself(store, broken_off, folded):
    at = next(f"b-{n:02}" for n in range(10, 20) if f"b-{n:02}" in Partition(0, 2))
    broken_off(at, partition=(0, 2))
    done = set(states())
    assert done
    folded.clear()
    other = AggregateRebuild.build_and_save_all(partition=(1, 2), resume=True)
    assert (other.resumed, other.anew[:10]) == (0, "no rebuild")
    folded.clear()
    own = AggregateRebuild.build_and_save_all(partition=(0, 2), resume=True)
    assert own.resumed == len(done)
    assert not done & set(folded)
    assert len(states()) == 21


def test_a_failure_before_the_kill_is_a_failure_of_the_whole(
    store, broken_off, monkeypatch
):
    whole = Book.view

    def view(events, state):
        if events[0]["aggregateId"] == "b-02":
            raise ValueError("torn")
        return whole(events, state)

    monkeypatch.setattr(Book, "view", staticmethod(view))
    broken_off()
    report = AggregateRebuild.build_and_save_all(resume=True)
    assert (report.ok, report.failed) == (False, 1)
    assert str(report.failures[0]) == "Book 'b-02', version 1: ValueError: torn"
    assert drive(tallies(store))[0].failures == {"b-02": 1}


def test_a_rebuild_that_began_later_keeps_its_note(store, books):
    first, second = (progress.RebuildProgress(store, [Book], None) for _ in range(2))
    part = Part(Span("Book"), "b-05")
    drive(first.begin([part]))
    drive(second.begin([part]))
    drive(first.forget())
    assert len(note(store)["parts"]) == 1


def test_notes_are_not_written_more_often_than_need_be(store, books):
    notes = progress.RebuildProgress(store, [Book], None)
    drive(notes.begin([Part(Span("Book"))]))
    drive(notes.note([Part(Span("Book"), "b-05")]))
    assert note(store)["parts"][0]["done"] is None


# --- dry run ----------------------------------------------------------------


@pytest.fixture
def standing(store, lend):
    """Snapshots of every kind."""
    for name in ("current", "behind", "ahead", "other", "gone", "odd"):
        lend(name, "BookBought")
    AggregateRebuild.build_and_save_all()
    lend("behind", "BookLent")
    lend("missing", "BookBought")
    change = Aggregate.collection.update_one
    change({"_id": "ahead"}, {"$set": {"aggregateVersion": 4}})
    change({"_id": "other"}, {"$set": {"revision": "older"}})
    change({"_id": "odd"}, {"$set": {"aggregateVersion": "many"}})
    Aggregate.collection.delete_one({"_id": "gone"})


def test_a_dry_run_tells_how_snapshots_stand(store, face, standing):
    seen = face(AggregateRebuild.dry_run).dry_run["Book"]
    assert (seen.streams, seen.current, seen.missing) == (7, 1, 3)
    assert (seen.behind, seen.ahead, seen.other_revision) == (1, 1, 1)
    assert (seen.compared, seen.altered, seen.failed) == (3, 0, 0)


def test_a_dry_run_writes_nothing(store, history, face, standing, shout):
    before = everything(store)
    shout()
    report = face(AggregateRebuild.dry_run)
    face(AggregateRebuild.dry_run, ids=["ahead"])
    face(AggregateRebuild.dry_run, partition=(0, 2))
    run("--diff")
    assert report.saved == 0
    assert everything(store) == before


def test_a_dry_run_tells_of_types_without_streams(store, face):
    assert face(AggregateRebuild.dry_run).dry_run == {
        "Book": DryRun(),
        "Reader": DryRun(),
    }


def test_a_snapshot_behind_is_compared_at_its_own_version(store, lend, shout):
    lend("b-1", "BookBought")
    AggregateRebuild.build_and_save_all()
    lend("b-1", "BookLent", "BookReturned")
    assert AggregateRebuild.dry_run().dry_run["Book"].altered == 0
    shout()
    seen = AggregateRebuild.dry_run().dry_run["Book"]
    (altered,) = seen.alterations
    assert (seen.behind, seen.altered, altered.version) == (1, 1, 1)
    assert altered.changes == [
        ("state.loans", "0", "0.0"),
        ("state.title", '"Emma"', '"EMMA"'),
    ]


def test_a_snapshot_is_compared_across_batches(store, lend, shout, small):
    lend("b-0", "BookBought")
    lend("b-1", "BookBought", *["BookReturned"] * 6)
    AggregateRebuild.build_and_save_all()
    lend("b-1", *["BookReturned"] * 5)
    lend("b-2", "BookBought")
    shout()
    seen = AggregateRebuild.dry_run().dry_run["Book"]
    assert (seen.compared, seen.altered, seen.behind, seen.missing) == (2, 2, 1, 1)
    assert [altered.version for altered in seen.alterations] == [1, 7]


def test_what_a_reducer_fails_at_is_told_and_not_compared(
    store, face, books, monkeypatch
):
    AggregateRebuild.build_and_save_all()

    def view(events, state):
        raise ValueError("torn")

    monkeypatch.setattr(Book, "view", staticmethod(view))
    report = face(AggregateRebuild.dry_run, types=["Book"])
    seen = report.dry_run["Book"]
    assert (report.failed, seen.failed, seen.compared, seen.altered) == (20, 20, 0, 0)
    with pytest.raises(CommandError, match=r"nothing was written.* 20 FAILED"):
        run("--dry-run")


def test_an_append_in_between_is_not_ahead(store, lend, monkeypatch):
    lend("b-1", "BookBought")
    AggregateRebuild.build_and_save_all()
    whole, once = Book.view, []

    def view(events, state):
        if not once:
            once.append(1)
            lend("b-1", "BookLent")
        return whole(events, state)

    Aggregate.collection.update_one({"_id": "b-1"}, {"$set": {"aggregateVersion": 2}})
    monkeypatch.setattr(Book, "view", staticmethod(view))
    monkeypatch.setattr(Book, "revision", Aggregate.find("b-1")["revision"], False)
    seen = AggregateRebuild.dry_run().dry_run["Book"]
    assert (seen.ahead, seen.current) == (0, 1)


def altered(old, new, limit=LOOKED):
    seen = DryRun()
    seen.alter("b", 1, changes(old, new, limit))
    return seen


def test_paths_are_counted_once_a_stream_and_without_indexes():
    old = {"lines": [{"price": 1}, {"price": 2}], "a.b": {"x": 1}}
    new = {"lines": [{"price": 3}, {"price": 4}], "a.b": {"x": 2}}
    seen = altered(old, new)
    assert seen.paths == {"state.lines[].price": 1, 'state["a.b"].x': 1}
    seen.add(altered(old, new))
    assert (seen.altered, seen.paths["state.lines[].price"]) == (2, 2)


def test_what_is_altered_is_bounded(monkeypatch):
    monkeypatch.setattr(rebuild_report, "PATHS", 3)
    monkeypatch.setattr(rebuild_report, "SHOWN", 2)
    monkeypatch.setattr(rebuild_report, "KEPT", 1)
    seen = altered({}, {f"k{n}": n for n in range(10)}, limit=5)
    (first,) = seen.alterations
    assert (len(first.changes), first.more) == (2, 8)
    assert (len(seen.paths), seen.other_paths) == (3, 2)
    seen.add(altered({}, {"k0": 1}))
    assert (seen.altered, len(seen.alterations)) == (2, 1)


@pytest.mark.parametrize(
    ("old", "new", "texts"),
    [
        ({"a": 1}, {"a": 1.0}, ("state.a", "1", "1.0")),
        ({"a": "x" * 999}, {"a": "x" * 998}, None),
        ({}, {"a": None}, ("state.a", "", "null")),
        ({"a": 2}, {}, ("state.a", "2", "")),
        ({"a\x1b[2J": 1}, {}, ('state["a\\u001b[2J"]', "1", "")),
        ({"a": "\x1b[2J\u202e"}, {}, ("state.a", '"\\u001b[2J\\u202e"', "")),
    ],
)
def test_values_are_short_and_safe_to_print(old, new, texts):
    (found,) = altered(old, new).alterations[0].changes
    if texts:
        assert found == texts
    assert all(len(text) < 120 and text.isprintable() for text in found)
    assert found[1] != found[2] or old["a"] != new["a"]


# --- the command ------------------------------------------------------------


def test_a_diff_writes_out_old_and_new(store, lend, shout):
    lend("b-1", "BookBought")
    AggregateRebuild.build_and_save_all()
    shout()
    out, err = run("--diff", "--type", "Book")
    assert out.splitlines()[:-1] == [
        "Book 'b-1', version 1:",
        "  state.loans: 0 → 0.0",
        '  state.title: "Emma" → "EMMA"',
        "Book: 1 streams; snapshots: 0 current, 0 missing, 0 behind, 0 ahead, 1 of "
        "another revision; of 1 states compared 1 would be altered",
        "  state.loans: 1 streams",
        "  state.title: 1 streams",
    ]
    assert out.splitlines()[-1].startswith("Dry run, nothing was written: 1 streams,")
    assert err == ""


def test_a_dry_run_without_diff_shows_no_value(store, lend, shout):
    lend("b-1", "BookBought")
    AggregateRebuild.build_and_save_all()
    shout()
    assert "Emma" not in run("--dry-run")[0]
    assert "Emma" not in run("--dry-run", "--json")[0]


def test_a_diff_of_much_is_cut_and_the_rest_counted(store, books, shout, monkeypatch):
    AggregateRebuild.build_and_save_all()
    monkeypatch.setattr(command, "DIFFS", 3)
    monkeypatch.setattr(command, "SHOWN", 1)
    monkeypatch.setattr(rebuild_report, "SHOWN", 1)
    shout()
    out, _ = run("--diff")
    assert "… and 17 more streams." in out
    assert out.count("  … and 1 more.\n") == 3
    assert "  … and 1 more paths.\n" in out


def test_json_is_one_document_and_the_rest_goes_elsewhere(store, books, monkeypatch):
    monkeypatch.setattr(command.Progress, "EVERY", 0)
    out, err = run("--json")
    document = json.loads(out)
    assert (document["ok"], document["streams"], document["saved"]) == (True, 21, 21)
    assert document["dry_run"] == {}
    assert " events" in err


def test_json_of_a_diff_has_the_values(store, lend, shout):
    lend("b-1", "BookBought")
    AggregateRebuild.build_and_save_all()
    shout()
    document = json.loads(run("--diff", "--json")[0])
    book = document["dry_run"]["Book"]
    assert book["paths"] == {"state.loans": 1, "state.title": 1}
    assert book["alterations"] == [
        {
            "aggregate_id": "b-1",
            "version": 1,
            "changes": [
                {"path": "state.loans", "old": "0", "new": "0.0"},
                {"path": "state.title", "old": '"Emma"', "new": '"EMMA"'},
            ],
            "more": 0,
        }
    ]


def test_json_of_a_failure_has_it_and_the_exit_code_is_1(store, books, monkeypatch):
    def view(events, state):
        raise ValueError("torn")

    monkeypatch.setattr(Book, "view", staticmethod(view))
    out = io.StringIO()
    with pytest.raises(CommandError) as caught:
        call_command("rebuild_aggregates", "--json", interactive=False, stdout=out)
    assert caught.value.returncode == 1
    document = json.loads(out.getvalue())
    assert (document["ok"], document["failed"]) == (False, 20)
    assert document["failures"][0] == {
        "aggregate_type": "Book",
        "aggregate_id": "b-00",
        "version": 1,
        "error": "ValueError: torn",
    }


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--workers", "0"], "workers 0: expected 1 or more."),
        (["--workers", "-1"], "workers -1: expected 1 or more."),
        (["--partition", "5/3"], "I from 0 to N-1, as 0/4, 1/4, 2/4, 3/4."),
        (["--partition", "3/3"], "partition 3/3: expected I/N with I from 0 to N-1"),
        (["--partition", "0/0"], "partition 0/0: expected I/N"),
        (["--partition", "one"], "partition 'one': expected I/N"),
        (["--partition", "-1/3"], "partition '-1/3': expected I/N"),
        (["--id", "b-00", "--workers", "2"], "ids and workers"),
        (["--id", "b-00", "--partition", "0/2"], "ids and partition"),
        (["--id", "b-00", "--resume"], "ids and resume"),
        (["--stale", "--resume"], "stale and resume"),
        (["--dry-run", "--resume"], "dry run and resume"),
        (["--diff", "--resume"], "dry run and resume"),
        (["--dry-run", "--stale"], "dry run and stale"),
    ],
    ids=" ".join,
)
def test_what_makes_no_sense_is_wrong_use(store, words, said):
    if isinstance(words, list):
        words = [f"{words[0]}={words[1]}", *words[2:]] if "-1/3" in words else words
    assert said in wrong(*words)


def test_a_dry_run_asks_nothing(store, books, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda: pytest.fail("asked"))
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    call_command("rebuild_aggregates", "--dry-run", stdout=io.StringIO())


def test_ctrl_c_in_a_dry_run_says_that_nothing_was_written(store, books, monkeypatch):
    def view(events, state):
        raise KeyboardInterrupt

    monkeypatch.setattr(Book, "view", staticmethod(view))
    with pytest.raises(CommandError, match="nothing was written") as caught:
        run("--dry-run")
    assert caught.value.returncode == INTERRUPTED


def test_sigterm_ends_a_rebuild_as_ctrl_c_does(store, books, monkeypatch):
    before = signal.getsignal(signal.SIGTERM)

    def view(events, state):
        os.kill(os.getpid(), signal.SIGTERM)
        return {}

    monkeypatch.setattr(Book, "view", staticmethod(view))
    with pytest.raises(CommandError, match="Stopped: ") as caught:
        run()
    assert caught.value.returncode == INTERRUPTED
    assert signal.getsignal(signal.SIGTERM) == before


# --- the functions ----------------------------------------------------------


def test_functions_refuse_what_makes_no_sense(store, face):
    for wrong in ({"workers": 0}, {"partition": (2, 2)}):
        with pytest.raises(ValueError, match="expected"):
            face(AggregateRebuild.build_and_save_all, **wrong)
        with pytest.raises(ValueError, match="expected"):
            face(AggregateRebuild.dry_run, **wrong)


def test_an_event_loop_does_not_wait_for_processes(store, face):
    if face.runner is None:
        return
    with pytest.raises(ValueError, match="only through the blocking method"):
        face(AggregateRebuild.build_and_save_all, workers=2)


def test_reports_add_up(store, books):
    one, other = RebuildReport(streams=1, failed=1), RebuildReport(streams=2, saved=2)
    one.add(other)
    assert (one.streams, one.saved, one.failed, one.ok) == (3, 2, 1, False)


def test_ids_of_a_share_come_in_pages_and_in_order(store, books, small):
    pages = drive_each(ranges.ids_of(store, Span("Book", "b-04"), Partition(0, 1)))
    assert [i for page in pages for i in page] == [f"b-{n:02}" for n in range(5, 20)]


def test_the_database_of_a_parent_is_used_whatever_the_settings_say(store):
    code = (
        "import django; django.setup()\n"
        "from ossy_event_store.mongodb import connection, location\n"
        "location.adopt(None, 'adopted')\n"
        "print(connection.raw(connection.blocking().events).database.name)"
    )
    if settings.STORE != "url":
        pytest.skip("the alias says where")
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **here(store)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout == "adopted\n"
