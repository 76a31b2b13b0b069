"""
BSON values as JSON and back, equal to the byte.

This is MongoDB's Extended JSON in its relaxed form, with three additions. An integer
that is stored in 64 bits though 32 would do keeps its ``$numberLong``. A NaN with
unusual bits names them: ``{"$numberDouble": "NaN(fff8000000000000)"}``. A document with
a key that begins with ``$`` is wrapped as ``{"$document": {…}}``, since
``{"$oid": "x"}`` may be a payload as well as an id.
"""

from __future__ import annotations

import base64
import datetime as dt
import json
import math
import re
import struct
import uuid
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from bson import Binary, DBRef, Decimal128, Int64, ObjectId, json_util
from bson.binary import UUID_SUBTYPE
from bson.code import Code
from bson.datetime_ms import DatetimeMS
from bson.errors import BSONError

from .bson_types import CODEC
from .storable import Unstorable

_OPTIONS = json_util.JSONOptions(
    json_mode=json_util.JSONMode.CANONICAL,
    uuid_representation=CODEC.uuid_representation,
    tz_aware=True,
    tzinfo=dt.UTC,
)
_WRONG = (
    AttributeError,
    TypeError,
    ValueError,
    ArithmeticError,
    LookupError,
    struct.error,
)
_PLAIN = frozenset((str, int, bool, type(None)))
_ESCAPE = "$document"
# fromisoformat() drops digits that are finer than it supports, also in an offset.
_FINER = re.compile(r"[.,]\d{3}\d*[1-9]|[+-][\d:]+[.,]")
_NAN = "7ff8000000000000"


class Malformed(Unstorable):
    """The value at ``path`` is not Extended JSON, for ``reason``."""


# --- encoding ----------------------------------------------------------------


def encode(value: Any) -> Any:
    """Return a BSON value in the form that ``json.dumps`` accepts."""
    kind = type(value)
    if kind in _PLAIN:
        return value
    if kind is dict:
        return _encode_document(value)
    if kind is list:
        return [encode(item) for item in value]
    return _encode_special(value)


def _encode_document(value: dict[str, Any]) -> dict[str, Any]:
    encoded = {}
    for key, item in value.items():  # a comprehension would need one more frame a level
        encoded[key] = encode(item)
    if _has_dollar(value):
        return {_ESCAPE: encoded}
    return encoded


def _encode_special(value: Any) -> Any:
    for kind, encoded in _ENCODERS:
        if isinstance(value, kind):
            return encoded(value)
    return json_util.default(value, _OPTIONS)


def _encode_float(value: float) -> Any:
    return value if math.isfinite(value) else {"$numberDouble": _spelled(value)}


def _encode_int64(value: Int64) -> Any:
    small = -(2**31) <= value < 2**31
    return {"$numberLong": str(value)} if small else int(value)


def _encode_bytes(value: bytes) -> Any:
    text = base64.b64encode(value).decode()
    return {"$binary": {"base64": text, "subType": f"{_subtype(value):02x}"}}


def _subtype(value: bytes) -> int:
    return value.subtype if isinstance(value, Binary) else 0


def _encode_dbref(value: DBRef) -> Any:
    return {key: encode(item) for key, item in value.as_doc().items()}


def _encode_code(value: Code) -> Any:
    if value.scope is None:
        return {"$code": str(value)}
    return {"$code": str(value), "$scope": encode(dict(value.scope))}


def _encode_decimal(value: Decimal128) -> Any:
    if Decimal128(str(value)).bid == value.bid:
        return {"$numberDecimal": str(value)}
    return {"$numberDecimal": f"{value}({value.bid.hex()})"}


def _spelled(value: float) -> str:
    if math.isnan(value):
        bits = struct.pack(">d", value).hex()
        return "NaN" if bits == _NAN else f"NaN({bits})"
    return "Infinity" if value > 0 else "-Infinity"


def iso(value: dt.datetime) -> str:
    """Return an aware datetime as ISO 8601 in UTC with milliseconds."""
    value = value.astimezone(dt.UTC).replace(tzinfo=None)
    return value.isoformat(timespec="milliseconds") + "Z"


def dumps(document: Mapping[str, Any]) -> str:
    """Return one line of JSON for a result of ``encode()``."""
    return json.dumps(
        document, ensure_ascii=False, allow_nan=False, separators=(",", ":")
    )


_ENCODERS: tuple[tuple[type, Callable[[Any], Any]], ...] = (
    (float, _encode_float),
    (Int64, _encode_int64),
    (dt.datetime, lambda value: {"$date": iso(value)}),
    (DatetimeMS, lambda value: {"$date": {"$numberLong": str(int(value))}}),
    (bytes, _encode_bytes),
    (Decimal128, _encode_decimal),
    (DBRef, _encode_dbref),
    (Code, _encode_code),
)


# --- decoding -----------------------------------------------------------------


def loads(line: str) -> Any:
    """
    Parse a line of JSON; ``decode()`` turns the result into BSON values.

    Raises:
        Malformed: it is not JSON.
    """
    try:
        return _DECODER.decode(line)
    except json.JSONDecodeError as error:
        raise Malformed(f"not JSON: {error.msg} at column {error.colno}") from None
    except RecursionError:
        raise Malformed("nested too deeply") from None
    except ValueError as error:
        if isinstance(error, Malformed):
            raise
        raise Malformed("a number with too many digits") from None


