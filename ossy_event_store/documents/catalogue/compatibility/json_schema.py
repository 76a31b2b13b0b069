"""
JSON Schema (draft 2020-12) of the payloads that a class of events stores.

It describes a payload in the form of ``export_events``: what JSON has as it is, and a
BSON type that JSON lacks as Extended JSON, such as ``{"$date": …}`` for a datetime. The
generators of pydantic and msgspec describe their own JSON instead, in which a datetime
is text, so they are asked only about types that nothing here knows.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import enum
import sys
import types
import typing
import uuid
from collections import abc
from decimal import Decimal
from typing import Any, get_args, get_origin

import bson
from bson.errors import BSONError

from ...bson_types import Document
from ...extended_json import encode
from ...storable import NEW, Unstorable, stored_mapping
from .class_fields import (
    NOTHING,
    Field,
    Names,
    docstring_of,
    fields_of,
    hints_of,
    refuses_other_fields,
    spelled,
)

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def extended(key: str, value: Document) -> Document:
    """Return the schema of a BSON type that JSON lacks."""
    return {
        "type": "object",
        "properties": {key: value},
        "required": [key],
        "additionalProperties": False,
    }


_TEXT: Document = {"type": "string"}
_BINARY: Document = {
    "type": "object",
    "properties": {"base64": {**_TEXT, "contentEncoding": "base64"}, "subType": _TEXT},
    "required": ["base64", "subType"],
    "additionalProperties": False,
}
_UUID: Document = {
    **_BINARY,
    "properties": {**_BINARY["properties"], "subType": {"const": "04"}},
}

# From the special to the general: a datetime is a date, and a bool is an int.
_SCALARS: tuple[tuple[type, Document], ...] = (
    (type(None), {"type": "null"}),
    (bool, {"type": "boolean"}),
    (int, {"type": "integer"}),
    (float, {"type": "number"}),
    (str, _TEXT),
    (dt.datetime, extended("$date", {**_TEXT, "format": "date-time"})),
    (dt.date, {**_TEXT, "format": "date"}),
    (dt.time, {**_TEXT, "format": "time"}),
    (dt.timedelta, {**_TEXT, "format": "duration"}),
    (Decimal, extended("$numberDecimal", _TEXT)),
    (bson.Decimal128, extended("$numberDecimal", _TEXT)),
    (bson.ObjectId, extended("$oid", {**_TEXT, "pattern": "^[0-9a-f]{24}$"})),
    (uuid.UUID, extended("$binary", _UUID)),
    (bytes, extended("$binary", _BINARY)),
)
_LISTS = (list, tuple, abc.Collection, abc.Iterable, abc.Sequence, abc.MutableSequence)
_SETS = (set, frozenset, abc.Set, abc.MutableSet)
_MAPPINGS = (dict, abc.Mapping, abc.MutableMapping)

# What pydantic, msgspec and annotated-types call a constraint, and JSON Schema does, by
# the type that it is for.
_CONSTRAINTS = {
    "ge": {"number": "minimum"},
    "gt": {"number": "exclusiveMinimum"},
    "le": {"number": "maximum"},
    "lt": {"number": "exclusiveMaximum"},
    "multiple_of": {"number": "multipleOf"},
    "pattern": {"string": "pattern"},
    "min_length": {"string": "minLength", "array": "minItems"},
    "max_length": {"string": "maxLength", "array": "maxItems"},
}


def schema_of_class(cls: Any, namespace: Names | None = None) -> Document:
    """
    Return the schema of the payloads of a class of events.

    A nested class is described where it is used; one that contains itself is a
    reference. A field is required if an object cannot be made without it.

    Args:
        cls: the class.
        namespace: names of the function in which it is defined.

    Raises:
        ImproperlyConfigured: an annotation names something that does not exist.
    """
    walk = _Walk(namespace or {})
    schema = walk.described(cls)
    if schema is None:
        return {"type": "object"}
    text = docstring_of(cls)
    found = {"title": cls.__name__, **({"description": text} if text else {})}
    return found | schema | ({"$defs": walk.defs} if walk.defs else {})


class _Walk:
    """One walk through the types of a class."""

    def __init__(self, namespace: Names) -> None:
        self.namespace = namespace
        self.defs: Document = {}
        # The classes around the current one: such a one is recursive.
        self.around: list[Any] = []

    def described(self, cls: Any) -> Document | None:
        """Return the schema of a class with fields; None if it has none."""
        if cls in self.around:
            return self._reference(cls)
        fields = fields_of(cls, self.namespace)
        if fields is None:
            return None
        self.around.append(cls)
        properties = {one.name: self._field(cls, one) for one in fields}
        properties |= _tag(cls)
        required = [one.name for one in fields if one.required] + list(_tag(cls))
        self.around.pop()
        schema: Document = {"type": "object", "properties": properties}
        if required:
            schema["required"] = required
        if refuses_other_fields(cls):
            schema["additionalProperties"] = False
        if cls.__qualname__ in self.defs:
            self.defs[cls.__qualname__] = schema
            return {"$ref": f"#/$defs/{cls.__qualname__}"}
        return schema

    def _reference(self, cls: Any) -> Document:
        if cls is self.around[0]:
            return {"$ref": "#"}
        self.defs.setdefault(cls.__qualname__, {})
        return {"$ref": f"#/$defs/{cls.__qualname__}"}

    def _field(self, cls: Any, field: Field) -> Document:
        schema = self.of(field.hint, cls)
        for constraint in field.constraints:
            schema = constrained(schema, constraint)
        if field.default is not NOTHING:
            with contextlib.suppress(Unstorable, TypeError, ValueError, BSONError):
                schema = {**schema, "default": _encoded(field.default)}
        return schema

    def of(self, hint: Any, cls: Any) -> Document:
        """
        Return the schema of a type.

        Args:
            hint: the type.
            cls: the class in which it was declared.
        """
        hint = _meant(hint)
        if hint in (Any, object) or isinstance(hint, typing.TypeVar):
            return {}
        origin, arguments = get_origin(hint), get_args(hint)
        if origin is typing.Annotated:
            schema = self.of(arguments[0], cls)
            for constraint in arguments[1:]:
                schema = constrained(schema, constraint)
            return schema
        if origin is typing.Literal:
            return {"enum": [_encoded(value) for value in arguments]}
        if origin in (typing.Union, types.UnionType):
            return self._union(arguments, cls)
        return (
            self._container(origin or hint, arguments, cls)
            or self.described(origin or hint)
            or _scalar(hint)
            or _asked(hint, cls)
        )

    def _union(self, arguments: tuple[Any, ...], cls: Any) -> Document:
        choices: list[Document] = []
        for argument in arguments:
            schema = self.of(argument, cls)
            if not schema:
                return {}
            choices += [one for one in schema.get("anyOf", [schema]) if one]
        return {"anyOf": choices}

    def _container(
        self, kind: Any, arguments: tuple[Any, ...], cls: Any
    ) -> Document | None:
        if kind is tuple and arguments and arguments[-1] is not Ellipsis:
            return _tuple([self.of(one, cls) for one in arguments])
        if isinstance(kind, type) and issubclass(kind, tuple) and kind is not tuple:
            hints = hints_of(kind, self.namespace)
            names = getattr(kind, "__match_args__", ())  # of a NamedTuple
            return _tuple([self.of(hints.get(name, Any), cls) for name in names])
        if kind in _LISTS or kind in _SETS:
            item = self.of(arguments[0], cls) if arguments else {}
            unique = {"uniqueItems": True} if kind in _SETS else {}
            return {"type": "array", **({"items": item} if item else {}), **unique}
        if kind in _MAPPINGS:
            values = self.of(arguments[1], cls) if len(arguments) > 1 else {}
            return {"type": "object", "additionalProperties": values or True}
        return None


def _tuple(items: list[Document]) -> Document:
    return {
        "type": "array",
        "prefixItems": items,
        "items": False,
        "minItems": len(items),
        "maxItems": len(items),
    }


def _meant(hint: Any) -> Any:
    """Return what a type stands for: a ``NewType``, an alias of ``type X = …``."""
    while True:
        if isinstance(hint, typing.NewType):
            hint = hint.__supertype__
        elif type(hint).__name__ == "TypeAliasType":
            hint = hint.__value__
        elif get_origin(hint) is typing.Final:
            hint = get_args(hint)[0]
        else:
            return type(None) if hint is None else hint


def _scalar(hint: Any) -> Document | None:
    if not isinstance(hint, type):
        return None
    if issubclass(hint, enum.Enum):
        try:
            return {"enum": [_encoded(member.value) for member in hint]}
        except (Unstorable, TypeError, ValueError):
            return None
    for kind, schema in _SCALARS:
        if issubclass(hint, kind):
            return dict(schema)
    return None


def _asked(hint: Any, cls: Any) -> Document:
    """Return what the class's own library says of a type, or its name alone."""
    if hasattr(cls, "__pydantic_fields__"):
        # It raises errors of many kinds for a type that has no JSON.
        with contextlib.suppress(Exception):
            adapter = sys.modules["pydantic"].TypeAdapter(hint)
            found: Document = adapter.json_schema(mode="serialization")
            found.pop("title", None)
            if "$defs" not in found:
                return found
    module = getattr(hint, "__module__", "")
    return {"$comment": f"{module}.{spelled(hint)}"}


