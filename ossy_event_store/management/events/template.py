"""
The option ``--format``: a template with fields of an event in braces. Pure.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Mapping
from typing import Any

from ...documents.display import brief, visible
from .times import Times

FIELDS = (
    *("id", "position", "type", "aggregateId", "aggregateType", "aggregateVersion"),
    *("typeVersion", "payload", "created", "createdBy", "metadata", "tags"),
)
NOTHING = "-"
MOST_CHARACTERS = 64_000  # of a value
_PIECE = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")


class Template:
    """
    A template such as ``{position} {type} {payload.to}``.

    Raises:
        ValueError: it names a field that events lack, or a brace is not closed.
    """

    def __init__(self, text: str, times: Times) -> None:
        self._times = times
        self._parts: list[str | list[str]] = []
        at = 0
        for piece in _PIECE.finditer(text):
            self._parts.append(text[at : piece.start()])
            self._parts.append(_part(piece))
            at = piece.end()
        self._parts.append(text[at:])

    def filled(self, event: Mapping[str, Any]) -> str:
        """Return the text for an event; ``-`` stands for what it lacks."""
        return "".join(
            part if isinstance(part, str) else self._text(_value(event, part))
            for part in self._parts
        )

    def _text(self, value: Any) -> str:
        if value is None:
            return NOTHING
        if isinstance(value, str):
            return visible(value)
        if isinstance(value, dt.datetime):
            return self._times.shown(value)
        return brief(value, MOST_CHARACTERS)


def _part(piece: re.Match[str]) -> str | list[str]:
    if piece[0] in ("{{", "}}"):
        return piece[0][0]
    path = (piece[1] or "").split(".")
    if piece[1] is None or path[0] not in FIELDS:
        raise ValueError(
            f"--format: {brief(piece[0])} is no field. Write one of "
            f"{', '.join(FIELDS)} in braces, or a path as {{payload.to}}; {{{{ is a "
            "brace."
        )
    if path[0] == "id":
        path[0] = "_id"
    return path


def _value(event: Mapping[str, Any], path: list[str]) -> Any:
    value: Any = event
    for name in path:
        if isinstance(value, Mapping):
            value = value.get(name)
        elif isinstance(value, list) and re.fullmatch(r"[0-9]{1,9}", name):
            index = int(name)
            value = value[index] if index < len(value) else None
        else:
            return None
    return value
