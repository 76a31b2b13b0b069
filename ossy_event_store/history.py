"""
The state of a stream at any of its versions, and what each event changed in it.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from .events import read_event
from .exceptions import ReducerError
from .faces import Document
from .folding import fold
from .mongo import Store, in_time
from .snapshots import is_usable

BATCH = 1000  # events a round trip, and folded at once


@dataclass(frozen=True)
class Moment:
    """
    A stream right after one event.

    ``before`` and ``state`` are None where ``error`` says at which event the reducer
    raised; ``reached`` is the last version it could fold, and then ``state`` is the
    state there. ``since`` is the version of the snapshot that the fold began with, 0
    if it began with the first event.
    """

    version: int
    reached: int
    since: int
    before: Mapping[str, Any] | None
    state: Mapping[str, Any] | None
    error: ReducerError | None = None


async def moment(
    store: Store, Root: Any, aggregate_id: str, version: int, *, fresh: bool = False
) -> Moment:
    """
    Return the state of a stream at a version, and the state before its event.

    Args:
        store: one face of the store.
        Root: the aggregate class that folds the stream.
        aggregate_id: the stream.
        version: from 1 to its last.
        fresh: begin with the first event, even if a snapshot would do.
    """
    with in_time():
        since, state = (0, {}) if fresh else await _start(store, Root, aggregate_id)
        if since >= version:
            since, state = 0, {}
        return await _fold(store, Root, aggregate_id, since, state, version)


async def _start(
    store: Store, Root: Any, aggregate_id: str
) -> tuple[int, dict[str, Any]]:
    snapshot = await store.snapshots.find_one({"_id": {"$eq": aggregate_id}})
    if snapshot is None or not is_usable(snapshot, Root):
        return 0, {}
    return snapshot["aggregateVersion"], snapshot["state"]


async def _fold(
    store: Store,
    Root: Any,
    aggregate_id: str,
    since: int,
    state: Mapping[str, Any],
    version: int,
) -> Moment:
    query = {
        "aggregateId": {"$eq": aggregate_id},
        "aggregateVersion": {"$gt": since, "$lte": version},
    }
    sort = [("aggregateVersion", 1)]
    before: Mapping[str, Any] | None = None
    reached = since
    async with aclosing(store.events.batches(query, BATCH, sort=sort)) as batches:
        async for batch in batches:
            events: list[Document] = [read_event(event) for event in batch]
            last = events.pop() if events[-1]["aggregateVersion"] == version else None
            kept = copy.deepcopy(state)
            try:
                if events:
                    state = fold(Root, events, dict(state))
                    reached = events[-1]["aggregateVersion"]
                if last:
                    before = copy.deepcopy(state)
                    kept, events = before, []
                    state = fold(Root, [last], dict(state))
                    reached = version
            except ReducerError as error:
                good = [e for e in events if e["aggregateVersion"] < error.version]
                if good:
                    # One by one, as the one that raised was found.
                    for event in good:
                        kept = fold(Root, [event], dict(kept))
                    reached = good[-1]["aggregateVersion"]
                return Moment(version, reached, since, None, kept, error)
    return Moment(version, reached, since, before, state)
