"""The codec of an event class: its objects as payloads, and back. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ...storable import Unstorable
from .fields import fields_of, is_typed_dict
from .libraries import rule_of_library
from .objects import rule_of_fields
from .rules import Rule, Undeclarable

KINDS = "a dataclass, a pydantic model, a msgspec Struct, an attrs class or a TypedDict"


class Codec:
    """
    The stored form of a class.

    Args:
        cls: the class.
        namespace: names of the function in which it is defined.

    Raises:
        Undeclarable: it is of another kind, or a field has no stored form.
        NameError: an annotation refers to what is not defined yet.
    """

    def __init__(self, cls: Any, namespace: Mapping[str, Any] | None = None) -> None:
        self.cls = cls
        #: Whether its objects are plain dicts, which do not know their class.
        self.is_typed_dict = is_typed_dict(cls)
        rule = _Rules(namespace or {}).of(cls)
        if rule is None:
            raise Undeclarable(
                f"{cls.__qualname__} is no class of events: expected {KINDS}; write "
                "@event above @dataclass or @define"
            )
        self._rule = rule
        #: Returns the payload of an object, or raises ``Unstorable``.
        self.encode: Callable[[Any], dict[str, Any]] = rule.encode
        #: Returns the object of a stored payload, or raises ``Undecodable``.
        self.decode: Callable[[Any], Any] = rule.decode

    def check(self, payload: Mapping[str, Any], sent: Any) -> None:
        """
        Check that a stored payload comes back equal to what was sent.

        Raises:
            Unstorable: with the field that does not.
        """
        found = self.decode(payload)
        if _is_equal(found, sent):
            return
        names = _names_of_fields(sent)
        different = [name for name in names if not _is_same_field(found, sent, name)]
        # Without its own __eq__, no object is equal to another one.
        has_eq = any("__eq__" in vars(one) for one in type(sent).__mro__[:-1])
        if different or not names or has_eq:
            raise Unstorable(
                "would not come back equal from its stored form", (different or [""])[0]
            )


class _Rules:
    """The rules of a class and of the classes in its fields."""

    def __init__(self, namespace: Mapping[str, Any]) -> None:
        self._namespace = namespace
        self._known: dict[Any, Rule] = {}
        self._open: set[Any] = set()

    def of(self, cls: Any) -> Rule | None:
        if cls in self._known:
            return self._known[cls]
        if cls in self._open:
            return self._later(cls)
        self._open.add(cls)
        try:
            rule = rule_of_library(cls) if isinstance(cls, type) else None
            if rule is None:
                fields = fields_of(cls, self._namespace)
                if fields is None:
                    return None
                rule = rule_of_fields(cls, fields, self.of)
        finally:
            self._open.discard(cls)
        self._known[cls] = rule
        return rule

    def _later(self, cls: Any) -> Rule:
        """Return the rule of a class that contains itself."""
        return Rule(
            f"an object of {cls.__qualname__}",
            frozenset([dict]),
            lambda value: isinstance(value, dict if is_typed_dict(cls) else cls),
            lambda value: self._known[cls].encode(value),
            lambda value: self._known[cls].decode(value),
        )


def _is_equal(one: Any, other: Any) -> bool:
    return type(one) is type(other) and bool(one == other)


def _names_of_fields(sent: Any) -> list[str]:
    """Return the names of an object's fields, as its class has them."""
    kind = type(sent)
    for attribute in ("__struct_fields__", "model_fields", "__dataclass_fields__"):
        if hasattr(kind, attribute):
            return list(getattr(kind, attribute))
    attributes: Iterable[Any] = getattr(kind, "__attrs_attrs__", ())
    return [one.name for one in attributes] or list(sent if kind is dict else ())


def _is_same_field(one: Any, other: Any, name: str) -> bool:
    missing = object()
    if isinstance(other, dict):
        return bool(one.get(name, missing) == other.get(name, missing))
    return bool(getattr(one, name, missing) == getattr(other, name, missing))
