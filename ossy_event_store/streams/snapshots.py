"""
Snapshots: the folded state of a stream, a cache that may be lost at any time.
"""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Mapping
from typing import Any

import bson
from bson.errors import BSONError
from bson.raw_bson import RawBSONDocument
from pymongo import InsertOne, ReplaceOne
from pymongo.errors import BulkWriteError, DuplicateKeyError, OperationFailure

from ..documents.bson_types import CODEC, Document
from ..documents.event_document import stored_state
from ..exceptions import InvalidState
from ..mongodb.connection import Store
from ..mongodb.deadline import in_time
from ..mongodb.write_errors import UNAUTHORIZED, key_pattern
from .reducers import revision_of

logger = logging.getLogger("ossy_event_store")

MAX_BYTES = 16 * 1024 * 1024 - 1024  # MongoDB's limit, less room for the command


class Snapshot(Document):
    """The document of a snapshot, with its encoded form: it is encoded only once."""

    __slots__ = ("encoded",)
    encoded: RawBSONDocument


def build_snapshot(
    Root: Any, aggregate_id: str, version: int, state: Mapping[str, Any]
) -> Snapshot:
    """
    Return the snapshot document of a state.

    Raises:
        InvalidState: MongoDB cannot store the state.
    """
    document = Snapshot(
        _id=aggregate_id,
        aggregateType=Root.aggregate_type,
        aggregateVersion=version,
        revision=revision_of(Root),
        state=stored_state(state, Root.aggregate_type),
        saved=dt.datetime.now(dt.UTC),
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


def is_usable(snapshot: Document | None, Root: Any) -> bool:
    """Whether the current revision of the reducer folded this snapshot."""
    return (
        snapshot is not None
        and snapshot.get("aggregateType") == Root.aggregate_type
        and snapshot.get("revision") == revision_of(Root)
        and isinstance(snapshot.get("aggregateVersion"), int)
        and isinstance(snapshot.get("state"), dict)
    )


def older_than(snapshot: Document) -> Document:
    """Return the filter for stored snapshots that this one may replace."""
    version = snapshot["aggregateVersion"]
    return {
        "_id": {"$eq": snapshot["_id"]},
        "$or": [
            {"aggregateVersion": {"$lt": version}},
            # The same version folded by another revision of the reducer.
            {"aggregateVersion": version, "revision": {"$ne": snapshot["revision"]}},
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
    """
    query = older_than(snapshot)
    if store.outside:
        return await _save_joined(store, snapshot, query)
    while True:
        try:
            sent = snapshot.encoded
            return await store.snapshots.replace_one(query, sent, upsert=True) > 0
        except DuplicateKeyError:
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


async def write_snapshots(
    store: Store, snapshots: list[Snapshot], *, first: bool = False
) -> int:
    """
    Write snapshots unless newer ones exist; return how many were written.

    Args:
        store: one face of the store.
        snapshots: at most one a stream.
        first: whether the rebuild began without any snapshots, so that there is
            nothing to look up; one that was saved meanwhile is still noticed.
    """
    if not snapshots:
        return 0
    ids = {"_id": {"$in": [snapshot["_id"] for snapshot in snapshots]}}
    found: list[Document] = []
    if not first:
        found = await store.snapshots.find(ids, projection=["aggregateVersion"])
    existing = {s["_id"]: s.get("aggregateVersion") for s in found}
    requests = [_request(s, s["_id"] in existing) for s in snapshots]
    try:
        saved = await store.snapshots.bulk_write(requests, ordered=False)
    except BulkWriteError as error:
        if key_pattern(error) is None:
            raise
        # Another writer has just saved a first snapshot: write them one by one.
        return sum([await save_snapshot(store, snapshot) for snapshot in snapshots])
    if saved < len(snapshots):
        for snapshot in snapshots:
            version = existing.get(snapshot["_id"])
            ahead = isinstance(version, int) and version > snapshot["aggregateVersion"]
            if ahead and await discard_if_ahead(store, snapshot["_id"]):
                saved += await save_snapshot(store, snapshot)
    return saved


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
