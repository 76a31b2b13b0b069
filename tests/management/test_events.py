"""``manage.py events``: pipes, terminals, waiting, and what its files do not show."""

import datetime as dt
import io
import json
import os
import subprocess
import sys
import threading

import pytest
from django.core.management import CommandError, call_command

from ossy_event_store import EventStore
from ossy_event_store.management.events import following
from ossy_event_store.management.events.times import Times
from ossy_event_store.subscriptions.runner import assign_positions
from tests.support import golden, positions
from tests.support.commands import Standard, Stops, Terminal, failure, run
from tests.support.processes import ON_URL, here
from tests.support.sent_commands import Listener
from tests.support.subscriptions import running

MANY = 3000


@pytest.fixture
def many(history):
    history.insert_many(
        positions.event(f"s-{number}", 1, payload={"number": number})
        for number in range(MANY)
    )
    assign_positions(threading.Event())


# --- pipes ------------------------------------------------------------------


@ON_URL
def test_a_closed_pipe_ends_it_in_silence(many, store):
    with subprocess.Popen(
        [sys.executable, "-m", "django", "events", "tail", "--after", "0", "--jsonl"],
        env={**os.environ, **here(store)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0


@ON_URL
def test_no_more_is_read_than_what_is_taken(many, settings):
    listener = Listener()
    options = {"event_listeners": [listener]}
    settings.OSSY_EVENT_STORE = {**settings.OSSY_EVENT_STORE, "OPTIONS": options}
    out = Stops(1, BrokenPipeError)
    call_command("events", "tail", "--after", "0", "--jsonl", stdout=out)
    assert out.getvalue().count("\n") == 1
    assert len(listener.sent["find"]) <= 3  # a page of entries, and its events
    assert len(listener.sent["killCursors"]) == 0


def test_a_full_disk_is_one_line(many):
    error = OSError(28, "No space left on device")
    with pytest.raises(CommandError) as caught:
        call_command("events", "tail", stdout=Stops(3, error))
    assert str(caught.value) == (
        "stdout: No space left on device. The output is not complete."
    )
    assert caught.value.returncode == 1


def test_json_is_ascii_where_the_output_is(store, lend):
    EventStore.append_event(
        {"aggregateId": "é", "aggregateType": "Book", "type": "\N{OLD ITALIC LETTER A}"}
    )
    out = Standard()
    call_command("events", "tail", "--order", "created", "--jsonl", stdout=out)
    line = out.buffer.getvalue()
    assert rb'"\u00e9"' in line
    assert json.loads(line)["type"] == "\N{OLD ITALIC LETTER A}"


# --- terminals --------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "environment", "is_coloured"),
    [
        ({}, {"NO_COLOR": ""}, True),
        ({}, {"NO_COLOR": "1"}, False),
        ({"no_color": True}, {}, False),
        ({"force_color": True}, {"NO_COLOR": "1"}, True),
    ],
)
def test_colours_are_for_terminals_that_want_them(
    books, monkeypatch, options, environment, is_coloured
):
    monkeypatch.setattr("django.core.management.color.supports_color", lambda: True)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    call = ("events", "stream", "a")
    call_command(*call, stdout=(terminal := Terminal()), **options)
    assert ("\x1b[" in terminal.getvalue()) == is_coloured
    call_command(*call, stdout=(piped := io.StringIO()))
    assert "\x1b[" not in piped.getvalue()


def test_a_payload_is_cut_on_a_terminal_and_whole_in_a_pipe(store, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    event = {"aggregateId": "a", "aggregateType": "Book", "type": "Bought"}
    EventStore.append_event({**event, "payload": {"text": "x" * 500}})
    call_command(
        "events", "stream", "a", stdout=(terminal := Terminal()), no_color=True
    )
    assert terminal.getvalue().endswith("x…\n")
    assert len(terminal.getvalue()) == 121
    assert run("events", "stream", "a")[0].endswith('xxx"}\n')


# --- options ----------------------------------------------------------------


@pytest.mark.parametrize("text", ["90s", "2h", "1.5d", "3w"])
def test_a_time_may_be_that_long_ago(text):
    seconds = {"90s": 90, "2h": 7200, "1.5d": 129_600, "3w": 1_814_400}[text]
    found = dt.datetime.now(dt.UTC) - Times.of("UTC").parsed(text, "--since")
    assert abs(found.total_seconds() - seconds) < 5


def test_djangos_options_may_follow_the_action(books):
    assert run("events", "count", "--verbosity", "0", "--no-color") == ("4\n", "")


def test_a_search_stops_when_its_time_is_over(many):
    error = failure("events", "search", "--text", "x", "--scan", "--max-time", "1e-9")
    assert str(error).startswith("It took longer than --max-time 1e-09; there may be")
    assert error.returncode == 1


@pytest.mark.parametrize("action", ["stats", "types"])
def test_counting_stops_when_its_time_is_over(many, action):
    error = failure("events", action, "--max-time", "1e-9")
    assert str(error).startswith("It took longer than --max-time 1e-09")


def test_a_scan_finds_what_no_index_does(many):
    out, _ = run("events", "search", "--where", "payload.number=2999", "--scan")
    assert out.count("\n") == 1
    assert '{"number": 2999}' in out


def test_events_without_a_position_are_mentioned(store, history):
    history.insert_one(positions.event("a", 1, created=golden.FIRST))
    out, err = run("events", "tail")
    assert out == ""
    assert "The newest events have no position yet" in err
    assert run("events", "tail", "--order", "created")[0].count("\n") == 1
    assign_positions(threading.Event())
    assert run("events", "tail")[1] == ""


# --- --follow ---------------------------------------------------------------


def follow(out, *arguments):
    """Follow until the stream stops it; return its exit code."""
    with pytest.raises(CommandError) as caught:
        call_command("events", "tail", "--follow", *arguments, stdout=out)
    return caught.value.returncode


def test_new_events_follow_the_last_ones(books, quick, lend, monkeypatch):
    assign_positions(threading.Event())
    wait = following.Following.wait

    def append_and_wait(self, seconds):
        lend("new", "BookLent" if self.position % 2 else "BookReturned")
        return wait(self, seconds)

    monkeypatch.setattr(following.Following, "wait", append_and_wait)
    with running():
        every, filtered = Stops(5), Stops(1)
        form = ("--format", "{position} {type}")
        assert follow(every, "-n", "2", *form) == 130
        assert every.getvalue().splitlines()[0] == "3 BookBought"
        numbers = [int(line.split()[0]) for line in every.getvalue().splitlines()]
        assert numbers == list(range(3, 8))
        assert follow(filtered, "-n", "0", "--where", "payload.to=ann", *form) == 130
        since = Stops(4)
        assert follow(since, "--since", "1h", *form) == 130
        assert since.getvalue().startswith("1 BookBought\n2 BookLent\n")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--until", "1h"], "--until cannot be combined with --follow."),
        (["--json"], "--json cannot be combined with --follow; use --jsonl."),
        (["--where", "payload.to=ann"], "With -n 0, only new events are printed"),
        (["-n", "10001"], "at most 10000 are allowed"),
    ],
)
def test_what_cannot_be_followed_is_refused(store, arguments, said):
    error = failure("events", "tail", "--follow", *arguments)
    assert said in str(error)
    assert error.returncode == 2
