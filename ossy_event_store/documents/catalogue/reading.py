"""What reducers, subscriptions and projections get of stored events. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..bson_types import Document
from .catalogue import current
from .objects import objects


def gets_as_stored(reader: Any, events: Sequence[Document]) -> bool:
    """Whether ``current_events()`` would return these events as they are."""
    if getattr(reader, "typed", False):
        return False
    return current().leaves(events, getattr(reader, "event_types", None))


def current_events(reader: Any, events: list[Document]) -> list[Any]:
    """
    Return what a reader gets of stored events: each at the version that the code knows.

    A reader with ``typed = True`` gets objects of the events' classes.

    Args:
        reader: an aggregate class, a projection or a subscription. It gets only events
            of its ``event_types``, unless it has none.
        events: as stored, completed by ``read_event()``.

    Returns:
        The events, not always as many. The results of an event share its id, version
        and position.

    Raises:
        UndecodableEvent: the class of a type cannot be made of one.
        UnknownEventVersion: one has a version that the code does not know.
        UpcasterError: an upcaster failed.
    """
    found = current().upcasted(events, getattr(reader, "event_types", None))
    return objects(found) if getattr(reader, "typed", False) else found
