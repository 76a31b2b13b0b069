"""Which types the fields of an event class may have, and what is refused."""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
import subprocess
import sys
import uuid
from dataclasses import dataclass, field
from decimal import Decimal
from typing import (
    Annotated,
    Any,
    Literal,
    NamedTuple,
    NewType,
    NotRequired,
    Required,
    TypedDict,
)

import attrs
import msgspec
import pydantic
import pytest
from bson import Int64, ObjectId
from bson.decimal128 import Decimal128
from django.core.exceptions import ImproperlyConfigured

from ossy_event_store import event
from ossy_event_store.documents.catalogue.catalogue import current
from ossy_event_store.documents.catalogue.codecs.codec import Codec
from ossy_event_store.documents.catalogue.codecs.rules import Undecodable
from tests.support.typed_events import declared_only, make

DAY = dt.date(2027, 1, 31)
Isbn = NewType("Isbn", str)


class Genre(enum.Enum):
    NOVEL = "novel"


class Rights(enum.Flag):
    READ = 1
    WRITE = 2


class Place(NamedTuple):
    shelf: str
    since: dt.date


@dataclass
class Part:
    number: int
    parts: list[Part] = field(default_factory=list)


@dataclass
class Later:
    hidden: Hidden


@dataclass
class Hidden:
    day: dt.date


@attrs.define
class Shelf:
    _place: str
    parts: list[Part] = attrs.field(factory=list, alias="more")


class Note(TypedDict, total=False):
    day: Required[dt.date]
    text: str


class Money(pydantic.BaseModel):
    amount: Decimal
    parts: list[Part] = []


class Tagged(msgspec.Struct, tag="one", rename="camel"):
    on_day: dt.date
    next: Tagged | None = None
    unset: int | msgspec.UnsetType = msgspec.UNSET


@pytest.mark.parametrize(
    ("kind", "value", "stored"),
    [
        (Isbn, "978", "978"),
        (Annotated[int, "pages"], 7, 7),
        (float, 7, 7.0),
        (Genre | None, Genre.NOVEL, "novel"),
        (Genre | int, 3, 3),
        (Genre | Literal["lost"], "lost", "lost"),
        (Rights, Rights.READ | Rights.WRITE, 3),
        (Literal[Genre.NOVEL, None], Genre.NOVEL, "novel"),
        (dt.date | dt.datetime, DAY, "2027-01-31"),
        (int | float, 1.5, 1.5),
        (Decimal | str, Decimal("1.10"), Decimal128("1.10")),
        (Place, Place("a", DAY), ["a", "2027-01-31"]),
        (tuple[()], (), []),
        (tuple, (1, "a"), [1, "a"]),
        (dict, {"a": [1]}, {"a": [1]}),
        (dict[Genre, int], {Genre.NOVEL: 1}, {"novel": 1}),
        (set[int | str], {2, "a", 1}, [1, 2, "a"]),
        (ObjectId, ObjectId(b"a" * 12), ObjectId(b"a" * 12)),
        (Any, {"a": None}, {"a": None}),
        (
            Part,
            Part(1, [Part(2)]),
            {"number": 1, "parts": [{"number": 2, "parts": []}]},
        ),
        (Shelf, Shelf("a"), {"_place": "a", "parts": []}),
        (Note, {"day": DAY}, {"day": "2027-01-31"}),
        (Later, Later(Hidden(DAY)), {"hidden": {"day": "2027-01-31"}}),
        (
            Money,
            Money(amount="1.10", parts=[Part(1)]),
            {"amount": Decimal128("1.10"), "parts": [{"number": 1, "parts": []}]},
        ),
        (
            Tagged,
            Tagged(DAY, Tagged(DAY)),
            {
                "type": "one",
                "onDay": "2027-01-31",
                "next": {"type": "one", "onDay": "2027-01-31", "next": None},
            },
        ),
    ],
)
def test_a_field_comes_back_equal(kind, value, stored):
    cls = dataclasses.make_dataclass("Happened", [("field", kind)])
    codec = Codec(cls)
    assert codec.encode(cls(value)) == {"field": stored}
    codec.check({"field": stored}, cls(value))


@pytest.mark.parametrize(
    ("kind", "stored", "value"),
    [
        (int, 3.0, 3),  # by JavaScript
        (int, Int64(3), 3),
        (int | None, Int64(3), 3),
        (int | str, Int64(3), 3),
        (float, 3, 3.0),
        (Decimal, "1.10", Decimal("1.10")),
        (Decimal, 3, Decimal(3)),
    ],
)
def test_what_other_programs_store_is_read_if_it_is_exact(kind, stored, value):
    cls = dataclasses.make_dataclass("Happened", [("field", kind)])
    found = Codec(cls).decode({"field": stored}).field
    assert (type(found), found) == (type(value), value)


@pytest.mark.parametrize("kind", ["dataclass", "attrs", "TypedDict"])
@pytest.mark.parametrize(
    ("declared", "reason"),
    [
        (complex, "complex has no stored form; declare one of str, int"),
        (dict[int, str], "the keys of a stored dict are strings"),
        (str | dt.date, "a string and a date can be stored as the same value"),
        (list[Part] | tuple[int, ...], "a list and a tuple can be stored as the same"),
        (list[complex], "complex has no stored form"),
    ],
)
def test_a_type_without_a_stored_form_is_refused(kind, declared, reason):
    with declared_only(), pytest.raises(ImproperlyConfigured) as caught:
        event("Happened")(make(kind, "Happened", {"day": dt.date, "odd": declared}))
    assert str(caught.value).startswith("@event('Happened') of ")
    assert ".Happened: field odd: " in str(caught.value)
    assert reason in str(caught.value)


@attrs.define
class Shared:
    books: list[str] = attrs.field(default=[])


