"""The rules of dataclasses, attrs classes and TypedDicts. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ...storable import Unstorable
from .compiling import Nested, rule_of
from .fields import Field, is_typed_dict
from .rules import Rule, Undeclarable, Undecodable, misfit, refused

MISSING = "missing, and the class has no default for it"
_DICT = frozenset([dict])
#: Stored name, name in the class, function, whether it is required.
Decoders = Sequence[tuple[str, str, Callable[[Any], Any], bool]]


def rule_of_fields(cls: Any, fields: Sequence[Field], nested: Nested) -> Rule:
    """
    Return the rule of a class with fields.

    Raises:
        Undeclarable: with the field that has no stored form.
    """
    rules: list[tuple[Field, Rule]] = []
    for field in fields:
        try:
            rules.append((field, rule_of(field.type, nested)))
        except Undeclarable as error:
            raise error.inside(field.name) from None
    encoders = {field.name: rule.encode for field, rule in rules if field.parameter}
    arguments = _arguments(
        [
            (field.name, field.parameter, rule.decode, field.is_required)
            for field, rule in rules
            if field.parameter
        ]
    )
    if is_typed_dict(cls):
        required = [field.name for field in fields if field.is_required]
        return Rule(
            f"a dict of {cls.__qualname__}",
            _DICT,
            lambda value: isinstance(value, dict),
            _encoder_of_keys(cls, encoders, required),
            arguments,
        )
    return Rule(
        f"an object of {cls.__qualname__}",
        _DICT,
        lambda value: isinstance(value, cls),
        _encoder_of_attributes(cls, list(encoders.items())),
        _maker(cls, arguments),
    )


def _arguments(decoders: Decoders) -> Callable[[Any], dict[str, Any]]:
    def decode(value: Any) -> dict[str, Any]:
        if type(value) is not dict and not isinstance(value, Mapping):
            raise misfit("a dict", value)
        found: dict[str, Any] = {}
        name = ""
        try:
            for name, parameter, decode_one, is_required in decoders:
                if name in value:
                    found[parameter] = decode_one(value[name])
                elif is_required:
                    raise Undecodable(MISSING)
        except Undecodable as error:
            raise error.inside(name) from None
        return found

    return decode


def _maker(cls: Any, arguments: Callable[[Any], dict[str, Any]]) -> Callable[..., Any]:
    def decode(value: Any) -> Any:
        found = arguments(value)
        try:
            return cls(**found)
        except Exception as error:
            raise Undecodable(refusal(cls, error)) from error

    return decode


def refusal(cls: Any, error: Exception) -> str:
    """Return why a class does not take the values of its fields."""
    return f"{cls.__qualname__} refused it: {type(error).__name__}: {error}"


def _encoder_of_attributes(
    cls: Any, encoders: Sequence[tuple[str, Callable[[Any], Any]]]
) -> Callable[[Any], Any]:
    def encode(value: Any) -> dict[str, Any]:
        if type(value) is not cls and not isinstance(value, cls):
            raise refused(f"an object of {cls.__qualname__}", value)
        stored = {}
        name = ""
        try:
            for name, encode_one in encoders:
                stored[name] = encode_one(getattr(value, name))
        except Unstorable as error:
            raise error.inside(name) from None
        except AttributeError:
            raise Unstorable("is not set", name) from None
        return stored

    return encode


def _encoder_of_keys(
    cls: Any, encoders: Mapping[str, Callable[[Any], Any]], required: Sequence[str]
) -> Callable[[Any], Any]:
    def encode(value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise refused(f"a dict of {cls.__qualname__}", value)
        stored: dict[str, Any] = {}
        for name, one in value.items():
            if name not in encoders:
                raise Unstorable(f"not a key of {cls.__qualname__}", str(name))
            try:
                stored[name] = encoders[name](one)
            except Unstorable as error:
                raise error.inside(name) from None
        for name in required:
            if name not in stored:
                raise Unstorable(f"missing, but {cls.__qualname__} requires it", name)
        return stored

    return encode
