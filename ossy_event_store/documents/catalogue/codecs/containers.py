"""The rules of lists, sets, tuples and dicts. Pure."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

from ...storable import Unstorable
from .ordering import ordered
from .rules import Rule, Undeclarable, each, misfit, refused

_LIST = frozenset([list])
_DICT = frozenset([dict])


def list_of(item: Rule) -> Rule:
    """Return the rule of lists."""
    encode_item, decode_item = item.encode, item.decode

    def encode(value: Any) -> list[Any]:
        if not isinstance(value, list):
            raise refused("a list", value)
        return each(encode_item, value)

    def decode(value: Any) -> list[Any]:
        return each(decode_item, _checked_list(value))

    return Rule("a list", _LIST, lambda value: isinstance(value, list), encode, decode)


def set_of(item: Rule, kind: Any) -> Rule:
    """Return the rule of sets or frozensets, which are stored in one order."""
    expected = "a set" if kind is set else "a frozenset"
    encode_item, decode_item = item.encode, item.decode

    def encode(value: Any) -> list[Any]:
        if not isinstance(value, kind):
            raise refused(expected, value)
        return ordered(each(encode_item, value))

    def decode(value: Any) -> Any:
        return kind(each(decode_item, _checked_list(value)))

    return Rule(expected, _LIST, lambda value: isinstance(value, kind), encode, decode)


def tuple_of_any_length(item: Rule) -> Rule:
    """Return the rule of ``tuple[X, ...]``."""
    encode_item, decode_item = item.encode, item.decode

    def encode(value: Any) -> list[Any]:
        if not isinstance(value, tuple):
            raise refused("a tuple", value)
        return each(encode_item, value)

    def decode(value: Any) -> tuple[Any, ...]:
        return tuple(each(decode_item, _checked_list(value)))

    return Rule(
        "a tuple", _LIST, lambda value: isinstance(value, tuple), encode, decode
    )


def tuple_of(
    items: Sequence[Rule], make: Callable[[list[Any]], Any] = tuple, kind: type = tuple
) -> Rule:
    """Return the rule of tuples with an item of each type."""
    expected = f"a tuple of {len(items)}"
    kind_of_value: Any = kind  # no narrowing
    encoders = [item.encode for item in items]
    decoders = [item.decode for item in items]

    def encode(value: Any) -> list[Any]:
        if not isinstance(value, kind_of_value):
            raise refused(expected, value)
        if len(value) != len(items):
            raise Unstorable(f"must be {expected}, not of {len(value)}")
        return each(_call, zip(encoders, value, strict=True))

    def decode(value: Any) -> Any:
        if len(_checked_list(value)) != len(items):
            raise misfit(f"a list of {len(items)}", value)
        return make(each(_call, zip(decoders, value, strict=True)))

    return Rule(expected, _LIST, lambda value: isinstance(value, kind), encode, decode)


def _call(pair: tuple[Callable[[Any], Any], Any]) -> Any:
    function, item = pair
    return function(item)


def dict_of(key: Rule, item: Rule) -> Rule:
    """
    Return the rule of dicts.

    Raises:
        Undeclarable: the keys are not stored as strings.
    """
    if key.forms != frozenset([str]):
        raise Undeclarable(
            "the keys of a stored dict are strings; declare dict[str, ...], or a list "
            "of tuples"
        )
    encode_key, decode_key = key.encode, key.decode
    encode_item, decode_item = item.encode, item.decode

    def encode(value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise refused("a dict", value)
        return _items(value, encode_key, encode_item)

    def decode(value: Any) -> dict[Any, Any]:
        if not isinstance(value, Mapping):
            raise misfit("a dict", value)
        return _items(value, decode_key, decode_item)

    return Rule("a dict", _DICT, lambda value: isinstance(value, dict), encode, decode)


def _items(
    value: Mapping[Any, Any], key: Callable[[Any], Any], item: Callable[[Any], Any]
) -> dict[Any, Any]:
    found = {}
    for name, one in value.items():
        try:
            found[key(name)] = item(one)
        except Unstorable as error:
            raise error.inside(name if isinstance(name, str) else repr(name)) from None
    return found


def _checked_list(value: Any) -> Any:
    if not isinstance(value, list):
        raise misfit("a list", value)
    return value


def one_of(rules: Sequence[Rule]) -> Rule:
    """
    Return the rule of a union.

    Raises:
        Undeclarable: two of its types have the same stored form.
    """
    for index, rule in enumerate(rules):
        for other in rules[index + 1 :]:
            if not rule.is_distinct(other):
                raise Undeclarable(
                    f"{rule.expected} and {other.expected} can be stored as the same "
                    "value, so a union of them cannot be read; declare one of them, "
                    "or a field for each"
                )
    expected = " or ".join(rule.expected for rule in rules)
    # An integer is a float too.
    by_kind = sorted(rules, key=lambda rule: rule.forms == frozenset([float]))

    def encode(value: Any) -> Any:
        for rule in by_kind:
            if rule.accepts(value):
                return rule.encode(value)
        raise refused(expected, value)

    return Rule(
        expected,
        frozenset().union(*(rule.forms or () for rule in rules)),
        lambda value: any(rule.accepts(value) for rule in rules),
        encode,
        _decoder(rules, expected),
        _all_values(rules),
    )


def _decoder(rules: Sequence[Rule], expected: str) -> Callable[[Any], Any]:
    listed = {
        value: rule.decode for rule in rules for value in rule.values or frozenset()
    }
    by_form = {
        form: rule.decode
        for rule in rules
        if rule.values is None
        for form in rule.forms or ()
    }

    def decode(value: Any) -> Any:
        form = type(value)
        decode_one = by_form.get(form)
        if decode_one is None:
            form = next((one for one in form.__mro__ if one in by_form), form)
            decode_one = by_form.get(form)
        if listed and isinstance(value, Hashable):
            decode_one = listed.get((type(value), value), decode_one)
        if decode_one is None:
            raise misfit(expected, value)
        return decode_one(value)

    return decode


def _all_values(rules: Sequence[Rule]) -> frozenset[tuple[type, Any]] | None:
    if any(rule.values is None for rule in rules):
        return None
    return frozenset().union(*(rule.values or () for rule in rules))


def optional(rule: Rule) -> Rule:
    """Return the rule of ``X | None``, which most unions are."""
    if rule.forms is None or type(None) in rule.forms:
        return rule
    encode_one, decode_one, accepts = rule.encode, rule.decode, rule.accepts
    none = frozenset([(type(None), None)])
    return Rule(
        f"{rule.expected} or None",
        rule.forms | {type(None)},
        lambda value: value is None or accepts(value),
        lambda value: None if value is None else encode_one(value),
        lambda value: None if value is None else decode_one(value),
        None if rule.values is None else rule.values | none,
    )
