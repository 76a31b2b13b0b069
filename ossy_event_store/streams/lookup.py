"""
Look up which streams and types exist, and events by a query.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

from pymongo.errors import OperationFailure

from ..documents.arguments import check_items, check_number
from ..documents.bson_types import Document
from ..documents.event_document import check_id, read_event, read_whole_event
from ..documents.event_query import as_stored
from ..documents.passed_over import TYPED, VERSIONED
from ..documents.query_guard import check_query, check_sort
from ..exceptions import InvalidQuery
from ..mongodb.connection import Store
from ..mongodb.deadline import in_time
from ..mongodb.ports import Documents
from ..mongodb.write_errors import short_reason
from .closing.checks import is_closing, successor_of
from .closing.history import predecessor_of

Sort = Sequence[tuple[str, Literal[1, -1]]]

STREAMS_PER_PAGE = 1000
RESULTS_PER_BATCH = 1000
NEIGHBOURS = 5  # ids to name on either side of one that does not exist

# BadValue, FailedToParse, TypeMismatch, Overflow, InvalidLength, IndexNotFound (of
# $text), InvalidPipelineOperator; and every code that is a location in the server's
# source. The codes of a failing server are lower.
MALFORMED = frozenset({2, 9, 14, 15, 16, 27, 168})
FIRST_LOCATION = 15_000

# Only events: what lacks a type is none, nor is it the beginning of a stream.
_EVENTS: Document = {**TYPED, "aggregateVersion": VERSIONED}
_FIRST: Document = {**TYPED, "aggregateVersion": {**VERSIONED, "$eq": 1}}
_NO_LIST: Document = {"$not": {"$type": "array"}}
_NAMES = {"_id": 0, "aggregateId": 1, "aggregateType": 1}
_LINKS = ("payload.predecessor", "payload.successor")


def _exactly(aggregate_id: str) -> Document:
    """Return the condition on an id; a list that holds the id does not meet it."""
    return {"$eq": aggregate_id, **_NO_LIST}


async def type_of(store: Store, aggregate_id: str) -> str | None:
    """Return the type of a stream, or None if the stream does not exist."""
    check_id(aggregate_id)
    with in_time():
        first = await store.events.find_one(
            {**_FIRST, "aggregateId": _exactly(aggregate_id)}, projection=_NAMES
        )
    return first["aggregateType"] if first else None


async def stream_exists(store: Store, aggregate_id: str) -> bool:
    """Whether a stream has events; reads one."""
    query = {**_EVENTS, "aggregateId": _exactly(aggregate_id)}
    names = {"_id": 0, "aggregateId": 1}
    with in_time():
        return await store.events.find_one(query, projection=names) is not None


async def count(store: Store, aggregate_id: str | None) -> int:
    """Return the number of events of a stream, or about that of all."""
    with in_time():
        if aggregate_id is None:
            return await store.events.count()
        # From the index alone, which has no types: the events may be large.
        versions = {"aggregateId": {"$eq": aggregate_id}, "aggregateVersion": VERSIONED}
        return await store.events.count_where(versions)


async def stream_info(store: Store, aggregate_id: str) -> Document | None:
    """Return the type, version and times of a stream: two look-ups by index."""
    query = {**_EVENTS, "aggregateId": _exactly(aggregate_id)}
    fields = ["aggregateType", "aggregateVersion", "created", "type", *_LINKS]
    ends = []
    with in_time():
        for direction in (1, -1):
            sort = [("aggregateVersion", direction)]
            end = await store.events.find_one(query, projection=fields, sort=sort)
            if end is None:
                return None
            ends.append(read_event(end))
    first, last = ends
    return {
        "aggregateId": aggregate_id,
        "aggregateType": last.get("aggregateType"),
        "aggregateVersion": last["aggregateVersion"],
        "firstCreated": first.get("created"),
        "lastCreated": last.get("created"),
        "isClosed": is_closing(last),
        "predecessor": predecessor_of(first),
        "successor": successor_of(last) if is_closing(last) else None,
    }


async def types(store: Store) -> list[str]:
    """Return the types of all streams, in order."""
    with in_time():
        return await types_in(store.events)


async def types_in(documents: Documents, *, unbounded: bool = False) -> list[str]:
    """Return the types of events or snapshots, in order; only strings are types."""
    pipeline: list[Document] = [
        {"$sort": {"aggregateType": 1}},
        {"$group": {"_id": "$aggregateType"}},
    ]
    found: list[str] = []
    pages = documents.aggregate(pipeline, RESULTS_PER_BATCH, unbounded=unbounded)
    async for batch in pages:
        # BSON also holds Code, which is a subclass of str.
        found += [group["_id"] for group in batch if type(group["_id"]) is str]
    return sorted(found)


async def neighbouring_ids(store: Store, aggregate_id: str) -> list[str]:
    """Return the ids of existing streams that are next to this one in order."""
    found: list[Document] = []
    with in_time():
        for operator, direction in (("$lt", -1), ("$gt", 1)):
            found += await store.events.find(
                {**_FIRST, "aggregateId": {operator: aggregate_id}},
                projection=_NAMES,
                sort=[("aggregateId", direction)],
                limit=NEIGHBOURS,
            )
    ids = [stream["aggregateId"] for stream in found]
    return sorted(one for one in ids if type(one) is str)  # or a list that holds one


async def stream_problem(
    store: Store, aggregate_id: str, types: Sequence[str] | None
) -> str | None:
    """
    Return why a command cannot work on a stream, or None if it can.

    Args:
        store: one face of the store.
        aggregate_id: the stream.
        types: the allowed types; None allows any.
    """
    try:
        kind = await type_of(store, aggregate_id)
    except ValueError as error:
        return str(error)
    if kind is None:
        ids = await neighbouring_ids(store, aggregate_id)
        hint = f"Ids next to it: {', '.join(ids)}." if ids else "The store is empty."
        return f"Stream {aggregate_id!r} does not exist. {hint}"
    if types and kind not in types:
        expected = ", ".join(types)
        return f"Stream {aggregate_id!r} is of type {kind!r}; expected {expected}."
    return None


async def each_stream(
    store: Store, aggregate_type: str | None, *, page_size: int = STREAMS_PER_PAGE
) -> AsyncGenerator[dict[str, str], None]:
    """Iterate over every stream by id: one page of first events after the other."""
    query: dict[str, Any] = dict(_FIRST)
    if aggregate_type is not None:
        query["aggregateType"] = {"$eq": check_id(aggregate_type, "aggregate_type")}
    options: dict[str, Any] = {
        "projection": _NAMES,
        "sort": [("aggregateId", 1)],
        "limit": page_size,
    }
    last = ""
    while True:
        with in_time():
            ids: Document = {"$gt": last}
            page = await store.events.find({**query, "aggregateId": ids}, **options)
            if any(type(stream["aggregateId"]) is not str for stream in page):
                # A list that holds such an id, by another program. To leave lists out
                # at once, the server would have to read each event.
                ids |= _NO_LIST
                page = await store.events.find({**query, "aggregateId": ids}, **options)
        for stream in page:
            yield stream
        if len(page) < page_size:
            return
        last = page[-1]["aggregateId"]


def check_search(query: Any, sort: Any, limit: Any, default: Any) -> None:
    """Check what ``find_events()`` takes, before anything connects."""
    check_query(query)
    check_sort(sort)
    check_number(limit, "limit")
    if default is not None:
        check_items(default, "default", "events")


async def find_events(
    store: Store, query: Mapping[str, Any], sort: Sort | None, limit: int
) -> list[Document]:
    """Return the events that match a checked query."""
    with explained_query("query"):
        events = await store.events.find(as_stored(query), sort=sort, limit=limit)
    return [read_whole_event(event) for event in events]


async def run_pipeline(
    store: Store, pipeline: Sequence[Mapping[str, Any]]
) -> list[Document]:
    """Return the results of a checked pipeline over the events."""
    results: list[Document] = []
    with explained_query("pipeline"):
        async for batch in store.events.aggregate(pipeline, RESULTS_PER_BATCH):
            results += batch
    return results


@contextmanager
def explained_query(argument: str) -> Iterator[None]:
    """Turn the server's refusal of a malformed query into ``InvalidQuery``."""
    try:
        yield
    except OperationFailure as error:
        if error.code not in MALFORMED and (error.code or 0) < FIRST_LOCATION:
            raise
        raise InvalidQuery(argument, short_reason(error)) from error
