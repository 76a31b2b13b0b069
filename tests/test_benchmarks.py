"""The benchmarks run, and report what they measured."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "benchmarks"

spec = importlib.util.spec_from_file_location("bench", FOLDER / "bench.py")
bench = importlib.util.module_from_spec(spec)
spec.loader.exec_module(bench)


def test_a_ratio_is_the_median_of_the_rounds():
    seconds = {"store": [1.0, 2.0, 4.0], "bare": [0.9, 1.8, 3.6]}
    row = bench.row("append", 100, seconds, least=0.9)
    assert (row["store"], row["bare"], row["ratio"]) == (50, 56, 0.9)
    assert row["result"] == "met"


def test_a_rate_below_its_target_is_shown():
    row = bench.row("append", 100, {"store": [1.0], "bare": [0.89]}, least=0.9)
    assert (row["target"], row["result"]) == ("≥ 0.90", "below target: 0.89")
    assert "below target: 0.89" in "\n".join(bench.text_of([row]))


def test_a_time_above_its_target_is_shown():
    row = bench.row("load", 1, {"store": [2.1], "bare": [1.0]}, most=2)
    assert (row["ratio"], row["target"]) == (2.1, "≤ 2")
    assert row["result"] == "above target: 2.10"


def test_turns_alternate():
    called = []
    bench.turns(2, a=lambda: called.append("a"), b=lambda: called.append("b"))
    assert called == ["a", "b", "b", "a"]


def test_a_function_may_measure_itself():
    assert bench.turns(1, a=lambda: 7.5) == {"a": [7.5]}


@pytest.mark.docs
def test_the_table_is_measured_and_written(tmp_path):
    rows = ("start", "append-10", "load", "awaitable", "import", "rebuild", "memory")
    only = [f"--only={name}" for name in (*rows, "stale", "verify")]
    done = subprocess.run(
        [
            sys.executable,
            FOLDER / "table.py",
            *("--events", "2000", "--rounds", "1", "--json", tmp_path / "figures"),
            *("--markdown", tmp_path / "table.md"),
            *only,
        ],
        env={k: v for k, v in os.environ.items() if not k.startswith("DB_")},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    figures = json.loads((tmp_path / "figures").read_text())
    assert figures["machine"]["mongodb"]
    assert len(figures["rows"]) == 12
    assert "full rebuild, events" in done.stdout
    assert "| full rebuild, events |" in (tmp_path / "table.md").read_text()


# --- leaks.py ---------------------------------------------------------------

SOUND = ""
KEEPS_CLIENTS = """
from ossy_event_store.mongodb import connection

async def forgotten(loop, client):
    kept.append(client)
    yield

kept, connection._closed_with_the_loop = [], forgotten
"""


def leaks_of(tmp_path, variant, *arguments):
    """Run leaks.py on a variant of the store; return the exit code and the figures."""
    (tmp_path / "sitecustomize.py").write_text(variant)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("DB_")}
    done = subprocess.run(
        [sys.executable, FOLDER / "leaks.py", "--json", *arguments],
        env={**environment, "PYTHONPATH": f"{tmp_path}{os.pathsep}{FOLDER.parent}"},
        stdout=subprocess.PIPE,
        text=True,
    )
    return done.returncode, json.loads(done.stdout.splitlines()[-1])["figures"]


@pytest.mark.faults
@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="reads /proc")
def test_nothing_is_left_of_any_kind_of_work(tmp_path):
    code, figures = leaks_of(tmp_path, SOUND, "--count=200")
    kinds = ["loops", "requests", "streams", "appends"]
    assert [(found["kind"], found["grown"]) for found in figures] == [
        (kind, []) for kind in kinds
    ]
    assert code == 0


@pytest.mark.faults
@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="reads /proc")
def test_a_client_that_outlives_its_loop_is_found(tmp_path):
    code, (found,) = leaks_of(tmp_path, KEEPS_CLIENTS, "--only=loops", "--count=50")
    assert {"files", "connections", "sessions"} <= set(found["grown"])
    assert code == 1
