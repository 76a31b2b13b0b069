"""
Read the events of a correlation, and those that led to an event or that it led to.

Every query is bounded and has an index. The ids are those that events name, which
nobody has checked: an event may be missing, or be its own cause.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from contextlib import aclosing
from typing import Any

from bson import ObjectId
from bson.errors import InvalidId
from pymongo.errors import OperationFailure

from ...documents.arguments import check_number
from ...documents.bson_types import Document, Filter
from ...documents.collections import EVENTS
from ...documents.context.current import check_link
from ...documents.event_document import read_event
from ...exceptions import EventNotFound, IndexMissing
from ...mongodb.connection import Store, database_name
from ...mongodb.indexes import CAUSATION, CORRELATION, Index
from ...mongodb.ports import bytes_of
from .tree import (
    CauseChain,
    Trace,
    below,
    cause_of,
    correlation_of,
    id_of,
    tree,
)

MOST_EVENTS = 10_000
MOST_CAUSES = 1000  # each is a query
MOST_QUERIES = 1000  # for the effects of an event
BATCH_EVENTS = 1000
IDS_PER_QUERY = 1000
MOST_BYTES = 64 * 1024 * 1024  # of all events of a trace, whose metadata may be long

_WITHOUT_PAYLOAD = {"payload": 0, "places": 0, "tick": 0}
_BAD_VALUE = 2  # MongoDB's code for a hint that names no index, among others


def check_event_id(event_id: Any) -> Any:
    """Return an id of an event: an ``ObjectId`` or a string."""
    if not isinstance(event_id, ObjectId):
        check_link(event_id, "event_id")
    return event_id


def check_correlation_id(correlation_id: Any) -> str:
    """Return a ``correlationId``."""
    check_link(correlation_id, "correlation_id")
    return str(correlation_id)


def check_limit(limit: Any) -> int:
    """Return the most events of a trace."""
    return check_number(limit, "limit", 1)


async def trace(store: Store, correlation_id: str, limit: int) -> Trace:
    """Return the events of a correlation, the oldest ones if there are too many."""
    found, is_cut = await _correlated(store, correlation_id, limit)
    # What caused the first of them may have no correlation: then its id is theirs.
    first = await find(store, correlation_id)
    if first is not None and correlation_of(first) is None:
        is_cut = is_cut or len(found) == limit
        found = [first, *found][:limit]
    return tree(found, is_cut=is_cut)


async def causes(store: Store, event_id: Any, limit: int) -> CauseChain:
    """
    Return the events that led to an event.

    Raises:
        EventNotFound: no event has this id.
    """
    event = await _existing(store, event_id)
    chain: list[Document] = []
    seen = {id_of(event)}
    while (cause := cause_of(event)) is not None:
        if cause in seen:
            return CauseChain(tuple(chain), False, None, True)
        if len(chain) == limit:
            return CauseChain(tuple(chain), True, None, False)
        found = await find(store, cause)
        if found is None:
            return CauseChain(tuple(chain), False, cause, False)
        chain.append(event := found)
        seen.add(cause)
    return CauseChain(tuple(chain), False, None, False)


async def effects(store: Store, event_id: Any, limit: int) -> Trace:
    """
    Return an event and the events that it led to.

    Most of them have its correlation, so they are read in one go; what each of them has
    caused in other correlations is looked up for many at a time.

    Raises:
        EventNotFound: no event has this id.
    """
    subject = await _existing(store, event_id)
    correlation = correlation_of(subject) or id_of(subject)
    known, is_partial = await _correlated(store, correlation, limit)
    elsewhere: Document = {"metadata.correlationId": {"$ne": correlation}}
    found = below(subject, known)
    asked: set[str] = set()
    for _ in range(MOST_QUERIES):
        ids = [id_of(event) for event in found if id_of(event) not in asked]
        ids = ids[:IDS_PER_QUERY]
        if not ids or len(found) > limit:
            break
        asked.update(ids)
        query = {"metadata.causationId": {"$in": ids, "$type": "string"}}
        query |= {} if is_partial else elsewhere
        caused, is_more = await _read(store, query, CAUSATION, limit + 1)
        if caused:
            known += caused
            found = below(subject, known)
        if is_more:
            return tree(found[:limit], root=subject, is_cut=True)
    is_cut = len(found) > limit or len(asked) < len(found)
    return tree(found[:limit], root=subject, is_cut=is_cut)


async def find(store: Store, event_id: Any) -> Document | None:
    """Return an event without its payload; of a text, the string before an ObjectId."""
    ids: list[Any] = [event_id]
    if isinstance(event_id, str):
        with contextlib.suppress(InvalidId):
            ids.append(ObjectId(event_id))
    for candidate in ids:
        found = await store.events.find_one(
            {"_id": {"$eq": candidate}}, projection=_WITHOUT_PAYLOAD
        )
        if found is not None:
            return read_event(found)
    return None


async def _existing(store: Store, event_id: Any) -> Document:
    found = await find(store, event_id)
    if found is None:
        raise EventNotFound({"_id": event_id})
    return found


async def _correlated(
    store: Store, correlation_id: str, limit: int
) -> tuple[list[Document], bool]:
    query = {"metadata.correlationId": {"$eq": correlation_id, "$type": "string"}}
    oldest_first = [("created", 1), ("_id", 1)]
    return await _read(store, query, CORRELATION, limit, sort=oldest_first)


async def _read(
    store: Store, query: Filter, index: Index, limit: int, **options: Any
) -> tuple[list[Document], bool]:
    """Return events that an index finds, and whether there are more than the limit."""
    found: list[Document] = []
    size = 0
    try:
        async with aclosing(
            store.events.batches(
                query,
                BATCH_EVENTS,
                projection=_WITHOUT_PAYLOAD,
                hint=list(index.keys),
                limit=limit + 1,
                **options,
            )
        ) as batches:
            async for batch in batches:
                found += map(read_event, batch)
                size += bytes_of(batch)
                if size > MOST_BYTES:
                    return found[:limit], True
    except OperationFailure as error:
        if error.code == _BAD_VALUE and not await _exists(store, index):
            raise IndexMissing(EVENTS, index.name, database_name(store)) from None
        raise
    return found[:limit], len(found) > limit


async def _exists(store: Store, index: Index) -> bool:
    present: Sequence[Any] = list((await store.events.index_information()).values())
    return any(list(map(tuple, one["key"])) == list(index.keys) for one in present)
