"""
A context as JSON, for what runs later or elsewhere: a task of a queue, the outbox.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from ..extended_json import decode, encode
from ..storable import NEW, Unstorable, stored_mapping
from .current import (
    UNSET,
    Context,
    check_created_by,
    check_link,
    span_traceparent,
)
from .headers import traceparent_of

KEYS = ("createdBy", "metadata", "traceparent")


def packed(context: Context | None, who: str | None) -> dict[str, Any]:
    """
    Return a context as a dict of JSON; ``{}`` without one.

    Args:
        context: the context.
        who: the user of its request, if that had to be asked.
    """
    if context is None:
        return {}
    result: dict[str, Any] = {"metadata": encode(dict(context.metadata))}
    if context.created_by is not UNSET:
        result["createdBy"] = context.created_by
    elif who is not None:
        result["createdBy"] = who
    if traceparent := span_traceparent() or context.traceparent:
        result["traceparent"] = traceparent
    return result


def unpacked(value: Any) -> Context:
    """
    Return the context that was packed; an empty one for None and ``{}``.

    A queue may be written by others, so all of it is checked.

    Raises:
        TypeError, ValueError: it is not what ``packed()`` returns.
    """
    if value is None:
        return Context()
    if not isinstance(value, Mapping):
        raise TypeError(
            "The carried context must be what event_context.carry() returned, a dict, "
            f"not {type(value).__name__}."
        )
    if unknown := [str(key) for key in value if key not in KEYS]:
        raise ValueError(
            f"The carried context has the unknown key {min(unknown)[:80]!r}. Give what "
            "event_context.carry() returned, unchanged."
        )
    return Context(
        MappingProxyType(_metadata(value.get("metadata", {}))),
        check_created_by(value["createdBy"], "createdBy of the carried context")
        if "createdBy" in value
        else UNSET,
        traceparent=traceparent_of(value.get("traceparent")),
    )


def _metadata(carried: Any) -> dict[str, Any]:
    try:
        if not isinstance(carried, Mapping):
            raise ValueError(f"a dict expected, not {type(carried).__name__}")
        decoded = decode(dict(carried))
        if not isinstance(decoded, dict):  # but another type of Extended JSON
            raise ValueError(f"a dict expected, not {type(decoded).__name__}")
        metadata = stored_mapping(decoded, NEW)
        for name in ("correlationId", "causationId"):
            if name in metadata:
                check_link(metadata[name], name)
    except (TypeError, ValueError, Unstorable) as error:
        raise ValueError(f"metadata of the carried context is wrong: {error}") from None
    return metadata
