"""
The catalogue: all event types that the code knows, and what it reads of stored events.

``current()`` is the catalogue of what is declared. It is built once, and again after
another declaration.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from django.core.exceptions import ImproperlyConfigured

from ..bson_types import Document
from .declaration import Declarations, EventType, Upcaster, declarations
from .problems import current_versions, problems
from .upcasting import upcast


class Catalogue:
    """
    The event types of some declarations.

    Raises:
        ImproperlyConfigured: the declarations contradict each other.
    """

    def __init__(self, declared: Declarations) -> None:
        for problem in problems(declared):
            raise ImproperlyConfigured(problem)
        #: By name; a type that only upcasters know has no class, so it is not here.
        self.types: Mapping[str, EventType] = {one.name: one for one in declared.types}
        self.upcasters: Mapping[tuple[str, int], Upcaster] = {
            (one.type, one.version): one for one in declared.upcasters
        }
        #: The current version of each type that a class or an upcaster knows.
        self.versions: Mapping[str, int] = current_versions(declared)
        #: The name of the type that an alias stands for.
        self.aliases: Mapping[str, str] = {
            alias: one.name for one in declared.types for alias in one.aliases
        }
        #: By class.
        self.of_class: Mapping[type, EventType] = {
            one.cls: one for one in declared.types
        }
        # No stored version equals 0, so events under an alias are always upcasted.
        self._as_is = {**self.versions, **dict.fromkeys(self.aliases, 0)}

    def upcasted(self, events: list[Document]) -> list[Document]:
        """
        Return events as the code knows them, at the current versions of their types.

        The events that an upcaster made of one share its id, version and position.
        Nothing is changed: other events are the same objects.

        Args:
            events: as stored, completed by ``read_event()``.

        Raises:
            UnknownEventVersion: one has a version that the code does not know.
            UpcasterError: an upcaster failed.
        """
        as_is = self._as_is
        if all(as_is.get(e["type"], 1) == e.get("typeVersion", 1) for e in events):
            return events  # nearly always
        return [one for event in events for one in self.of(event)]

    def of(self, event: Document) -> Sequence[Document]:
        """Return what one stored event means; see ``upcasted()``."""
        if self._as_is.get(event["type"], 1) == event.get("typeVersion", 1):
            return (event,)
        return upcast(event, self.aliases, self.versions, self.upcasters)

    def stored_types(self, types: Iterable[str] | None) -> tuple[str, ...] | None:
        """
        Return the stored types of which events of some types can be made.

        These are the types, their aliases, and the types that upcasters lead into them.

        Args:
            types: names or aliases; None means all, and stays None.
        """
        if types is None:
            return None
        found = dict.fromkeys(self.aliases.get(name, name) for name in types)
        sources = self._sources()
        work = list(found)
        while work:
            for source in sources.get(work.pop(), ()):
                if source not in found:
                    found[source] = None
                    work.append(source)
        stored = [
            *found,
            *(alias for alias, name in self.aliases.items() if name in found),
        ]
        return tuple(dict.fromkeys(stored))

    def _sources(self) -> dict[str, list[str]]:
        sources: dict[str, list[str]] = {}
        for one in self.upcasters.values():
            for target in one.into:
                sources.setdefault(target, []).append(one.type)
        return sources


_built: dict[str, tuple[Declarations, int, Catalogue]] = {}


def current() -> Catalogue:
    """
    Return the catalogue of all that is declared.

    Raises:
        ImproperlyConfigured: see ``Catalogue``.
    """
    known = _built.get("")
    edition = declarations.edition
    if known is None or known[:2] != (declarations, edition):
        known = _built[""] = (declarations, edition, Catalogue(declarations))
    return known[2]
