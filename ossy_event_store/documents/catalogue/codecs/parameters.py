"""The parameters of the classes of events: what makes their objects. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .fields import Field, fields_of


def parameters_of(cls: Any, namespace: Mapping[str, Any]) -> list[Field] | None:
    """
    Return the fields of a class that its parameters set; None if it has no fields.

    Args:
        cls: a dataclass, a pydantic model, a msgspec Struct, an attrs class or a
            TypedDict.
        namespace: names of the function in which it is defined.
    """
    if hasattr(cls, "__pydantic_validator__") and hasattr(cls, "model_fields"):
        return [
            Field(name, _alias(one) or name, one.annotation, one.is_required())
            for name, one in cls.model_fields.items()
        ]
    if hasattr(cls, "__struct_fields__") and hasattr(cls, "__struct_config__"):
        from msgspec.structs import fields

        return [
            Field(one.name, one.name, one.type, one.required) for one in fields(cls)
        ]
    found = fields_of(cls, namespace)
    if found is None:
        return None
    return [one for one in found if one.parameter is not None]


def _alias(field: Any) -> str | None:
    """Return the name under which a field of pydantic is given, if it is another."""
    return next(
        (one for one in (field.validation_alias, field.alias) if isinstance(one, str)),
        None,
    )
