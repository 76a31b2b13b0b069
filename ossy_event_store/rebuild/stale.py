"""Find stale snapshots: merge two ordered index scans, and read no payload."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from ..documents.bson_types import Document
from ..documents.event_document import version_number
from ..exceptions import UnexpectedState
from ..mongodb.connection import Store
from ..mongodb.indexes import SNAPSHOT_HEADS
from ..streams.reducers import revision_of
from ..streams.snapshots import discard_if_ahead
from .ranges import Span
from .tallies import Tally

HEADS_BATCH = 10_000  # heads a round trip
IDS_BATCH = 1000  # stale ids yielded at a time


async def stale_ids(
    store: Store, Root: Any, tally: Tally | None = None, span: Span | None = None
) -> AsyncGenerator[list[str], None]:
    """
    Yield the ids of streams whose snapshot is not current; reads only indexes.

    Args:
        store: one face of the store.
        Root: the class of the streams.
        tally: counts all streams, stale or not.
        span: only this range of them.
    """
    try:
        async with aclosing(_stale_ids(store, Root, tally, span)) as pages:
            async for page in pages:
                yield page
    except _OutOfOrder:
        # An id that is a list, by another program, takes the order from the index.
        if tally is not None:
            tally.streams = tally.events = 0
        in_order = _stale_ids(store, Root, tally, span, is_sorted=True)
        async with aclosing(in_order) as pages:
            async for page in pages:
                yield page


class _OutOfOrder(UnexpectedState):
    """The server returned stream heads out of order."""


async def _stale_ids(
    store: Store,
    Root: Any,
    tally: Tally | None,
    span: Span | None,
    *,
    is_sorted: bool = False,
) -> AsyncGenerator[list[str], None]:
    # Other programs may store ids that are not strings; they cannot be merged.
    kind = {"aggregateType": {"$eq": Root.aggregate_type}}
    ids = {"$gte": "", **(span.ids if span else {})}
    pipeline = _heads({**kind, "aggregateId": ids})
    if is_sorted:
        pipeline.append({"$sort": {"_id": -1}})
    heads = _each(store.events.aggregate(pipeline, HEADS_BATCH, unbounded=True))
    snapshots = _each(
        store.snapshots.batches(
            {**kind, "_id": ids},
            HEADS_BATCH,
            projection=["aggregateVersion", "revision"],
            sort=[("_id", -1)],
            hint=list(SNAPSHOT_HEADS.keys),
            unbounded=True,
        )
    )
    revision = revision_of(Root)
    stale: list[str] = []
    async with aclosing(heads), aclosing(snapshots):
        async for stream, snapshot in _merge(heads, snapshots):
            if stream is not None and tally is not None:
                tally.streams += 1
                tally.events += version_number(stream["version"]) or 0
            if stream is None:
                await discard_if_ahead(store, snapshot["_id"])
            elif not _is_current(stream, snapshot, revision):
                stale.append(stream["_id"])
            if len(stale) >= IDS_BATCH:
                yield stale
                stale = []
    yield stale


def _heads(kind: Document) -> list[Document]:
    """Return the pipeline that skips from stream to stream along the type's index."""
    return [
        {"$match": kind},
        {"$sort": {"aggregateType": -1, "aggregateId": -1, "aggregateVersion": -1}},
        {"$group": {"_id": "$aggregateId", "version": {"$first": "$aggregateVersion"}}},
    ]


async def _each(
    batches: AsyncGenerator[list[Document], None],
) -> AsyncGenerator[Document, None]:
    last = None
    async with aclosing(batches):
        async for batch in batches:
            for document in batch:
                if type(document["_id"]) is not str:
                    continue
                if last is not None and document["_id"] >= last:
                    raise _OutOfOrder(
                        "The server returned stream heads out of order. Run a full "
                        "rebuild."
                    )
                last = document["_id"]
                yield document


async def _merge(
    heads: AsyncGenerator[Document, None], snapshots: AsyncGenerator[Document, None]
) -> AsyncGenerator[tuple[Any, Any], None]:
    """Yield the head and the snapshot of each stream, by descending id."""
    stream, snapshot = await anext(heads, None), await anext(snapshots, None)
    while stream is not None or snapshot is not None:
        if snapshot is None or (stream is not None and stream["_id"] > snapshot["_id"]):
            yield stream, None
            stream = await anext(heads, None)
        elif stream is None or stream["_id"] < snapshot["_id"]:
            yield None, snapshot
            snapshot = await anext(snapshots, None)
        else:
            yield stream, snapshot
            stream, snapshot = await anext(heads, None), await anext(snapshots, None)


def _is_current(stream: Document, snapshot: Document | None, revision: str) -> bool:
    return (
        snapshot is not None
        and snapshot.get("aggregateVersion") == stream["version"]
        and snapshot.get("revision") == revision
    )
