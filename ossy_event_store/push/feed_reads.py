"""
The reads that feeds share: events at positions, versions, the kind of server.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

from ..documents.bson_types import Document
from ..documents.catalogue.catalogue import current
from ..exceptions import UnknownEventVersion, UpcasterError
from ..mongodb.connection import Store
from ..mongodb.deadline import in_time
from ..mongodb.topology import is_standalone
from ..mongodb.write_errors import short_reason
from ..positions import reader
from ..positions.event_pages import PageLimit

logger = logging.getLogger("ossy_event_store")


async def read_events(
    store: Store, query: Document, size: int, session: Any, limit: PageLimit
) -> tuple[list[Document], int | None]:
    """
    Return the events of some positions, without those that were deleted.

    Returns:
        The events, and the position after which more of them may follow; None if none
        do: large events come in several pages.
    """
    page = await reader.read(store, query, size, session, limit)
    events = []
    for event in page.events:
        if isinstance(event, reader.LostEvent):
            logger.error("Event feed skipped a deleted event: %s", event.error)
        else:
            events.append(event)
    return events, page.last if page.is_full else None


def readings(event: Document) -> Sequence[Document] | None:
    """Return what a stored event is today; None, and a log line, if that is unknown."""
    try:
        return current().upcasted([event])
    except (UnknownEventVersion, UpcasterError) as error:
        logger.error(
            "Event feed cannot read position %s, clients get a message skipped: %s",
            event["position"],
            short_reason(error),
        )
        return None


async def version_at(store: Store, session: Any, stream: str, position: int) -> int:
    """Return the version that a stream had at a position."""
    with in_time():
        # From the end of the stream: a returning listener has missed little.
        last = await store.positions.find_one(
            {"aggregateId": {"$eq": stream}, "_id": {"$lte": position}},
            projection={"aggregateVersion": 1},
            sort=[("aggregateVersion", -1)],
            session=session,
        )
    # Positions that were given up have versions below 0.
    return max(0, int(last["aggregateVersion"])) if last else 0


async def has_change_streams(store: Store) -> bool:
    """Whether the server can assign positions: only a standalone server cannot."""
    with in_time():
        hello = await store.client.command("hello")
    return not is_standalone(hello)


def raise_if_cancelled() -> None:
    """End a task that was cancelled while PyMongo (4.20) read and did not notice."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
