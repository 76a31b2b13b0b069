"""
BSON values as JSON and back, equal to the byte. Pure.

MongoDB's Extended JSON in its relaxed form, with two additions: an integer that
was stored in 64 bits though 32 would do keeps its ``$numberLong``; and a document
with a key that begins with ``$`` is wrapped as ``{"$document": {…}}``, since
``{"$oid": "x"}`` may be a payload as well as an id.
"""

from __future__ import annotations

import datetime as dt
import json
import math
from collections.abc import Mapping
from typing import Any

from bson import DBRef, Int64, json_util
from bson.code import Code
from bson.datetime_ms import DatetimeMS
from bson.errors import BSONError

from .faces import CODEC
from .values import Unstorable

_OPTIONS = json_util.JSONOptions(
    json_mode=json_util.JSONMode.CANONICAL,
    uuid_representation=CODEC.uuid_representation,
    tz_aware=True,
    tzinfo=dt.UTC,
)
_PLAIN = frozenset((str, int, bool, type(None)))
_ESCAPE = "$document"


class Malformed(Unstorable):
    """What stands at ``path`` is not extended JSON, for ``reason``."""


# --- out --------------------------------------------------------------------


def encode(value: Any) -> Any:
    """Return a BSON value as what ``json.dumps`` takes."""
    kind = type(value)
    if kind in _PLAIN:
        return value
    if kind is dict:
        return _encode_document(value)
    if kind is list:
        return [encode(item) for item in value]
    return _encode_special(value)


def _encode_document(value: dict[str, Any]) -> dict[str, Any]:
    encoded = {key: encode(item) for key, item in value.items()}
    if any(key.startswith("$") for key in value):
        return {_ESCAPE: encoded}
    return encoded


def _encode_special(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else {"$numberDouble": _spelled(value)}
    if isinstance(value, Int64):
        small = -(2**31) <= value < 2**31
        return {"$numberLong": str(value)} if small else int(value)
    if isinstance(value, dt.datetime):
        return {"$date": iso(value)}
    if isinstance(value, DatetimeMS):
        return {"$date": {"$numberLong": str(int(value))}}
    if isinstance(value, DBRef):
        return {key: encode(item) for key, item in value.as_doc().items()}
    if isinstance(value, Code) and value.scope is not None:
        return {"$code": str(value), "$scope": encode(dict(value.scope))}
    return json_util.default(value, _OPTIONS)


def _spelled(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    return "Infinity" if value > 0 else "-Infinity"


def iso(value: dt.datetime) -> str:
    """Return an aware datetime as ISO 8601 in UTC with milliseconds."""
    value = value.astimezone(dt.UTC).replace(tzinfo=None)
    return value.isoformat(timespec="milliseconds") + "Z"


def dumps(document: Mapping[str, Any]) -> str:
    """Return one line of JSON for what ``encode`` returned."""
    return json.dumps(
        document, ensure_ascii=False, allow_nan=False, separators=(",", ":")
    )


# --- in ---------------------------------------------------------------------


def loads(line: str) -> Any:
    """
    Return the JSON of a line, not yet decoded.

    Raises:
        Malformed: it is not JSON.
    """
    try:
        return _DECODER.decode(line)
    except json.JSONDecodeError as error:
        raise Malformed(f"not JSON: {error.msg} at column {error.colno}") from None
    except RecursionError:
        raise Malformed("nested too deep") from None


def _refuse(name: str) -> None:
    raise Malformed(f"{name} is not JSON; write {{'$numberDouble': '{name}'}}")


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) < len(pairs):
        keys = [key for key, _ in pairs]
        double = next(key for key in keys if keys.count(key) > 1)
        raise Malformed(f"the key {double!r} stands twice in one object")
    return document


_DECODER = json.JSONDecoder(parse_constant=_refuse, object_pairs_hook=_without_doubles)


def decode(value: Any) -> Any:
    """
    Return the BSON value of what ``encode`` returned.

    Raises:
        Malformed: with path and reason.
    """
    if isinstance(value, dict):
        return _decode_object(value)
    if isinstance(value, list):
        return [_inside(index, item) for index, item in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        raise Malformed("a number too large for a double")
    return value


def _decode_object(value: dict[str, Any]) -> Any:
    if value.keys() == {_ESCAPE} and isinstance(value[_ESCAPE], dict):
        return _decoded(value[_ESCAPE])
    if "$date" in value and len(value) == 1:
        return _decode_date(value["$date"])
    decoded = _decoded(value)
    if not any(key.startswith("$") for key in value):
        return decoded
    try:
        return json_util.object_hook(decoded, _OPTIONS)
    except (TypeError, ValueError, ArithmeticError, KeyError, BSONError) as error:
        raise Malformed(f"not extended JSON: {error}") from None


def _decoded(value: dict[str, Any]) -> dict[str, Any]:
    return {
        key: item if type(item) in _PLAIN else _inside(key, item)
        for key, item in value.items()
    }


def _inside(key: str | int, value: Any) -> Any:
    try:
        return decode(value)
    except Malformed as error:
        raise error.inside(key) from None


def _decode_date(value: Any) -> Any:
    if isinstance(value, dict) and value.keys() == {"$numberLong"}:
        try:
            return DatetimeMS(int(value["$numberLong"]))
        except (TypeError, ValueError):
            raise Malformed("$date is not a number of milliseconds") from None
    return parse_date(value)


def parse_date(value: Any) -> dt.datetime:
    """
    Return the UTC datetime of an ISO 8601 string with a time zone.

    Raises:
        Malformed: it is none, or is finer than MongoDB's millisecond.
    """
    if not isinstance(value, str):
        raise Malformed(f"expected an ISO 8601 string, not {type(value).__name__}")
    try:
        date = dt.datetime.fromisoformat(value)
    except ValueError:
        raise Malformed(f"{value[:40]!r} is not an ISO 8601 date and time") from None
    if date.utcoffset() is None:
        raise Malformed(f"{value!r} has no time zone; add Z or +00:00")
    if date.microsecond % 1000:
        raise Malformed(f"{value!r} is finer than a millisecond, which MongoDB holds")
    try:
        return date.astimezone(dt.UTC)
    except OverflowError:
        raise Malformed(f"{value!r} is beyond the years of UTC") from None
