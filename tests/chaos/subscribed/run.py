"""The run: three members, writers, sequencers, subscribers, and what harms them."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pymongo
from pymongo import MongoClient
from pymongo.errors import PyMongoError

from ossy_event_store.documents.collections import EVENTS, SUBSCRIPTIONS
from tests.support.servers import Servers, running, until

from .. import database, history
from ..nemesis import ACTIONS, Nemesis, kill_the_primary
from . import operated as operations
from .crew import FOLLOWERS, Crew
from .effects import EFFECTS, IN_SQL, ROWS_FILE, STRICT, TABLE, TOTALS, read_effects
from .report import Report, report
from .watch import MET

DATABASE = "chaos"
TIMEOUT = 4.0  # the store's: short enough for outcomes to be unknown
SIZES = {  # a writer process is two
    "writer": 4,
    "sequencer": 2,
    "subscriber": 3,
    "operator": 1,
}
SPELL = 20.0  # seconds from one time that the history is lost to the next
SETTLES = 120  # seconds for all subscriptions to come to the end, once all is well

# What a member keeps of what was written: as much as it misses while it is down.
OPLOG = 32  # MB
# Only what is in a checkpoint is dropped from it; those are made this often.
CHECKPOINTS = ("--syncdelay", "2")
FILLING = 500_000  # bytes of one document


def run(folder: Path, seconds: float, seed: int) -> Report:
    """Run for some seconds in an empty folder and return what came of it."""
    began = time.monotonic()
    with running(folder / "servers", 3, oplog=OPLOG, options=CHECKPOINTS) as servers:
        crew = Crew(folder, seed, here(folder, servers), SIZES)
        crew.once("migrate", "--verbosity", "0")
        make_tables(servers, folder)
        nemesis = Nemesis(servers, seed, [*ACTIONS, kill_the_primary])
        with crew.at_work():
            with crew.harmed():
                harm(nemesis, crew, seconds)
            crew.end("writer")
            settling = time.monotonic()
            crew.end("operator")
            settle(servers)
            settled = time.monotonic() - settling
            crew.end("subscriber", "sequencer")
        with servers.primary.client() as client:
            left = database.read_contents(client, DATABASE)
            effects = read_effects(client, DATABASE, folder)
            term = client.admin.command("replSetGetStatus")["term"]
        effects.odd += crew.odd
        operated = operations.read(sorted(folder.glob("*.operations")))
        effects.skips = operated.skips
    return report(
        history.read(sorted(folder.glob("*.history"))),
        left,
        effects,
        seed=seed,
        seconds=time.monotonic() - began,
        settled=settled,
        fail_overs=term - 1,
        nemesis=nemesis.done,
        crew=crew.done,
        operated=operated.counts,
        met=Counter((folder / MET).read_text().split()),
    )


def here(folder: Path, servers: Servers) -> dict[str, Any]:
    return {
        "url": servers.url(heartbeatFrequencyMS=500),
        "database": DATABASE,
        "timeout": TIMEOUT,
        "folder": str(folder),
        "rows": str(folder / ROWS_FILE),
    }


def make_tables(servers: Servers, folder: Path) -> None:
    """Make what is written to in transactions, which make nothing."""
    with servers.primary.client() as client:
        for name in (EFFECTS, STRICT, TOTALS):
            client[DATABASE].create_collection(name)
    with contextlib.closing(sqlite3.connect(folder / ROWS_FILE)) as connection:
        for name in IN_SQL:
            connection.execute(TABLE.format(name))


def harm(nemesis: Nemesis, crew: Crew, seconds: float) -> None:
    ends = time.monotonic() + seconds
    while (left := ends - time.monotonic()) > 0:
        nemesis.act(kill_the_primary)
        nemesis.run(min(SPELL, left) / 2)
        lose_the_history(nemesis, crew)
        nemesis.run(min(SPELL, left) / 2)


def lose_the_history(nemesis: Nemesis, crew: Crew) -> None:
    """
    Let the servers forget what was written while no process followed it.

    Writers continue meanwhile. Of those who followed some come back with an open change
    stream, and some from what they had noted.
    """
    with crew.lock:
        crew.heal()
        followers = crew.of(*FOLLOWERS)
        for worker in followers:
            worker.freeze(0)
        roll_over(nemesis)
        for worker in followers:
            if nemesis.random.random() < 0.5:
                crew.kill(worker)
            else:
                worker.thaw()
    nemesis.done["lose the history"] += 1


def roll_over(nemesis: Nemesis) -> None:
    """Write until no member has in its oplog what is in it now."""
    # With all of them: a member that lags too far could never catch up.
    concern = pymongo.WriteConcern(len(nemesis.servers.members))
    with MongoClient(nemesis.servers.url()) as client:
        forgotten = newest(client)
        fill = client.get_database("filler", write_concern=concern).documents

        def has_rolled_over() -> bool:
            with contextlib.suppress(PyMongoError), pymongo.timeout(10):
                fill.insert_many([{"of": os.urandom(FILLING)} for _ in range(4)])
                return bool(oldest(client) > forgotten)
            nemesis.heal()  # one failed: mongod 6.0.5 was seen to panic here
            return False

        until(has_rolled_over, 120)
        with contextlib.suppress(PyMongoError):
            fill.drop()


def newest(client: MongoClient[Any]) -> Any:
    return _end_of_oplog(client, -1)


def oldest(client: MongoClient[Any]) -> Any:
    return _end_of_oplog(client, 1)


def _end_of_oplog(client: MongoClient[Any], direction: int) -> Any:
    found = client.local["oplog.rs"].find_one(sort=[("$natural", direction)])
    assert found
    return found["ts"]


def settle(servers: Servers) -> None:
    """Wait until all subscriptions are at the end; the checker says who is not."""
    with MongoClient(servers.url()) as client:
        events, stand = client[DATABASE][EVENTS], client[DATABASE][SUBSCRIPTIONS]

        def settled() -> bool:
            head = events.count_documents({})
            return {s["position"] for s in stand.find()} == {head}

        with contextlib.suppress(AssertionError):
            until(settled, SETTLES)
