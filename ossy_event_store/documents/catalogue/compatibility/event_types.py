"""
What the code knows of event types, as data: what a lock file records of it.

It is made of the declarations, not of the ``Catalogue``, which refuses contradictions:
a checker must be able to say what they break.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ...bson_types import Document
from ..declaration import Declarations, EventType
from ..problems import current_versions
from .aliases import owner_of
from .json_schema import schema_of_class


@dataclass(frozen=True)
class KnownType:
    """What the code knows of one event type."""

    name: str
    #: The version at which its events are written, or after its last upcaster.
    version: int
    #: The payloads of that version; None if no class is declared.
    schema: Document | None = None
    aliases: tuple[str, ...] = ()
    #: By the version that each upcaster takes: the other types into which it leads.
    upcasters: Mapping[int, Mapping[str, int]] = field(default_factory=dict)


@dataclass(frozen=True)
class KnownTypes:
    """All event types that the code knows, by name."""

    types: Mapping[str, KnownType]

    def owner(self, stored: str) -> KnownType | None:
        """Return the type as which events of a stored type are read."""
        return owner_of(stored, self.types)

    def obstacle(self, stored: str, version: int) -> str | None:
        """Return why events of a stored type and version cannot be read, or None."""
        known = self.owner(stored)
        if known is None:
            if version == 1:
                return "no class, alias or upcaster knows this type"
            return f"the code does not know this type, so version {version} is unknown"
        return self._obstacle(known, version, set())

    def _obstacle(
        self, known: KnownType, version: int, seen: set[tuple[str, int]]
    ) -> str | None:
        if version > known.version:
            return (
                f"version {version} is stored, and the code knows versions up to "
                f"{known.version}"
            )
        for step in range(version, known.version):
            if (known.name, step) in seen:
                return f"the upcasters of {known.name!r} form a cycle"
            seen.add((known.name, step))
            if step not in known.upcasters:
                return f"no upcaster leads on from version {step} of {known.name!r}"
            for name, into in known.upcasters[step].items():
                target = self.types.get(name)
                if target is None:
                    continue  # a type without a class has one version
                if reason := self._obstacle(target, into, seen - {(name, into)}):
                    return f"through {name!r}: {reason}"
        return None


def known_types(declared: Declarations) -> KnownTypes:
    """
    Return what declarations say of each event type.

    Raises:
        ImproperlyConfigured: an annotation names something that does not exist.
    """
    upcasters: dict[str, dict[int, Mapping[str, int]]] = {}
    for one in declared.upcasters:
        upcasters.setdefault(one.type, {})[one.version] = dict(one.into)
    classes = {one.name: one for one in declared.types}
    found = {}
    for name, version in sorted(current_versions(declared).items()):
        declared_type = classes.get(name)
        found[name] = KnownType(
            name,
            version,
            _schema(declared_type) if declared_type else None,
            tuple(sorted(declared_type.aliases)) if declared_type else (),
            dict(sorted(upcasters.get(name, {}).items())),
        )
    return KnownTypes(found)


def _schema(declared: EventType) -> Document:
    return schema_of_class(declared.cls, declared.namespace)
