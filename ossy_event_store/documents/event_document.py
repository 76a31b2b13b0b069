"""
Event documents: build, check and read them.

A value that MongoDB cannot store, or would not return equal, is refused here with its
path and the reason, before anything is sent.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import difflib
import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, TypeGuard

import bson
from bson import ObjectId
from bson.errors import BSONError

from ..exceptions import InvalidEvent, InvalidState
from .boundaries.tags import check_places, check_tags
from .bson_types import CODEC, Document
from .storable import (
    COPY,
    HALF_A_SURROGATE,
    NEW,
    Limits,
    Unstorable,
    Walk,
    is_object,
    is_text,
    stored_mapping,
)

FIELDS = (
    "_id",
    "aggregateId",
    "aggregateType",
    "aggregateVersion",
    "type",
    "payload",
    "created",
    "createdBy",
    "metadata",
)
# What other event stores call the keys of an event, in lower case without signs.
ELSEWHERE = {
    **dict.fromkeys(("data", "eventdata", "body", "content"), "payload"),
    **dict.fromkeys(("eventtype", "name", "eventname"), "type"),
    **dict.fromkeys(("eventid", "uuid", "id"), "id"),
    **dict.fromkeys(("meta", "headers", "eventmetadata"), "metadata"),
    **dict.fromkeys(("stream", "streamid", "streamname", "entityid"), "aggregateId"),
    **dict.fromkeys(("streamtype", "category", "entitytype"), "aggregateType"),
    **dict.fromkeys(("version", "streamversion", "sequence"), "aggregateVersion"),
    **dict.fromkeys(("timestamp", "createdat", "occurredat", "time"), "created"),
    **dict.fromkeys(("user", "userid", "actor", "author"), "createdBy"),
}
# Fields that only the store sets: the places of an event in its tags, and its order
# among the events that share one.
SET_AT_APPEND = ("places", "tick")
IS_SET_AT_APPEND = "the store sets it; give tags"
# The version of the event's type; absent, it is 1.
TYPE_VERSION = "typeVersion"
IS_OF_THE_CATALOGUE = (
    "the store sets it, to the version of the type that @event or @upcaster declares; "
    "leave it out"
)
# Names of fields that later versions of the store will give a meaning.
RESERVED = ("subjects",)
IS_RESERVED = "reserved for a later version of the store; use payload or metadata"
IS_OF_THE_STORE = (
    "only close() and continue_as() of an aggregate append events of this type"
)
_REFUSED = {
    **dict.fromkeys(RESERVED, IS_RESERVED),
    **dict.fromkeys(SET_AT_APPEND, IS_SET_AT_APPEND),
    TYPE_VERSION: IS_OF_THE_CATALOGUE,
}
# The types of the events by which the store ends a stream, and continues it in another.
STREAM_CLOSED = "$StreamClosed"
STREAM_CONTINUED = "$StreamContinued"
# Fields that may differ between two tries to append an event.
FIXED_AT_APPEND = ("aggregateVersion", "created")
# Fields that the store fills in if the caller leaves them out.
_FILLED_IN = ("payload", "createdBy", "metadata")

MAX_ID_LENGTH = 255


def check_id(value: Any, name: str = "aggregate_id") -> str:
    """
    Return ``value`` if it can be an id: a string of 1 to 255 characters.

    Any other type raises ``TypeError`` before it reaches a query, above all a dict or a
    list from a request.
    """
    if not issubclass(type(value), str):  # a lazy string only pretends to be one
        raise TypeError(f"{name} must be a string, not {type(value).__name__}.")
    if reason := _wrong_with_name(value):
        raise ValueError(f"{name} {reason}.")
    return str.__str__(value)


def _wrong_with_name(value: str, longest: int = MAX_ID_LENGTH) -> str | None:
    if not 1 <= len(value) <= longest:
        return f"must have 1 to {longest} characters, not {len(value)}"
    if "\0" in value:
        return "must not contain a NUL character"
    if not is_text(value):
        return HALF_A_SURROGATE
    return None


def stored_state(state: object, aggregate_type: str) -> Document:
    """
    Return a reducer's state as MongoDB returns it.

    Raises:
        InvalidState: with the path in the state and the reason.
    """
    if not isinstance(state, Mapping):
        raise InvalidState(
            "state",
            f"{aggregate_type}.view must return a dict, not {type(state).__name__}",
        )
    try:
        return stored_mapping(state, COPY, depth=1)
    except Unstorable as error:
        raise InvalidState(error.inside("state").path, error.reason) from None


# --- events -----------------------------------------------------------------


def check_event(
    event: object, allowed: Iterable[str], refused: Mapping[str, str] | None = None
) -> Mapping[str, Any]:
    """
    Return ``event`` if it is a mapping with a type and only the allowed keys.

    Args:
        event: the argument of the caller.
        allowed: keys besides ``type``, ``payload``, ``createdBy``, ``metadata``,
            ``tags`` and ``id``.
        refused: known keys that the caller must not set, each with the reason.

    Raises:
        InvalidEvent: with the key and the reason.
    """
    if not _is_mapping(event):
        raise InvalidEvent("", f"an event {no_event(event)}")
    known = ["type", "payload", "createdBy", "metadata", "tags", "id", *allowed]
    for key in event:
        if refused and key in refused:
            raise InvalidEvent(key, refused[key])
        if key not in known:
            raise InvalidEvent(str(key), _REFUSED.get(key) or unknown_key(key, known))
    if _check_name(event.get("type"), "type") in (STREAM_CLOSED, STREAM_CONTINUED):
        raise InvalidEvent("type", IS_OF_THE_STORE)
    return event


def no_event(value: object) -> str:
    """Return why a value is no event, or no payload."""
    kind = type(value).__name__
    if isinstance(value, type):
        return f"must be a dict or an object of a class, not the class {value.__name__}"
    if not is_object(value):
        return f"must be a dict, not {kind}"
    return (
        f"must be a dict, not {kind}; declare {kind} with @event to append its objects"
    )


def unknown_key(key: object, known: Sequence[str]) -> str:
    """Return why ``key`` is refused, with the known key that is closest."""
    meant = ELSEWHERE.get(re.sub("[^a-z]", "", str(key).lower()))
    close = (
        [meant] if meant in known else difflib.get_close_matches(str(key), known, n=1)
    )
    hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}."
    return f"not a key of an event; {hint} Put other data in payload or metadata."


def _check_name(value: Any, path: str, longest: int = MAX_ID_LENGTH) -> str:
    # Nearly all names are plain, and this runs five times an event.
    plain = type(value) is str and value.isascii() and "\0" not in value
    if plain and 0 < len(value) <= longest:
        return value  # type: ignore[no-any-return]
    if value is None:
        raise InvalidEvent(path, "missing")
    if not issubclass(type(value), str):  # a lazy string only pretends to be one
        raise InvalidEvent(path, f"must be a string, not {type(value).__name__}")
    if reason := _wrong_with_name(value, longest):
        raise InvalidEvent(path, reason)
    return str.__str__(value)


def build_event(
    event: Mapping[str, Any],
    *,
    aggregate_id: str,
    aggregate_type: str,
    version: int,
    created: dt.datetime,
) -> Document:
    """
    Return the document of a checked event, exactly as MongoDB will return it.

    Raises:
        InvalidEvent: with the path in the event and the reason.
    """
    fields = {
        "_id": event["id"] if event.get("id") is not None else ObjectId(),
        "aggregateId": aggregate_id,
        "aggregateType": aggregate_type,
        "aggregateVersion": version,
        "type": event["type"],
        "payload": event.get("payload", {}),
        "created": created,
        "createdBy": event.get("createdBy"),
        "metadata": event.get("metadata", {}),
    }
    has_tags = event.get("tags") is not None
    if has_tags:
        fields["tags"] = event["tags"]
    if TYPE_VERSION in event:
        fields[TYPE_VERSION] = event[TYPE_VERSION]
    document = checked_document(fields)
    if has_tags and not document["tags"]:
        del document["tags"]  # so that an event has tags or no such field
    return document


def checked_document(document: Mapping[str, Any], limits: Limits = NEW) -> Document:
    """
    Return ``document`` as MongoDB returns it, if it is a complete, storable event.

    Args:
        document: the fields of an event; ``metadata`` may be missing, as in events
            of the Node package.
        limits: ``NEW``, or ``COPY`` for an event that is already stored elsewhere.

    Raises:
        InvalidEvent: with the path in the event and the reason.
    """
    check_fields(document, limits)
    walk = Walk(limits)
    try:
        stored = stored_mapping(document, walk)
        if walk.exact and 4 * walk.size + 5 <= limits.size:
            return stored  # no need to encode it
        encoded = _encoded(stored)
        if not walk.exact or b"$ref" in encoded:
            stored = bson.decode(encoded, CODEC)
    except Unstorable as error:
        reason = error.reason
        if error.is_declarable and error.path.startswith("payload"):
            reason = f"{reason}, or {_DECLARE}"
        raise InvalidEvent(error.path, reason) from None
    except _UNENCODABLE as error:
        # A malformed value of a BSON type, such as a UUID of 3 bytes.
        raise InvalidEvent(_unencodable(document), str(error)) from None
    if len(encoded) > limits.size:
        path = max("payload", "metadata", key=lambda name: _size(document.get(name)))
        reason = f"has {len(encoded):,} bytes; an event may have {limits.size:,}"
        raise InvalidEvent(path, reason)
    if b"$ref" in encoded:
        _check_dbrefs(stored, encoded)
    return stored


def _check_dbrefs(stored: Document, encoded: bytes) -> None:
    if _encoded(stored) != encoded:
        raise InvalidEvent("payload", _LIKE_A_DBREF)
    for name in ("payload", "metadata"):
        if not isinstance(stored.get(name, {}), dict):
            raise InvalidEvent(name, _LIKE_A_DBREF)


# SystemError: PyMongo before 4.14 raises it for a Binary of subtype 255.
_UNENCODABLE = (BSONError, ValueError, OverflowError, SystemError)
_DECLARE = "append an object of a class with @event whose field has that type"
_LIKE_A_DBREF = (
    'contains a dict with "$ref" and "$id", which is read as a bson.DBRef and would '
    "not come back equal; use other keys"
)


def _encoded(document: Mapping[str, Any]) -> bytes:
    return bson.encode(document, codec_options=CODEC)


def _size(value: object) -> int:
    return len(_encoded({"": value}))


def _unencodable(document: Mapping[str, Any]) -> str:
    """Return the field that cannot be encoded and decoded."""
    for name in ("metadata", "payload"):
        try:
            bson.decode(_encoded({name: document.get(name)}), CODEC)
        except _UNENCODABLE:
            return name
    return "payload"


def check_fields(document: Mapping[str, Any], limits: Limits) -> None:
    """Check the fields of an event, but not the values inside of its payload."""
    for name in ("aggregateId", "aggregateType", "type"):
        _check_name(document[name], name)
    if not isinstance(document["_id"], ObjectId):
        _check_name(document["_id"], "id", limits.id_length)
    check_version(document["aggregateVersion"])
    for name in ("payload", "metadata"):
        if not _is_mapping(document.get(name, {})):
            raise InvalidEvent(name, no_event(document[name]))
    if not isinstance(document["created"], dt.datetime):
        kind = type(document["created"]).__name__
        raise InvalidEvent("created", f"must be a datetime, not {kind}")
    if document["createdBy"] is not None:
        _check_name(document["createdBy"], "createdBy")
    if TYPE_VERSION in document:
        check_version(document[TYPE_VERSION], TYPE_VERSION)
    _check_tags(document)


def _check_tags(document: Mapping[str, Any]) -> None:
    if "tags" in document:
        check_tags(document["tags"], "tags", InvalidEvent)
    if "places" in document:
        check_places(document, InvalidEvent)


def _is_mapping(value: object) -> TypeGuard[Mapping[Any, Any]]:
    return type(value) is dict or isinstance(value, Mapping)  # the latter is slow


def check_version(value: object, name: str = "aggregateVersion") -> int:
    """Return ``value`` if it can be the version of an event: an integer from 1."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        reason = f"must be an integer from 1, not {value!r}"
        raise InvalidEvent(name, reason)
    return value


