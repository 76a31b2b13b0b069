"""What positions and subscriptions have produced at the end of a run."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from pymongo import MongoClient
from pymongo.read_concern import ReadConcern

from ossy_event_store.documents.bson_types import CODEC
from ossy_event_store.documents.collections import (
    EVENTS,
    PARKED,
    POSITIONS,
    SNAPSHOTS,
    SUBSCRIPTIONS,
)

from ..database import Document
from .keys import KEYS
from .operated import Skip

# Subscriptions, each with what it writes to.
EFFECTS, TOTALS = "effects", "totals"
ROWS = "rows"
# These stop where the others park.
STRICT, STRICT_ROWS = "strict", "strict_rows"
IN_SQL = (ROWS, STRICT_ROWS)
TABLE = """
CREATE TABLE {} (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    event TEXT, stream TEXT, version INTEGER, position INTEGER
)"""
DIARY, DIARIES = "diary", "diaries"
FOLLOWING = "snapshots"
ROWS_FILE = "rows.sqlite3"


class Effect(NamedTuple):
    """What a handler did for an event, and which one it was."""

    event: str
    stream: str
    version: int
    position: int


@dataclass
class Effects:
    #: As the store has them.
    events: list[Document] = field(default_factory=list)
    #: In the order of their positions.
    entries: list[Document] = field(default_factory=list)
    #: By subscription: all effects of one that has each exactly once.
    exact: dict[str, list[Effect]] = field(default_factory=dict)
    #: By subscription: all deliveries of one that has each at least once, in order.
    delivered: dict[str, list[Effect]] = field(default_factory=dict)
    # None: not part of the run.
    #: By stream: how many events were counted, and their versions in order.
    totals: dict[str, tuple[int, list[int]]] | None = None
    #: By projection: the state of each key, the tokens of its events stream by stream.
    documents: dict[str, dict[Any, dict[str, list[str]]]] = field(default_factory=dict)
    #: By stream: the version of its snapshot.
    snapshots: dict[str, int] | None = None
    #: By subscription: where its checkpoint stands.
    checkpoints: dict[str, int] = field(default_factory=dict)
    #: What operators skipped, or may have.
    skips: list[Skip] = field(default_factory=list)
    #: Streams that are parked, subscriptions that have stopped, and why.
    parked: list[str] = field(default_factory=list)
    #: What went wrong with a process that was not harmed.
    odd: list[str] = field(default_factory=list)


def read_effects(client: MongoClient[Document], name: str, folder: Path) -> Effects:
    database = client.get_database(
        name, codec_options=CODEC, read_concern=ReadConcern("majority")
    )
    order = [("aggregateId", 1), ("aggregateVersion", 1)]
    totals = database[TOTALS].find()
    stand = list(database[SUBSCRIPTIONS].find())
    return Effects(
        events=list(database[EVENTS].find(sort=order)),
        entries=list(database[POSITIONS].find(sort=[("_id", 1)])),
        exact={
            **{
                name: [Effect(*one["of"]) for one in database[name].find()]
                for name in (EFFECTS, STRICT)
            },
            **{name: list(read_rows(folder / ROWS_FILE, name)) for name in IN_SQL},
        },
        delivered={
            name: list(read_deliveries(folder / f"{name}.deliveries"))
            for name in (DIARY, DIARIES)
        },
        totals={t["_id"]: (t["count"], t["versions"]) for t in totals},
        documents={
            name: {
                one["_id"]: one["state"]
                for one in database[f"projection_{name}"].find()
            }
            for name in KEYS
        },
        snapshots={
            one["_id"]: one["aggregateVersion"] for one in database[SNAPSHOTS].find()
        },
        checkpoints={one["_id"]: one["position"] for one in stand},
        parked=[
            *(
                f"{one['aggregateId']} of {one['subscription']}: {one['error']}"
                for one in database[PARKED].find()
            ),
            *(
                f"{one['_id']} has stopped: {one['stopped']['error']}"
                for one in stand
                if one["stopped"]
            ),
        ],
    )


def read_rows(path: Path, table: str) -> Iterable[Effect]:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        query = f"SELECT event, stream, version, position FROM {table} ORDER BY id"
        yield from (Effect(*row) for row in connection.execute(query))


def read_deliveries(path: Path) -> Iterable[Effect]:
    for line in path.read_text().splitlines() if path.exists() else ():
        event, stream, version, position = line.split("\t")
        yield Effect(event, stream, int(version), int(position))
