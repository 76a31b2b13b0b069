"""Bounded look-ups of events: a page of the feed, one event, and related events."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import Any

from bson import ObjectId
from bson.errors import InvalidId

from ..documents.bson_types import Document
from ..documents.event_document import check_id, read_event, version_number
from ..mongodb.connection import Store
from ..mongodb.deadline import in_time
from .event_fields import LISTED_FIELDS, add_payloads, collect, text_in_metadata
from .paging import PAGE_SIZE, Cursor, Page, Search, read_page

RELATED_EVENTS = 50  # on the page of an event


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


@dataclass
class Relations:
    """The events related to one event; each list ends at ``RELATED_EVENTS``."""

    previous: Document | None = None
    next: Document | None = None
    cause: Document | None = None
    caused: list[Document] = field(default_factory=list)
    correlated: list[Document] = field(default_factory=list)


async def relations(store: Store, subject: Document) -> Relations:
    """Return an event's neighbours in its stream, its cause, and what it caused."""
    found = Relations()
    await _add_neighbours(store, subject, found)
    if cause := text_in_metadata(subject, "causationId"):
        with contextlib.suppress(ValueError):  # no event can have such an id
            found.cause = await event(store, cause)
    found.caused = await _others(
        store, Search(causation_id=str(subject["_id"])), subject
    )
    if correlation := text_in_metadata(subject, "correlationId"):
        search = Search(correlation_id=correlation)
        found.correlated = await _others(store, search, subject)
    return found


async def _add_neighbours(store: Store, subject: Document, found: Relations) -> None:
    version = version_number(subject.get("aggregateVersion"))
    if version is None or type(subject.get("aggregateId")) is not str:
        return
    query = {
        "aggregateId": {"$eq": subject["aggregateId"]},
        "aggregateVersion": {"$in": [version - 1, version + 1]},
    }
    with in_time():
        for neighbour in await store.events.find(query, projection=LISTED_FIELDS):
            if neighbour["aggregateVersion"] < version:
                found.previous = read_event(neighbour)
            else:
                found.next = read_event(neighbour)


async def _others(store: Store, search: Search, subject: Document) -> list[Document]:
    page = await events(store, search, size=RELATED_EVENTS)
    return [other for other in page.items if other["_id"] != subject["_id"]]


async def event_types(store: Store) -> list[str]:
    """Return the types of all events in order; the server reads one key of each."""
    pipeline: list[Document] = [{"$sort": {"type": 1}}, {"$group": {"_id": "$type"}}]
    with in_time():
        found = await collect(store, pipeline)
    return sorted(group["_id"] for group in found if type(group["_id"]) is str)
