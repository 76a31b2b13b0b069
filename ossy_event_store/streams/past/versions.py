"""
Find the version that a stream had at a time, and load it at a version.

``created`` is the clock of the writer, and may step back within a stream. So the state
at a time is that of the longest prefix without a later event: a state that the stream
really had, unlike that of all events up to the time.
"""

from __future__ import annotations

import datetime as dt
from contextlib import suppress
from typing import Any

from ...documents.bson_types import Document
from ...documents.event_document import read_event
from ...documents.event_query import later_than
from ...documents.passed_over import TYPED, VERSIONED
from ...exceptions import (
    AggregateNotFound,
    AggregateTypeMismatch,
    BeforeFirstEvent,
    VersionNotFound,
)
from ...mongodb.connection import Store
from ...mongodb.indexes import STREAM_VERSIONS
from ..closing.history import predecessor_of
from ..load import A, load_aggregate

_FIELDS = (
    *("aggregateType", "aggregateVersion", "type", "created"),
    "payload.predecessor",
)


async def load_at_version(
    cls: type[A],
    store: Store,
    Root: Any,
    aggregate_id: str,
    version: int,
    use_snapshot: bool,
) -> A:
    """
    Return the aggregate of a stream as it was at a version.

    Raises:
        VersionNotFound: the stream has no event at the version.
        AggregateNotFound, AggregateTypeMismatch: see ``load_aggregate()``.
    """
    found = await load_exactly(cls, store, Root, aggregate_id, version, use_snapshot)
    if found is None:
        last = await end_of(store, Root, aggregate_id, -1)
        raise VersionNotFound(aggregate_id, version, last["aggregateVersion"])
    return found


async def load_exactly(
    cls: type[A],
    store: Store,
    Root: Any,
    aggregate_id: str,
    version: int,
    use_snapshot: bool,
) -> A | None:
    """Return the aggregate at a version; None if the stream has no event there."""
    with suppress(AggregateNotFound):
        found = await load_aggregate(
            cls, store, Root, aggregate_id, use_snapshot, version
        )
        return found if found.version == version else None
    return None


async def load_at_time(
    cls: type[A],
    store: Store,
    Root: Any,
    aggregate_id: str,
    time: dt.datetime,
    use_snapshot: bool,
) -> A:
    """
    Return the aggregate of a stream as it was at a time.

    Raises:
        BeforeFirstEvent: the stream began later.
        AggregateNotFound, AggregateTypeMismatch: see ``load_aggregate()``.
    """
    # The end comes first: what is appended meanwhile was not looked at.
    last = await end_of(store, Root, aggregate_id, -1)
    until = await version_at(store, aggregate_id, time, last["aggregateVersion"])
    with suppress(AggregateNotFound):
        return await load_aggregate(cls, store, Root, aggregate_id, use_snapshot, until)
    first = await end_of(store, Root, aggregate_id, 1)
    raise before(first, Root, aggregate_id, str(time), str(first.get("created")))


async def version_at(
    store: Store, aggregate_id: str, time: dt.datetime, last: int
) -> int:
    """
    Return the version before the first event that is later than a time.

    A scan of the stream in the server, in order, up to that event. An event without a
    valid ``created`` is never later.

    Args:
        store: one face of the store.
        aggregate_id: the stream.
        time: the time.
        last: the last version to look at, which is returned if no event is later.
    """
    later = await store.events.find_one(
        {
            **TYPED,
            "aggregateId": {"$eq": aggregate_id},
            "aggregateVersion": {**VERSIONED, "$lte": last},
            **later_than(time),
        },
        projection={"_id": 0, "aggregateVersion": 1},
        sort=[("aggregateVersion", 1)],
        # Else the server may choose an index by time, and sort events of all streams.
        hint=list(STREAM_VERSIONS.keys),
    )
    return last if later is None else later["aggregateVersion"] - 1


async def end_of(
    store: Store, Root: Any, aggregate_id: str, direction: int
) -> Document:
    """
    Return the first (1) or last (-1) event of a stream, without its data.

    Raises:
        AggregateNotFound, AggregateTypeMismatch: see ``load_aggregate()``.
    """
    found = await store.events.find_one(
        {
            **TYPED,
            "aggregateId": {"$eq": aggregate_id},
            "aggregateVersion": VERSIONED,
        },
        projection=_FIELDS,
        sort=[("aggregateVersion", direction)],
    )
    if found is None:
        raise AggregateNotFound(Root.aggregate_type, aggregate_id)
    if found["aggregateType"] != Root.aggregate_type:
        raise AggregateTypeMismatch(
            aggregate_id, Root.aggregate_type, found["aggregateType"]
        )
    return read_event(found)


def before(
    first: Document, Root: Any, aggregate_id: str, moment: str, began: str
) -> BeforeFirstEvent:
    """Return the error that a stream, of which this is the first event, began later."""
    return BeforeFirstEvent(
        Root.aggregate_type, aggregate_id, moment, began, predecessor_of(first)
    )
