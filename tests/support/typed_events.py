"""Classes of events of five kinds, made-up values for them, and their declarations."""

import dataclasses
import datetime as dt
import enum
import uuid
from contextlib import contextmanager
from decimal import Decimal
from functools import cache
from typing import Literal, TypedDict

import attrs
import msgspec
import pydantic
from bson.decimal128 import Decimal128
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from ossy_event_store.documents.catalogue import catalogue, declaration

KINDS = ("dataclass", "attrs", "TypedDict", "pydantic", "msgspec")


class Genre(enum.Enum):
    NOVEL = "novel"
    ESSAY = "essay"


class Stars(enum.IntEnum):
    ONE = 1
    FIVE = 5


def make(kind, name, fields):
    """Return a class of a kind with required fields, from their names and types."""
    if kind == "dataclass":
        return dataclasses.make_dataclass(name, fields.items(), frozen=True)
    if kind == "attrs":
        made = {key: attrs.field(type=value) for key, value in fields.items()}
        return attrs.make_class(name, made, frozen=True)
    if kind == "TypedDict":
        return TypedDict(name, fields)
    if kind == "pydantic":
        made = {key: (value, ...) for key, value in fields.items()}
        return pydantic.create_model(name, **made)
    return msgspec.defstruct(name, list(fields.items()))


MILLISECOND = dt.timedelta(milliseconds=1)
TEXT = st.text(max_size=5)
DATES = st.dates()
MOMENTS = st.builds(
    lambda at, ms: at + ms * MILLISECOND,
    st.datetimes(dt.datetime(1, 1, 2), dt.datetime(9999, 12, 30)).map(
        lambda at: at.replace(microsecond=0, tzinfo=dt.UTC)
    ),
    st.integers(0, 999),
)
DECIMALS = st.builds(
    lambda digits, exponent: Decimal(digits).scaleb(exponent),
    st.integers(-(10**27), 10**27),
    st.integers(-30, 30),
)
INTEGERS = st.integers(-(2**63), 2**63 - 1)
GENRES = st.sampled_from(Genre)
PART = {"number": (int, INTEGERS), "due": (dt.date | None, st.none() | DATES)}
# Of each field, its type and its values.
FIELDS = {
    "text": (str, TEXT),
    "count": (int, INTEGERS),
    "share": (float, st.floats(allow_nan=False, allow_infinity=False)),
    "flag": (bool, st.booleans()),
    "data": (bytes, st.binary(max_size=5)),
    "key": (uuid.UUID, st.uuids()),
    "at": (dt.datetime, MOMENTS),
    "day": (dt.date, DATES),
    "hour": (dt.time, st.times() | st.times().map(lambda t: t.replace(tzinfo=dt.UTC))),
    "span": (dt.timedelta, st.timedeltas()),
    "price": (Decimal, DECIMALS),
    "genre": (Genre, GENRES),
    "stars": (Stars, st.sampled_from(Stars)),
    "mode": (Literal["new", "used", 3], st.sampled_from(["new", "used", 3])),
    "either": (int | str | None, INTEGERS | TEXT | st.none()),
    "words": (set[str], st.sets(TEXT, max_size=3)),
    "days": (frozenset[dt.date], st.frozensets(DATES, max_size=3)),
    "prices": (set[Decimal], st.sets(DECIMALS, max_size=3)),
    "genres": (set[Genre], st.sets(GENRES)),
    "pair": (tuple[int, dt.date], st.tuples(INTEGERS, DATES)),
    "hours": (tuple[dt.time, ...], st.lists(st.times(), max_size=3).map(tuple)),
    "spans": (list[dt.timedelta], st.lists(st.timedeltas(), max_size=3)),
    "named": (
        dict[str, Decimal],
        st.dictionaries(TEXT.filter(lambda t: "\0" not in t), DECIMALS, max_size=3),
    ),
}


def in_order(fields, **more):
    """Return a strategy of dicts, with the keys in the order of the fields."""
    values = {name: values for name, (_, values) in fields.items()} | more
    return st.tuples(*values.values()).map(
        lambda found: dict(zip(values, found, strict=True))
    )


PARTS = in_order(PART)
VALUES = in_order(FIELDS, part=PARTS, parts=st.lists(PARTS, max_size=2))


def full_class(kind):
    """Return a class of a kind with all fields, and what makes its objects."""
    part = make(kind, "Part", {name: one for name, (one, _) in PART.items()})
    fields = {name: one for name, (one, _) in FIELDS.items()}
    cls = make(kind, "Everything", fields | {"part": part, "parts": list[part]})

    def of(values):
        parts = [part(**one) for one in values["parts"]]
        return cls(**values | {"part": part(**values["part"]), "parts": parts})

    return cls, of


@cache
def made_up(count):
    """Return values of all fields that Hypothesis makes up; once in a process."""
    found = []

    @settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(VALUES)
    def collect(values):
        found.append(values)

    collect()
    return found


def dict_form(value):
    """Return a value as a plain dict of an event has it, by the documentation."""
    if isinstance(value, dict):
        return {name: dict_form(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [dict_form(one) for one in value]
    if isinstance(value, (set, frozenset)):
        key = (lambda one: one.value) if Genre in map(type, value) else None
        return [dict_form(one) for one in sorted(value, key=key)]
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, Decimal):
        return Decimal128(value)
    if isinstance(value, dt.timedelta):
        return duration_iso(value)
    if isinstance(value, (dt.date, dt.time)) and not isinstance(value, dt.datetime):
        return value.isoformat()
    return value


def duration_iso(value):
    """Return a duration in ISO 8601, made of its microseconds."""
    sign = "-" if value < dt.timedelta(0) else ""
    micros = abs(value) // dt.timedelta(microseconds=1)
    parts = []
    for size, letter in ((86400, "D"), (3600, "H"), (60, "M")):
        count, micros = divmod(micros, size * 10**6)
        parts.append(f"{count}{letter}" if count else "")
    seconds = f"{Decimal(micros) / 10**6:f}"
    seconds = seconds.rstrip("0").rstrip(".") if "." in seconds else seconds
    time = "".join(parts[1:]) + (f"{seconds}S" if micros else "")
    if not parts[0] and not time:
        return "PT0S"
    return f"{sign}P{parts[0]}" + (f"T{time}" if time else "")


@contextmanager
def declared_only(*items):
    """Let only these event types and upcasters be declared."""
    before = catalogue.declarations
    catalogue.declarations = declaration.declarations = declaration.Declarations()
    try:
        for item in items:
            declaration.declarations.add(item)
        yield
    finally:
        catalogue.declarations = declaration.declarations = before
