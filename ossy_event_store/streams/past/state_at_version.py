"""
Fold a stream up to one of its versions: the state before and after an event.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from ...documents.bson_types import Document
from ...documents.event_document import read_whole_event
from ...documents.passed_over import is_event
from ...documents.storable import copied
from ...exceptions import ReducerError
from ...mongodb.connection import Store
from ...mongodb.deadline import in_time
from ..load import usable_snapshot
from ..reducers import error_at, fold, pass_on_what_ends

EVENTS_PER_BATCH = 1000  # a round trip, and a fold

State = Mapping[str, Any]

#: Before the first event.
NOTHING: tuple[int, State] = (0, {})


@dataclass(frozen=True)
class StateAtVersion:
    """A stream right after one event."""

    #: Version of the event.
    version: int
    #: The last version that the reducer could fold; lower only after an error.
    folded_version: int
    #: Version of the snapshot that the fold began with; 0 without a snapshot.
    snapshot_version: int
    #: The state before the event; None after an error.
    before: State | None
    #: The state at ``folded_version``.
    state: State
    #: What the reducer raised, and at which event.
    error: ReducerError | None = None


async def load_state_at(
    store: Store,
    Root: Any,
    aggregate_id: str,
    version: int,
    *,
    ignore_snapshot: bool = False,
    most: int,
) -> StateAtVersion | None:
    """
    Return the state of a stream at a version, and the state before its event.

    It is None if that takes a fold of too many events. Where the snapshot of a long
    stream is at this version, the state before it is None.

    Args:
        store: one face of the store.
        Root: the aggregate class that folds the stream.
        aggregate_id: the stream.
        version: from 1 to its last.
        ignore_snapshot: begin with the first event in any case.
        most: how many events it may fold.
    """
    with in_time():
        start, state = NOTHING
        snapshot = None
        if not ignore_snapshot:
            snapshot = await usable_snapshot(store, Root, aggregate_id, version)
        if snapshot is not None:
            start, state = snapshot["aggregateVersion"], snapshot["state"]
        if start == version and version > most:
            return StateAtVersion(version, version, version, None, state)
        if start == version:  # to know the state before it
            start, state = NOTHING
        if version - start > most:
            return None
        return await fold_up_to(store, Root, aggregate_id, start, state, version)


async def fold_up_to(
    store: Store, Root: Any, aggregate_id: str, start: int, state: State, version: int
) -> StateAtVersion:
    """Fold the events of a stream after one version, up to another, onto a state."""
    query = {
        "aggregateId": {"$eq": aggregate_id},
        "aggregateVersion": {"$gt": start, "$lte": version},
    }
    sort = [("aggregateVersion", 1)]
    before: State | None = None
    folded = start
    async with aclosing(
        store.events.batches(query, EVENTS_PER_BATCH, sort=sort)
    ) as batches:
        async for batch in batches:
            found = [read_whole_event(event) for event in batch if is_event(event)]
            for events in _split_off_last(found, version):
                before = state
                try:
                    state = _folded(Root, events, state)
                except ReducerError:
                    last, state, error = _one_by_one(Root, events, state)
                    return StateAtVersion(
                        version, last or folded, start, None, state, error
                    )
                folded = events[-1]["aggregateVersion"]
    return StateAtVersion(version, folded, start, before, state)


def _split_off_last(events: list[Document], version: int) -> list[list[Document]]:
    """Split off the event of the version, to know the state before it."""
    if events and events[-1]["aggregateVersion"] != version:
        return [events]
    return [some for some in (events[:-1], events[-1:]) if some]


def _folded(Root: Any, events: list[Document], state: State) -> State:
    """
    Return the state after the events; the state before them does not change.

    Raises:
        ReducerError: the reducer raised, or did not return a state.
    """
    result = fold(Root, events, dict(state))
    try:
        return dict(copied(dict(result)))
    except BaseException as error:  # it cannot be copied
        pass_on_what_ends(error)
        raise error_at(Root, events[-1], error) from None


def _one_by_one(
    Root: Any, events: list[Document], state: State
) -> tuple[int, State, ReducerError | None]:
    """Return the last version that can be folded, its state, and the error."""
    folded = 0
    for event in events:
        try:
            state = _folded(Root, [event], state)
        except ReducerError as error:
            return folded, state, error
        folded = event["aggregateVersion"]
    return folded, state, None
