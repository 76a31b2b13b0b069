"""
The whole path on 262,200 real events of loan applications.

The log lies beside the repository and is not part of it; without it these tests
are skipped.
"""

import gzip
import importlib.util
import os
import sys
from pathlib import Path

import pytest
from django.core.management import call_command

from ossy_event_store import Aggregate, AggregateRebuild, EventStore
from ossy_event_store.aggregate import registry

ROOT = Path(__file__).resolve().parents[1]
LOG = ROOT.parent / "shared" / "data" / "loan-applications.jsonl.gz"
EVENTS, STREAMS = 262_200, 13_087

pytestmark = [
    pytest.mark.faults,
    pytest.mark.no_cover,  # many events, but nothing that no other test does
    pytest.mark.skipif(
        not LOG.exists(), reason=f"{LOG.name} is not beside the project"
    ),
]


@pytest.fixture
def loans(monkeypatch):
    """The reducer of the example project, registered for one test."""
    path = ROOT / "example_project" / "loans" / "aggregate.py"
    spec = importlib.util.spec_from_file_location("loans_aggregate", path)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "loans_aggregate", module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(registry, "_registered", {})
    return registry.register_aggregate(module.Aggregate)


def resident():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def sorted_lines(path):
    with gzip.open(path, "rt") as file:
        return sorted(file)


def test_the_log_comes_in_is_folded_and_goes_out_again(store, loans, tmp_path, capsys):
    call_command("import_events", str(LOG), verbosity=0)
    assert EventStore.collection.estimated_document_count() == EVENTS

    memory = []
    report = AggregateRebuild.build_and_save_all(
        progress=lambda report: memory.append((report.events, resident()))
    )
    assert (report.streams, report.events, report.failed) == (STREAMS, EVENTS, 0)
    early = next(size for events, size in memory if events >= 26_000)
    assert max(size for _, size in memory) - early < 60_000_000

    groups = Aggregate.collection.aggregate(
        [
            {
                "$group": {
                    "_id": "$state.status",
                    "n": {"$sum": 1},
                    "amount": {"$sum": "$state.amount"},
                }
            }
        ]
    )
    found = {group["_id"]: group for group in groups}
    assert {status: group["n"] for status, group in found.items()} == {
        "approved": 2246,
        "declined": 7635,
        "cancelled": 2807,
        "open": 399,
    }
    assert sum(group["amount"] for group in found.values()) == 177_634_511
    assert AggregateRebuild.build_and_save_all(stale=True).streams == 0

    out = tmp_path / "out.jsonl.gz"
    call_command("export_events", output=str(out), verbosity=0)
    assert sorted_lines(out) == sorted_lines(LOG)
