"""
Record how far a full rebuild is, in the database, so that another can resume it.

One document for each share, among the leases: every user that rebuilds may write there.
"""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Sequence
from typing import Any

from ..documents.bson_types import Document
from ..documents.collections import rebuild_progress
from ..exceptions import ReducerError
from ..mongodb.connection import Store
from ..mongodb.deadline import in_time
from ..mongodb.leases import new_owner
from ..streams.reducers import revision_of
from .ranges import Part, Partition, Span


class RebuildProgress:
    """
    The recorded progress of one rebuild.

    Args:
        store: one face of the store.
        roots: the classes of the streams that are rebuilt.
        partition: the share of them, if not all.
    """

    #: How long ``save()`` waits between two writes.
    save_seconds = 1.0

    def __init__(
        self, store: Store, roots: Sequence[Any], partition: Partition | None
    ) -> None:
        self.store = store
        self.run_id = new_owner()
        self.revisions = {Root.aggregate_type: revision_of(Root) for Root in roots}
        self.id = rebuild_progress(partition)
        self._saved_at = 0.0

    async def load(self) -> tuple[list[Part], str]:
        """Return the parts of the interrupted rebuild; or none, and the reason."""
        with in_time():
            found = await self.store.leases.find_one({"_id": self.id})
        if found is None or not found["parts"]:
            return [], "no rebuild of these types and this share was interrupted"
        revisions = {one["aggregateType"]: one["revision"] for one in found["choice"]}
        if revisions.keys() != self.revisions.keys():
            types = ", ".join(revisions)
            return [], f"the interrupted rebuild was of other types: {types}"
        changed = [
            kind for kind in revisions if revisions[kind] != self.revisions[kind]
        ]
        if changed:
            return [], f"the reducer of {', '.join(changed)} has changed since"
        return [_part(one) for one in found["parts"]], ""

    async def begin(self, parts: Sequence[Part]) -> None:
        """Record that a rebuild begins, in place of the one before."""
        choice = [
            {"aggregateType": kind, "revision": revision}
            for kind, revision in self.revisions.items()
        ]
        new = {"_id": self.id, "run": self.run_id, "choice": choice, **_fields(parts)}
        with in_time():
            await self.store.leases.replace_one({"_id": self.id}, new, upsert=True)
        self._saved_at = time.monotonic()

    async def save(self, parts: Sequence[Part]) -> None:
        """Record how far it is, unless that was done just before."""
        if time.monotonic() - self._saved_at < self.save_seconds:
            return
        await self._write(parts)
        self._saved_at = time.monotonic()

    async def finish(self) -> None:
        """Record that nothing is left to do."""
        # Not deleted: the appender's role has no right to.
        await self._write([])

    async def _write(self, parts: Sequence[Part]) -> None:
        # Nothing if another rebuild has begun since.
        own = {"_id": self.id, "run": self.run_id}
        with in_time():
            await self.store.leases.update_one(own, {"$set": _fields(parts)})


def _fields(parts: Sequence[Part]) -> Document:
    documents = [
        {
            "aggregateType": part.span.aggregate_type,
            "after": part.span.after,
            "until": part.span.until,
            "done": part.done,
            "ended": part.ended,
            "streams": part.streams,
            "events": part.events,
            "failed": part.failed,
            "failures": [
                {
                    "id": one.aggregate_id,
                    "version": one.version,
                    "error": one.error,
                    "type": one.event_type,
                }
                for one in part.failures
            ],
        }
        for part in parts
    ]
    return {"parts": documents, "at": dt.datetime.now(dt.UTC)}


def _part(document: Document) -> Part:
    aggregate_type = document["aggregateType"]
    return Part(
        Span(aggregate_type, document["after"], document["until"]),
        document["done"],
        document["ended"],
        document["streams"],
        document["events"],
        document["failed"],
        [
            ReducerError(
                aggregate_type, one["id"], one["version"], one["error"], one.get("type")
            )
            for one in document["failures"]
        ],
    )
