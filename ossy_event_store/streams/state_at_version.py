"""
The state of a stream at any of its versions, and what each event changed in it.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from ..documents.bson_types import Document
from ..documents.event_document import read_event
from ..exceptions import ReducerError
from ..mongodb.connection import Store
from ..mongodb.deadline import in_time
from .reducers import fold
from .snapshots import is_usable

BATCH = 1000  # events a round trip, and folded at once

State = Mapping[str, Any]


@dataclass(frozen=True)
class Moment:
    """
    A stream right after one event.

    Where the reducer raised, ``error`` says at which event, ``reached`` is the last
    version that it could fold, ``state`` is the state there, and ``before`` is None.
    ``since`` is the version of the snapshot that the fold began with, 0 if it began
    with the first event.
    """

    version: int
    reached: int
    since: int
    before: State | None
    state: State
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


async def _start(store: Store, Root: Any, aggregate_id: str) -> tuple[int, State]:
    snapshot = await store.snapshots.find_one({"_id": {"$eq": aggregate_id}})
    if snapshot is None or not is_usable(snapshot, Root):
        return 0, {}
    return snapshot["aggregateVersion"], snapshot["state"]


async def _fold(
    store: Store, Root: Any, aggregate_id: str, since: int, state: State, version: int
) -> Moment:
    query = {
        "aggregateId": {"$eq": aggregate_id},
        "aggregateVersion": {"$gt": since, "$lte": version},
    }
    sort = [("aggregateVersion", 1)]
    before: State | None = None
    reached = since
    async with aclosing(store.events.batches(query, BATCH, sort=sort)) as batches:
        async for batch in batches:
            for events in _last_alone([read_event(e) for e in batch], version):
                before = state
                try:
                    state = _folded(Root, events, state)
                except ReducerError:
                    at, state, error = _one_by_one(Root, events, state)
                    reached = at or reached
                    return Moment(version, reached, since, None, state, error)
                reached = events[-1]["aggregateVersion"]
    return Moment(version, reached, since, before, state)


def _last_alone(events: list[Document], version: int) -> list[list[Document]]:
    """Split off the event of the version, so that the state before it is known."""
    if events[-1]["aggregateVersion"] != version:
        return [events]
    return [some for some in (events[:-1], events[-1:]) if some]


def _folded(Root: Any, events: list[Document], state: State) -> State:
    """
    Return the state after the events; the one before is left as it was.

    Raises:
        ReducerError: the reducer raised, or returned what is no state.
    """
    last = events[-1]
    try:
        result = fold(Root, events, copy.deepcopy(dict(state)))
        return copy.deepcopy(dict(result))
    except ReducerError:
        raise
    except Exception as error:
        text = f"{type(error).__name__}: {error}"
        raise ReducerError(
            Root.aggregate_type, last["aggregateId"], last["aggregateVersion"], text
        ) from None


def _one_by_one(
    Root: Any, events: list[Document], state: State
) -> tuple[int, State, ReducerError | None]:
    """Return how far the reducer comes: the version, the state there, the error."""
    reached = 0
    for event in events:
        try:
            state = _folded(Root, [event], state)
        except ReducerError as error:
            return reached, state, error
        reached = event["aggregateVersion"]
    return reached, state, None