Misspelt = dataclasses.make_dataclass("Misspelt", [("book", "list[str]]")])


@attrs.define
class Untyped:
    book = attrs.field()


@dataclass
class WithInitVar:
    book: dataclasses.InitVar[str]


@dataclass
class Nested:
    inner: list[WithInitVar]


class Odd:
    pass


class OddModel(pydantic.BaseModel):
    model_config = {"arbitrary_types_allowed": True}
    odd: list[Odd]


class OddStruct(msgspec.Struct):
    odd: list[Odd]


class Books(pydantic.RootModel[list[str]]):
    pass


class Row(msgspec.Struct, array_like=True):
    book: str


@pytest.mark.parametrize(
    ("cls", "reason"),
    [
        (Shared, "field books: all objects share its default, which can be changed"),
        (Untyped, "field book: has no type"),
        (Misspelt, "the annotations of Misspelt cannot be read"),
        (WithInitVar, "field book: an InitVar is not kept"),
        (Nested, "field inner.book: an InitVar is not kept"),
        (OddModel, "field odd: pydantic knows no plain form of this type"),
        (OddStruct, "field odd: msgspec knows no plain form of Odd"),
        (Books, "a RootModel is no dict of fields"),
        (Row, "an array_like Struct is no dict of fields"),
        (Odd, "Odd is no class of events: expected a dataclass, a pydantic model"),
        (Genre, "Genre is no class of events"),
    ],
)
def test_a_class_that_cannot_be_stored_is_refused(cls, reason):
    with declared_only(), pytest.raises(ImproperlyConfigured) as caught:
        event("Happened")(cls)
    assert reason in str(caught.value)


def test_a_class_may_name_those_around_it_in_a_function():
    @dataclass
    class Inner:
        day: dt.date

    with declared_only():

        @event("Happened")
        @dataclass
        class Happened:
            inner: Inner
            after: Happened | None = None

        codec = current().of_class[Happened].codec
    assert codec.encode(Happened(Inner(DAY)))["inner"] == {"day": "2027-01-31"}


@dataclass
class Strict:
    day: dt.date
    lines: list[Part]
    genre: Genre = Genre.NOVEL
    pages: int = 1

    def __post_init__(self):
        if self.pages < 0:
            raise ValueError("no pages")


FITS = {"day": "2027-01-31", "lines": []}


@pytest.mark.parametrize(
    ("more", "path", "reason"),
    [
        ({"day": DAY}, "day", "must be a date as ISO 8601 text, not date"),
        (
            {"lines": [{"number": "1"}]},
            "lines[0].number",
            "must be an integer, not str",
        ),
        ({"lines": [{}]}, "lines[0].number", "missing, and the class has no default"),
        ({"lines": {}}, "lines", "must be a list, not dict"),
        ({"genre": "lost"}, "genre", "is no value one of Genre: 'novel'"),
        ({"pages": True}, "pages", "must be an integer, not bool"),
        ({"pages": -1}, "", "Strict refused it: ValueError: no pages"),
    ],
)
def test_a_stored_payload_that_does_not_fit_is_refused(more, path, reason):
    with pytest.raises(Undecodable) as caught:
        Codec(Strict).decode(FITS | more)
    assert caught.value.path == path
    assert reason in caught.value.reason


class StrictModel(pydantic.BaseModel):
    day: dt.date
    lines: list[Part] = []


class StrictStruct(msgspec.Struct):
    day: dt.date
    lines: list[Part] = []


@pytest.mark.parametrize("cls", [StrictModel, StrictStruct])
def test_libraries_name_the_field_as_well(cls):
    codec = Codec(cls)
    assert codec.decode({"day": "2027-01-31", "unknown": 1}).day == DAY
    with pytest.raises(Undecodable) as caught:
        codec.decode({"day": "2027-01-31", "lines": [{"number": "x"}]})
    assert caught.value.path == "lines[0].number"


@dataclass(eq=False)
class WithoutEq:
    notes: Any


def test_objects_without_their_own_equality_are_compared_by_their_fields():
    codec = Codec(WithoutEq)
    codec.check({"notes": [1]}, WithoutEq([1]))
    with pytest.raises(ValueError, match="would not come back equal") as caught:
        codec.check({"notes": [1]}, WithoutEq((1,)))
    assert caught.value.path == "notes"


def test_a_uuid_and_a_datetime_are_stored_as_in_plain_payloads():
    @dataclass
    class Happened:
        key: uuid.UUID
        at: dt.datetime

    key, codec = uuid.uuid4(), Codec(Happened)
    at = dt.datetime(2027, 1, 31, tzinfo=dt.timezone(dt.timedelta(hours=1)))
    assert codec.encode(Happened(key, at)) == {"key": key, "at": at}
    for wrong in (at.replace(microsecond=1), at.replace(tzinfo=None)):
        with pytest.raises(ValueError, match=r"microseconds|no time zone"):
            codec.encode(Happened(key, wrong))


def test_a_typed_dict_may_leave_keys_out():
    class Happened(TypedDict):
        book: str
        day: NotRequired[dt.date]

    codec = Codec(Happened)
    assert codec.encode({"book": "Emma"}) == {"book": "Emma"}
    assert codec.decode({"book": "Emma", "more": 1}) == {"book": "Emma"}


UNUSED = """
import sys
from dataclasses import dataclass
import django
from django.conf import settings
settings.configure()
import ossy_event_store
@ossy_event_store.event("Happened")
@dataclass
class Happened:
    book: str
ossy_event_store.document_of(Happened("Emma"))
print(sorted({"pydantic", "msgspec", "attr", "attrs"} & sys.modules.keys()))
"""


def test_no_library_is_imported_that_a_project_does_not_use():
    done = subprocess.run(
        [sys.executable, "-c", UNUSED], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"
