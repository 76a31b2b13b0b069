"""What reducers, subscriptions and projections get of stored events. Pure."""

from __future__ import annotations

from typing import Any

from ..bson_types import Document
from .catalogue import current


def current_events(reader: Any, events: list[Document]) -> list[Any]:
    """
    Return what a reader gets of stored events: each at the version that the code knows.

    A reader with ``typed = True`` gets objects of the events' classes.

    Args:
        reader: an aggregate class, a projection or a subscription.
        events: as stored, completed by ``read_event()``.

    Returns:
        The events, not always as many. The results of an event share its id, version
        and position.

    Raises:
        UnknownEventVersion: one has a version that the code does not know.
        UpcasterError: an upcaster failed.
    """
    return current().upcasted(events)
