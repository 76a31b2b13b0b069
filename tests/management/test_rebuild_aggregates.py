"""rebuild_aggregates: what it rebuilds, how failures are reported, its question."""

import contextlib
import io
import json
import os
import signal
import sys

import pytest
from django.core.management import CommandError, call_command

from ossy_event_store import Aggregate, AggregateRebuild, EventStore
from ossy_event_store.aggregate import registry
from ossy_event_store.management.commands import rebuild_aggregates as rebuild_command
from ossy_event_store.management.commands._base import (
    INTERRUPTED,
    WRONG_USE,
    Progress,
)
from ossy_event_store.rebuild import report as rebuild_report
from tests.library.aggregate import Book
from tests.support.commands import Terminal, failure, run
from tests.support.rebuild import shout as shout
from tests.support.rebuild import twenty_books as twenty_books

pytestmark = pytest.mark.versions


def snapshots():
    return {s["_id"]: s["aggregateVersion"] for s in Aggregate.collection.find()}


def rebuild(*args, **options):
    return run("rebuild_aggregates", "--noinput", *args, **options)


def refused(*args):
    """Run the command with wrong options, and return its error."""
    error = failure("rebuild_aggregates", "--noinput", *args)
    assert error.returncode == WRONG_USE
    return str(error)


def test_every_snapshot_is_rebuilt(books):
    out, err = rebuild()
    assert out.startswith("Rebuilt 3 streams, 4 events in ")
    assert out.endswith("; 3 snapshots written\n")
    assert err == ""
    assert snapshots() == {"a": 2, "b": 1, "r": 1}


def test_a_rebuild_without_verbosity_prints_nothing(books):
    assert rebuild(verbosity=0) == ("", "")


def test_a_rebuild_of_an_empty_store_succeeds(store):
    assert rebuild()[0].startswith("Rebuilt 0 streams, 0 events")


@pytest.mark.parametrize(
    ("selection", "streams"),
    [
        (["--type", "Book"], "ab"),
        (["--type", "Book", "--type", "Reader"], "abr"),
        (["--id", "a"], "a"),
        (["--id", "a", "--id", "r"], "ar"),
        (["--type", "Book", "--id", "b"], "b"),
        (["--stale"], "abr"),
        (["--stale", "--type", "Reader"], "r"),
        (["--stale", "--id", "a"], "a"),
    ],
    ids=" ".join,
)
def test_only_selected_streams_are_rebuilt(books, selection, streams):
    rebuild(*selection)
    assert sorted(snapshots()) == list(streams)


@pytest.mark.parametrize(
    "twice", [["--type", "Book"] * 2, ["--id", "a", "--id", "a", "--id", "b"]]
)
def test_streams_selected_twice_are_rebuilt_once(books, twice):
    assert rebuild(*twice)[0].startswith("Rebuilt 2 streams, 3 events")


def test_a_stale_rebuild_leaves_what_is_current(books):
    rebuild()
    Aggregate.collection.delete_one({"_id": "a"})
    assert rebuild("--stale")[0].startswith("Rebuilt 1 stream")


def test_a_rebuild_corrects_a_wrong_state(books):
    rebuild()
    right = Aggregate.find("a")["state"]
    Aggregate.collection.update_one({"_id": "a"}, {"$set": {"state": {"wrong": 1}}})
    rebuild()
    assert Aggregate.find("a")["state"] == right


def test_an_unregistered_type_is_wrong_use_and_the_error_lists_the_types(books):
    error = failure("rebuild_aggregates", types=["Cook"])
    assert error.returncode == WRONG_USE
    assert "No aggregate class is registered under 'Cook'." in str(error)
    assert "Book" in str(error)


def test_nothing_registered_is_wrong_use(store, monkeypatch):
    monkeypatch.setattr(registry, "_registered", {})
    error = failure("rebuild_aggregates")
    assert error.returncode == WRONG_USE
    assert "decorate it with @register_aggregate" in str(error)


def test_an_unknown_stream_is_wrong_use(books):
    error = failure("rebuild_aggregates", ids=["c"])
    assert error.returncode == WRONG_USE
    assert "Ids next to it: a, b, r." in str(error)


def test_a_failed_stream_gives_exit_code_1_and_is_named(books, broken):
    out, err = io.StringIO(), io.StringIO()
    with pytest.raises(CommandError) as caught:
        call_command("rebuild_aggregates", interactive=False, stdout=out, stderr=err)
    assert caught.value.returncode == 1
    assert err.getvalue() == (
        "FAILED Broken 'y', version 2 (Bad): ValueError: no such shelf\n"
    )
    assert ", 1 FAILED" in str(caught.value)


def test_a_failed_stream_does_not_stop_the_others(books, broken):
    failure("rebuild_aggregates", interactive=False)
    assert snapshots() == {"a": 2, "b": 1, "r": 1, "x": 1}


