"""
Snapshots: the folded state of a stream, a cache that may be lost at any time.
"""

from __future__ import annotations

import datetime as dt
import functools
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import bson
from bson.errors import BSONError
from bson.raw_bson import RawBSONDocument
from pymongo import InsertOne, ReplaceOne
from pymongo.errors import BulkWriteError, DuplicateKeyError, OperationFailure

from ..documents.bson_types import CODEC, Document
from ..documents.context import clock
from ..documents.event_document import stored_state
from ..exceptions import InvalidState
from ..mongodb.connection import Store
from ..mongodb.deadline import in_time
from ..mongodb.write_errors import (
    UNAUTHORIZED,
    foreign_index,
    is_taken_id,
    key_pattern,
)
from .reducers import revision_of

logger = logging.getLogger("ossy_event_store")

# Two processes with different revisions, as in a deployment, would replace each other's
# snapshots with every save. So save() replaces one of another revision only if that was
# saved before this process first used its own revision, or so many seconds ago.
RIVAL_SECONDS = 600.0
MAX_BYTES = 16 * 1024 * 1024 - 1024  # MongoDB's limit, less room for the command


class Snapshot(Document):
    """The document of a snapshot, with its encoded form: it is encoded only once."""

    __slots__ = ("encoded", "rivals_before")
    encoded: RawBSONDocument
    #: It may replace snapshots of other revisions that were saved until then.
    rivals_before: dt.datetime


def build_snapshot(
    Root: Any, aggregate_id: str, version: int, state: Mapping[str, Any]
) -> Snapshot:
    """
    Return the snapshot document of a state.

    Raises:
        InvalidState: MongoDB cannot store the state.
    """
    now, revision = dt.datetime.now(dt.UTC), revision_of(Root)
    document = Snapshot(
        _id=aggregate_id,
        aggregateType=Root.aggregate_type,
        aggregateVersion=version,
        revision=revision,
        state=stored_state(state, Root.aggregate_type),
        saved=clock.now(),
    )
    document.rivals_before = max(
        _first_use(Root, revision), now - dt.timedelta(seconds=RIVAL_SECONDS)
    )
    try:
        encoded = bson.encode(document, codec_options=CODEC)
    except (BSONError, ValueError, OverflowError) as error:
        raise InvalidState("state", str(error)) from None
    if len(encoded) > MAX_BYTES:
        reason = f"{len(encoded):,} bytes; a MongoDB document may have {MAX_BYTES:,}"
        raise InvalidState("state", reason)
    document.encoded = RawBSONDocument(encoded)
    return document


@functools.cache
def _first_use(Root: Any, revision: str) -> dt.datetime:
    return dt.datetime.now(dt.UTC)


def is_usable(snapshot: Document | None, Root: Any) -> bool:
    """Whether the current revision of the reducer folded this snapshot."""
    revision = revision_of(Root)
    _first_use(Root, revision)
    return (
        snapshot is not None
        and snapshot.get("aggregateType") == Root.aggregate_type
        and snapshot.get("revision") == revision
        and isinstance(snapshot.get("aggregateVersion"), int)
        and isinstance(snapshot.get("state"), dict)
    )


def older_than(snapshot: Snapshot) -> Document:
    """Return the filter for stored snapshots that this one may replace."""
    version, revision = snapshot["aggregateVersion"], snapshot["revision"]
    return {
        "_id": {"$eq": snapshot["_id"]},
        "$or": [
            {"aggregateVersion": {"$lt": version}, "revision": revision},
            # Of another revision of the reducer: the same version too.
            {
                "aggregateVersion": {"$lte": version},
                "revision": {"$ne": revision},
                "saved": {"$not": {"$gt": snapshot.rivals_before}},
            },
            # Another program wrote it into this collection.
            {"aggregateVersion": {"$not": {"$type": "number"}}},
        ],
    }


async def save_snapshot(store: Store, snapshot: Snapshot) -> bool:
    """
    Store a snapshot unless a newer one exists; return whether it was stored.

    An upsert whose filter does not match tries to insert, and fails on ``_id``.
    Either a newer snapshot exists, or an older one was saved in between. So look
    again: swallowing the error would lose the newest snapshot now and then.

    Raises:
        InvalidState: a unique index that the project added refuses the snapshot.
    """
    query = older_than(snapshot)
    while True:
        try:
            if store.outside:
                return await _save_joined(store, snapshot, query)
            sent = snapshot.encoded
            return await store.snapshots.replace_one(query, sent, upsert=True) > 0
        except DuplicateKeyError as error:
            if not is_taken_id(error):
                raise InvalidState(*foreign_index(key_pattern(error) or {})) from None
            if store.outside:
                raise
        if await store.snapshots.find_one(query, projection={"_id": 1}) is None:
            return False


async def _save_joined(store: Store, snapshot: Snapshot, query: Document) -> bool:
    """Save inside the caller's transaction, which a refused write would abort."""
    existing = {"_id": {"$eq": snapshot["_id"]}}
    if await store.snapshots.find_one(existing, projection={"_id": 1}) is None:
        await store.snapshots.insert_one(snapshot.encoded)
        return True
    return await store.snapshots.replace_one(query, snapshot.encoded) > 0


