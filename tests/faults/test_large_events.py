"""Events of a megabyte: what reads the whole log does so in little memory."""

import os
import subprocess
import sys
import threading

import pytest

from ossy_event_store.subscriptions.runner import assign_positions
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
    "read all": f"assert sum(1 for _ in EventStore.read_all()) == {EVENTS}",
    "subscriptions": "register_projection(Sizes)\n"
    "call_command('run_subscriptions', until_caught_up=True, verbosity=0)\n"
    f"assert sum(Sizes.get(n)['bytes'] for n in ('one', 'two')) == {EVENTS * SIZE}",
}


@pytest.mark.parametrize("use", USES)
def test_memory_is_bounded_by_bytes(store, history, use):
    for at in range(EVENTS):
        name, version = ("one", "two")[at % 2], at // 2 + 1
        history.insert_one(
            event(name, version, payload={"text": "x" * SIZE, "to": "ann"})
        )
    if use == "read all":
        assign_positions(threading.Event())
    done = subprocess.run(
        [sys.executable, "-c", BEGIN + USES[use] + END],
        env={**os.environ, **here(store)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    grown = int(done.stdout.split()[-1])
    most = MOST_OF_SUBSCRIPTIONS if use == "subscriptions" else MOST
    assert grown < most, f"{grown} MB"
