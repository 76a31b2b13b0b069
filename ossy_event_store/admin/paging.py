"""
Pages of events, newest first, read from an index.

A cursor on an index finds a page, never skipping or counting, so the last page of a
large store costs as much as the first page of a small one.
"""

from __future__ import annotations

import base64
import datetime as dt
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import bson
from bson.errors import BSONError
from bson.max_key import MaxKey
from bson.min_key import MinKey
from pymongo.errors import OperationFailure

from ..documents.bson_types import CODEC, Document
from ..documents.event_document import read_event
from ..event_store.query.plan import beyond_bound
from ..mongodb.connection import Store
from ..mongodb.indexes import (
    CAUSATION,
    CORRELATION,
    EVENT_TYPE_TIME,
    TAG_TIME,
    TIME,
    TYPE_TIME,
    WHO_TIME,
    Index,
)
from .event_fields import LISTED_FIELDS, tags_of, value_at

PAGE_SIZE = 50  # events or streams
CHUNK_SIZE = 200  # events that one query reads
# The upper bound of an index is not above the lower one: the first day is after the
# last one, or the cursor is not between them.
NOTHING_BETWEEN = 51175
_LISTED = {
    **LISTED_FIELDS,
    **{f"metadata.{key}": 1 for key in ("correlationId", "causationId")},
}
SCAN_LIMIT = 2000  # events read for one page; then the page ends, full or not


@dataclass(frozen=True)
class Cursor:
    """Where an event is among all events, by time and then by id."""

    created: Any
    id: Any

    @classmethod
    def of(cls, event: Mapping[str, Any]) -> Cursor:
        """Return the cursor of a stored event, before ``read_event`` changes it."""
        return cls(event.get("created"), event["_id"])

    @classmethod
    def parse(cls, text: str) -> Cursor:
        """
        Return the cursor that ``str()`` wrote into a URL.

        Raises:
            ValueError: the text is not a cursor.
        """
        try:
            raw = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
            fields = bson.decode(raw, codec_options=CODEC)
        except (ValueError, BSONError) as error:
            raise ValueError(f"not a cursor: {text!r}") from error
        if set(fields) != {"c", "i"}:
            raise ValueError(f"not a cursor: {text!r}")
        return cls(fields["c"], fields["i"])

    def __str__(self) -> str:
        raw = bson.encode({"c": self.created, "i": self.id}, codec_options=CODEC)
        return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


@dataclass(frozen=True)
class Search:
    """Which events to list: each field that is set narrows them; times are aware."""

    type: str | None = None
    aggregate_type: str | None = None
    created_by: str | None = None
    correlation_id: str | None = None
    causation_id: str | None = None
    since: dt.datetime | None = None
    until: dt.datetime | None = None
    tag: str | None = None

    # The index that probably leaves the fewest events comes first.
    _INDEXES = (
        ("causation_id", CAUSATION),
        ("correlation_id", CORRELATION),
        ("created_by", WHO_TIME),
        ("type", EVENT_TYPE_TIME),
        ("aggregate_type", TYPE_TIME),
    )

    @property
    def index(self) -> Index:
        """The index to read from."""
        for name, index in self._INDEXES:
            if getattr(self, name) is not None and index.is_wanted:
                return index
        return TIME

    @property
    def prefix(self) -> list[tuple[str, Any]]:
        """The fields of the index, before time and id, that the search fixes."""
        keys = [key for key, _ in self.index.keys if key not in ("created", "_id")]
        return [(key, self._wanted()[key]) for key in keys]

    def _wanted(self) -> dict[str, str]:
        wanted = {
            index.keys[0][0]: getattr(self, name) for name, index in self._INDEXES
        }
        return {key: value for key, value in wanted.items() if value is not None}

    def admits(self, event: Document) -> bool:
        """Whether an event that was read from the index has the other fields too."""
        if self.tag is not None and self.tag not in tags_of(event):
            return False
        return all(
            value_at(event, key) == value
            for key, value in self._wanted().items()
            if key != self.index.keys[0][0]
        )

    @property
    def is_of_tag(self) -> bool:
        """Whether the events are read from the index of the tags."""
        return self.tag is not None and self.index is TIME and TAG_TIME.is_wanted


@dataclass
class Page:
    """Some of the results, and cursors to the pages on either side."""

    items: list[Document] = field(default_factory=list)
    newer: Cursor | None = None
    older: Cursor | None = None


IndexKey = list[tuple[str, Any]]
Keep = Callable[[Store, list[Document]], Awaitable[list[Document]]]


