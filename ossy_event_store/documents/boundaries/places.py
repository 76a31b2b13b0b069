"""
Places: which number an event has in each of its tags.

Numbers are dense, as the versions of a stream are, and a unique index gives each to one
event. So two events that share a tag never commit without one knowing the other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..bson_types import Document


@dataclass(frozen=True)
class Heads:
    """Where some streams and names end."""

    #: The last event of each stream that exists: version, type and tick.
    streams: Mapping[str, Document] = field(default_factory=dict)
    #: The highest number in each name; those without events are missing.
    numbers: Mapping[str, int] = field(default_factory=dict)
    #: The highest tick of all of these events.
    tick: int = 0


def assign(
    documents: Iterable[Document], names: Iterable[Sequence[str]], heads: Heads
) -> None:
    """
    Give each document the next number in each of its names, and the next tick.

    Args:
        documents: in order; they keep nothing of an earlier attempt.
        names: for each document, the names in which it takes a place, each once.
        heads: where all of these names end, and the documents' streams.
    """
    numbers = dict(heads.numbers)
    for tick, (document, own) in enumerate(
        zip(documents, names, strict=True), heads.tick + 1
    ):
        document.pop("places", None)
        if own:
            # An empty list would collide with another one in the index.
            document["places"] = [_next(name, numbers) for name in own]
        document["tick"] = tick


def _next(name: str, numbers: dict[str, int]) -> Document:
    numbers[name] = numbers.get(name, 0) + 1
    return {"t": name, "n": numbers[name]}


def number_in(event: Mapping[str, Any], name: str) -> int:
    """Return the number that an event has in a name, or 0."""
    for place in event.get("places", ()):
        if place["t"] == name:
            number: int = place["n"]
            return number
    return 0


def places_after(name: str, number: int, until: int | None = None) -> Document:
    """Return the filter for events in a name: tight bounds in the index of places."""
    numbers: Document = {"$gt": number}
    if until is not None:
        numbers["$lte"] = until
    return {"places": {"$elemMatch": {"t": {"$eq": name}, "n": numbers}}}
