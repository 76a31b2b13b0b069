"""What the database has at the end of a run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pymongo import MongoClient
from pymongo.read_concern import ReadConcern

from ossy_event_store.documents.bson_types import CODEC
from ossy_event_store.documents.collections import EVENTS, SNAPSHOTS
from ossy_event_store.mongodb.indexes import INDEXES

Document = dict[str, Any]


@dataclass
class Write:
    """One write in the order in which the servers agreed on them, from the oplog."""

    collection: str
    #: "insert", "update" or "delete".
    kind: str
    id: str
    version: int | None = None


@dataclass
class Database:
    events: list[Document] = field(default_factory=list)
    snapshots: list[Document] = field(default_factory=list)
    writes: list[Write] = field(default_factory=list)


def create_indexes(client: MongoClient[Document], name: str) -> None:
    for index in INDEXES:
        collection = client[name][index.collection]
        collection.create_index(list(index.keys), **index.options)


def read_database(client: MongoClient[Document], name: str) -> Database:
    """Return all, also the writes, if the oplog reaches back to the first."""
    found = read_contents(client, name)
    found.writes = list(writes(client, name))
    return found


def read_contents(client: MongoClient[Document], name: str) -> Database:
    database = client.get_database(
        name, codec_options=CODEC, read_concern=ReadConcern("majority")
    )
    order = [("aggregateId", 1), ("aggregateVersion", 1)]
    return Database(
        list(database[EVENTS].find(sort=order)),
        list(database[SNAPSHOTS].find()),
    )


def writes(client: MongoClient[Document], name: str) -> Iterator[Write]:
    """Yield the writes to events and snapshots, in the order of the oplog."""
    oplog = client.local["oplog.rs"]
    first = oplog.find_one(sort=[("$natural", 1)])
    assert first, "no oplog"
    assert first["op"] == "n", "the oplog no longer reaches back to the start"
    for entry in oplog.find(sort=[("$natural", 1)]):
        for write in entry["o"].get("applyOps", [entry]):
            database, _, collection = write["ns"].partition(".")
            if database == name and collection in (EVENTS, SNAPSHOTS):
                yield _write(collection, write)


def _write(collection: str, entry: Mapping[str, Any]) -> Write:
    kind = {"i": "insert", "u": "update", "d": "delete"}[entry["op"]]
    document = entry["o"]
    changed = (entry.get("o2") or document)["_id"]
    return Write(collection, kind, str(changed), document.get("aggregateVersion"))
