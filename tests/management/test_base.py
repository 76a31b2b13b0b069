"""What all commands do alike: errors of one line, exit codes, progress."""

import io

import pytest
from django.core.management.base import OutputWrapper

from ossy_event_store.management.commands._base import WRONG_USE, Progress, duration
from tests.support.commands import Terminal, failure

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
        "\r\x1b[K1 events, 1 events/s, 2 streams\r\x1b[K2 events, 2 events/s, 2 streams"
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
    assert out.getvalue() == "1 events, 1 events/s\n"


@pytest.mark.parametrize("stream", [Terminal, io.StringIO])
def test_progress_without_verbosity_writes_nothing(stream):
    out = stream()
    shown, clock = progress(out, verbosity=0)
    clock.now = 100
    shown.show(1, 1)
    shown.end()
    assert out.getvalue() == ""
