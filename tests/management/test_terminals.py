"""Terminals that are narrow or know few characters, and numbers in other digits."""

import os
import subprocess
import sys
import threading

import pytest
from django.utils import translation

from ossy_event_store import EventStore
from ossy_event_store.mongodb.ports import drive
from ossy_event_store.subscriptions.checkpoints import find_or_create
from ossy_event_store.subscriptions.runner import assign_positions
from tests.support.commands import run
from tests.support.processes import ON_URL, here

ID = "\u65e5\u202e\U0001f600 b"

# Each command as a process of its own would run it, and what it may answer.
EACH = """
import sys
import django
from django.core.management import ManagementUtility
django.setup()
ID = "\\u65e5\\u202e\\U0001f600 b"
COMMANDS = [
    ("ensure_event_store",),
    ("check", "--database", "default"),
    ("rebuild_aggregates", "--no-input"),
    ("rebuild_aggregates", "--id", ID),
    ("rebuild_aggregates", "--dry-run"),
    ("rebuild_aggregates", "--id", ID + "x"),
    ("rebuild_projections",),
    ("events", "tail", "--order", "created"),
    ("events", "tail", "--order", "created", "--json"),
    ("events", "show", ID + "@1", "--state"),
    ("events", "show", ID + "@2"),
    ("export_events", "--id", ID),
    ("export_events", "--id", ID + "x"),
    ("export_events", "--output", sys.argv[1] + "/events"),
    ("import_events", sys.argv[1] + "/events"),
    ("import_events", sys.argv[1] + "/none"),
    ("run_subscriptions", "--until-caught-up"),
    ("run_subscriptions", ID),
    ("subscriptions",),
    ("subscriptions", "show", "snapshots"),
    ("subscriptions", "show", ID),
    ("subscriptions", "retry", "snapshots", "--stream", ID),
    ("verify_event_store",),
    ("verify_event_store", "--json"),
    ("verify_event_store", "--id", ID + "x"),
    ("verify_event_store", "--accept-loss", ID, "--reason", ID),
]
NAMES = sorted({command for command, *_ in COMMANDS} - {"check"})
for arguments in [*COMMANDS, *((name, "--help") for name in NAMES)]:
    try:
        ManagementUtility(["manage.py", *arguments]).execute()
        code = 0
    except SystemExit as end:
        code = end.code or 0
    assert code in (0, 1, 2), code
    print("\\n====", arguments[0], code, flush=True)
"""


@pytest.mark.faults  # it runs every command
@ON_URL
def test_every_command_works_on_a_poor_terminal(store, tmp_path):
    EventStore.append_event(
        {"aggregateId": ID, "aggregateType": "Book", "type": "BookBought"}
    )
    poor = {
        "COLUMNS": "20",
        "PYTHONIOENCODING": "ascii",
        "LC_ALL": "C",
        "PYTHONCOERCECLOCALE": "0",
        "PYTHONUTF8": "0",
    }
    done = subprocess.run(
        [sys.executable, "-c", EACH, str(tmp_path)],
        env={**os.environ, **here(store), **poor},
        capture_output=True,
        timeout=120,
        check=False,
    )
    out, err = done.stdout.decode(), done.stderr.decode()
    assert done.returncode == 0, out + err
    assert "Traceback" not in out + err
    assert out.count("====") == 26 + 9
    # The events themselves are data, which is UTF-8 whatever the terminal.
    text = [line for line in (out + err).splitlines() if line[:1] != "{"]
    assert [line for line in text if not line.isascii()] == []
    assert "\\u65e5" in err


# --- numbers


def test_numbers_may_be_given_in_the_digits_of_any_language(store, lend):
    for version in range(12):
        lend(f"b-{version}", "BookBought")
    assign_positions(threading.Event())
    drive(find_or_create(store, "mail", 0, "subscription"))
    for digits in ("\u0661\u0662", "\u06f1\u06f2", "12"):  # Arabic, Persian
        out, _ = run("subscriptions", "reset", "mail", "--to", digits)
        assert out == "mail continues after position 12.\n"
    out, _ = run("rebuild_aggregates", "--partition", "\u0660/\u0661", "--no-input")
    assert out.startswith("Rebuilt 12 streams")
    run("verify_event_store", "--sample", "\u0661")


@pytest.mark.parametrize("language", ["ar", "fa"])
def test_output_is_the_same_in_any_language(store, lend, settings, language):
    settings.USE_THOUSAND_SEPARATOR = True
    event = {"aggregateId": "b", "aggregateType": "Book", "type": "BookBought"}
    EventStore.append_events([{**event, "payload": {"title": "Emma"}}] * 1200)
    with translation.override(language):
        out, _ = run("rebuild_aggregates", interactive=False)
        assert out.startswith("Rebuilt 1 stream, 1,200 events")
        assert "1,200 events" in run("verify_event_store")[0]
        assert run("subscriptions")[0]
