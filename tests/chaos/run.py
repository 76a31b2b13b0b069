"""The run: three nodes, worker processes, a nemesis, and a look at what is left."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.support.servers import Servers, running

from . import database, history
from .nemesis import Nemesis
from .report import Report, report

ROOT = Path(__file__).parent.parent.parent
DATABASE = "chaos"
TIMEOUT = 4.0  # the store's: short enough for outcomes to be unknown
DRAIN = 180  # seconds for the workers to finish what they have begun

CREWS = {
    "blocking-1": {"own": 6, "shared": 6, "decider": 6, "saver": 2, "reader": 1},
    "awaitable-1": {"own": 40, "shared": 20, "decider": 7, "saver": 3, "reader": 2},
    "awaitable-2": {"own": 40, "shared": 20, "decider": 7, "saver": 3, "reader": 2},
}


def run(folder: Path, seconds: float, seed: int) -> Report:
    """Run for some seconds in an empty folder and return what came of it."""
    began = time.monotonic()
    with running(folder / "servers", 3) as servers:
        with servers.primary.client() as client:
            database.create_indexes(client, DATABASE)
        nemesis = Nemesis(servers, seed)
        with workers(folder, servers, seed):
            nemesis.run(seconds)
        with servers.primary.client() as client:
            left = database.read_database(client, DATABASE)
    told = history.read(sorted(folder.glob("*.history")))
    took = time.monotonic() - began
    return report(told, left, seed=seed, seconds=took, nemesis=nemesis.done)


@contextlib.contextmanager
def workers(folder: Path, servers: Servers, seed: int) -> Iterator[None]:
    """Keep the workers at work; then let them finish, and see that all is well."""
    processes = [work(folder, name, servers, seed) for name in CREWS]
    try:
        yield
        for process in processes:
            assert process.stdin
            process.stdin.close()
        codes = [process.wait(DRAIN) for process in processes]
        assert not any(codes), f"workers ended with {codes}, see {folder}"
    finally:
        for process in processes:
            process.kill()
            process.wait()


def work(
    folder: Path, name: str, servers: Servers, seed: int
) -> subprocess.Popen[bytes]:
    options: dict[str, Any] = {
        "name": name,
        "face": name.partition("-")[0],
        "crew": CREWS[name],
        "seed": seed,
        "url": servers.url(heartbeatFrequencyMS=500),
        "database": DATABASE,
        "timeout": TIMEOUT,
        "history": str(folder / f"{name}.history"),
    }
    with (folder / f"{name}.errors").open("wb") as errors:
        return subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.worker", json.dumps(options)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=errors,
            stderr=errors,
        )
