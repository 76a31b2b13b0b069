"""
Fill in what an event does not say itself. Pure, but for the context variable.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .current import UNSET, Context


def filled(event: Mapping[str, Any], context: Context) -> Mapping[str, Any]:
    """
    Return a checked event with what its context adds.

    A key that the event has wins, also if it is None: ``createdBy: None`` says that
    nobody did it.
    """
    metadata = event.get("metadata", {})
    if isinstance(metadata, Mapping):  # else it is refused, by its name
        metadata = {**context.metadata_now(), **metadata}
    result = {**event, "metadata": metadata}
    if "createdBy" not in event and context.created_by is not UNSET:
        result["createdBy"] = context.created_by
    return result


def names_given(event: Mapping[str, Any]) -> frozenset[str]:
    """Return the fields that a caller gave, and the keys of metadata among them."""
    metadata = event.get("metadata")
    if not metadata or not isinstance(metadata, Mapping):
        return frozenset(event)
    return frozenset(event) | {f"metadata.{key}" for key in metadata}
