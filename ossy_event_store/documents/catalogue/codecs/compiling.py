"""Make the rule of a type from its annotation. Pure."""

from __future__ import annotations

import collections.abc as abc
import enum
import types
import typing
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from ...storable import copied
from .containers import (
    dict_of,
    list_of,
    one_of,
    optional,
    set_of,
    tuple_of,
    tuple_of_any_length,
)
from .leaves import LEAVES
from .rules import Rule, Undeclarable, Undecodable, refused

#: Returns the rule of a class with fields, or None.
Nested = Callable[[Any], Rule | None]

_INSTEAD = (
    "declare one of str, int, float, bool, bytes, datetime, date, time, timedelta, "
    "Decimal, UUID, an Enum, list, set, tuple, dict, or a class of these"
)
_LISTS = (list, abc.Sequence, abc.MutableSequence, abc.Collection, abc.Iterable)
_SETS = {
    set: set,
    abc.MutableSet: set,
    frozenset: frozenset,
    abc.Set: frozenset,
}
_DICTS = (dict, abc.Mapping, abc.MutableMapping)
# What says something of a field, and nothing of its values.
_WRAPPERS = {
    getattr(typing, name)
    for name in ("Required", "NotRequired", "ReadOnly", "Final", "ClassVar")
    if hasattr(typing, name)
}


def rule_of(kind: Any, nested: Nested) -> Rule:
    """
    Return the rule of a type.

    Args:
        kind: an annotation without forward references.
        nested: finds the rules of classes with fields.

    Raises:
        Undeclarable: it has no stored form.
    """
    kind = unwrapped(kind)
    if kind is None:
        kind = type(None)
    if kind is Any or kind is object:
        return _ANYTHING
    if kind in (tuple, typing.Tuple):  # noqa: UP006 - users write both
        return tuple_of_any_length(_ANYTHING)
    if isinstance(kind, type) and kind in LEAVES:
        return LEAVES[kind]
    origin = typing.get_origin(kind) or kind
    arguments = typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return _union([one for one in arguments if one is not type(None)], kind, nested)
    if origin is typing.Literal:
        return _literal(arguments)
    found = _container(origin, arguments, partial(rule_of, nested=nested))
    return found or _class(kind, nested)


def unwrapped(kind: Any) -> Any:
    """Return the type of an annotation, without what says nothing of its values."""
    while True:
        origin = typing.get_origin(kind)
        if origin is typing.Annotated or origin in _WRAPPERS:
            kind = typing.get_args(kind)[0]
        elif hasattr(kind, "__supertype__"):  # a NewType
            kind = kind.__supertype__
        elif type(kind).__name__ == "TypeAliasType":
            kind = kind.__value__
        else:
            return kind


def _union(some: list[Any], kind: Any, nested: Nested) -> Rule:
    rules = [rule_of(one, nested) for one in some]
    found = rules[0] if len(rules) == 1 else one_of(rules)
    return optional(found) if type(None) in typing.get_args(kind) else found


def _container(
    origin: Any, arguments: tuple[Any, ...], rule: Callable[[Any], Rule]
) -> Rule | None:
    if origin in _LISTS:
        return list_of(rule(arguments[0]) if arguments else _ANYTHING)
    if origin in _SETS:
        item = rule(arguments[0]) if arguments else _ANYTHING
        return set_of(item, _SETS[origin])
    if origin in _DICTS:
        key, item = arguments or (str, Any)
        return dict_of(rule(key), rule(item))
    if origin is tuple:
        if len(arguments) == 2 and arguments[1] is ...:
            return tuple_of_any_length(rule(arguments[0]))
        return tuple_of([rule(one) for one in arguments])
    return None


def _class(kind: Any, nested: Nested) -> Rule:
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return _enumeration(kind)
    if found := nested(kind):
        return found
    if isinstance(kind, type) and issubclass(kind, tuple) and hasattr(kind, "_fields"):
        hints = typing.get_type_hints(kind, include_extras=True)
        items = [rule_of(hints.get(name, Any), nested) for name in kind._fields]
        return tuple_of(items, lambda values: kind(*values), kind)
    name = getattr(kind, "__qualname__", None) or repr(kind)
    raise Undeclarable(f"{name} has no stored form; {_INSTEAD}")


def _everything(value: Any) -> bool:
    return True


_ANYTHING = Rule("any value", None, _everything, lambda value: value, copied)


# --- values that can be listed ----------------------------------------------


def _enumeration(kind: type[enum.Enum]) -> Rule:
    expected = f"one of {kind.__qualname__}"
    stored = {member: _listed(member.value, kind) for member in kind}
    members = {(type(value), value): member for member, value in stored.items()}

    def encode(value: Any) -> Any:
        if not isinstance(value, kind):
            raise refused(f"a member of {kind.__qualname__}", value)
        return stored.get(value, value.value)  # flags combine

    def decode(value: Any) -> Any:
        found = members.get(_key(value))
        if found is not None:
            return found
        try:
            return kind(value)  # flags, and what its own _missing_() knows
        except (ValueError, TypeError):
            raise Undecodable(_no_value(expected, members)) from None

    is_flag = issubclass(kind, enum.Flag)
    return Rule(
        expected,
        frozenset(form for form, _ in members) or frozenset([int]),
        lambda value: isinstance(value, kind),
        encode,
        decode,
        None if is_flag else frozenset(members),
    )


def _listed(value: Any, kind: object) -> Any:
    """Return a plain value of an enumeration as it is stored."""
    if value is None or isinstance(value, bool):
        return value
    plain: Any
    for plain in (str, int, float, bytes):
        if isinstance(value, plain):
            return plain(value)
    raise Undeclarable(
        f"{kind} has a value that is no plain one: {type(value).__name__}; use strings "
        "or numbers"
    )


def _key(value: Any) -> tuple[type, Any]:
    """Return the key of a stored value; a whole number may be stored as a double."""
    if not isinstance(value, abc.Hashable):  # a list, a dict, a Decimal128
        return type(value), None
    if isinstance(value, int) and not isinstance(value, bool):
        return int, int(value)
    return type(value), value


def _literal(values: tuple[Any, ...]) -> Rule:
    members: Mapping[tuple[type, Any], Any] = {
        _key(_listed(one.value if isinstance(one, enum.Enum) else one, "Literal")): one
        for one in values
    }
    expected = f"one of {', '.join(repr(one) for one in values)}"

    def matches(value: Any) -> bool:
        return any(value == one and type(value) is type(one) for one in values)

    def encode(value: Any) -> Any:
        if not matches(value):
            raise refused(expected, value)
        return value.value if isinstance(value, enum.Enum) else value

    def decode(value: Any) -> Any:
        try:
            return members[_key(value)]
        except KeyError:
            raise Undecodable(f"must be {expected}") from None

    return Rule(
        expected,
        frozenset(form for form, _ in members),
        matches,
        encode,
        decode,
        frozenset(members),
    )


def _no_value(expected: str, members: Mapping[tuple[type, Any], Any]) -> str:
    known = ", ".join(repr(value) for _, value in members)
    return f"is no value {expected}: {known}"
