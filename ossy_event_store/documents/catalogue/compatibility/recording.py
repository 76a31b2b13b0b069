"""Record in a lock what the code knows, and keep what it recorded before."""

from __future__ import annotations

from ...bson_types import Document
from .accepting import canonical
from .event_types import KnownType, KnownTypes
from .lock import Lock, LockedType
from .verdicts import misread, recorded


def updated(lock: Lock, known: KnownTypes) -> Lock:
    """
    Return a lock with what the code knows, and all that it recorded before.

    What the code can no longer read is left out: the user who accepted the change said
    that no such event is stored.
    """
    names = sorted({*lock.types, *known.types})
    merged = [_merged(name, lock, known) for name in names]
    return Lock({one.name: one for one in merged if one.versions})


def _merged(name: str, lock: Lock, known: KnownTypes) -> LockedType:
    code = known.types.get(name)
    versions = _readable(name, lock, known)
    if code is None:
        return LockedType(name, versions=versions)
    for version in range(1, code.version + 1):
        versions.setdefault(version, ())
    if code.schema is not None:
        versions[code.version] = _with_shape(versions[code.version], code.schema)
    return LockedType(
        name,
        code.version,
        code.aliases,
        dict(sorted(versions.items())),
        {version: _upcaster(code, version) for version in code.upcasters},
    )


def _readable(
    name: str, lock: Lock, known: KnownTypes
) -> dict[int, tuple[Document, ...]]:
    """Return those versions and schemas of a locked type that the code can read."""
    locked, owner = lock.types.get(name), known.owner(name)
    if locked is None or owner is None:
        return {}
    return {
        version: tuple(
            one
            for one in shapes
            if not any(misread(owner, name, version, (one,), lock))
        )
        for version, shapes in locked.versions.items()
        if known.obstacle(name, version) is None
    }


def _with_shape(shapes: tuple[Document, ...], schema: Document) -> tuple[Document, ...]:
    """Add a schema to those of a version; one with other defaults is the same."""
    schema = recorded(schema)
    return (*(one for one in shapes if _bare(one) != _bare(schema)), schema)


def _upcaster(code: KnownType, version: int) -> Document:
    into = code.upcasters[version]
    return {"into": dict(into)} if into else {}


def _bare(schema: Document) -> str:
    """Return a text of a schema without its defaults."""
    return canonical(_without_defaults(schema))


def _without_defaults(value: object) -> object:
    if isinstance(value, list):
        return [_without_defaults(one) for one in value]
    if not isinstance(value, dict):
        return value
    return {
        key: {name: _without_defaults(one) for name, one in inner.items()}
        if key in ("properties", "$defs")
        else _without_defaults(inner)
        for key, inner in value.items()
        if key != "default"
    }
