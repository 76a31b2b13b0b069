"""
Tags, and the names of the places that events take.

A tag is one more stream that an event is in. So are, under reserved names, its type if
that is declared in ``TYPE_BOUNDARIES``, and the store as a whole.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from ..storable import HALF_A_SURROGATE, is_text

MAX_TAGS = 16
MAX_TAG_LENGTH = 255
EVERYTHING = "*"
_TYPE = "type:"
_STREAM = "stream:"
MAX_NAME_LENGTH = MAX_TAG_LENGTH + len(_STREAM)

Refuse = Callable[[str, str], Exception]


def type_place(event_type: str) -> str:
    """Return the name under which events of a declared type take their places."""
    return _TYPE + event_type


def stream_place(aggregate_id: str) -> str:
    """Return the name under which conditions on a stream take their places."""
    return _STREAM + aggregate_id


def check_places(event: Mapping[str, Any], refuse: Refuse) -> None:
    """Check the places of an event that was stored elsewhere."""
    places = event["places"]
    if not isinstance(places, list) or not places:
        raise refuse("places", "must be a list that is not empty, or be left out")
    for index, place in enumerate(places):
        if not isinstance(place, Mapping) or place.keys() != {"t", "n"}:
            raise refuse(f"places[{index}]", "must be a dict with t and n")
        if not _is_name(place["t"]) or not _is_number(place["n"]):
            reason = "t must be a tag, and n a number from 1"
            raise refuse(f"places[{index}]", reason)
    names = [place["t"] for place in places]
    if len(set(names)) < len(names) or not {*event.get("tags", ())} <= {*names}:
        raise refuse("places", "must have each tag of the event, and each once")


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and 1 <= len(value) <= MAX_NAME_LENGTH


def _is_number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def is_reserved(name: str) -> bool:
    """Whether a place has this name that is no tag."""
    return name == EVERYTHING or name.startswith((_TYPE, _STREAM))


def check_tags(value: Any, path: str, refuse: Refuse) -> list[str]:
    """
    Return tags as a list of strings.

    Args:
        value: a list or tuple; the first tag can name the stream, so order counts.
        path: where the value is, for the error.
        refuse: makes the error from a path and a reason.
    """
    if not isinstance(value, (list, tuple)):
        kind = type(value).__name__
        raise refuse(path, f"must be a list of strings, not {kind}")
    if len(value) > MAX_TAGS:
        raise refuse(path, f"has {len(value)} tags; at most {MAX_TAGS} are allowed")
    tags: list[str] = []
    for index, tag in enumerate(value):
        if reason := _wrong_with(tag):
            raise refuse(f"{path}[{index}]", reason)
        if tag in tags:
            raise refuse(f"{path}[{index}]", f"{tag!r} is given twice; give it once")
        tags.append(str.__str__(tag))
    return tags


def _wrong_with(tag: Any) -> str | None:
    if not issubclass(type(tag), str):  # a lazy string only pretends to be one
        return f"must be a string, not {type(tag).__name__}"
    if not 1 <= len(tag) <= MAX_TAG_LENGTH:
        return f"must have 1 to {MAX_TAG_LENGTH} characters, not {len(tag)}"
    if "\0" in tag:
        return "must not contain a NUL character"
    if not is_text(tag):
        return HALF_A_SURROGATE
    if is_reserved(tag):
        return (
            f"{tag!r} is reserved: a tag may not be {EVERYTHING!r}, nor begin with "
            f"{_TYPE!r} or {_STREAM!r}"
        )
    return None


def names_of_places(
    event: Mapping[str, Any], declared: Collection[str]
) -> tuple[str, ...]:
    """
    Return the names in which an event takes a place.

    Args:
        event: its document.
        declared: the setting ``TYPE_BOUNDARIES``.
    """
    names: Iterable[str] = event.get("tags", ())
    if not declared:
        return tuple(names)
    own = [type_place(event["type"])] if event["type"] in declared else []
    every = [EVERYTHING] if EVERYTHING in declared else []
    return (*names, *own, *every)