async def discard(store: Store, snapshot: Document, head: int) -> None:
    """Delete a snapshot that is newer than its stream, unless it just changed."""
    logger.warning(
        "Discarding the snapshot of %s %r: it is at version %s, but its stream ends at "
        "%s. A failover lost events that were not on a majority of the servers.",
        snapshot.get("aggregateType"),
        snapshot["_id"],
        snapshot.get("aggregateVersion"),
        head,
    )
    unchanged = {
        "_id": {"$eq": snapshot["_id"]},
        "aggregateVersion": snapshot.get("aggregateVersion"),
        "saved": snapshot.get("saved"),
    }
    try:
        await store.snapshots.delete_one(unchanged)
    except OperationFailure as error:
        if error.code != UNAUTHORIZED:
            raise
        # A user who may only read can still load the stream from its events.
        logger.warning(
            "Could not discard the snapshot of %s %r: this database user may not "
            "delete snapshots. The stream is read from its events.",
            snapshot.get("aggregateType"),
            snapshot["_id"],
        )


@dataclass
class Written:
    """What ``write_snapshots()`` has done."""

    #: Snapshots that were stored.
    saved: int = 0
    #: Those that a unique index of the project refused.
    refused: list[tuple[Snapshot, InvalidState]] = field(default_factory=list)

    async def save(self, store: Store, snapshot: Snapshot) -> None:
        """Store one snapshot unless a newer one exists."""
        try:
            self.saved += await save_snapshot(store, snapshot)
        except InvalidState as error:
            self.refused.append((snapshot, error))


async def write_snapshots(
    store: Store, snapshots: list[Snapshot], *, first: bool = False
) -> Written:
    """
    Write snapshots unless newer ones exist; return what became of them.

    Args:
        store: one face of the store.
        snapshots: at most one a stream.
        first: whether the rebuild began without any snapshots, so that there is
            nothing to look up; one that was saved meanwhile is still noticed.
    """
    written = Written()
    if not snapshots:
        return written
    ids = {"_id": {"$in": [snapshot["_id"] for snapshot in snapshots]}}
    found: list[Document] = []
    if not first:
        found = await store.snapshots.find(ids, projection=["aggregateVersion"])
    existing = {s["_id"]: s.get("aggregateVersion") for s in found}
    requests = [_request(s, s["_id"] in existing) for s in snapshots]
    try:
        written.saved = await store.snapshots.bulk_write(requests, ordered=False)
    except BulkWriteError as error:
        if key_pattern(error) is None:
            raise
        await _settle(store, snapshots, error.details, written)
        return written
    if written.saved < len(snapshots):
        await _replace_those_ahead(store, snapshots, existing, written)
    return written


async def _settle(
    store: Store,
    snapshots: list[Snapshot],
    details: Mapping[str, Any],
    written: Written,
) -> None:
    """Settle what a bulk write has left."""
    written.saved = details["nInserted"] + details["nMatched"]
    for failure in details["writeErrors"]:
        snapshot, pattern = snapshots[failure["index"]], failure.get("keyPattern", {})
        if pattern and set(pattern) != {"_id"}:
            refusal = InvalidState(*foreign_index(pattern))
            written.refused.append((snapshot, refusal))
        else:  # another writer has just saved a first snapshot
            await written.save(store, snapshot)


async def _replace_those_ahead(
    store: Store,
    snapshots: list[Snapshot],
    existing: Mapping[str, Any],
    written: Written,
) -> None:
    for snapshot in snapshots:
        version = existing.get(snapshot["_id"])
        ahead = isinstance(version, int) and version > snapshot["aggregateVersion"]
        if ahead and await discard_if_ahead(store, snapshot["_id"]):
            await written.save(store, snapshot)


def _request(
    snapshot: Snapshot, exists: bool
) -> InsertOne[RawBSONDocument] | ReplaceOne[RawBSONDocument]:
    # An insert is twice as fast as an upsert, and a first rebuild only inserts.
    if not exists:
        return InsertOne(snapshot.encoded)
    # A rebuild also replaces the same version, whose state may be wrong.
    newer = {"aggregateVersion": {"$gt": snapshot["aggregateVersion"]}}
    return ReplaceOne({"_id": snapshot["_id"], "$nor": [newer]}, snapshot.encoded)


async def discard_if_ahead(store: Store, aggregate_id: str) -> bool:
    """
    Delete a snapshot that is newer than its stream; return whether it was.

    It may only seem so: a live append may come between two reads, and a new primary
    may not know yet what a majority has. So the stream is read after all writes.
    """
    with in_time():
        snapshot = await store.snapshots.find_one({"_id": {"$eq": aggregate_id}})
        last = await store.client.find_after_all_writes(
            store.events,
            {"aggregateId": {"$eq": aggregate_id}},
            projection={"_id": 0, "aggregateVersion": 1},
            sort=[("aggregateVersion", -1)],
            limit=1,
        )
        version = last[0]["aggregateVersion"] if last else 0
        if snapshot is None or not snapshot.get("aggregateVersion", 0) > version:
            return False
        await discard(store, snapshot, version)
    return True
