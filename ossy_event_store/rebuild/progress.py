"""
How far a full rebuild is, noted in the database, so that another can go on.

One document among the leases for each share: a rebuild may write there whoever it is.
"""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Sequence
from typing import Any

from ..documents.bson_types import Document
from ..exceptions import ReducerError
from ..mongodb.connection import Store
from ..mongodb.deadline import in_time
from ..mongodb.leases import new_owner
from ..streams.reducers import revision_of
from .ranges import Part, Partition, Span

EVERY = 1.0  # seconds between two notes

_NOTE = "rebuild progress"  # an id among the leases


class RebuildProgress:
    """
    The note of one rebuild.

    Args:
        store: one face of the store.
        roots: the classes of the streams that are rebuilt.
        partition: the share of them, if not all.
    """

    def __init__(
        self, store: Store, roots: Sequence[Any], partition: Partition | None
    ) -> None:
        self.store = store
        self.run = new_owner()
        self.choice = {Root.aggregate_type: revision_of(Root) for Root in roots}
        self.id = f"{_NOTE} {partition}" if partition else _NOTE
        self._noted = 0.0

    async def find(self) -> tuple[list[Part], str]:
        """Return the parts of the rebuild that broke off; or none, and why."""
        with in_time():
            note = await self.store.leases.find_one({"_id": self.id})
        if note is None or not note["parts"]:
            return [], "no rebuild of this choice had broken off"
        noted = {one["aggregateType"]: one["revision"] for one in note["choice"]}
        if noted.keys() != self.choice.keys():
            return [], f"the one that broke off was of other types: {', '.join(noted)}"
        changed = [kind for kind in noted if noted[kind] != self.choice[kind]]
        if changed:
            return [], f"the reducer of {', '.join(changed)} has changed since"
        return [_part(one) for one in note["parts"]], ""

    async def begin(self, parts: Sequence[Part]) -> None:
        """Note that a rebuild begins, in place of the one before."""
        choice = [
            {"aggregateType": kind, "revision": revision}
            for kind, revision in self.choice.items()
        ]
        note = {"_id": self.id, "run": self.run, "choice": choice, **_noted(parts)}
        with in_time():
            await self.store.leases.replace_one({"_id": self.id}, note, upsert=True)
        self._noted = time.monotonic()

    async def note(self, parts: Sequence[Part]) -> None:
        """Note how far it is, if it is time to."""
        if time.monotonic() - self._noted < EVERY:
            return
        await self._write(parts)
        self._noted = time.monotonic()

    async def forget(self) -> None:
        """Note that nothing is left to do."""
        await self._write([])  # who may append may not delete

    async def _write(self, parts: Sequence[Part]) -> None:
        mine = {"_id": self.id, "run": self.run}  # not that of one that began later
        with in_time():
            await self.store.leases.update_one(mine, {"$set": _noted(parts)})


def _noted(parts: Sequence[Part]) -> Document:
    noted = [
        {
            "aggregateType": part.span.kind,
            "after": part.span.after,
            "until": part.span.until,
            "done": part.done,
            "ended": part.ended,
            "streams": part.streams,
            "events": part.events,
            "failed": part.failed,
            "failures": [
                {"id": one.aggregate_id, "version": one.version, "error": one.error}
                for one in part.failures
            ],
        }
        for part in parts
    ]
    return {"parts": noted, "at": dt.datetime.now(dt.UTC)}


def _part(noted: Document) -> Part:
    kind = noted["aggregateType"]
    return Part(
        Span(kind, noted["after"], noted["until"]),
        noted["done"],
        noted["ended"],
        noted["streams"],
        noted["events"],
        noted["failed"],
        [
            ReducerError(kind, one["id"], one["version"], one["error"])
            for one in noted["failures"]
        ],
    )
