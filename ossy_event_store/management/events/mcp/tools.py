"""
What the tools answer: dicts for JSON, of bounded size.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from ....aggregate import Aggregate
from ....aggregate.registry import root_of
from ....documents.bson_types import Document
from ....documents.extended_json import encode
from ....event_store import EventStore
from ....event_store.query.grouping import By, counts
from ....event_store.query.lazy_query import EventQuery
from ....mongodb import connection
from ....mongodb.ports import drive
from ....monitoring.catalogue.listing import listed_types
from ....monitoring.status import statuses
from ....subscriptions import parked_streams
from ..filters import has_text, query_of
from ..locating import event_of
from ..request import checked, wrong
from ..times import Times
from ..tracing import found_by

MOST_EVENTS = 100
MOST_PAGES = 20  # of a search for a text
MOST_GROUPS = 100
PAYLOAD_CHARACTERS = 4096  # of payload, metadata, a value of a diff, or an error
STATE_CHARACTERS = 32_768
SECONDS = 10.0
_CAPPED = ("payload", "metadata")
_TIMES = Times.of("UTC")

Answer = dict[str, Any]


def recent(
    limit: int = 20,
    cursor: str | None = None,
    types: list[str] | None = None,
    stream_types: list[str] | None = None,
) -> Answer:
    """
    Return the newest events, the newest first.

    Pass the cursor of an answer to go on with older ones.
    """
    given = {"types": types, "aggregate_types": stream_types, "order": "created"}
    return _page(_query(given).reverse(), limit, cursor)


def search(
    text: str | None = None,
    where: list[str] | None = None,
    types: list[str] | None = None,
    stream: str | None = None,
    tags: list[str] | None = None,
    user: str | None = None,
    since: str | None = None,
    until: str | None = None,
    correlation: str | None = None,
    caused_by: str | None = None,
    limit: int = 20,
    cursor: str | None = None,
) -> Answer:
    """
    Return the events that meet all conditions, the newest first.

    ``where`` holds conditions such as ``payload.to=ann``. A time is an ISO time, or
    ``2h`` for two hours ago. A search that no index answers is refused: give a type, a
    stream or a time. With a text, pass the cursor to look further, even if nothing was
    found yet.
    """
    given = {
        "where": where,
        "types": types,
        "tags": tags,
        "user": user,
        "since": since,
        "until": until,
        "correlation": correlation,
        "caused_by": caused_by,
        "streams": None if stream is None else [stream],
    }
    query = _query(given)
    if text and all(value is None for value in given.values()):
        raise wrong("No index finds a text alone; give a type, a stream or a time too.")
    return _page(query.reverse(), limit, cursor, text)


def show_event(event: str) -> Answer:
    """Return an event, by its id, its position, or as ``STREAM@VERSION``."""
    return {"event": _shown(event_of(event))}


def show_stream(stream: str, after_version: int = 0, limit: int = 20) -> Answer:
    """Return the events of a stream in order, after a version."""
    given = {"streams": [stream], "after_version": after_version}
    events = _query(given)[: _most(limit)]
    info = EventStore.get_stream_info(stream)
    return {"stream": encode(info), "events": [_shown(event) for event in events]}


def state_at(stream: str, version: int | None = None, at: str | None = None) -> Answer:
    """Return the state of a stream: of today, at a version, or at an ISO time."""
    Root = _root_of(stream)
    with checked():
        moment = None if at is None else _TIMES.parsed(at, "at")
        found = Aggregate.of(Root, stream, at_version=version, at=moment)
    state = _capped(found.view(), STATE_CHARACTERS)
    return {"type": found.type, "version": found.version, "state": state}


def diff_states(stream: str, old: int, new: int) -> Answer:
    """Return what changed in the state of a stream between two versions."""
    with checked():
        changes = Aggregate.diff(_root_of(stream), stream, old, new)
    shown = [
        {
            "path": list(change.path),
            "change": change.kind,
            "old": _capped(change.old),
            "new": _capped(change.new),
        }
        for change in changes[:MOST_EVENTS]
    ]
    return {"changes": shown, "more": len(changes) - len(shown)}


def trace(correlation_or_event: str) -> Answer:
    """Return the events of a correlation, or those before and after an event."""
    chain, found = found_by(correlation_or_event, MOST_EVENTS)
    before = list(reversed(chain.events)) if chain else []
    rows = [{"depth": n, **_shown(event)} for n, event in enumerate(before, 1)]
    rows += [
        {"depth": depth + len(before), **_shown(node.event)}
        for depth, node in found.walk()
    ]
    is_cut = found.is_cut or len(rows) > MOST_EVENTS
    return {"events": rows[:MOST_EVENTS], "isCut": is_cut}


def stats(
    by: By = "type", since: str | None = None, until: str | None = None
) -> Answer:
    """Count events by type, aggregate-type, user or day (in UTC)."""
    query = _query({"since": since, "until": until})
    found = counts(query, by, seconds=SECONDS)
    groups = [
        {"value": encode(one.value), "events": one.events}
        for one in found[:MOST_GROUPS]
    ]
    return {"groups": groups, "more": len(found) - len(groups)}


def types() -> Answer:
    """Return the types of stored events, with their numbers."""
    return stats("type")


def catalogue() -> Answer:
    """Return the event types that the code declares, with their fields."""
    found = [one.as_dict() for one in listed_types()]
    return {"types": found[:MOST_GROUPS], "more": len(found[MOST_GROUPS:])}


def subscriptions() -> Answer:
    """Return the state of all subscriptions and projections."""
    found = drive(statuses(connection.blocking()))
    shown = [
        {name: _plain(value) for name, value in one.as_dict().items()} for one in found
    ]
    return {"subscriptions": shown}


def parked(subscription: str) -> Answer:
    """Return the parked streams of a subscription, and why each is parked."""
    store = connection.blocking()
    found = drive(parked_streams.find_parked(store, subscription, limit=MOST_EVENTS))
    return {"parked": [_plain(one) for one in found]}


TOOLS: tuple[Callable[..., Answer], ...] = (
    *(recent, search, show_event, show_stream, state_at, diff_states, trace),
    *(stats, types, catalogue, subscriptions, parked),
)


# --- parts --------------------------------------------------------------------


def _query(given: Mapping[str, Any]) -> EventQuery:
    with checked():
        return query_of(given, _TIMES)


def _most(limit: int) -> int:
    if not 1 <= limit <= MOST_EVENTS:
        raise wrong(f"limit is {limit}; it must be 1 to {MOST_EVENTS}.")
    return limit


def _page(
    query: EventQuery, limit: int, cursor: str | None, text: str | None = None
) -> Answer:
    found: list[Document] = []
    size = MOST_EVENTS if text else _most(limit)
    for _ in range(MOST_PAGES):
        page = query.page(size, cursor)
        cursor = page.cursor
        found += [one for one in page.events if not text or has_text(one, text)]
        if found or cursor is None:
            break
    return {"events": [_shown(event) for event in found], "cursor": cursor}


def _root_of(stream: str) -> Any:
    with checked():
        info = EventStore.get_stream_info(stream)
    if info is None:
        raise wrong(f"Stream {stream!r} does not exist.")
    return root_of(info["aggregateType"])


def _shown(event: Document) -> Answer:
    shown = {
        name: _capped(value) if name in _CAPPED else encode(value)
        for name, value in event.items()
        if name not in ("_id", "places", "tick")
    }
    shown["created"] = _TIMES.shown(event.get("created"), "T")
    return {"id": str(event["_id"]), **shown}


def _capped(value: Any, most: int = PAYLOAD_CHARACTERS) -> Any:
    encoded = encode(value)
    text = json.dumps(encoded)
    if len(text) <= most:
        return encoded
    return {"isCut": True, "characters": len(text), "begins": text[:most]}


def _plain(value: Any) -> Any:
    """Return a document of the store's own, whose errors may quote anything."""
    return _capped(json.loads(json.dumps(value, default=str)))
