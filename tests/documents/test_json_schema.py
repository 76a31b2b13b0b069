"""The JSON Schema of what each kind of class stores, and the fields it lists."""

import dataclasses
import datetime as dt
import enum
import sys
import typing
import uuid
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, Literal, NamedTuple, NotRequired, TypedDict

import attrs
import msgspec
import pydantic
import pytest
from bson import ObjectId
from django.core.exceptions import ImproperlyConfigured

from ossy_event_store.documents.catalogue.codecs.codec import Codec
from ossy_event_store.documents.catalogue.compatibility.class_fields import (
    docstring_of,
    fields_of,
    spelled,
)
from ossy_event_store.documents.catalogue.compatibility.json_schema import (
    schema_of_class,
)
from ossy_event_store.documents.extended_json import encode
from tests.support.typed_events import KINDS, full_class, made_up

TEXT, WHOLE = {"type": "string"}, {"type": "integer"}


class Kind(enum.Enum):
    BOOK = "book"
    FILM = "film"


class Level(enum.IntEnum):
    LOW = 1


class Size(NamedTuple):
    width: int
    height: float


Isbn = typing.NewType("Isbn", str)


@dataclasses.dataclass
class Line:
    """One line of an order."""

    title: str
    count: int = 1


@dataclasses.dataclass
class Tree:
    name: str
    children: list["Tree"] = dataclasses.field(default_factory=list)
    line: Line | None = None


def extended(key, value):
    return {
        "type": "object",
        "properties": {key: value},
        "required": [key],
        "additionalProperties": False,
    }


OF_LINE = {
    "type": "object",
    "properties": {"title": TEXT, "count": {**WHOLE, "default": 1}},
    "required": ["title"],
}
TYPES = [
    (str, TEXT),
    (bool, {"type": "boolean"}),
    (int, WHOLE),
    (float, {"type": "number"}),
    (None, {"type": "null"}),
    (dt.datetime, extended("$date", {**TEXT, "format": "date-time"})),
    (dt.date, {**TEXT, "format": "date"}),
    (dt.time, {**TEXT, "format": "time"}),
    (dt.timedelta, {**TEXT, "format": "duration"}),
    (Decimal, extended("$numberDecimal", TEXT)),
    (ObjectId, extended("$oid", {**TEXT, "pattern": "^[0-9a-f]{24}$"})),
    (Kind, {"enum": ["book", "film"]}),
    (Level, {"enum": [1]}),
    (Literal["a", 1, None], {"enum": ["a", 1, None]}),
    (Isbn, TEXT),
    (str | None, {"anyOf": [TEXT, {"type": "null"}]}),
    (list[int], {"type": "array", "items": WHOLE}),
    (Sequence[int], {"type": "array", "items": WHOLE}),
    (tuple[int, ...], {"type": "array", "items": WHOLE}),
    (
        tuple[int, str],
        {
            "type": "array",
            "prefixItems": [WHOLE, TEXT],
            "items": False,
            "minItems": 2,
            "maxItems": 2,
        },
    ),
    (
        Size,
        {
            "type": "array",
            "prefixItems": [WHOLE, {"type": "number"}],
            "items": False,
            "minItems": 2,
            "maxItems": 2,
        },
    ),
    (set[str], {"type": "array", "items": TEXT, "uniqueItems": True}),
    (dict[str, int], {"type": "object", "additionalProperties": WHOLE}),
    (Mapping[str, Any], {"type": "object", "additionalProperties": True}),
    (list, {"type": "array"}),
    (Any, {}),
    (Line, OF_LINE),
    (list[Line], {"type": "array", "items": OF_LINE}),
    (complex, {"$comment": "builtins.complex"}),
]


@pytest.mark.parametrize(("hint", "schema"), TYPES, ids=lambda one: str(one)[:40])
def test_each_type_is_described_as_it_is_stored(hint, schema):
    cls = dataclasses.make_dataclass("Event", [("field", hint)])
    assert schema_of_class(cls) == {
        "title": "Event",
        "type": "object",
        "properties": {"field": schema},
        "required": ["field"],
    }


def test_a_class_that_contains_itself_is_described_by_a_reference():
    assert schema_of_class(Tree)["properties"]["children"] == {
        "type": "array",
        "items": {"$ref": "#"},
        # Computed for each object, so it is no default of the schema.
    }
    wood = dataclasses.make_dataclass("Wood", [("first", Tree), ("second", Tree)])
    found = schema_of_class(wood)
    assert found["properties"]["first"] == found["properties"]["second"]
    assert found["properties"]["first"] == {"$ref": "#/$defs/Tree"}
    children = found["$defs"]["Tree"]["properties"]["children"]
    assert children["items"] == {"$ref": "#/$defs/Tree"}


def test_a_typed_dict_requires_what_it_says():
    class Bought(TypedDict, total=False):
        title: typing.Required[str]
        price: float
        notes: NotRequired[list[str]]

    found = schema_of_class(Bought)
    assert found["required"] == ["title"]
    assert list(found["properties"]) == ["title", "price", "notes"]


def test_what_is_no_such_class_may_hold_anything():
    assert schema_of_class(int) == {"type": "object"}


