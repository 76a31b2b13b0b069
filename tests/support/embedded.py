"""Processes that own an embedded server, and what runs for it."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from pymongo import MongoClient

from ossy_event_store.embedded import server as embedded

OWNER = """
import os, subprocess, sys
from ossy_event_store.embedded import server as embedded
print(embedded.start(sys.argv[1], grace=float(sys.argv[2])), flush=True)
"""
STAYS = "sys.stdin.read()"


def start(folder: Path | str, mongod: str | None = None, **options: float) -> str:
    """Start a server that ends with its last owner, and return its URL."""
    return embedded.start(str(folder), mongod, **{"grace": 0, **options})


def until(condition: Callable[[], object], seconds: float = 15) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.02)


def processes(word: str, folder: Path) -> list[int]:
    """The ids of the processes with both in their command; a zombie has none."""
    commands: dict[int, str] = {}
    if Path("/proc/self").exists():
        for file in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                commands[int(file.parent.name)] = file.read_text().replace("\0", " ")
    else:
        ps = subprocess.run(
            ["ps", "-axww", "-o", "pid=,command="], capture_output=True, text=True
        )
        for line in ps.stdout.splitlines():
            pid, _, command = line.strip().partition(" ")
            commands[int(pid)] = command
    return [
        pid
        for pid, command in commands.items()
        if f"{word} " in command and f"{folder}/data " in command
    ]


def keepers(folder: Path) -> list[int]:
    return processes("embedded/keeper.py", folder)


def servers(folder: Path) -> list[int]:
    return [pid for pid in processes("mongod", folder) if pid not in keepers(folder)]


def is_gone(folder: Path) -> bool:
    return not processes("", folder)


@contextlib.contextmanager
def owner(
    folder: Path | str, grace: float = 0, then: str = STAYS
) -> Iterator[subprocess.Popen[str]]:
    """Another process that starts the server, and then runs ``then``."""
    process = subprocess.Popen(
        [sys.executable, "-c", OWNER + then, str(folder), str(grace)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(embedded.__file__).parents[2])},
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def read(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def write(url: str, value: int) -> None:
    with MongoClient(url) as client:
        client.test.things.insert_one({"_id": value})


def values(url: str) -> list[int]:
    with MongoClient(url) as client:
        return [each["_id"] for each in client.test.things.find().sort("_id")]