def test_a_failed_stream_keeps_its_old_snapshot(broken):
    old = {"_id": "y", "aggregateType": "Broken", "aggregateVersion": 1, "state": {}}
    Aggregate.collection.insert_one(old)
    failure("rebuild_aggregates", interactive=False)
    assert Aggregate.find("y") == old


def test_failures_are_printed_even_without_verbosity(broken):
    err = io.StringIO()
    with pytest.raises(CommandError):
        call_command("rebuild_aggregates", interactive=False, stderr=err, verbosity=0)
    assert "FAILED Broken 'y'" in err.getvalue()


def test_of_many_failures_some_are_printed_and_the_rest_counted(broken, monkeypatch):
    monkeypatch.setattr(rebuild_command, "SHOWN_FAILURES", 1)
    EventStore.append_events(
        [{"aggregateId": "z", "aggregateType": "Broken", "type": "Bad"}]
    )
    err = io.StringIO()
    with pytest.raises(CommandError):
        call_command("rebuild_aggregates", interactive=False, stderr=err)
    assert err.getvalue().endswith("… and 1 more.\n")


def test_a_state_that_cannot_be_stored_is_a_failure(store, broken, monkeypatch):
    monkeypatch.setattr(broken, "view", staticmethod(lambda events, state: {"a": {1}}))
    assert ", 2 FAILED" in str(failure("rebuild_aggregates", interactive=False))


def test_ctrl_c_in_a_reducer_ends_with_130_and_a_count(books, broken):
    broken.error = KeyboardInterrupt()
    error = failure("rebuild_aggregates", interactive=False)
    assert error.returncode == INTERRUPTED
    assert str(error).startswith("Stopped: 3 streams, 4 events in ")
    assert "run it again, with --stale" in str(error)