def differences(
    stored: Mapping[str, Any], sent: Mapping[str, Any], given: Collection[str] = FIELDS
) -> list[str]:
    """
    Return the fields in which two events of one id differ, as far as they matter.

    Args:
        stored: the event that has the id.
        sent: the event of another attempt.
        given: the fields that its caller gave, and with ``metadata.`` in front of them
            the keys of its metadata. What the store filled in beside these does not
            count.
    """
    ignored = {*FIXED_AT_APPEND, *(name for name in _FILLED_IN if name not in given)}
    if "metadata" not in stored:  # by the Node package
        ignored.add("metadata")
    elif "metadata" not in ignored and "metadata" in sent:
        stored = {**stored, "metadata": _keys_given(stored["metadata"], given)}
        sent = {**sent, "metadata": _keys_given(sent["metadata"], given)}
    return [
        name
        for name in (*FIELDS, "tags")
        if name not in ignored and not is_same_value(stored.get(name), sent.get(name))
    ]


def _keys_given(metadata: Any, given: Collection[str]) -> Any:
    """Return the part of some metadata that a caller gave; all of it by default."""
    if given is FIELDS or not isinstance(metadata, Mapping):
        return metadata
    return {key: item for key, item in metadata.items() if f"metadata.{key}" in given}


def is_same_value(one: Any, other: Any) -> bool:
    """
    Whether two stored values are equal, whatever the order of their keys.

    Numbers are equal by value, as 1 and 1.0 are; True is not a number.
    """
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(
            is_same_value(value, other[key]) for key, value in one.items()
        )
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(is_same_value, one, other))
    if _is_number(one) and _is_number(other):
        return bool(one == other)
    return type(one) is type(other) and bool(one == other)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def read_event(document: Document) -> Document:
    """
    Complete a stored event in place, and return it.

    The Node package writes no ``metadata``, and ``created`` as milliseconds.
    """
    # Without setdefault(), which is slower: this runs for every event of a rebuild.
    if "metadata" not in document:
        document["metadata"] = {}
    if "createdBy" not in document:
        document["createdBy"] = None
    created = document.get("created")
    if type(created) is not dt.datetime and isinstance(created, (int, float)):
        # A number that is no date stays as it is.
        with contextlib.suppress(OverflowError, ValueError):
            document["created"] = from_milliseconds(created)
    return document


def read_whole_event(document: Document) -> Document:
    """Complete an event that was read with all its fields; some have no payload."""
    if document.get("payload") is None:
        document["payload"] = {}
    return read_event(document)


def from_milliseconds(value: float) -> dt.datetime:
    """Return the UTC datetime of a JavaScript timestamp."""
    return dt.datetime.fromtimestamp(0, dt.UTC) + dt.timedelta(
        milliseconds=math.floor(value)
    )


def version_number(version: object) -> int | None:
    """Return a stored ``aggregateVersion`` as an int, or None if it is invalid."""
    if isinstance(version, bool) or not isinstance(version, (int, float)):
        return None
    if not math.isfinite(version) or version < 1 or version != int(version):
        return None
    return int(version)
