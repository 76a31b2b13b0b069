"""
An event as one line of JSON, and a line as an event. Pure.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import math
import struct
from typing import Any

import bson
from bson.datetime_ms import DatetimeMS

from ..documents.bson_types import CODEC, Document
from ..documents.event_document import (
    FIELDS,
    IS_RESERVED,
    RESERVED,
    SET_AT_APPEND,
    TYPE_VERSION,
    check_fields,
    checked_document,
    from_milliseconds,
    version_number,
)
from ..documents.extended_json import (
    Malformed,
    decode,
    dumps,
    encode,
    iso,
    loads,
    parse_date,
)
from ..documents.storable import COPY, is_text
from ..exceptions import InvalidEvent

_INFINITE = struct.pack("<d", math.inf)
_MINUS_INFINITE = struct.pack("<d", -math.inf)
_OPTIONAL = ("metadata", "tags", *SET_AT_APPEND, TYPE_VERSION)
_KNOWN = (*FIELDS, *_OPTIONAL[1:])
_REQUIRED = ("aggregateId", "aggregateType", "aggregateVersion", "type", "created")


_ONE_A_LINE = (
    "write one object a line, as mongoexport does without --jsonArray and --pretty"
)


def derived_id(aggregate_id: str, version: int) -> str:
    """Return the id that a line without one gets."""
    return f"{aggregate_id}@{version}"


def line_of(event: Document) -> str:
    """Return the line of a stored event; ``read_line`` reads it back."""
    out = dict(event)
    version = version_number(event["aggregateVersion"])
    if version and out["_id"] == derived_id(event["aggregateId"], version):
        del out["_id"]
    created = out.get("created")
    if isinstance(created, (int, float)):  # by the Node package
        with contextlib.suppress(OverflowError, ValueError):
            created = from_milliseconds(created)
    line = {key: encode(value) for key, value in out.items() if key != "created"}
    if "created" in out:
        line["created"] = (
            iso(created) if isinstance(created, dt.datetime) else encode(created)
        )
    # In the document's order.
    return dumps({key: line[key] for key in out})


def read_line(text: str) -> Document:
    """
    Return the event document of a line.

    Raises:
        Malformed: the line is not the JSON of an event; with path and reason.
        InvalidEvent: the event cannot be stored; with path and reason.
    """
    line = _checked_names(_loaded(text))
    created = line.pop("created")
    try:
        if _is_plain(text) and _is_exact(event := _event_of(line, created)):
            check_fields(event, COPY)
            return event
        return checked_document(_event_of(decode(line), created), COPY)
    except InvalidEvent as error:
        path = "_id" if error.path == "id" else error.path
        raise InvalidEvent(path, error.reason) from None


def _loaded(text: str) -> Any:
    try:
        return loads(text)
    except Malformed as error:
        # What MongoDB's tools write if told to; nobody wants to fix it line by line.
        if text.strip() in ("{", "[") or text.startswith("[{"):
            raise Malformed(f"{error.reason}; {_ONE_A_LINE}") from None
        raise


def _is_plain(text: str) -> bool:
    """
    Whether the values of a line need no decoding, as is true for nearly all lines.

    No type is spelled out ("$"), nothing is escaped that could spell one or could be
    invalid text ("\\"), and nothing is nested too deep.
    """
    return (
        "$" not in text
        and "\\" not in text
        and text.count("{") + text.count("[") <= COPY.depth
        and is_text(text)
    )


def _is_exact(event: Document) -> bool:
    """Whether the event of a plain line can be stored: its numbers may be too large."""
    try:
        encoded = bson.encode(event, codec_options=CODEC)
    except OverflowError:
        return False
    return (
        len(encoded) <= COPY.size
        and _INFINITE not in encoded
        and _MINUS_INFINITE not in encoded
    )


def _event_of(line: Document, created: Any) -> Document:
    """Return the event of a line's values, with its fields in order."""
    aggregate_id, version = line["aggregateId"], line["aggregateVersion"]
    if isinstance(version, float):  # stored by a program without integers
        version = version_number(version) or version
    event = {
        "_id": line["_id"] if "_id" in line else derived_id(aggregate_id, version),
        "aggregateId": aggregate_id,
        "aggregateType": line["aggregateType"],
        "aggregateVersion": version,
        "type": line["type"],
        "payload": line.get("payload", {}),
        "created": _created(created),
        "createdBy": line.get("createdBy"),
    }
    event.update((name, line[name]) for name in _OPTIONAL if name in line)
    if event.get("tags") == []:
        del event["tags"]
    if isinstance(found := event.get(TYPE_VERSION), float):
        event[TYPE_VERSION] = version_number(found) or found
    return event


def _checked_names(line: Any) -> dict[str, Any]:
    if not isinstance(line, dict):
        kind = type(line).__name__
        raise Malformed(f"expected a JSON object, not {kind}; {_ONE_A_LINE}")
    for name in _REQUIRED:
        if line.get(name) is None:
            raise Malformed("missing", name)
    for name in line:
        if name in RESERVED:
            raise Malformed(IS_RESERVED, name)
        if name not in FIELDS and name not in _OPTIONAL:
            raise Malformed(f"not a field of an event: {', '.join(_KNOWN)}", name)
    if "tick" in line and "places" not in line:
        del line["tick"]  # it says nothing without places, and is made again
    return line


def _created(value: Any) -> Any:
    try:
        if isinstance(value, dict):
            value = decode(value)
            if isinstance(value, DatetimeMS):
                value = int(value)
            elif not isinstance(value, (int, float)):
                return value
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return from_milliseconds(value)
        return parse_date(value)
    except (OverflowError, ValueError) as error:
        if isinstance(error, Malformed):
            raise error.inside("created") from None
        raise Malformed("beyond the years that a date can have", "created") from None
