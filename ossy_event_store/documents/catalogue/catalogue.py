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
from .upcasting import Ran, is_checked, upcast


class Catalogue:
    """
    The event types of some declarations.

    Raises:
        ImproperlyConfigured: the declarations contradict each other.
    """

    def __init__(self, declared: Declarations) -> None:
        if found := list(problems(declared)):
            raise ImproperlyConfigured("\n".join(found))
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
        # No stored version equals this, so events under an alias are always upcasted.
        self._as_is = {**self.versions, **dict.fromkeys(self.aliases, object())}
        #: See ``fingerprint()``.
        self.fingerprints: dict[tuple[tuple[str, ...] | None, bool], str] = {}
        self._selections: dict[tuple[str, ...], Selection] = {}

    @property
    def names(self) -> frozenset[str]:
        """All names that it knows: of types, their aliases, and targets of splits."""
        targets = (name for one in self.upcasters.values() for name in one.into)
        return frozenset((*self.versions, *self.aliases, *targets))

    def upcasted(
        self, events: list[Document], types: Iterable[str] | None = None
    ) -> list[Document]:
        """
        Return events as the code knows them, at the current versions of their types.

        The events that an upcaster made of one share its id, version and position.
        Nothing is changed: other events are the same objects.

        Args:
            events: as stored, completed by ``read_event()``.
            types: only events that are of these types now; None means all.

        Raises:
            UnknownEventVersion: one has a version that the code does not know.
            UpcasterError: an upcaster failed.
        """
        if types is not None:
            return self.selection(types).upcasted(events)
        if self.leaves(events):  # nearly always
            return events
        checked = is_checked()
        return [one for event in events for one in self.of(event, checked)]

    def leaves(
        self, events: Iterable[Document], types: Iterable[str] | None = None
    ) -> bool:
        """Whether ``upcasted()`` would return these events and no others."""
        if types is not None:
            names = self.selection(types).names
            if any(event["type"] not in names for event in events):
                return False
        as_is = self._as_is.get
        for event in events:
            if as_is(event["type"], 1) != event.get("typeVersion", 1):
                return False
        return True

    def of(
        self, event: Document, checked: bool = True, ran: list[Ran] | None = None
    ) -> Sequence[Document]:
        """
        Return what one stored event means; see ``upcasted()``.

        Args:
            event: as stored.
            checked: see ``is_checked()``.
            ran: gets each call of an upcaster.
        """
        if self._as_is.get(event["type"], 1) == event.get("typeVersion", 1):
            return (event,)
        return upcast(
            event,
            self.aliases,
            self.versions,
            self.upcasters,
            checked=checked,
            ran=ran,
        )

    def selection(self, types: Iterable[str]) -> Selection:
        """Return the events of some types, of which it makes events of these types."""
        names = tuple(types)
        found = self._selections.get(names)
        if found is None:
            found = self._selections[names] = Selection(self, names)
        return found

    def stored_types(self, types: Iterable[str] | None) -> tuple[str, ...] | None:
        """
        Return the stored types of which events of some types can be made.

        These are the types, their aliases, and the types that upcasters lead into them.

        Args:
            types: names or aliases; None means all, and stays None.
        """
        if types is None:
            return None
        found = self.sources(types)
        aliases = (alias for alias, name in self.aliases.items() if name in found)
        return tuple(dict.fromkeys([*found, *aliases]))

    def sources(self, types: Iterable[str]) -> list[str]:
        """Return some types by their names, and those that upcasters lead into them."""
        found = dict.fromkeys(self.aliases.get(name, name) for name in types)
        sources: dict[str, list[str]] = {}
        for one in self.upcasters.values():
            for target in one.into:
                sources.setdefault(target, []).append(one.type)
        work = list(found)
        while work:
            for source in sources.get(work.pop(), ()):
                if source not in found:
                    found[source] = None
                    work.append(source)
        return list(found)


class Selection:
    """The events of some types, whatever their types were when they were stored."""

    def __init__(self, catalogue: Catalogue, types: Sequence[str]) -> None:
        aliases = catalogue.aliases
        self.names = frozenset(aliases.get(name, name) for name in types)
        self.stored = frozenset(catalogue.stored_types(types) or ())
        self._catalogue = catalogue

    def upcasted(self, events: Iterable[Document]) -> list[Document]:
        """Return the events of these types; see ``Catalogue.upcasted()``."""
        of, names, stored = self._catalogue.of, self.names, self.stored
        checked = is_checked()
        return [
            one
            for event in events
            if event["type"] in stored
            for one in of(event, checked)
            if one["type"] in names
        ]


_built: dict[str, tuple[Declarations, int, Catalogue]] = {}


def current() -> Catalogue:
    """
    Return the catalogue of all that is declared.

    Raises:
        ImproperlyConfigured: see ``Catalogue``.
    """
    known = _built.get("")
    declared, edition = declarations, declarations.edition
    if known is None or known[0] is not declared or known[1] != edition:
        known = _built[""] = (declared, edition, Catalogue(declared))
    return known[2]
