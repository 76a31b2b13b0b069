"""What ``rebuild_aggregates`` prints of a rebuild and a dry run, and refuses."""

import io
import json
import os
import signal
import sys

import pytest
from django.core.management import CommandError, call_command

from ossy_event_store import AggregateRebuild
from ossy_event_store.management.commands import rebuild_aggregates as command
from ossy_event_store.management.commands._base import INTERRUPTED
from ossy_event_store.rebuild import report as rebuild_report
from tests.library.aggregate import Book
from tests.rebuild.conftest import books as books
from tests.rebuild.conftest import shout as shout
from tests.support.rebuild import run, wrong

pytestmark = pytest.mark.versions


def test_a_diff_prints_old_and_new_values(store, lend, shout):
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


def test_a_dry_run_without_diff_prints_no_value(store, lend, shout):
    lend("b-1", "BookBought")
    AggregateRebuild.build_and_save_all()
    shout()
    assert "Emma" not in run("--dry-run")[0]
    assert "Emma" not in run("--dry-run", "--json")[0]


def test_a_long_diff_is_cut_and_the_rest_counted(store, books, shout, monkeypatch):
    AggregateRebuild.build_and_save_all()
    monkeypatch.setattr(command, "SHOWN_ALTERATIONS", 3)
    monkeypatch.setattr(command, "SHOWN_PATHS", 1)
    monkeypatch.setattr(rebuild_report, "KEPT_CHANGES", 1)
    shout()
    out, _ = run("--diff")
    assert "… and 17 more streams." in out
    assert out.count("  … and 1 more.\n") == 3
    assert "  … and 1 more paths.\n" in out


def test_json_goes_to_stdout_and_progress_to_stderr(store, books, monkeypatch):
    monkeypatch.setattr(command.Progress, "LOG_SECONDS", 0)
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
    ("words", "error"),
    [
        (["--workers", "0"], "workers 0: expected 1 or more."),
        (["--workers", "-1"], "workers -1: expected 1 or more."),
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
    assert error in wrong(*words)


def test_a_dry_run_asks_no_question(store, books, monkeypatch):
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
