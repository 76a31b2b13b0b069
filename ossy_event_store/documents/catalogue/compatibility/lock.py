"""
The lock file: every version that an event type ever had, and its payloads.

A store keeps the events of all versions, so nothing leaves the file when the code
changes. It is JSON, sorted, with one digest for each type, by which a change by hand is
noticed; changes of different types merge.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ...bson_types import Document
from .aliases import owner_of

FORMAT = 1
_TYPE_KEYS = {"aliases", "current", "digest", "upcasters", "versions"}


class LockError(ValueError):
    """A lock file cannot be read; says where and why, and what to do."""


@dataclass(frozen=True)
class LockedType:
    """What a lock file records of one event type."""

    name: str
    #: The version at which its events were written; None if they no longer are.
    current: int | None = None
    aliases: tuple[str, ...] = ()
    #: By version: every schema that its payloads had, the oldest first; none is known
    #: of a version that was past when the file began.
    versions: Mapping[int, tuple[Document, ...]] = field(default_factory=dict)
    #: By version: its upcaster, with the other types into which it led.
    upcasters: Mapping[int, Document] = field(default_factory=dict)


@dataclass(frozen=True)
class Lock:
    """The event types of a lock file, by name."""

    types: Mapping[str, LockedType] = field(default_factory=dict)

    def owner(self, stored: str) -> LockedType | None:
        """Return the type as which the code of the lock reads events of a type."""
        return owner_of(stored, self.types)


# --- the file -----------------------------------------------------------------


def dumped(lock: Lock) -> str:
    """Return the text of a lock file."""
    types = {name: _entry(one) for name, one in lock.types.items()}
    return _json({"format": FORMAT, "types": types})


def _json(document: Document) -> str:
    text = json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False)
    return f"{text}\n"


def _entry(one: LockedType) -> Document:
    entry = {
        "aliases": sorted(one.aliases),
        "current": one.current,
        "upcasters": {
            str(version): upcaster for version, upcaster in one.upcasters.items()
        },
        "versions": {
            str(version): list(shapes) for version, shapes in one.versions.items()
        },
    }
    return {**entry, "digest": _digest(one.name, entry)}


def _digest(name: str, entry: Document) -> str:
    text = json.dumps([name, entry], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def loaded(text: str) -> Lock:
    """
    Return the lock of a file's text.

    Raises:
        LockError: it is no lock file, was changed by hand, or is of a newer format.
    """
    try:
        document = json.loads(text, object_pairs_hook=_without_duplicates)
    except json.JSONDecodeError as error:
        conflict = "<<<<<<<" in text
        hint = "; it holds a merge conflict" if conflict else ""
        raise LockError(
            f"line {error.lineno} is not JSON: {error.msg}{hint}. Restore it from "
            "version control, then run event_catalog --write"
        ) from None
    except RecursionError:
        raise LockError("it is nested too deeply to be a lock file") from None
    if not isinstance(document, dict) or type(document.get("format")) is not int:
        raise LockError(
            'it is no lock file: expected an object with "format" and "types"'
        )
    if document["format"] > FORMAT:
        raise LockError(
            f"it has format {document['format']}, and this version reads formats up to "
            f"{FORMAT}. Install the version of the event store that wrote it"
        )
    types = document.get("types")
    if not isinstance(types, dict) or document["format"] < 1 or len(document) > 2:
        raise LockError(_by_hand("the file"))
    return Lock({name: _locked(name, types[name]) for name in sorted(types)})


def _without_duplicates(pairs: list[tuple[str, Any]]) -> Document:
    document = dict(pairs)
    if len(document) < len(pairs):
        keys = [key for key, _ in pairs]
        double = next(key for key in keys if keys.count(key) > 1)
        raise LockError(f"it has {double!r} twice. {_RESTORE}")
    return document


_RESTORE = "Restore it from version control, then run event_catalog --write"


def _by_hand(what: str) -> str:
    return f"{what} was changed by hand, or merged wrongly. {_RESTORE}"


def _locked(name: str, entry: Any) -> LockedType:
    if not isinstance(entry, dict) or entry.keys() != _TYPE_KEYS:
        raise LockError(_by_hand(f"the entry of {name!r}"))
    digested = {key: value for key, value in entry.items() if key != "digest"}
    if entry["digest"] != _digest(name, digested):
        raise LockError(_by_hand(f"the entry of {name!r}"))
    try:
        return LockedType(
            name,
            entry["current"],
            tuple(entry["aliases"]),
            {int(key): tuple(value) for key, value in _by_number(entry["versions"])},
            {int(key): dict(value) for key, value in _by_number(entry["upcasters"])},
        )
    except (TypeError, ValueError, AttributeError):  # its digest is right: a forgery
        raise LockError(_by_hand(f"the entry of {name!r}")) from None


def _by_number(entries: Document) -> list[tuple[str, Any]]:
    return sorted(entries.items(), key=lambda item: int(item[0]))
