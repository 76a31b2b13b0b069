"""The rules of values that contain no others: text, numbers, dates. Pure."""

from __future__ import annotations

import datetime as dt
import decimal
import uuid
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import bson
from bson import ObjectId
from bson.decimal128 import Decimal128

from ...storable import NEW, Unstorable, Walk, storable_datetime
from .durations import duration_of_text, text_of_duration
from .rules import Rule, Undecodable, misfit, refused


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_date(value: object) -> bool:
    return isinstance(value, dt.date) and not isinstance(value, dt.datetime)


def _same(value: Any) -> Any:
    return value


def _float(value: Any) -> float:
    try:
        found = float(value)
    except OverflowError:
        found = float("inf")
    if type(value) is not float and found != value:
        raise Unstorable("this integer is not exact as a float; declare it as int")
    return found


def stored_datetime(value: dt.datetime) -> dt.datetime:
    """
    Return a datetime as MongoDB stores it.

    Raises:
        Unstorable: it would not come back equal.
    """
    stored = storable_datetime(value, Walk(NEW))
    if stored.microsecond != value.microsecond:
        raise Unstorable(
            "has microseconds, but MongoDB stores milliseconds; use "
            "value.replace(microsecond=value.microsecond // 1000 * 1000)"
        )
    return stored


def stored_decimal(value: Decimal) -> Decimal128:
    """
    Return a number as MongoDB's decimal type, which has 34 digits.

    Raises:
        Unstorable: it would not come back equal.
    """
    if not value.is_finite():
        raise Unstorable(f"{value} is not allowed; use None")
    try:
        return Decimal128(value)
    except (decimal.DecimalException, ValueError, OverflowError):
        raise Unstorable(
            "MongoDB stores decimals of up to 34 digits, with exponents from -6176 to "
            "6111; round the number, or declare it as str"
        ) from None


def decimal_of(value: Any) -> Decimal:
    """Return the number of a stored one; a text or an integer is exact as well."""
    if isinstance(value, Decimal128):
        return value.to_decimal()
    if isinstance(value, str) or _is_int(value):
        try:
            return Decimal(value)
        except decimal.InvalidOperation:
            pass
    raise misfit("a decimal number (Decimal128)", value)


def _number_as_int(value: Any) -> int:
    if type(value) is int:
        return value
    # JavaScript stores whole numbers as doubles.
    if _is_int(value) or (isinstance(value, float) and value.is_integer()):
        return int(value)
    raise misfit("an integer", value)


def _number_as_float(value: Any) -> float:
    if type(value) is float:
        return value
    if _is_number(value):
        return float(value)
    raise misfit("a number", value)


def _text_as(expected: str, parse: Callable[[str], Any]) -> Callable[[Any], Any]:
    def decode(value: Any) -> Any:
        if not isinstance(value, str):
            raise misfit(f"{expected} as ISO 8601 text", value)
        try:
            return parse(value)
        except (ValueError, OverflowError):
            raise Undecodable(f"is no ISO 8601 text of {expected}") from None

    return decode


def _rule(
    expected: str,
    kind: type,
    *,
    accepts: Callable[[Any], bool] | None = None,
    encode: Callable[[Any], Any] = _same,
    form: type | None = None,
    decode: Callable[[Any], Any] | None = None,
) -> Rule:
    def is_one(value: Any) -> bool:
        return isinstance(value, kind)

    is_accepted = accepts or is_one

    def checked(value: Any) -> Any:
        if not is_accepted(value):
            raise refused(expected, value)
        return encode(value)

    def as_it_is(value: Any) -> Any:
        if not isinstance(value, kind):
            raise misfit(expected, value)
        return value

    return Rule(
        expected, frozenset([form or kind]), is_accepted, checked, decode or as_it_is
    )


LEAVES: dict[type, Rule] = {
    str: _rule("a string", str),
    bool: _rule("a bool", bool),
    int: _rule("an integer", int, accepts=_is_int, decode=_number_as_int),
    float: _rule(
        "a number", float, accepts=_is_number, encode=_float, decode=_number_as_float
    ),
    type(None): _rule("None", type(None)),
    bytes: _rule("bytes", bytes),
    uuid.UUID: _rule("a UUID", uuid.UUID),
    ObjectId: _rule("an ObjectId", ObjectId),
    Decimal128: _rule("a Decimal128", Decimal128),
    dt.datetime: _rule("a datetime", dt.datetime, encode=stored_datetime),
    dt.date: _rule(
        "a date",
        dt.date,
        accepts=_is_date,
        encode=dt.date.isoformat,
        form=str,
        decode=_text_as("a date", dt.date.fromisoformat),
    ),
    dt.time: _rule(
        "a time",
        dt.time,
        encode=dt.time.isoformat,
        form=str,
        decode=_text_as("a time", dt.time.fromisoformat),
    ),
    dt.timedelta: _rule(
        "a duration",
        dt.timedelta,
        encode=text_of_duration,
        form=str,
        decode=_text_as("a duration", duration_of_text),
    ),
    Decimal: _rule(
        "a Decimal", Decimal, encode=stored_decimal, form=Decimal128, decode=decimal_of
    ),
}


def form_of(value: object) -> type:
    """Return the type of a stored value, among those of ``Rule.forms``."""
    return int if type(value) is bson.Int64 else type(value)
