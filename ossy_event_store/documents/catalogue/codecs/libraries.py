"""
The rules of pydantic models and msgspec Structs, which check their own fields.

Neither library is imported here before a project has declared such a class.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from ...storable import Unstorable
from .objects import refusal
from .plain import plain, unpacked
from .rules import Rule, Undeclarable, Undecodable, misfit, refused


def rule_of_library(cls: Any) -> Rule | None:
    """
    Return the rule of a pydantic model or a msgspec Struct; None for other classes.

    Raises:
        Undeclarable: it cannot be stored.
    """
    if hasattr(cls, "__pydantic_validator__") and hasattr(cls, "model_fields"):
        return _rule_of_model(cls)
    if hasattr(cls, "__struct_fields__") and hasattr(cls, "__struct_config__"):
        return _rule_of_struct(cls)
    return None


def _rule(cls: Any, fields: Callable[[Any], Any], decode: Callable[[Any], Any]) -> Rule:
    expected = f"an object of {cls.__qualname__}"

    def encode(value: Any) -> dict[str, Any]:
        if not isinstance(value, cls):
            raise refused(expected, value)
        found: dict[str, Any] = fields(value)
        return found

    def checked(value: Any) -> Any:
        if not isinstance(value, Mapping):
            raise misfit("a dict", value)
        return decode(unpacked(value))

    return Rule(
        expected,
        frozenset([dict]),
        lambda value: isinstance(value, cls),
        encode,
        checked,
    )


# --- pydantic ---------------------------------------------------------------


def _rule_of_model(cls: Any) -> Rule:
    from pydantic import ValidationError
    from pydantic_core import to_jsonable_python

    if getattr(cls, "__pydantic_root_model__", False):
        raise Undeclarable(
            "a RootModel is no dict of fields; declare a BaseModel with one field"
        )
    _check_model(cls)

    def other(value: Any) -> Any:
        try:
            return to_jsonable_python(value)
        except Exception:
            raise _unknown(value) from None

    def fields(value: Any) -> Any:
        return plain(value.model_dump(round_trip=True, by_alias=True), other)

    def decode(value: Any) -> Any:
        try:
            return cls.model_validate(value)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            raise _located(first["msg"], first["loc"]) from None
        except Exception as error:
            raise Undecodable(refusal(cls, error)) from error

    return _rule(cls, fields, decode)


def _check_model(cls: Any) -> None:
    """Refuse fields of types that pydantic does not know."""
    from pydantic import TypeAdapter
    from pydantic.errors import PydanticInvalidForJsonSchema, PydanticUserError

    try:
        if not cls.model_rebuild(raise_errors=False) and not _is_complete(cls):
            raise NameError(cls.__qualname__)
        cls.model_json_schema()
    except PydanticInvalidForJsonSchema as error:
        for name, field in cls.model_fields.items():
            try:
                TypeAdapter(
                    field.annotation, config={"arbitrary_types_allowed": True}
                ).json_schema()
            except PydanticInvalidForJsonSchema:
                raise Undeclarable(
                    "pydantic knows no plain form of this type", name
                ) from None
            except PydanticUserError:
                continue
        raise Undeclarable(str(error).partition("\n")[0]) from None


def _is_complete(cls: Any) -> bool:
    return bool(getattr(cls, "__pydantic_complete__", True))


def _located(reason: str, place: tuple[Any, ...]) -> Undecodable:
    error = Undecodable(reason)
    for part in reversed(place):
        error = error.inside(part)
    return error


# --- msgspec ----------------------------------------------------------------


def _rule_of_struct(cls: Any) -> Rule:
    import msgspec

    if cls.__struct_config__.array_like:
        raise Undeclarable("an array_like Struct is no dict of fields; leave that out")
    _check_struct(cls)

    def fields(value: Any) -> Any:
        return plain(_fields_of_struct(value), _struct)

    def decode(value: Any) -> Any:
        try:
            return msgspec.convert(value, cls, str_keys=True)
        except msgspec.ValidationError as error:
            raise _at_msgspec_path(str(error)) from None

    return _rule(cls, fields, decode)


def _check_struct(cls: Any) -> None:
    """Refuse fields of types that msgspec does not know."""
    import msgspec
    from msgspec.inspect import CustomType, type_info

    for field in msgspec.structs.fields(cls):
        try:
            found = _found(type_info(field.type), CustomType)
        except TypeError as error:
            raise Undeclarable(str(error), field.name) from None
        if found is not None:
            raise Undeclarable(
                f"msgspec knows no plain form of {found.cls.__qualname__}", field.name
            )


def _found(info: Any, kind: type) -> Any:
    """Return a part of a type that is of a kind, not looking into other classes."""
    if isinstance(info, kind):
        return info
    for name in ("item_type", "key_type", "value_type"):
        if hasattr(info, name) and (found := _found(getattr(info, name), kind)):
            return found
    for name in ("types", "item_types"):
        for one in getattr(info, name, ()):
            if found := _found(one, kind):
                return found
    return None


def _struct(value: Any) -> Any:
    if hasattr(value, "__struct_config__"):
        return _fields_of_struct(value)
    raise _unknown(value)


def _fields_of_struct(value: Any) -> Any:
    from msgspec import UNSET

    config = value.__struct_config__
    names = zip(value.__struct_fields__, value.__struct_encode_fields__, strict=True)
    found = {stored: getattr(value, name) for name, stored in names}
    if config.array_like:
        return list(found.values())
    found = {name: one for name, one in found.items() if one is not UNSET}
    return found if config.tag is None else {config.tag_field: config.tag, **found}


def _unknown(value: Any) -> Unstorable:
    return Unstorable(
        f"{type(value).__module__}.{type(value).__qualname__} has no stored form"
    )


def _at_msgspec_path(text: str) -> Undecodable:
    found = re.fullmatch(r"(?P<reason>.*) - at `\$\.?(?P<path>.*)`", text, re.DOTALL)
    if found is None:
        return Undecodable(text)
    return Undecodable(found["reason"], found["path"])