def test_defaults_that_json_can_hold_are_part_of_it():
    @dataclasses.dataclass
    class Event:
        kind: Kind = Kind.BOOK
        day: dt.date = dt.date(2026, 1, 2)
        price: Decimal = Decimal("1.50")
        wait: dt.timedelta = dt.timedelta(1)

    found = schema_of_class(Event)["properties"]
    defaults = [found[name].get("default") for name in ("kind", "day", "price", "wait")]
    assert defaults == ["book", "2026-01-02", {"$numberDecimal": "1.50"}, None]


def test_an_annotation_that_names_nothing_is_an_error_that_says_where():
    @dataclasses.dataclass
    class Event:
        broken: "Missing"  # noqa: F821

    with pytest.raises(ImproperlyConfigured, match=r"Event .* 'Missing'"):
        schema_of_class(Event)


def test_names_of_the_function_around_a_class_may_be_given():
    @dataclasses.dataclass
    class Event:
        other: "Other"  # noqa: F821

    found = schema_of_class(Event, {"Other": int})
    assert found["properties"] == {"other": WHOLE}


def test_a_type_is_spelled_as_in_code_and_a_docstring_is_the_authors():
    spellings = [spelled(one.hint) for one in fields_of(Tree)]
    assert spellings == ["str", "list[Tree]", "Line | None"]
    assert spelled(tuple[int, ...]) == "tuple[int, ...]"
    assert spelled(Literal["a", 1]) == "Literal['a', 1]"
    assert docstring_of(Line) == "One line of an order."
    assert docstring_of(Tree) == ""  # a dataclass writes its signature


# --- beside what is stored ----------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_the_schema_accepts_what_is_stored_and_nothing_else(kind):
    jsonschema = pytest.importorskip("jsonschema")
    cls, of = full_class(kind)
    schema = schema_of_class(cls)
    validator = jsonschema.Draft202012Validator(schema)
    validator.check_schema(schema)
    codec, wrong = Codec(cls), set()
    for values in made_up(30):
        payload = encode(codec.encode(of(values)))
        assert validator.is_valid(payload)
        for name in payload:
            if validator.is_valid({**payload, name: {"other": 1}}):
                wrong.add(name)
    # Any object may be a dict, if it holds what its values may be.
    assert not wrong


# --- classes of other packages ------------------------------------------------


def test_pydantic_describes_its_constraints_and_its_own_types():
    class Order(pydantic.BaseModel, extra="forbid"):
        """An order."""

        count: int = pydantic.Field(ge=1, le=9, alias="itemCount")
        name: str | None = pydantic.Field(None, max_length=5)
        at: dt.datetime
        price: Decimal
        link: pydantic.HttpUrl
        lines: list[Line]

    found = schema_of_class(Order)
    assert found["description"] == "An order."
    assert found["additionalProperties"] is False
    # By the name under which it is stored.
    assert found["required"] == ["itemCount", "at", "price", "link", "lines"]
    assert found["properties"]["itemCount"] == {**WHOLE, "minimum": 1, "maximum": 9}
    assert found["properties"]["name"] == {
        "anyOf": [{**TEXT, "maxLength": 5}, {"type": "null"}],
        "default": None,
    }
    # Not the text that pydantic's own generator says.
    assert found["properties"]["at"] == dict(TYPES)[dt.datetime]
    assert found["properties"]["price"] == dict(TYPES)[Decimal]
    assert found["properties"]["link"]["format"] == "uri"
    assert found["properties"]["lines"]["items"] == OF_LINE


def test_msgspec_describes_its_constraints_names_and_tags():
    class Order(msgspec.Struct, rename="camel", tag="o", forbid_unknown_fields=True):
        item_count: typing.Annotated[int, msgspec.Meta(ge=1)]
        tags: set[str] = set()
        note: str = "none"

    assert schema_of_class(Order) == {
        "title": "Order",
        "type": "object",
        "properties": {
            "itemCount": {**WHOLE, "minimum": 1},
            "tags": {"type": "array", "items": TEXT, "uniqueItems": True},
            "note": {**TEXT, "default": "none"},
            "type": {"const": "o"},
        },
        "required": ["itemCount", "type"],
        "additionalProperties": False,
    }


def test_attrs_classes_are_described_like_dataclasses():
    @attrs.define
    class Order:
        count: int
        lines: list[Line] = attrs.Factory(list)
        note: str = "none"
        cached: int = attrs.field(init=False, default=3)

    found = schema_of_class(Order)
    assert found["required"] == ["count"]
    assert list(found["properties"]) == ["count", "lines", "note"]
    assert found["properties"]["note"] == {**TEXT, "default": "none"}


@pytest.mark.skipif(sys.version_info < (3, 12), reason="a statement of Python 3.12")
def test_an_alias_of_a_type_stands_for_it():
    names = {}
    exec("type Name = str", names)
    cls = dataclasses.make_dataclass("Event", [("name", names["Name"])])
    assert schema_of_class(cls)["properties"] == {"name": TEXT}


def test_bytes_and_uuids_are_binary_of_different_kinds():
    cls = dataclasses.make_dataclass("E", [("a", bytes), ("b", uuid.UUID)])
    found = schema_of_class(cls)["properties"]
    inner = {name: one["properties"]["$binary"] for name, one in found.items()}
    assert inner["b"]["properties"]["subType"] == {"const": "04"}
    assert inner["a"]["properties"]["subType"] == TEXT
