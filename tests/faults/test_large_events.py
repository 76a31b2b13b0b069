"""Events of a megabyte: what reads the whole log does so in little memory."""

import os
import re
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ossy_event_store.mongodb import connection
from ossy_event_store.subscriptions.runner import assign_positions
from tests.support.event_source import Source
from tests.support.positions import event
from tests.support.processes import ON_URL, here
from tests.support.push import serving_alone

pytestmark = [pytest.mark.faults, ON_URL]

EVENTS, SIZE = 400, 1_000_000
MOST = 150  # MB above the start, while all events have 400

BEGIN = """
import os, re, django
django.setup()
from pathlib import Path
from django.core.management import call_command
from ossy_event_store import AggregateRebuild, EventStore
from ossy_event_store import Projection, register_projection
from ossy_event_store.subscriptions import snapshot_subscription

class Sizes(Projection):
    name = "sizes"
    @staticmethod
    def key(event):
        return event["aggregateId"]
    @staticmethod
    def apply(event, state):
        return {"bytes": state.get("bytes", 0) + len(event["payload"]["text"])}

def peak():
    # Unlike ru_maxrss, that of the process that started this one does not count.
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\\s+(\\d+)", status)[1])

snapshot_subscription.register()
EventStore.collection.find_one({})
before = peak()
"""
END = """
print((peak() - before) // 1024)
"""
USES = {
    "rebuild": "report = AggregateRebuild.build_and_save_all()\n"
    f"assert report.events == {EVENTS} and not report.failed, report",
    "export": "call_command('export_events', output=os.devnull, verbosity=0)",
    "subscriptions": "register_projection(Sizes)\n"
    "call_command('run_subscriptions', until_caught_up=True, verbosity=0)\n"
    f"assert sum(Sizes.get(n)['bytes'] for n in ('one', 'two')) == {EVENTS * SIZE}",
    # The events have positions by now.
    "read all": f"assert sum(1 for _ in EventStore.read_all()) == {EVENTS}",
    "verify": "call_command('verify_event_store', verbosity=0)",
}


def insert(history):
    for at in range(EVENTS):
        name, version = ("one", "two")[at % 2], at // 2 + 1
        history.insert_one(
            event(name, version, payload={"text": "x" * SIZE, "to": "ann"})
        )


def test_memory_is_bounded_by_bytes(store, history):
    insert(history)
    grown = {use: memory_grown(store, use) for use in USES}
    assert {use: mb for use, mb in grown.items() if mb >= MOST} == {}


def memory_grown(store, use):
    """Return by how many MB another process grows that reads the whole log."""
    # Each use finds the events alone.
    connection.raw(store.snapshots).delete_many({})
    done = subprocess.run(
        [sys.executable, "-c", BEGIN + USES[use] + END],
        env={**os.environ, **here(store)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout.split()[-1])


def peak(pid):
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+)", status)[1]) // 1024


def test_pushing_large_events_takes_memory_bounded_by_bytes(store, history, tmp_path):
    def read(port):
        with Source(port, "/push/payload/?after=0") as source:
            return sum(len(source.message().data["payload"]["text"]) for _ in each)

    insert(history)
    assign_positions(threading.Event())
    each = range(EVENTS)
    with serving_alone(store, tmp_path) as (port, log), ThreadPoolExecutor() as pool:
        (pid,) = re.findall(r"Started server process \[(\d+)\]", log())
        with Source(port, "/push/lively/") as source:
            source.begin()
        before = peak(pid)
        with Source(port, "/push/payload/?after=0", window=4096) as idle:
            assert idle.status == 200
            assert list(pool.map(read, [port] * 2)) == [EVENTS * SIZE] * 2
        grown = peak(pid) - before
    assert grown < MOST, f"{grown} MB"
