"""Bounded look-ups of events: a page of the feed, one event, and its neighbours."""

from __future__ import annotations

import contextlib
from typing import Any, NamedTuple

from bson import ObjectId
from bson.errors import InvalidId

from ..documents.bson_types import Document
from ..documents.event_document import check_id, read_event, version_number
from ..documents.passed_over import is_event
from ..mongodb.connection import Store
from ..mongodb.deadline import in_time
from .event_fields import LISTED_FIELDS, SHORT_PAYLOAD, add_payloads, collect
from .paging import PAGE_SIZE, Cursor, Page, Search, read_page

MOST_IN_A_TEST = 50  # events of a stream that are copied as a test


async def events(
    store: Store,
    search: Search,
    *,
    older: Cursor | None = None,
    newer: Cursor | None = None,
    size: int = PAGE_SIZE,
) -> Page:
    """
    Return a page of the feed, newest first, with short payloads.

    Args:
        store: one face of the store.
        search: which events.
        older: only events after this cursor: the next page.
        newer: only events before it: the previous page. Without either, the first.
        size: events on the page.
    """
    with in_time():
        page = await read_page(store, search, older=older, newer=newer, size=size)
        await add_payloads(store, page.items)
    return page


async def event(store: Store, event_id: str) -> Document | None:
    """
    Return the event with an id, or None.

    Args:
        store: one face of the store.
        event_id: as text: 24 hex digits may be an ObjectId, or a string that looks
            like one; the string is tried first.
    """
    check_id(event_id, "event_id")
    ids: list[Any] = [event_id]
    with contextlib.suppress(InvalidId):
        ids.append(ObjectId(event_id))
    with in_time():
        for candidate in ids:
            if found := await store.events.find_one({"_id": {"$eq": candidate}}):
                return read_event(found)
    return None


class Neighbours(NamedTuple):
    """The events before and after an event in its stream."""

    previous: Document | None = None
    next: Document | None = None


async def neighbours(store: Store, subject: Document) -> Neighbours:
    """Return an event's neighbours in its stream."""
    version = version_number(subject.get("aggregateVersion"))
    if version is None or type(subject.get("aggregateId")) is not str:
        return Neighbours()
    query = {
        "aggregateId": {"$eq": subject["aggregateId"]},
        "aggregateVersion": {"$in": [version - 1, version + 1]},
    }
    with in_time():
        found = await store.events.find(query, projection=LISTED_FIELDS)
    events = {event["aggregateVersion"]: read_event(event) for event in found}
    return Neighbours(events.get(version - 1), events.get(version + 1))


async def up_to(store: Store, subject: Document) -> list[Document]:
    """
    Return the events of a stream up to one of them, as stored, for a test.

    Empty if they are too many or too large to be copied, or some are missing.
    """
    version = version_number(subject.get("aggregateVersion"))
    if version is None or version > MOST_IN_A_TEST:
        return []
    match = {
        "aggregateId": {"$eq": subject["aggregateId"]},
        "aggregateVersion": {"$gte": 1, "$lte": version},
    }
    fields = {**LISTED_FIELDS, "typeVersion": 1, **SHORT_PAYLOAD}
    with in_time():
        found = await collect(
            store,
            [
                {"$match": match},
                {"$sort": {"aggregateVersion": 1}},
                {"$project": fields},
            ],
        )
    is_whole = all("payload" in one or one["bytes"] is None for one in found)
    return found if is_whole and len(list(filter(is_event, found))) == version else []


async def event_types(store: Store) -> list[str]:
    """Return the types of all events in order; the server reads one key of each."""
    pipeline: list[Document] = [{"$sort": {"type": 1}}, {"$group": {"_id": "$type"}}]
    with in_time():
        found = await collect(store, pipeline)
    return sorted(group["_id"] for group in found if type(group["_id"]) is str)
