"""What all commands do alike: errors of one line, exit codes, progress."""

import gc
import io
import os
import re
import sys

import pytest
from django.core.management import call_command, load_command_class
from django.core.management.base import OutputWrapper

from ossy_event_store import EventStore
from ossy_event_store.management.commands import ensure_event_store
from ossy_event_store.management.commands._base import WRONG_USE, Progress, duration
from ossy_event_store.management.commands.subscriptions import Command
from ossy_event_store.streams.gc_pause import ALLOCATIONS
from ossy_event_store.subscriptions.declaration import subscription
from tests.support.commands import Standard, Terminal, failure, run

pytestmark = pytest.mark.versions

# --- errors -----------------------------------------------------------------


@pytest.mark.parametrize(
    "command",
    [["export_events"], ["rebuild_aggregates"], ["ensure_event_store"]],
    ids=lambda c: c[0],
)
def test_an_unavailable_server_is_one_line(command, settings):
    if settings.STORE != "url":
        pytest.skip("the server is that of DATABASES")
    url = "mongodb://ann:s3cret@127.0.0.1:1/x"
    settings.OSSY_EVENT_STORE = {"URL": url, "TIMEOUT": 0.05}
    error = failure(*command)
    assert str(error).startswith("The event store is not available: ")
    assert "s3cret" not in str(error)
    assert "\n" not in str(error)


@pytest.mark.parametrize("command", ["export_events", "rebuild_aggregates"])
def test_nothing_configured_is_one_line(command, settings, monkeypatch):
    monkeypatch.delenv("DB_URL", raising=False)
    settings.OSSY_EVENT_STORE = {}
    assert "is not configured" in str(failure(command, types=["Book"]))


@pytest.mark.parametrize("command", ["export_events", "rebuild_aggregates"])
@pytest.mark.parametrize("name", ["", "x" * 256, "\ud800"], ids=["", "256", "half"])
def test_an_id_that_no_stream_can_have_is_wrong_use(books, command, name):
    assert failure(command, ids=[name]).returncode == WRONG_USE


@pytest.mark.parametrize("command", ["export_events", "rebuild_aggregates"])
def test_a_stream_of_another_type_is_wrong_use(books, command):
    error = failure(command, ids=["r"], types=["Book"])
    assert error.returncode == WRONG_USE
    assert str(error) == "Stream 'r' is of type 'Reader'; expected Book."


# --- the process ------------------------------------------------------------


def test_only_in_a_process_of_its_own_a_command_collects_garbage_less_often(
    books, monkeypatch, capsys
):
    host, changed = (700, 10, 10), []
    monkeypatch.setattr(gc, "get_threshold", lambda: host)
    monkeypatch.setattr(gc, "set_threshold", lambda *args: changed.append(args))
    for command in ("rebuild_aggregates", "verify_event_store"):
        call_command(command, verbosity=0)
    assert changed == []
    with pytest.raises(SystemExit):
        ensure_event_store.Command().run_from_argv(["manage.py", "x", "--version"])
    assert changed == [(ALLOCATIONS, *host[1:])]


# --- ids that begin with a dash


NANOID = "-V1StGXR8_Z5jdHi6B-my"


@pytest.mark.parametrize(
    ("command", "options", "name"),
    [
        ("export_events", ["--id", NANOID], "ids"),
        ("verify_event_store", ["--all", "--id", NANOID], "ids"),
        ("rebuild_aggregates", ["--type", "-x", "--id", NANOID], "ids"),
        ("rebuild_aggregates", [f"--id={NANOID}"], "ids"),
        ("subscriptions", ["retry", "mail", "--stream", NANOID], "stream"),
        ("subscriptions", ["skip", "mail", "--reason", NANOID], "reason"),
    ],
)
def test_a_value_may_begin_with_a_dash(command, options, name):
    tool = load_command_class("ossy_event_store", command)
    parsed = tool.create_parser("manage.py", command).parse_args(options)
    assert getattr(parsed, name) in (NANOID, [NANOID])


def test_an_option_is_not_taken_for_a_value():
    failure("export_events", "--id", "--verbosity", "1")
    failure("export_events", "--id")


@pytest.mark.parametrize("command", ["export_events", "verify_event_store"])
def test_a_stream_whose_id_begins_with_a_dash_is_found(store, command):
    event = {"type": "BookBought", "aggregateId": NANOID, "aggregateType": "Book"}
    EventStore.append_event({**event, "payload": {}})
    run(command, "--id", NANOID)


