"""
``events tail``, ``events search``, and the events of ``events stream``.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any

from django.core.management.base import CommandError

from ...documents.bson_types import Document
from ...event_store import EventStore
from ...event_store.query.lazy_query import EventQuery
from ...exceptions import InvalidQuery
from .arguments import MOST_HELD
from .filters import given_filters, has_text
from .following import follow
from .request import Request, closed, wrong

SHOWN = 20
# An event gets its position within milliseconds if a process assigns them.
_LATE = dt.timedelta(seconds=5)


def tail(request: Request) -> None:
    """Print the last events in order, and those to come."""
    is_live = request["follow"]
    writer = request.writer(is_live=is_live)
    has_start = request["after"] is not None or request["since"] is not None
    limit = request.limit(None if has_start else SHOWN)
    if limit is not None and limit > MOST_HELD:
        raise wrong(
            f"--limit is {limit}; at most {MOST_HELD} are allowed. For more, begin "
            "with --after or --since, or take --limit all."
        )
    if is_live:
        follow(request, writer, limit)
        return
    with request.in_time():
        query = request.query()
        events = closed(query) if limit is None else last_of(query, limit)
        for event in events:
            writer.write(event)
    writer.close()
    _tell_of_the_unassigned(request, query)


def last_of(query: EventQuery, limit: int) -> list[Document]:
    """Return the last events of a query, in its order."""
    return list(query.reverse()[:limit])[::-1] if limit else []


def search(request: Request) -> None:
    """Print the events with a text or a value, the newest first."""
    writer = request.writer()
    query, text = request.query(), request["text"]
    if text == "":
        raise wrong("--text must not be empty.")
    if text and not given_filters(request.options) and not request["scan"]:
        raise InvalidQuery(
            "",
            "no index finds a text. Narrow it, as with --type, --stream or --since, or "
            "add --scan to read every event.",
        )
    query = query if request["reverse"] else query.reverse()
    with request.in_time():
        found: Iterable[Document] = closed(query)
        if text:
            found = (event for event in found if has_text(event, text))
        for event in islice(found, request.limit(SHOWN)):
            writer.write(event)
    writer.close()
    if not writer.count:
        request.note("No events match.")


def stream_events(request: Request) -> None:
    """Print the events of a stream."""
    writer = request.writer()
    stream = request["stream"]
    query = request.query()
    query = query.reverse() if request["reverse"] else query
    with request.in_time():
        events: Iterable[Document] = closed(query)
        if request["at"] is not None:
            last = version_at(stream, request.time("at"))
            events = (one for one in events if one["aggregateVersion"] <= last)
        for event in islice(events, request.limit(None)):
            writer.write(event)
    writer.close()
    if not writer.count:
        if not EventStore.exists(stream):
            raise missing(stream)
        request.note("No events match.")


def missing(stream: str) -> CommandError:
    """Return the error of a stream that does not exist."""
    return wrong(f"Stream {stream!r} does not exist.")


def version_at(stream: str, moment: dt.datetime) -> int:
    """Return the version of a stream before its first event after a moment."""
    version = 0
    for event in closed(EventStore.query().stream(stream)):
        created = event.get("created")
        if isinstance(created, dt.datetime) and created > moment:
            break
        version = event["aggregateVersion"]
    return version


def _tell_of_the_unassigned(request: Request, query: EventQuery) -> None:
    """Say that events without a position are missing, if no process assigns them."""
    if query.explain()["order"] != "position" or request["until_position"] is not None:
        return
    newest = EventStore.query().order("created").last()
    if newest is None or not _is_late(newest) or EventStore.position_of(newest):
        return
    request.note(
        "The newest events have no position yet, so they are not here: is manage.py "
        "run_subscriptions running? --order created shows them."
    )


def _is_late(event: Mapping[str, Any]) -> bool:
    created = event.get("created")
    now = dt.datetime.now(dt.UTC)
    return isinstance(created, dt.datetime) and created < now - _LATE
