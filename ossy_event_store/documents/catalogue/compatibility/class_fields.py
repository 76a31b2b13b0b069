"""The fields of a class of events: a dataclass, pydantic, msgspec, attrs, TypedDict."""

from __future__ import annotations

import dataclasses
import inspect
import sys
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias, get_args, get_origin

from django.core.exceptions import ImproperlyConfigured

_REQUIREDNESS = {
    getattr(typing, word): word
    for word in ("Required", "NotRequired", "ReadOnly")
    if hasattr(typing, word)
}


Names: TypeAlias = Mapping[str, Any]


class _Nothing:
    """No default, or one that is computed for each object."""

    def __repr__(self) -> str:
        return "NOTHING"


NOTHING: Any = _Nothing()


@dataclass(frozen=True)
class Field:
    """One field of a class."""

    #: As it is stored.
    name: str
    #: What was declared, resolved: a class, ``int | None``, ``Annotated[…]``.
    hint: Any
    #: Whether an object cannot be made without it.
    required: bool
    #: ``NOTHING`` if it has none, or one that is computed.
    default: Any = NOTHING
    #: Objects that constrain the values, besides those in the hint.
    constraints: tuple[Any, ...] = ()


def fields_of(cls: Any, namespace: Names | None = None) -> list[Field] | None:
    """
    Return the fields of a class in their order, or None if it is no such class.

    Args:
        cls: the class.
        namespace: names of the function in which it is defined.

    Raises:
        ImproperlyConfigured: an annotation names something that does not exist.
    """
    for is_such, fields in _KINDS:
        if is_such(cls):
            return list(fields(cls, namespace or {}))
    return None


def refuses_other_fields(cls: Any) -> bool:
    """Whether the class itself refuses fields that it does not have."""
    if _is_pydantic(cls):
        return bool(cls.model_config.get("extra") == "forbid")
    if _is_msgspec(cls):
        return bool(cls.__struct_config__.forbid_unknown_fields)
    return False


def docstring_of(cls: Any) -> str:
    """Return what a class says about itself, not what a decorator wrote for it."""
    text = vars(cls).get("__doc__") if isinstance(cls, type) else None
    if not isinstance(text, str) or text.startswith(f"{cls.__name__}("):
        return ""
    return inspect.cleandoc(text)


def spelled(hint: Any) -> str:
    """Return a declared type as code spells it, in short: ``list[Line] | None``."""
    if hint is None or hint is type(None):
        return "None"
    if hint is Ellipsis:
        return "..."
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is typing.Annotated:
        return spelled(arguments[0])
    if origin in (typing.Union, types.UnionType):
        return " | ".join(map(spelled, arguments))
    if origin is typing.Literal:
        return f"Literal[{', '.join(map(repr, arguments))}]"
    if origin is not None:
        return f"{spelled(origin)}[{', '.join(map(spelled, arguments))}]"
    return getattr(hint, "__name__", None) or repr(hint)


# --- one kind of class each ---------------------------------------------------


def hints_of(cls: Any, namespace: Names) -> dict[str, Any]:
    """
    Return the annotations of a class, resolved; see ``fields_of()``.

    Raises:
        ImproperlyConfigured: one names something that does not exist.
    """
    try:
        return typing.get_type_hints(
            cls, localns={**namespace, cls.__name__: cls}, include_extras=True
        )
    except (NameError, TypeError, SyntaxError, AttributeError) as error:
        raise ImproperlyConfigured(
            f"The annotations of {cls.__module__}.{cls.__qualname__} cannot be "
            f"resolved: {error}. Import what they name outside of TYPE_CHECKING."
        ) from None


def _of_dataclass(cls: Any, namespace: Names) -> Iterator[Field]:
    hints = hints_of(cls, namespace)
    for one in dataclasses.fields(cls):
        if one.init:
            has_default = one.default is not dataclasses.MISSING
            required = not has_default and one.default_factory is dataclasses.MISSING
            default = one.default if has_default else NOTHING
            yield Field(one.name, hints[one.name], required, default)


def _of_attrs(cls: Any, namespace: Names) -> Iterator[Field]:
    hints = hints_of(cls, namespace)
    nothing = sys.modules["attr"].NOTHING
    factory = sys.modules["attr"].Factory
    for one in cls.__attrs_attrs__:
        if one.init:
            computed = one.default is nothing or isinstance(one.default, factory)
            yield Field(
                one.name,
                hints.get(one.name, one.type or Any),
                one.default is nothing,
                NOTHING if computed else one.default,
            )


def _of_typed_dict(cls: Any, namespace: Names) -> Iterator[Field]:
    for name, hint in hints_of(cls, namespace).items():
        # Where annotations are strings, __required_keys__ alone is wrong.
        required, words = name in cls.__required_keys__, set()
        while (word := _REQUIREDNESS.get(get_origin(hint))) is not None:
            words.add(word)
            hint = get_args(hint)[0]
        if words & {"Required", "NotRequired"}:
            required = "Required" in words
        yield Field(name, hint, required)


def _of_pydantic(cls: Any, namespace: Names) -> Iterator[Field]:
    for name, one in cls.model_fields.items():
        required = one.is_required()
        computed = required or one.default_factory is not None
        yield Field(
            one.serialization_alias or one.alias or name,
            one.annotation,
            required,
            NOTHING if computed else one.default,
            tuple(one.metadata),
        )


def _of_msgspec(cls: Any, namespace: Names) -> Iterator[Field]:
    nothing = sys.modules["msgspec"].NODEFAULT
    for one in sys.modules["msgspec"].structs.fields(cls):
        default = NOTHING if one.default is nothing else one.default
        yield Field(one.encode_name, one.type, one.required, default)


def _is_dataclass(cls: Any) -> bool:
    return isinstance(cls, type) and dataclasses.is_dataclass(cls)


def _is_pydantic(cls: Any) -> bool:
    return isinstance(cls, type) and hasattr(cls, "__pydantic_fields__")


def _is_msgspec(cls: Any) -> bool:
    return isinstance(cls, type) and hasattr(cls, "__struct_fields__")


_KINDS = (
    # A dataclass of pydantic has both; what it stores is that of a dataclass.
    (_is_dataclass, _of_dataclass),
    (_is_pydantic, _of_pydantic),
    (_is_msgspec, _of_msgspec),
    (lambda cls: isinstance(cls, type) and hasattr(cls, "__attrs_attrs__"), _of_attrs),
    (lambda cls: hasattr(cls, "__required_keys__"), _of_typed_dict),
)