# --- numbers of things


def test_the_commands_report_one_stream(store):
    EventStore.append_event(
        {"type": "Bought", "aggregateId": "b-1", "aggregateType": "Book"}
    )
    said = [
        *run("rebuild_aggregates", interactive=False),
        *run("verify_event_store"),
        *run("export_events", output=os.devnull),
    ]
    assert re.findall(r"(?<![\d.,])1 \w+s\b(?!/)", " ".join(said)) == []
    assert " ".join(said).count("1 event ") == 2


@pytest.mark.usefixtures("quick")
def test_a_terminal_without_some_characters_gets_escapes(store, monkeypatch):
    subscription("förråd")(print)
    monkeypatch.setattr(sys, "stdout", Standard())
    Command().run_from_argv(["manage.py", "subscriptions", "--no-color"])
    sys.stdout.flush()
    assert b"f\\xf6rr\\xe5d" in sys.stdout.buffer.getvalue()


@pytest.mark.parametrize("command", ["ensure_event_store", "run_subscriptions"])
def test_a_database_of_the_node_package_3_is_said_in_one_line(of_node_3, command):
    error = str(failure(command))
    assert "eventstore holds events of @ossy/event-store 3.x" in error
    assert "\n" not in error


# --- progress ---------------------------------------------------------------


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def progress(out, total=None, verbosity=1):
    clock = Clock()
    return Progress(OutputWrapper(out), total, verbosity, clock), clock


@pytest.mark.parametrize(
    ("total", "done", "seconds", "text"),
    [
        (None, 0, 0, "0 events, 0 events/s"),
        (None, 1500, 3, "1,500 events, 500 events/s"),
        (3000, 1500, 3, "1,500 of 3,000 events (50%), 500 events/s, 3 s left"),
        (3000, 0, 3, "0 of 3,000 events (0%), 0 events/s"),
        (3000, 3000, 3, "3,000 of 3,000 events (100%), 1,000 events/s"),
        (3000, 3100, 1, "3,100 of 3,100 events (100%), 3,100 events/s"),
        (0, 5, 1, "5 events, 5 events/s"),
        (7300, 100, 1, "100 of 7,300 events (1%), 100 events/s, 1 min 12 s left"),
        (10**6, 100, 1, "100 of 1,000,000 events (0%), 100 events/s, 2 h 46 min left"),
    ],
)
def test_progress_shows_count_share_rate_and_time_left(total, done, seconds, text):
    assert progress(io.StringIO(), total)[0].text(done, seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (59.4, "59 s"), (59.6, "1 min 0 s"), (3599.6, "1 h 0 min")],
)
def test_a_duration_is_rounded_to_whole_seconds(seconds, text):
    assert duration(seconds) == text


def test_a_terminal_has_one_moving_line(store):
    out = Terminal()
    shown, clock = progress(out)
    for done in (1, 2):
        clock.now += 0.2
        shown.show(done, 1, "2 streams")
    assert out.getvalue() == (
        "\r\x1b[K1 event, 1 events/s, 2 streams\r\x1b[K2 events, 2 events/s, 2 streams"
    )


def test_the_moving_line_is_cleared_at_the_end():
    out = Terminal()
    shown, clock = progress(out)
    clock.now = 1
    shown.show(1, 1)
    shown.end()
    shown.end()
    assert out.getvalue().count("\r\x1b[K") == 2
    assert out.getvalue().endswith("\r\x1b[K")


@pytest.mark.parametrize(("stream", "pause"), [(Terminal, 0.2), (io.StringIO, 10)])
def test_progress_pauses_between_updates(stream, pause):
    out = stream()
    shown, clock = progress(out)
    clock.now = pause * 0.99
    shown.show(1, 1)
    assert out.getvalue() == ""
    clock.now = pause
    shown.show(1, 1)
    assert out.getvalue()


def test_a_log_file_gets_whole_lines_and_no_escapes():
    out = io.StringIO()
    shown, clock = progress(out)
    clock.now = 10
    shown.show(1, 1)
    shown.end()
    assert out.getvalue() == "1 event, 1 events/s\n"


@pytest.mark.parametrize("stream", [Terminal, io.StringIO])
def test_progress_without_verbosity_writes_nothing(stream):
    out = stream()
    shown, clock = progress(out, verbosity=0)
    clock.now = 100
    shown.show(1, 1)
    shown.end()
    assert out.getvalue() == ""
