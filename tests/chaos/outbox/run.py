"""The run: writers that commit and roll back, relays, and kill -9 for all of them."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import django
from django.db import ConnectionHandler

from ossy_event_store.embedded import keeper
from tests.support.relational import POSTGRESQL
from tests.support.servers import running, until

from .. import report as appends
from ..database import read_contents
from ..run import ROOT
from .blocks import PARTS, TABLE
from .checker import Block, Left, Violations, check

OUTBOX = "ossy_event_store_relational_outbox"
DATABASE = "chaos"
END = 600  # seconds for the writers to be done
# Seconds of a process until it is killed wherever it is; a relay needs one to begin.
LIVES = {"writer": (0.3, 3.0), "relay": (2.0, 8.0)}
DRAIN = 60  # seconds for the relays, which are harmed, to append what is left


@dataclass
class Options:
    """What a run does."""

    seed: int
    writers: int = 4
    blocks: int = 500  # of each writer
    relays: int = 2
    #: The share of steps after which a process dies; 0 harms nobody.
    deadly: float = 0.01
    #: Whether the writers leave every append to the relays.
    relay_only: bool = False
    #: Seconds that a writer rests between two blocks, on average.
    pause: float = 0.0
    variant: str = ""


@dataclass
class Report(appends.Facts):
    seed: int
    seconds: float
    database: str
    committed: int
    rolled_back: int
    events: int
    lost: int
    twice: int
    phantom: int
    out_of_order: int
    #: Kills by where they struck.
    kills: dict[str, int]
    #: Milliseconds from the commit to the append.
    lag_p50: int
    lag_p99: int
    longest_lag: int
    violations: Violations


def run(folder: Path, options: Options) -> Report:
    """Run in an empty folder, and return what came of it."""
    began = time.monotonic()
    with running(folder / "servers", 1) as servers, sql(folder) as database:
        here = {
            "url": servers.url(),
            "database": DATABASE,
            "sql": database,
            "deadly": options.deadly,
            "relay_only": options.relay_only,
            "variant": options.variant,
        }
        with connected(database) as connection:
            connection.cursor().execute(TABLE)
        finish(start(folder, here, "-m", "django", "migrate", "-v", "0"))
        at_work(folder, here, options)
        # Nobody is harmed any more.
        once = {**here, "deadly": 0.0, "relay_only": False}
        relay = ("run_subscriptions", "--until-caught-up", "-v", "0")
        finish(start(folder, once, "-m", "django", *relay))
        with servers.primary.client() as client:
            events = read_contents(client, DATABASE).events
        left = read(folder, database, events)
    return report(left, options, time.monotonic() - began)


def at_work(folder: Path, here: dict[str, Any], options: Options) -> None:
    """Let the writers work through their blocks while relays run."""
    names = [f"relay-{n}" for n in range(options.relays)]
    names += [f"writer-{n}" for n in range(options.writers)]
    processes = {}
    try:
        for name in names:
            if name == "writer-0" and not options.deadly:
                until(lambda: all(map(is_relaying, folder.glob("relay-*.notes"))))
            (folder / f"{name}.notes").touch()
            own = {
                "name": name,
                "kind": name.partition("-")[0],
                "folder": str(folder),
                "seed": options.seed,
                "blocks": options.blocks,
                "pause": options.pause,
                "lives": LIVES[name.partition("-")[0]] if options.deadly else None,
            }
            module = ("-m", "tests.chaos.outbox.process", json.dumps(own))
            processes[name] = start(folder, here, *module)
        for name, process in processes.items():
            if name.startswith("writer"):
                finish(process)
        with contextlib.suppress(AssertionError):  # the last relay is not harmed
            until(lambda: not rows_in(here["sql"]), DRAIN)
        for name, process in processes.items():
            if name.startswith("relay"):
                process.terminate()
                finish(process)
    finally:
        for process in processes.values():
            process.kill()
            process.wait()


def rows_in(database: dict[str, Any]) -> int:
    """Return how many rows the outbox has."""
    with connected(database) as connection, connection.cursor() as cursor:
        cursor.execute(f"SELECT count(*) FROM {OUTBOX}")
        ((rows,),) = cursor.fetchall()
        return int(rows)


def is_relaying(notes: Path) -> bool:
    """Whether a relay is at work, and not only beginning."""
    return "relaying" in notes.read_text()


def start(folder: Path, here: dict[str, Any], *command: str) -> subprocess.Popen[bytes]:
    with (folder / "log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, *command],
            cwd=ROOT,
            env={
                **os.environ,
                "DJANGO_SETTINGS_MODULE": "tests.chaos.outbox.settings",
                "CHAOS": json.dumps(here),
            },
            stdout=log,
            stderr=log,
            preexec_fn=keeper.die_with_parent(),
        )


def finish(process: subprocess.Popen[bytes]) -> None:
    code = process.wait(END)
    assert code == 0, f"{process.args} ended with {code}, see the log"


# --- the SQL database ---------------------------------------------------------


@contextlib.contextmanager
def sql(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield the settings of an empty database: SQLite, or the PostgreSQL of a run."""
    if not POSTGRESQL:
        yield {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": str(folder / "db.sqlite3"),
            "OPTIONS": {"timeout": 60},
        }
        return
    name = f"chaos_{os.getpid()}_{time.monotonic_ns()}"
    engine = {"ENGINE": "django.db.backends.postgresql"}
    with connected({**engine, "NAME": POSTGRESQL}) as connection:
        connection.cursor().execute(f"CREATE DATABASE {name}")
        try:
            yield {**engine, "NAME": name}
        finally:
            connection.cursor().execute(f"DROP DATABASE {name} WITH (FORCE)")


