"""Events of a megabyte: what reads the whole log does so in little memory."""

import os
import subprocess
import sys

import pytest

from ossy_event_store.mongodb import connection
from tests.support.positions import event
from tests.support.processes import ON_URL, here

pytestmark = [pytest.mark.faults, ON_URL]

EVENTS, SIZE = 400, 1_000_000
MOST = 150  # MB, while all events have 400
# Two subscriptions at a time, each of which reads a page ahead: 174 MB were measured.
MOST_OF_SUBSCRIPTIONS = 220

BEGIN = """
import os, resource, django
django.setup()
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

snapshot_subscription.register()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
"""
END = """
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print((peak - before) // 1024)
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
}


def test_memory_is_bounded_by_bytes(store, history):
    for at in range(EVENTS):
        name, version = ("one", "two")[at % 2], at // 2 + 1
        history.insert_one(
            event(name, version, payload={"text": "x" * SIZE, "to": "ann"})
        )
    grown = {use: memory_grown(store, use) for use in USES}
    most = {"subscriptions": MOST_OF_SUBSCRIPTIONS}
    assert {u: mb for u, mb in grown.items() if mb >= most.get(u, MOST)} == {}


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