def _refuse(name: str) -> None:
    raise Malformed(f"{name} is not JSON; write {{'$numberDouble': '{name}'}}")


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) < len(pairs):
        keys = [key for key, _ in pairs]
        duplicate = next(key for key in keys if keys.count(key) > 1)
        raise Malformed(f"an object has the key {duplicate!r} twice")
    return document


_DECODER = json.JSONDecoder(
    parse_constant=_refuse, object_pairs_hook=_without_duplicates
)


def decode(value: Any) -> Any:
    """
    Return the BSON value of a result of ``encode()``.

    Raises:
        Malformed: with path and reason.
    """
    try:
        return _decode(value)
    except RecursionError:
        raise Malformed("nested too deeply") from None


def _decode(value: Any) -> Any:
    if isinstance(value, dict):
        if len(value) == 1:
            ((key, inner),) = value.items()
            if key in _TYPES:
                return _decode_type(key, inner)
            if key == _ESCAPE and isinstance(inner, dict):
                return _decoded(inner.items())
        decoded = _decoded(value.items())
        return _decode_rest(decoded) if _has_dollar(value) else decoded
    if isinstance(value, list):
        return list(_decoded(enumerate(value)).values())
    if isinstance(value, float) and not math.isfinite(value):
        raise Malformed("a number too large for a double")
    return value


def _decoded(items: Iterable[tuple[Any, Any]]) -> dict[Any, Any]:
    # Few frames a level: MongoDB nests 180 levels, and Python's stack is limited.
    decoded = {}
    for key, item in items:
        if type(item) not in _PLAIN:
            try:
                item = _decode(item)
            except Malformed as error:
                raise error.inside(key) from None
        decoded[key] = item
    return decoded


def _has_dollar(value: Mapping[str, Any]) -> bool:
    for key in value:  # noqa: SIM110 - a generator costs more than the check
        if key.startswith("$"):
            return True
    return False


def _decode_type(key: str, value: Any) -> Any:
    try:
        return _TYPES[key](value)
    except Malformed:
        raise
    except (*_WRONG, BSONError) as error:
        raise Malformed(f"not Extended JSON: {error}") from None


def _decode_rest(decoded: dict[str, Any]) -> Any:
    """Decode the rare types, and documents that are no type."""
    try:
        return json_util.object_hook(decoded, _OPTIONS)
    except (*_WRONG, BSONError) as error:
        raise Malformed(f"not Extended JSON: {error}") from None


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"expected a string, not {type(value).__name__}")
    return value


def _decode_date(value: Any) -> Any:
    if type(value) is int:  # the first version of Extended JSON
        value = {"$numberLong": str(value)}
    if not isinstance(value, dict) or value.keys() != {"$numberLong"}:
        return parse_date(value)
    try:
        return DatetimeMS(_whole(value["$numberLong"]))
    except (TypeError, ValueError) as error:
        if isinstance(error, Malformed):
            raise
        raise Malformed("$date is not a number of milliseconds") from None


def _whole(value: Any) -> int:
    number = int(_text(value))
    if not -(2**63) <= number < 2**63:
        raise Malformed("an integer of more than 64 bits")
    return number


def _decode_double(value: Any) -> float:
    if not _text(value).startswith("NaN("):
        return float(value)
    number: float
    (number,) = struct.unpack(">d", bytes.fromhex(value[4:-1]))
    if not math.isnan(number) or not value.endswith(")"):
        raise ValueError(f"{value!r} is not the bits of a NaN")
    return number


def _decode_decimal(value: Any) -> Decimal128:
    text, _, bits = _text(value).partition("(")
    return Decimal128.from_bid(bytes.fromhex(bits[:-1])) if bits else Decimal128(text)


def _decode_binary(value: Any) -> Any:
    if not isinstance(value, dict) or value.keys() != {"base64", "subType"}:
        raise ValueError("$binary needs base64 and subType")
    content = base64.b64decode(_text(value["base64"]), validate=True)
    kind = int(_text(value["subType"]), 16)
    if kind == 0:
        return content
    if kind == UUID_SUBTYPE:
        return uuid.UUID(bytes=content)
    return Binary(content, kind)


# One look-up for the common types, and no leniency: json_util invents a new id for
# {"$oid": null}, and drops characters that are not base64.
_TYPES: dict[str, Callable[[Any], Any]] = {
    "$oid": lambda value: ObjectId(_text(value)),
    "$date": _decode_date,
    "$numberLong": lambda value: Int64(_whole(value)),
    "$numberInt": lambda value: int(_text(value)),
    "$numberDouble": _decode_double,
    "$numberDecimal": _decode_decimal,
    "$binary": _decode_binary,
    "$uuid": lambda value: uuid.UUID(_text(value)),
}


def parse_date(value: Any) -> dt.datetime:
    """
    Return the UTC datetime of an ISO 8601 string with a time zone.

    Raises:
        Malformed: it is not such a string, or finer than MongoDB's millisecond.
    """
    if not isinstance(value, str):
        raise Malformed(f"expected an ISO 8601 string, not {type(value).__name__}")
    if _FINER.search(value):
        raise Malformed(f"{value[:40]!r} is finer than a millisecond")
    try:
        date = dt.datetime.fromisoformat(value)
    except ValueError:
        raise Malformed(f"{value[:40]!r} is not an ISO 8601 date and time") from None
    if date.utcoffset() is None:
        raise Malformed(f"{value!r} has no time zone; add Z or +00:00")
    try:
        return date.astimezone(dt.UTC)
    except OverflowError:
        raise Malformed(f"{value!r} is outside the years 1 to 9999 in UTC") from None