def _tag(cls: Any) -> Document:
    """Return the field by which msgspec tells the classes of a union apart."""
    config = getattr(cls, "__struct_config__", None)
    if config is None or config.tag_field is None:
        return {}
    return {config.tag_field: {"const": config.tag}}


def constrained(schema: Document, constraint: Any) -> Document:
    """Return a schema with what an object of another library adds to it."""
    if "anyOf" in schema:
        choices = [constrained(one, constraint) for one in schema["anyOf"]]
        return {**schema, "anyOf": choices}
    kind = "number" if schema.get("type") == "integer" else schema.get("type")
    found = dict(schema)
    for name, keywords in _CONSTRAINTS.items():
        value = getattr(constraint, name, None)
        if value is not None and kind in keywords and not callable(value):
            value = getattr(value, "pattern", value)
            with contextlib.suppress(Unstorable, TypeError, ValueError, BSONError):
                found[keywords[kind]] = _encoded(value)
    return found


def _encoded(value: Any) -> Any:
    """Return a value as it is stored, in the form of ``json.dumps``."""
    if isinstance(value, enum.Enum):
        return _encoded(value.value)
    if isinstance(value, (set, frozenset)):
        return [_encoded(one) for one in sorted(value, key=repr)]
    if isinstance(value, (dt.date, dt.time)) and not isinstance(value, dt.datetime):
        return value.isoformat()
    if isinstance(value, Decimal):
        value = bson.Decimal128(value)
    return encode(stored_mapping({"": value}, NEW)[""])