async def keep_all(store: Store, events: list[Document]) -> list[Document]:
    """Keep every event."""
    return events


async def read_page(
    store: Store,
    search: Search,
    *,
    older: Cursor | None = None,
    newer: Cursor | None = None,
    size: int = PAGE_SIZE,
    keep: Keep = keep_all,
) -> Page:
    """
    Read events from a cursor on until a page is full.

    Args:
        store: one face of the store.
        search: which events.
        older: start after this cursor, towards older events: the next page.
        newer: start before it, towards newer events: the previous page.
        size: events on the page.
        keep: chooses events from each chunk that was read.
    """
    upwards = newer is not None
    found: list[Document] = []
    stopped: Cursor | None = None
    scanned = 0
    async for chunk in _walk(store, search, newer if upwards else older, upwards):
        admitted = [event for event in chunk if search.admits(event)]
        found += await keep(store, admitted)
        scanned += len(chunk)
        if len(found) > size:
            break
        if scanned >= SCAN_LIMIT:
            stopped = Cursor.of(chunk[-1])
            break
    more = len(found) > size
    found = found[:size]
    onward = Cursor.of(found[-1]) if more else stopped
    back = None
    if newer or older:
        back = Cursor.of(found[0]) if found else newer or older
    if upwards:
        found.reverse()
        page = Page(found, newer=onward, older=back)
    else:
        page = Page(found, newer=back, older=onward)
    for event in found:
        read_event(event)
    return page


async def _walk(
    store: Store, search: Search, start: Cursor | None, upwards: bool
) -> AsyncGenerator[list[Document], None]:
    """Yield chunks of events from a cursor on, towards newer or older events."""
    low, high = _bounds(search)
    while True:
        # Bounds of the index, not a filter: bounds compare values of any type, and
        # the cursor's time may be a date or a number (from the Node package).
        if start is not None and upwards:
            low = _index_key(search, start.created, start.id)
        elif start is not None:
            high = _index_key(search, start.created, start.id)
        if search.is_of_tag:
            chunk = await _of_tag(store, search, start, upwards)
        else:
            index, direction = search.index, 1 if upwards else -1
            chunk = await _between(store, index, low, high, direction)
        is_full = len(chunk) > CHUNK_SIZE
        if start is not None and upwards and chunk and Cursor.of(chunk[0]) == start:
            chunk = chunk[1:]  # the lower bound is inclusive
        if not chunk:
            return
        yield chunk
        if not is_full:
            return
        start = Cursor.of(chunk[-1])


async def _between(
    store: Store, index: Index, low: IndexKey, high: IndexKey, direction: int
) -> list[Document]:
    """Return some events from an index, the first in a direction."""
    try:
        return await store.events.find(
            {},
            projection=_LISTED,
            hint=list(index.keys),
            min=dict(low),
            max=dict(high),
            sort=[(key, direction) for key, _ in index.keys],
            limit=CHUNK_SIZE + 1,
        )
    except OperationFailure as error:
        if error.code == NOTHING_BETWEEN:
            return []
        raise


async def _of_tag(
    store: Store, search: Search, start: Cursor | None, upwards: bool
) -> list[Document]:
    """
    Return some events of a tag from a cursor on, without that of the cursor.

    An index on a list gives an order only if one value is asked for, so this is a
    filter. The Node package, whose times are numbers, has no tags.
    """
    query: Document = {"tags": {"$eq": search.tag}}
    bounds = [("$gte", search.since), ("$lt", search.until)]
    if start is not None:
        beyond, bound = ("$gt", "$gte") if upwards else ("$lt", "$lte")
        bounds.append((bound, start.created))
        key = (start.created, start.id)
        query["$expr"] = beyond_bound(("created", "_id"), key, beyond)
    if times := [{"created": {sign: at}} for sign, at in bounds if at is not None]:
        query["$and"] = times
    return await store.events.find(
        query,
        projection=_LISTED,
        hint=list(TAG_TIME.keys),
        sort=[(key, 1 if upwards else -1) for key in ("created", "_id")],
        limit=CHUNK_SIZE + 1,
    )


def _bounds(search: Search) -> tuple[IndexKey, IndexKey]:
    since = MinKey() if search.since is None else search.since
    until = MaxKey() if search.until is None else search.until
    return (
        _index_key(search, since, MinKey()),
        _index_key(search, until, MinKey()),
    )


def _index_key(search: Search, created: Any, event_id: Any) -> IndexKey:
    return [*search.prefix, ("created", created), ("_id", event_id)]
