"""
What a change of the code breaks, for each event type.

BACKWARD: the code reads all stored events, of every version that was ever written.
FORWARD: the code of the lock reads what the code of today writes, as during a
deployment and after a rollback. A change that is not BACKWARD is breaking.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ...bson_types import Document
from .accepting import problems_of
from .event_types import KnownType, KnownTypes
from .lock import Lock, LockedType

# What a schema says for people; the lock does not record it.
_REMARKS = ("title", "description", "$comment")


class Verdict(enum.Enum):
    """Who can read whose events."""

    FULL = "full"
    BACKWARD = "backward"
    FORWARD = "forward"
    NONE = "none"


@dataclass(frozen=True)
class Judgement:
    """What a change does to one event type."""

    type: str
    #: Why the code cannot read events that may be stored.
    backward: tuple[str, ...] = ()
    #: Why the code of the lock cannot read what the code writes.
    forward: tuple[str, ...] = ()
    is_new: bool = False

    @property
    def verdict(self) -> Verdict:
        """Who can read whose events."""
        if self.backward:
            return Verdict.NONE if self.forward else Verdict.FORWARD
        return Verdict.BACKWARD if self.forward else Verdict.FULL

    @property
    def is_breaking(self) -> bool:
        """Whether stored events could no longer be read."""
        return bool(self.backward)

    def as_dict(self) -> Document:
        """Return it as JSON has it."""
        return {
            "type": self.type,
            "verdict": self.verdict.value,
            "breaking": list(self.backward),
            "forward": list(self.forward),
            "new": self.is_new,
        }


def judged(lock: Lock, known: KnownTypes) -> list[Judgement]:
    """Return what the code does to each event type of a lock, and its new ones."""
    return [
        Judgement(
            name,
            tuple(dict.fromkeys(_unreadable(name, lock, known))),
            tuple(dict.fromkeys(_unreadable_before(name, lock, known))),
            name not in lock.types,
        )
        for name in sorted({*lock.types, *known.types})
    ]


# --- backward -----------------------------------------------------------------


def _unreadable(name: str, lock: Lock, known: KnownTypes) -> Iterator[str]:
    """Yield why the code cannot read what may be stored under a type."""
    locked = lock.types.get(name)
    if locked is None:
        yield from _taken_over(name, lock)
        return
    owner = known.owner(name)
    for version, shapes in locked.versions.items():
        if reason := known.obstacle(name, version):
            yield reason
        elif owner is not None:
            yield from misread(owner, name, version, shapes, lock)
    for alias in locked.aliases:
        now = known.owner(alias)
        if now is None:
            yield f"the alias {alias!r} was removed, and events are stored under it"
        elif owner is not None and now.name != owner.name:
            yield f"the alias {alias!r} now belongs to {now.name!r}"


def _taken_over(name: str, lock: Lock) -> Iterator[str]:
    """Yield why a new type cannot have its name: it was an alias of another."""
    owner = lock.owner(name)
    if owner is not None:
        yield f"events of {owner.name!r} are stored under this name, then its alias"


def misread(
    owner: KnownType,
    name: str,
    version: int,
    shapes: tuple[Document, ...],
    lock: Lock,
) -> Iterator[str]:
    """Yield why payloads of a version do not fit what reads them first."""
    if version < owner.version:
        # An upcaster does. Of another type, it was written for that one's payloads.
        readers = _shapes_of(owner.name, version, lock) if owner.name != name else ()
    elif owner.schema is None:
        if shapes:
            yield f"version {version} has neither a class nor an upcaster"
        return
    else:
        readers = (recorded(owner.schema),)
    for reader in readers[-1:]:
        for shape in shapes:
            for path, reason in problems_of(reader, shape):
                yield f"version {version}: {path or 'payload'} {reason}"


def _shapes_of(name: str, version: int, lock: Lock) -> tuple[Document, ...]:
    return lock.types.get(name, LockedType(name)).versions.get(version, ())


# --- forward ------------------------------------------------------------------


def _unreadable_before(name: str, lock: Lock, known: KnownTypes) -> Iterator[str]:
    """Yield why the code of the lock cannot read what the code writes of a type."""
    code = known.types.get(name)
    if code is None or code.schema is None:
        return  # nothing is written
    locked = lock.owner(name)
    if locked is None or locked.current is None:
        yield "the code of the lock does not know this type"
    elif code.version > locked.current:
        yield (
            f"the code of the lock knows versions up to {locked.current}, not "
            f"{code.version}"
        )
    else:
        for reader in locked.versions.get(code.version, ())[-1:]:
            for path, reason in problems_of(reader, recorded(code.schema)):
                yield f"{path or 'payload'} {_before(reason)}"


def _before(reason: str) -> str:
    """Return a reason as it is for the code of the lock."""
    if reason.startswith("was "):
        return f"is {reason.removeprefix('was ').replace(', now ', ', was ', 1)}"
    return f"{reason} (for the code of the lock)"


def recorded(schema: Any) -> Any:
    """Return a schema as the lock records it: without remarks for people."""
    if isinstance(schema, list):
        return [recorded(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    named = ("properties", "$defs")
    return {
        key: {name: recorded(one) for name, one in value.items()}
        if key in named
        else recorded(value)
        for key, value in schema.items()
        if key not in _REMARKS or (key == "$comment" and "type" not in schema)
    }