def test_ctrl_c_between_batches_ends_with_130(books, monkeypatch):
    def press(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(Progress, "show", press)
    assert failure("rebuild_aggregates", interactive=False).returncode == INTERRUPTED


def test_snapshots_saved_before_ctrl_c_stay(books, broken):
    broken.error = KeyboardInterrupt()
    failure("rebuild_aggregates", interactive=False)
    assert snapshots() == {"a": 2, "b": 1}


def test_a_rebuild_shows_its_progress_on_a_terminal(books, monkeypatch):
    monkeypatch.setattr(Progress, "TERMINAL_SECONDS", 0)
    out = Terminal()
    call_command("rebuild_aggregates", interactive=False, stdout=out, no_color=True)
    assert " of 4 events (" in out.getvalue()
    assert "3 streams" in out.getvalue()


def test_a_rebuild_shows_failures_while_it_runs(broken, monkeypatch):
    monkeypatch.setattr(Progress, "TERMINAL_SECONDS", 0)
    out = Terminal()
    with contextlib.suppress(CommandError):
        call_command("rebuild_aggregates", interactive=False, stdout=out)
    assert "1 FAILED" in out.getvalue()


# --- the question -----------------------------------------------------------


@pytest.fixture
def user(monkeypatch):
    """A user who answers at a terminal; without an answer no question is expected."""

    def user(answer=None, terminal=True):
        def reply():
            assert answer is not None, "unexpected question"
            if isinstance(answer, BaseException):
                raise answer
            return answer

        monkeypatch.setattr(sys, "stdin", Terminal() if terminal else io.StringIO())
        monkeypatch.setattr("builtins.input", reply)

    return user


@pytest.mark.parametrize("answer", ["y", "Y", "yes", " YES "])
def test_a_full_rebuild_begins_after_a_yes(books, user, answer):
    user(answer)
    run("rebuild_aggregates")
    assert len(snapshots()) == 3


@pytest.mark.parametrize("answer", ["", "n", "no", "yo", "1"])
def test_any_other_answer_rebuilds_nothing(books, user, answer):
    user(answer)
    error = failure("rebuild_aggregates")
    assert str(error) == "Nothing was rebuilt."
    assert snapshots() == {}


def test_the_end_of_the_input_is_a_no(books, user):
    user(EOFError())
    assert str(failure("rebuild_aggregates")) == "Nothing was rebuilt."


def test_ctrl_c_at_the_question_ends_with_130(books, user):
    user(KeyboardInterrupt())
    assert failure("rebuild_aggregates").returncode == INTERRUPTED


@pytest.mark.parametrize(
    "selection",
    [["--noinput"], ["--no-input"], ["--stale"], ["--type", "Book"], ["--id", "a"]],
)
def test_a_selection_or_noinput_is_rebuilt_without_a_question(books, user, selection):
    user()
    run("rebuild_aggregates", *selection)
    assert snapshots()


def test_without_a_terminal_there_is_no_question(books, user):
    user(terminal=False)
    run("rebuild_aggregates")
    assert len(snapshots()) == 3


def test_a_wrong_type_is_refused_before_the_question(books, user):
    user()
    assert failure("rebuild_aggregates", types=["Cook"]).returncode == WRONG_USE


# --- reports, dry runs and options ------------------------------------------


def test_a_diff_prints_old_and_new_values(store, lend, shout):
    lend("b-1", "BookBought")
    AggregateRebuild.build_and_save_all()
    shout()
    out, err = rebuild("--diff", "--type", "Book")
    assert out.splitlines()[:-1] == [
        "Book 'b-1', version 1:",
        "  state.loans: 0 → 0.0",
        '  state.title: "Emma" → "EMMA"',
        "Book: 1 stream; snapshots: 0 current, 0 missing, 0 behind, 0 ahead, 1 of "
        "another revision; of 1 state compared 1 would be altered",
        "  state.loans: 1 stream",
        "  state.title: 1 stream",
    ]
    assert out.splitlines()[-1].startswith("Dry run, nothing was written: 1 stream,")
    assert err == ""


def test_a_dry_run_without_diff_prints_no_value(store, lend, shout):
    lend("b-1", "BookBought")
    AggregateRebuild.build_and_save_all()
    shout()
    assert "Emma" not in rebuild("--dry-run")[0]
    assert "Emma" not in rebuild("--dry-run", "--json")[0]


def test_a_long_diff_is_cut_and_the_rest_counted(
    store, twenty_books, shout, monkeypatch
):
    AggregateRebuild.build_and_save_all()
    monkeypatch.setattr(rebuild_command, "SHOWN_ALTERATIONS", 3)
    monkeypatch.setattr(rebuild_command, "SHOWN_PATHS", 1)
    monkeypatch.setattr(rebuild_report, "KEPT_CHANGES", 1)
    shout()
    out, _ = rebuild("--diff")
    assert "… and 17 more streams." in out
    assert out.count("  … and 1 more.\n") == 3
    assert "  … and 1 more path.\n" in out


def test_json_goes_to_stdout_and_progress_to_stderr(twenty_books, monkeypatch):
    monkeypatch.setattr(rebuild_command.Progress, "LOG_SECONDS", 0)
    out, err = rebuild("--json")
    document = json.loads(out)
    assert (document["ok"], document["streams"], document["saved"]) == (True, 21, 21)
    assert document["dry_run"] == {}
    assert " events" in err


def test_json_of_a_diff_has_the_values(store, lend, shout):
    lend("b-1", "BookBought")
    AggregateRebuild.build_and_save_all()
    shout()
    document = json.loads(rebuild("--diff", "--json")[0])
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


def test_json_of_a_failure_has_it_and_the_exit_code_is_1(
    store, twenty_books, monkeypatch
):
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
    ("words", "error"),
    [
        (["--workers", "0"], "workers is 0; it must be 1 or more."),
        (["--workers", "-1"], "workers is -1; it must be 1 or more."),
        (["--partition", "5/3"], "I from 0 to N-1, as 0/4, 1/4, 2/4, 3/4."),
        (["--partition", "3/3"], "partition 3/3: expected I/N with I from 0 to N-1"),
        (["--partition", "0/0"], "partition 0/0: expected I/N"),
        (["--partition", "one"], "partition 'one': expected I/N"),
        (["--partition=-1/3"], "partition '-1/3': expected I/N"),
        (["--id", "b-00", "--workers", "2"], "--id cannot be combined with --workers"),
        (
            ["--id", "b-00", "--partition", "0/2"],
            "--id cannot be combined with --partition",
        ),
        (
            ["--id", "b-00", "--resume"],
            "--id cannot be combined with --resume: only full rebuilds record their "
            "progress.",
        ),
        (["--stale", "--resume"], "--stale cannot be combined with --resume"),
        (["--dry-run", "--resume"], "--dry-run cannot be combined with --resume"),
        (["--diff", "--resume"], "--dry-run cannot be combined with --resume"),
        (["--dry-run", "--stale"], "--dry-run cannot be combined with --stale"),
    ],
    ids=" ".join,
)
def test_options_that_make_no_sense_are_refused(store, words, error):
    assert error in refused(*words)


def test_a_dry_run_asks_no_question(twenty_books, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda: pytest.fail("asked"))
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    call_command("rebuild_aggregates", "--dry-run", stdout=io.StringIO())


def test_ctrl_c_in_a_dry_run_says_that_nothing_was_written(
    store, twenty_books, monkeypatch
):
    def view(events, state):
        raise KeyboardInterrupt

    monkeypatch.setattr(Book, "view", staticmethod(view))
    with pytest.raises(CommandError, match="nothing was written") as caught:
        rebuild("--dry-run")
    assert caught.value.returncode == INTERRUPTED


def test_sigterm_ends_a_rebuild_as_ctrl_c_does(twenty_books, monkeypatch):
    before = signal.getsignal(signal.SIGTERM)

    def view(events, state):
        os.kill(os.getpid(), signal.SIGTERM)
        return {}

    monkeypatch.setattr(Book, "view", staticmethod(view))
    with pytest.raises(CommandError, match="Stopped: ") as caught:
        rebuild()
    assert caught.value.returncode == INTERRUPTED
    assert signal.getsignal(signal.SIGTERM) == before
