"""
What changed in the state of a stream between two of its versions.
"""

from __future__ import annotations

import sys
from typing import Any

from ...documents.diff import Change, changes
from ...exceptions import VersionNotFound
from ...mongodb.connection import Store
from ..load import usable_snapshot
from .state_at_version import NOTHING, State, fold_up_to
from .versions import end_of


async def changes_between(
    store: Store, Root: Any, aggregate_id: str, old: int, new: int
) -> list[Change]:
    """
    Return the changes that turn the state at one version into that at another.

    The later state is folded from the earlier one, in flat memory: a snapshot in
    between has been through BSON, so values that are equal could seem to differ.

    Args:
        store: one face of the store.
        Root: the aggregate class.
        aggregate_id: the stream.
        old: a version; 0 is before the first event, where the state is ``{}``.
        new: a version, later or earlier.

    Raises:
        VersionNotFound: the stream has no event at one of the versions.
        ReducerError: the reducer raised.
        AggregateNotFound, AggregateTypeMismatch: see ``load_aggregate()``.
    """
    low, high = sorted((old, new))
    last = (await end_of(store, Root, aggregate_id, -1))["aggregateVersion"]
    version, state = NOTHING
    if low and (snapshot := await usable_snapshot(store, Root, aggregate_id, low)):
        version, state = snapshot["aggregateVersion"], snapshot["state"]
    states: dict[int, State] = {}
    for until in (low, high):
        if until > last:
            raise VersionNotFound(aggregate_id, until, last)
        then = await fold_up_to(store, Root, aggregate_id, version, state, until)
        if then.error is not None:
            raise then.error
        if then.folded_version != until:
            raise VersionNotFound(aggregate_id, until, last)
        version, state = until, then.state
        states[until] = state
    return changes(states[old], states[new], limit=sys.maxsize).items
