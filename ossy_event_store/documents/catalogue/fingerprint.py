"""What a catalogue changes of the events that a reducer or projection gets. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import Any

from .catalogue import Catalogue, current
from .declaration import event, upcaster
from .source import source_of

LENGTH = 12  # hex digits


def fingerprint(reader: Any) -> str:
    """
    Return what the revision of a reader contains of the catalogue; "" if nothing.

    A type counts if reading it changes it: it has an earlier version or an alias, or
    the reader gets objects of its class.

    Args:
        reader: an aggregate class or a projection. Its ``event_types`` say which types
            count; without them, all do.

    Raises:
        ImproperlyConfigured: the declarations contradict each other.
    """
    catalogue = current()
    types = getattr(reader, "event_types", None)
    is_typed = bool(getattr(reader, "typed", False))
    key = (None if types is None else tuple(types), is_typed)
    found = catalogue.fingerprints.get(key)
    if found is None:
        parts = list(_parts(catalogue, types, is_typed))
        text = "\0".join(parts).encode()
        found = hashlib.sha256(text).hexdigest()[:LENGTH] if parts else ""
        catalogue.fingerprints[key] = found
    return found


def _parts(
    catalogue: Catalogue, types: Iterable[str] | None, is_typed: bool
) -> Iterator[str]:
    names = (
        {*catalogue.versions, *catalogue.types}
        if types is None
        else catalogue.sources(types)
    )
    for name in sorted(names):
        version, declared = catalogue.versions.get(name, 1), catalogue.types.get(name)
        aliases = sorted(declared.aliases) if declared else []
        has_class = is_typed and declared is not None
        if version == 1 and not aliases and not has_class:
            continue
        yield ascii((name, version, aliases))
        for earlier in range(1, version):
            one = catalogue.upcasters[name, earlier]
            yield ascii((earlier, one.takes_event, sorted(one.into.items())))
            yield source_of(one.function, without=[upcaster])
        if declared and has_class:
            yield source_of(declared.cls, without=[event])