@contextlib.contextmanager
def connected(database: dict[str, Any]) -> Iterator[Any]:
    with contextlib.closing(ConnectionHandler({"default": database})["default"]) as one:
        yield one


# --- what is left ---------------------------------------------------------------


def read(folder: Path, database: dict[str, Any], events: list[Any]) -> Left:
    notes = {
        path.stem: [line.split() for line in path.read_text().splitlines()]
        for path in folder.glob("*.notes")
    }
    committed = {
        (name, int(line[1])): float(line[2])
        for name, lines in notes.items()
        for line in lines
        if line[0] == "committed"
    }
    appended: dict[tuple[str, int], float] = {}
    for line in (line for lines in notes.values() for line in lines):
        if line[0] == "appended":  # the last event of each block
            key = line[1], int(line[2])
            appended[key] = max(appended.get(key, 0.0), float(line[3]))
    streams = defaultdict(list)
    for event in events:
        streams[event["aggregateId"]].append(event)
    with connected(database) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT worker, number, stream, began FROM blocks")
        blocks = {
            (worker, number): Block(stream, began, committed.get((worker, number)))
            for worker, number, stream, began in cursor.fetchall()
        }
    return Left(
        blocks=blocks,
        streams=streams,
        rows=rows_in(database),
        kills=Counter(
            line[1] for lines in notes.values() for line in lines if line[0] == "killed"
        ),
        lags=[appended[key] - at for key, at in committed.items() if key in appended],
    )


def report(left: Left, options: Options, seconds: float) -> Report:
    found = check(left)
    count = {name: len(texts) for name, texts in found.items()}
    lags = sorted(left.lags) or [0.0]
    return Report(
        seed=options.seed,
        seconds=seconds,
        database=f"{'PostgreSQL' if POSTGRESQL else 'SQLite'}, Django "
        f"{django.get_version()}",
        committed=len(left.blocks),
        rolled_back=options.writers * options.blocks - len(left.blocks),
        events=sum(map(len, left.streams.values())),
        lost=count.get("lost", 0),
        twice=count.get("twice", 0),
        phantom=count.get("phantom", 0),
        out_of_order=count.get("out of order", 0),
        kills=dict(left.kills),
        lag_p50=round(1000 * lags[len(lags) // 2]),
        lag_p99=round(1000 * lags[int(len(lags) * 0.99)]),
        longest_lag=round(1000 * lags[-1]),
        violations=found,
    )


def expected(made: Report) -> int:
    """Return how many events the committed blocks have."""
    return PARTS * made.committed
