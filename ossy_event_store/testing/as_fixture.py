"""Stored events as the Python of a test. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..documents.catalogue.as_python.events import source_of_event
from ..documents.event_document import check_id


def as_fixture(
    event: Mapping[str, Any], name: str = "event", *, context: bool = False
) -> str:
    """
    Return the Python that makes a stored event again, for ``given()``.

    An event of a class with ``@event`` becomes an object of it, with the imports that
    it needs; any other a dict. An event of an earlier version of its type becomes a
    dict with ``typeVersion``, which upcasters read.

    Args:
        event: as it is stored.
        name: the variable that it is assigned to.
        context: whether to include ``id``, ``created``, ``createdBy`` and ``metadata``,
            which may be personal data.

    Raises:
        ValueError: the name is none in Python.
        TypeError: it is not a stored event.
    """
    if not check_id(name, "name").isidentifier():
        raise ValueError(f"name must be a name in Python, not {name!r}.")
    given: Any = event
    if not isinstance(given, Mapping) or not isinstance(given.get("type"), str):
        raise TypeError(
            "event must be an event as it is stored, a dict with type and payload, not "
            f"{type(given).__name__}."
        )
    return source_of_event(event, name, context=context)
