"""The fields of dataclasses, attrs classes and TypedDicts. Pure."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .rules import Undeclarable


@dataclass(frozen=True)
class Field:
    """A field of a class."""

    name: str
    #: The parameter of the class that sets it; None if its other fields make it.
    parameter: str | None
    type: Any
    is_required: bool
    default: Any = None


def is_typed_dict(cls: Any) -> bool:
    """Whether a class is a TypedDict, of ``typing`` or ``typing_extensions``."""
    return (
        isinstance(cls, type)
        and issubclass(cls, dict)
        and hasattr(cls, "__required_keys__")
    )


def fields_of(cls: Any, namespace: Mapping[str, Any]) -> list[Field] | None:
    """
    Return the fields of a class; None if it is of another kind.

    Args:
        cls: the class.
        namespace: names of the function in which it is defined.

    Raises:
        NameError: an annotation refers to what is not defined yet.
        Undeclarable: a field cannot be stored.
    """
    if hasattr(cls, "__attrs_attrs__"):
        hints = _hints(cls, namespace)
        return [_attribute(one, hints) for one in cls.__attrs_attrs__]
    if dataclasses.is_dataclass(cls):
        return _of_dataclass(cls, _hints(cls, namespace))
    if is_typed_dict(cls):
        return _of_typed_dict(cls, _hints(cls, namespace))
    return None


def _hints(cls: Any, namespace: Mapping[str, Any]) -> dict[str, Any]:
    names = {**namespace, cls.__name__: cls}
    try:
        return typing.get_type_hints(cls, localns=names, include_extras=True)
    except (TypeError, SyntaxError) as error:
        raise Undeclarable(
            f"the annotations of {cls.__name__} cannot be read: {error}"
        ) from None


def _of_dataclass(cls: Any, hints: Mapping[str, Any]) -> list[Field]:
    for name, kind in hints.items():  # fields() hides these
        if isinstance(kind, dataclasses.InitVar) or kind is dataclasses.InitVar:
            raise Undeclarable(
                "an InitVar is not kept, so the object cannot be made again; make it a "
                "field",
                name,
            )
    return [
        Field(
            one.name,
            one.name if one.init else None,
            hints[one.name],
            one.default is dataclasses.MISSING
            and one.default_factory is dataclasses.MISSING,
            one.default,
        )
        for one in dataclasses.fields(cls)
    ]


def _attribute(one: Any, hints: Mapping[str, Any]) -> Field:
    kind = hints.get(one.name, one.type)
    if kind is None:
        raise Undeclarable("has no type; write one, as amount: int", one.name)
    default = one.default
    if isinstance(default, (list, dict, set, bytearray)):
        raise Undeclarable(
            "all objects share its default, which can be changed; use "
            f"factory={type(default).__name__}, or a factory of your own",
            one.name,
        )
    parameter = getattr(one, "alias", None) or one.name.lstrip("_")
    is_required = type(default).__name__ == "_Nothing"
    return Field(one.name, parameter if one.init else None, kind, is_required, default)


def _of_typed_dict(cls: Any, hints: Mapping[str, Any]) -> list[Field]:
    return [
        Field(name, name, kind, _is_key_required(cls, name, kind))
        for name, kind in hints.items()
    ]


def _is_key_required(cls: Any, name: str, kind: Any) -> bool:
    # __required_keys__ alone is wrong where annotations are strings.
    words = set()
    while (origin := typing.get_origin(kind)) is not None and (
        origin is typing.Annotated or str(origin).startswith("typing")
    ):
        words.add(str(origin).rpartition(".")[2])
        arguments = typing.get_args(kind)
        if not arguments:
            break
        kind = arguments[0]
    if "NotRequired" in words:
        return False
    return "Required" in words or name in cls.__required_keys__
