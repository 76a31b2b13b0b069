"""
How the results are written: text, JSON, a JSON object a line, or a template.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from bson import ObjectId
from django.core.management.base import OutputWrapper
from django.core.management.color import Style, no_style

from ...documents.display import brief, visible, visible_json
from ...documents.extended_json import encode
from .template import MOST_CHARACTERS, NOTHING, Template
from .times import Times

# The first fields of an event in JSON, in this order; others follow.
_FIRST = (
    *("position", "aggregateId", "aggregateType", "aggregateVersion", "type"),
    *("typeVersion", "payload", "created", "createdBy", "metadata", "tags"),
)
# What the store needs for itself.
_LEFT_OUT = ("_id", "places", "tick")
_NARROWEST = 40  # of the payload on a terminal


@dataclass(frozen=True)
class Output:
    """Where and how a command writes."""

    out: OutputWrapper
    style: Style
    times: Times

    def text(self, line: str = "") -> None:
        """Write a line of text."""
        self.out.write(line)

    def json(self, document: Any) -> None:
        """Write one JSON document."""
        self.out.write(self.dumped(document, indent=2))

    def dumped(self, document: Any, indent: int | None = None) -> str:
        """Return JSON without characters that a terminal obeys or cannot write."""
        # Before Django 5, the wrapper has an attribute ``encoding`` that is None.
        stream = getattr(self.out, "_out", None)
        encoding = (getattr(stream, "encoding", None) or "utf-8").lower()
        is_ascii = encoding.replace("-", "") != "utf8"
        text = json.dumps(document, ensure_ascii=is_ascii, indent=indent)
        return visible_json(text)

    def as_json(self, value: Any) -> Any:
        """Return a value as JSON has it."""
        return encode(value)

    def event_as_json(self, event: Mapping[str, Any]) -> dict[str, Any]:
        """Return an event as JSON has it."""
        event_id = event["_id"]
        names = [name for name in _FIRST if name in event]
        names += [name for name in event if name not in (*_FIRST, *_LEFT_OUT)]
        shown = {name: encode(event[name]) for name in names}
        if "created" in shown:
            shown["created"] = self.times.shown(event["created"], "T")
        is_id = isinstance(event_id, ObjectId)
        return {"id": str(event_id) if is_id else encode(event_id), **shown}

    def event_as_line(self, event: Mapping[str, Any]) -> str:
        """Return an event as a line of text; on a terminal its payload may be cut."""
        stream = f"{event.get('aggregateId')}@{event.get('aggregateVersion')}"
        user = event.get("createdBy")
        parts = [
            self.times.shown(event.get("created")),
            visible(str(event.get("type"))),
            visible(stream),
            NOTHING if user is None else visible(str(user)),
        ]
        if position := event.get("position"):
            parts.insert(0, str(position))
        front = "  ".join(parts)
        room = MOST_CHARACTERS
        if self.out.isatty():
            columns = shutil.get_terminal_size().columns
            room = max(columns - len(front) - 2, _NARROWEST)
        colours = [self.style.SUCCESS, self.style.MIGRATE_LABEL]
        parts[-3:-1] = [
            paint(part) for paint, part in zip(colours, parts[-3:-1], strict=True)
        ]
        payload = event.get("payload")
        return "  ".join([*parts, brief({} if payload is None else payload, room)])

    def tall(self, value: Any) -> str:
        """Return a value as JSON on several lines, for people."""
        return visible_json(json.dumps(encode(value), ensure_ascii=False, indent=2))

    def fields(self, rows: Iterable[tuple[str, str]]) -> None:
        """Write names and values, one below the other."""
        for name, value in rows:
            self.text(f"{self.style.MIGRATE_LABEL(f'{name:<10}')}  {value}")


def style_for(out: OutputWrapper, style: Style, *, force: bool) -> Style:
    """Return the style for an output: without colours unless a terminal wants them."""
    if force:
        return style
    is_wanted = out.isatty() and not os.environ.get("NO_COLOR")
    return style if is_wanted else no_style()


class EventWriter:
    """
    Writes events one by one, so that any number of them takes no memory.

    Args:
        output: where to.
        form: "text", "json", "jsonl", or a template.
        is_live: whether somebody waits for each line.
    """

    def __init__(
        self, output: Output, form: str | Template, *, is_live: bool = False
    ) -> None:
        self._output = output
        self._form = form
        self._is_flushed = is_live or form == "jsonl"
        #: How many were written.
        self.count = 0

    def write(self, event: Mapping[str, Any]) -> None:
        """Write an event."""
        output = self._output
        if self._form == "json":
            before = ",\n" if self.count else '{"events": [\n'
            text = output.dumped(output.event_as_json(event))
            output.out.write(before + text, ending="")
        elif self._form == "jsonl":
            output.text(output.dumped(output.event_as_json(event)))
        elif isinstance(self._form, Template):
            output.text(self._form.filled(event))
        else:
            output.text(output.event_as_line(event))
        self.count += 1
        if self._is_flushed:
            output.out.flush()

    def close(self) -> None:
        """End a document of JSON."""
        if self._form == "json":
            self._output.text("\n]}" if self.count else '{"events": []}')
