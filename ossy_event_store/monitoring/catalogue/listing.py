"""What the code declares of each event type, and what reads it by name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ...aggregate.registry import registered_aggregates
from ...documents.bson_types import Document
from ...documents.catalogue import declaration
from ...documents.catalogue.compatibility.class_fields import (
    NOTHING,
    docstring_of,
    fields_of,
    spelled,
)
from ...documents.catalogue.declaration import Declarations, EventType, name_of_function
from ...documents.catalogue.problems import current_versions
from ...projections.projection import registered_projections
from ...subscriptions.declaration import registered_subscriptions


@dataclass(frozen=True)
class ListedField:
    """One field of a class of events."""

    name: str
    type: str
    required: bool
    #: As code spells it; None without a default, or if it is computed.
    default: str | None = None


@dataclass(frozen=True)
class ListedUpcaster:
    """One upcaster of an event type."""

    version: int
    function: str
    into: Mapping[str, int]


@dataclass(frozen=True)
class ListedType:
    """One event type as it is declared."""

    name: str
    version: int
    #: Module and name; None if only upcasters know the type.
    cls: str | None
    aliases: tuple[str, ...]
    doc: str
    fields: tuple[ListedField, ...]
    upcasters: tuple[ListedUpcaster, ...]
    #: What names it: ``{"reducer": […], "projection": […], "subscription": […]}``.
    named_by: Mapping[str, tuple[str, ...]]

    def as_dict(self) -> Document:
        """Return it as JSON has it."""
        return {
            "type": self.name,
            "version": self.version,
            "class": self.cls,
            "aliases": list(self.aliases),
            "doc": self.doc,
            "fields": [vars(one) for one in self.fields],
            "upcasters": [
                {**vars(one), "into": dict(one.into)} for one in self.upcasters
            ],
            "namedBy": {kind: list(names) for kind, names in self.named_by.items()},
        }


def listed_types(declared: Declarations | None = None) -> list[ListedType]:
    """
    Return every event type that a class or an upcaster knows, in order of its name.

    Raises:
        ImproperlyConfigured: an annotation names something that does not exist.
    """
    declared = declaration.declarations if declared is None else declared
    classes = {one.name: one for one in declared.types}
    aliases = {alias: one.name for one in declared.types for alias in one.aliases}
    readers = _readers(aliases)
    return [
        ListedType(
            name,
            version,
            _path(classes[name].cls) if name in classes else None,
            tuple(sorted(classes[name].aliases)) if name in classes else (),
            docstring_of(classes[name].cls) if name in classes else "",
            tuple(_fields(classes[name])) if name in classes else (),
            tuple(
                ListedUpcaster(one.version, name_of_function(one.function), one.into)
                for one in sorted(declared.upcasters, key=lambda one: one.version)
                if one.type == name
            ),
            readers.get(name, {}),
        )
        for name, version in sorted(current_versions(declared).items())
    ]


def _path(cls: Any) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def _fields(declared: EventType) -> Iterator[ListedField]:
    for one in fields_of(declared.cls, declared.namespace) or ():
        default = None if one.default is NOTHING else repr(one.default)
        yield ListedField(one.name, spelled(one.hint), one.required, default)


def _readers(aliases: Mapping[str, str]) -> dict[str, dict[str, tuple[str, ...]]]:
    """Return what names each type, by kind."""
    found: dict[str, dict[str, tuple[str, ...]]] = {}
    for kind, name, types in _named_types():
        for one in dict.fromkeys(aliases.get(one, one) for one in types):
            of_kind = found.setdefault(one, {})
            of_kind[kind] = (*of_kind.get(kind, ()), name)
    return found


def _named_types() -> Iterator[tuple[str, str, Iterable[str]]]:
    for name, Root in registered_aggregates().items():
        yield "reducer", name, getattr(Root, "event_types", None) or ()
    projections = registered_projections()
    for name, projection in sorted(projections.items()):
        yield "projection", name, projection.types or ()
    for name, one in registered_subscriptions().items():
        if name not in projections:
            yield "subscription", name, one.types or ()
