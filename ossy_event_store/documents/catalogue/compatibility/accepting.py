"""
Whether what was written under one JSON Schema can be read under another.

A writer writes the fields of its schema and no others. A reader ignores fields that it
does not know, unless its schema says ``"additionalProperties": false``. What cannot be
decided counts as unreadable.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, TypeAlias

from ...bson_types import Document

Problem: TypeAlias = tuple[str, str]  # the path of a field, and what is wrong with it

# Of which nothing in a value depends.
_REMARKS = ("title", "description", "default", "examples", "$schema", "$id", "$defs")
_LOWEST = ("minimum", "exclusiveMinimum", "minLength", "minItems")
_HIGHEST = ("maximum", "exclusiveMaximum", "maxLength", "maxItems")
_EXTENDED = {
    "$date": "a datetime",
    "$numberDecimal": "a Decimal",
    "$oid": "an ObjectId",
    "$binary": "binary data",
}
_JSON_TYPES: dict[str, tuple[type, ...]] = {
    "null": (type(None),),
    "boolean": (bool,),
    "integer": (int,),
    "number": (int, float),
    "string": (str,),
    "array": (list,),
    "object": (dict,),
}


def problems_of(reader: Document, writer: Document) -> list[Problem]:
    """
    Return what a reader cannot read of what a writer may have written.

    Args:
        reader: the schema by which it is read.
        writer: the schema by which it was written.
    """
    return list(_Comparison(reader, writer).of(reader, writer, ""))


def canonical(schema: Any) -> str:
    """Return a text that is equal for schemas that mean the same; defaults count."""
    return json.dumps(_ordered(schema), sort_keys=True, ensure_ascii=False)


def _ordered(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_ordered(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: _ordered(value) for key, value in schema.items()}
    for key in ("enum", "required", "anyOf"):
        if isinstance(found.get(key), list):
            found[key] = sorted(found[key], key=canonical)
    return found


def described(schema: Any) -> str:
    """Return what a schema allows, in words: ``a datetime``, ``string or null``."""
    if schema is False:
        return "nothing"
    if _allows_anything(schema):
        return "anything"
    if "anyOf" in schema:
        return " or ".join(described(one) for one in schema["anyOf"])
    if (values := _values(schema)) is not None:
        return ", ".join(json.dumps(one, ensure_ascii=False) for one in values)
    if "$ref" in schema:
        return f"a nested {schema['$ref'].removeprefix('#/$defs/')}"
    for key in schema.get("properties", ()):
        if key in _EXTENDED:
            return _EXTENDED[key]
    return _with_limits(schema)


def _with_limits(schema: Document) -> str:
    kind = str(schema.get("type", schema.get("$comment")))
    if kind == "array" and isinstance(schema.get("items"), dict):
        kind = f"array of {described(schema['items'])}"
    details = [str(schema["format"])] if "format" in schema else []
    details += [
        f"{key} {schema[key]}"
        for key in (*_LOWEST, *_HIGHEST, "multipleOf", "pattern")
        if key in schema
    ]
    details += ["unique items"] if schema.get("uniqueItems") else []
    return f"{kind} ({', '.join(details)})" if details else kind


def _values(schema: Document) -> list[Any] | None:
    found: list[Any] | None = schema.get("enum")
    return [schema["const"]] if "const" in schema else found


class _Comparison:
    """One comparison of two schemas."""

    def __init__(self, reader: Document, writer: Document) -> None:
        self.reader = reader
        self.writer = writer
        # Pairs that are being compared: a recursive class meets itself.
        self.begun: set[tuple[str, str]] = set()

    def of(
        self, reader: Any, writer: Any, path: str, *, exact: bool = False
    ) -> Iterator[Problem]:
        """
        Yield what a reader cannot read of what a writer may have written.

        Args:
            reader: the schema by which it is read.
            writer: the schema by which it was written.
            path: of the field.
            exact: whether an integer is read only as such: among several types, the
                one that is stored decides which it is.
        """
        if writer is False or self._is_begun(reader, writer):
            return
        reader, writer = _target(reader, self.reader), _target(writer, self.writer)
        if _allows_anything(reader):
            return
        if _allows_anything(writer) or reader is False:
            yield path, _changed(reader, writer)
        elif "anyOf" in writer:
            for choice in writer["anyOf"]:
                yield from self.of(reader, choice, path)
        elif "anyOf" in reader:
            yield from self._any_of(reader, writer, path)
        elif (values := _values(writer)) is not None:
            yield from self._enum(reader, values, path, exact)
        else:
            yield from self._one_type(reader, writer, path, exact)

    def _is_begun(self, reader: Any, writer: Any) -> bool:
        """Whether two recursive classes have met; only references can recur."""
        if not any(isinstance(one, dict) and "$ref" in one for one in (reader, writer)):
            return False
        pair = (canonical(reader), canonical(writer))
        if pair in self.begun:
            return True
        self.begun.add(pair)
        return False

    def _enum(
        self, reader: Document, values: list[Any], path: str, exact: bool
    ) -> Iterator[Problem]:
        missing = [one for one in values if not self.holds(reader, one, exact=exact)]
        if missing:
            names = ", ".join(json.dumps(one, ensure_ascii=False) for one in missing)
            yield path, f"{names} is no longer allowed, only {described(reader)}"

    def _any_of(self, reader: Document, writer: Document, path: str) -> Any:
        values = _values(writer)
        if values is not None and len(values) > 1:
            for value in values:
                yield from self.of(reader, {"const": value}, path)
            return
        best: list[Problem] | None = None
        for choice in reader["anyOf"]:
            begun = set(self.begun)
            exact = _is_choice(reader)
            found = list(self.of(choice, writer, path, exact=exact))
            if not found:
                return
            self.begun = begun
            same = isinstance(choice, dict) and choice.get("type") == writer.get("type")
            if same and choice.get("type") == "object" and best is None:
                best = found
        yield from best or [(path, _changed(reader, writer))]

    def _one_type(
        self, reader: Document, writer: Document, path: str, exact: bool
    ) -> Any:
        kinds = (reader.get("type"), writer.get("type"))
        of_integer = kinds[1] == "integer" and not exact
        if of_integer and "$numberDecimal" in reader.get("properties", ()):
            return  # a Decimal is read of an integer as well
        is_wider = kinds[0] == "number" and of_integer
        if (kinds[0] != kinds[1] and not is_wider) or _names(reader) != _names(writer):
            yield path, _changed(reader, writer)
        elif kinds[0] == "object":
            yield from self._objects(reader, writer, path)
        elif not _has_limits_of(reader, writer):
            yield path, _changed(reader, writer)
        elif kinds[0] == "array":
            yield from self._arrays(reader, writer, path)

    def _objects(self, reader: Document, writer: Document, path: str) -> Any:
        known, written = reader.get("properties", {}), writer.get("properties", {})
        certain = writer.get("required", ())
        others = writer.get("additionalProperties", False)  # of a dict
        for name in [*known, *(name for name in written if name not in known)]:
            place = f"{path}.{name}" if path else name
            value = known.get(name, reader.get("additionalProperties", True))
            if name in written:
                if value is False:
                    yield place, "is stored, and the class refuses unknown fields"
                else:
                    yield from self.of(value, written[name], place)
            elif others is not False:
                yield from self.of(value, others, place)
            if name in reader.get("required", ()) and name not in certain:
                may = "may lack" if name in written or others is not False else "lack"
                yield place, f"is required, and events {may} it"
        if others is not False:
            rest = reader.get("additionalProperties", True)
            yield from self.of(rest, others, f"{path}.*" if path else "*")

    def _arrays(self, reader: Document, writer: Document, path: str) -> Any:
        place = f"{path}[]"
        ours, theirs = reader.get("prefixItems", []), writer.get("prefixItems", [])
        rest, others = reader.get("items", True), writer.get("items", True)
        for number in range(max(len(ours), len(theirs))):
            value = ours[number] if number < len(ours) else rest
            written = theirs[number] if number < len(theirs) else others
            yield from self.of(value, written, f"{path}[{number}]")
        yield from self.of(rest, others, place)

    def holds(self, schema: Any, value: Any, *, exact: bool = False) -> bool:
        """Whether a value fits a schema; only what an ``enum`` can hold."""
        schema = _target(schema, self.reader)
        if isinstance(schema, bool) or _allows_anything(schema):
            return schema is not False
        if "anyOf" in schema:
            several = _is_choice(schema)
            return any(self.holds(one, value, exact=several) for one in schema["anyOf"])
        allowed = _values(schema)
        if allowed is not None:
            return any(type(one) is type(value) and one == value for one in allowed)
        kinds = _JSON_TYPES.get(str(schema.get("type")), ())
        return type(value) in kinds[exact and len(kinds) > 1 :] and _is_within(
            schema, value
        )


def _target(schema: Any, root: Document) -> Any:
    while isinstance(schema, dict) and "$ref" in schema:
        name = schema["$ref"].removeprefix("#").removeprefix("/$defs/")
        schema = root.get("$defs", {}).get(name, {}) if name else root
    return schema


def _is_choice(schema: Document) -> bool:
    """Whether a union has several types, besides None."""
    choices = [one for one in schema["anyOf"] if one != {"type": "null"}]
    return len(choices) > 1


def _allows_anything(schema: Any) -> bool:
    return schema is True or (
        isinstance(schema, dict) and not set(schema) - set(_REMARKS)
    )


def _changed(reader: Any, writer: Any) -> str:
    return f"was {described(writer)}, now {described(reader)}"


def _names(schema: Document) -> Any:
    """Return what two types must have in common, whatever their limits."""
    unknown = schema.get("$comment") if "type" not in schema else None
    extended = [key for key in schema.get("properties", ()) if key in _EXTENDED]
    return unknown, extended


def _has_limits_of(reader: Document, writer: Document) -> bool:
    """Whether the limits of a reader are no narrower than those of a writer."""
    for key in ("format", "pattern", "multipleOf", "contentEncoding"):
        if key in reader and reader[key] != writer.get(key):
            return False
    if reader.get("uniqueItems") and not writer.get("uniqueItems"):
        return False
    for key in _LOWEST:
        if key in reader and not writer.get(key, float("-inf")) >= reader[key]:
            return False
    return all(
        key not in reader or writer.get(key, float("inf")) <= reader[key]
        for key in _HIGHEST
    )


def _is_within(schema: Document, value: Any) -> bool:
    if isinstance(value, str):
        if "format" in schema or not re.search(schema.get("pattern", ""), value):
            return False
        return bool(
            schema.get("minLength", 0)
            <= len(value)
            <= schema.get("maxLength", float("inf"))
        )
    if type(value) not in (int, float):
        return True
    infinity = float("inf")
    return bool(
        schema.get("minimum", -infinity) <= value <= schema.get("maximum", infinity)
        and schema.get("exclusiveMinimum", -infinity) < value
        and value < schema.get("exclusiveMaximum", infinity)
        and ("multipleOf" not in schema or value % schema["multipleOf"] == 0)
    )
