"""
Build the events that end a stream, and that begin the one which continues it. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...documents.context import clock
from ...documents.event_document import STREAM_CLOSED, STREAM_CONTINUED, check_id
from ...exceptions import InvalidEvent
from ..new_events import Event, NewEvents, next_events


def closing_event(
    Root: Any,
    aggregate_id: str,
    version: int,
    tick: int | None,
    *,
    reason: str | None,
    created_by: str | None,
    successor: str | None = None,
) -> NewEvents:
    """
    Return the event that closes a stream after a version.

    Args:
        Root: the aggregate class.
        aggregate_id: the stream.
        version: of the stream's last event.
        tick: of the same, if it has one.
        reason: why, for people.
        created_by: who.
        successor: the stream that continues it.

    Raises:
        InvalidEvent: with path and reason.
        TypeError, ValueError: the reason is no text, or empty.
    """
    if reason is not None and not isinstance(reason, str):
        raise TypeError(f"reason must be a string, not {type(reason).__name__}.")
    if reason == "":
        raise ValueError("reason is empty; leave it out, or say why.")
    documents = NewEvents()
    payload: dict[str, Any] = {"reason": reason}
    if successor is not None:
        payload["successor"] = successor
    _build(
        documents, Root, aggregate_id, version + 1, STREAM_CLOSED, payload, created_by
    )
    if tick is not None:
        documents[0]["tick"] = tick + 1
    return documents


def continuing_events(
    Root: Any,
    aggregate_id: str,
    version: int,
    tick: int | None,
    successor: str,
    summary: Sequence[Event],
    *,
    reason: str | None,
    created_by: str | None,
) -> NewEvents:
    """
    Return the event that closes a stream, and the first ones of its successor.

    Args:
        Root: the aggregate class of both.
        aggregate_id: the stream.
        version: of its last event.
        tick: of the same, if it has one.
        successor: the new stream.
        summary: what the new stream begins with.
        reason: why, for people.
        created_by: who closes it.

    Raises:
        InvalidEvent: with path and reason.
    """
    check_id(successor, "successor_id")
    if successor == aggregate_id:
        raise InvalidEvent("successor_id", "is the id of the stream itself")
    documents = closing_event(
        Root,
        aggregate_id,
        version,
        tick,
        reason=reason,
        created_by=created_by,
        successor=successor,
    )
    link = {"predecessor": aggregate_id, "version": version + 1}
    _build(documents, Root, successor, 1, STREAM_CONTINUED, link, created_by)
    documents.include(next_events(Root, successor, 1, summary))
    return documents


def _build(
    documents: NewEvents,
    Root: Any,
    aggregate_id: str,
    version: int,
    kind: str,
    payload: dict[str, Any],
    created_by: str | None,
) -> None:
    event: dict[str, Any] = {"type": kind, "payload": payload}
    if created_by is not None:
        event["createdBy"] = created_by
    documents.build(
        event,
        aggregate_id=aggregate_id,
        aggregate_type=Root.aggregate_type,
        version=version,
        created=clock.now(),
    )
