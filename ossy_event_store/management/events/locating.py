"""
Find the event that a person names: by its id, its stream and version, or its position.
"""

from __future__ import annotations

import re

from ...documents.arguments import LARGEST
from ...documents.bson_types import Document
from ...documents.display import brief
from ...event_store import EventStore
from .request import checked, wrong

_NUMBER = re.compile(r"[0-9]{1,18}")


def event_of(name: str) -> Document:
    """
    Return an event with its ``position``, if it has one.

    Args:
        name: a position, an event's id, or ``STREAM@VERSION``; the first that exists.

    Raises:
        CommandError: there is no such event.
    """
    event = _at_position(name) or _with_id(name) or _of_stream(name)
    if event is None:
        raise wrong(f"No event has the position, id or STREAM@VERSION {brief(name)}.")
    if "position" not in event:
        position = EventStore.position_of(event)
        if position is not None:
            event["position"] = position
    return event


def _at_position(name: str) -> Document | None:
    if not _NUMBER.fullmatch(name) or not 0 < int(name) <= LARGEST:
        return None
    position = int(name)
    query = EventStore.query().after(position - 1).until_position(position)
    return query.first()


def _with_id(name: str) -> Document | None:
    with checked():
        query = EventStore.query().ids(name)
    return query.first()


def _of_stream(name: str) -> Document | None:
    stream, _, version = name.rpartition("@")
    if not stream or not _NUMBER.fullmatch(version) or not int(version):
        return None
    number = int(version)
    with checked():
        query = EventStore.query().stream(stream).after_version(number - 1)
    event = query.first()
    return event if event and event["aggregateVersion"] == number else None
