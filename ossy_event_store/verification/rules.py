"""
What sound events, streams and snapshots look like, and what is wrong if they do not.

Pure, no I/O: the queries for the server are built here, and sent elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby, islice
from operator import itemgetter
from typing import Any

import bson

from ..documents.bson_types import CODEC, Document
from ..documents.event_document import MAX_ID_LENGTH, version_number
from ..documents.storable import COPY
from .report import (
    AHEAD,
    DUPLICATE,
    EVENT,
    HOLE,
    ORPHAN,
    SNAPSHOT_TYPE,
    SNAPSHOT_VERSION,
    STATE,
    TYPE,
    Finding,
)

_LISTED = 5  # ids, types and paths named in one finding
_LONGEST = 200  # characters of a path

_ID, _VERSION = itemgetter("aggregateId"), itemgetter("aggregateVersion")


# --- events -----------------------------------------------------------------


@dataclass(frozen=True)
class Field:
    """What a field of a stored event may be: BSON types, and length or minimum."""

    kinds: tuple[str, ...]
    required: bool = True
    longest: int | None = None
    least: int | None = None

    def __str__(self) -> str:
        text = " or ".join(self.kinds)
        if self.longest is not None:
            text += f" of 1 to {self.longest} characters"
        if self.least is not None:
            text += f" from {self.least}"
        return text

    @property
    def schema(self) -> Document:
        """The rule as JSON schema, which the server checks."""
        rule: Document = {"bsonType": list(self.kinds)}
        if self.longest is not None:
            rule |= {"minLength": 1, "maxLength": self.longest}
        if self.least is not None:
            rule["minimum"] = self.least
        return rule

    def against(self, kind: str, value: Any) -> str | None:
        """Return what was found in place of what the rule allows, or None."""
        if kind == "missing":
            return "nothing" if self.required else None
        if kind not in self.kinds:
            return kind
        if self.longest is not None and isinstance(value, str):
            fits = 1 <= len(value) <= self.longest
            return None if fits else f"{len(value):,} characters"
        if self.least is not None and value < self.least:
            return str(value)
        return None


# Events of the Node package are whole too: they have no metadata, and a number of
# milliseconds in ``created``.
EVENT_FIELDS = {
    "_id": Field(("objectId", "string"), longest=COPY.id_length),
    "aggregateId": Field(("string",), longest=MAX_ID_LENGTH),
    "aggregateType": Field(("string",), longest=MAX_ID_LENGTH),
    "aggregateVersion": Field(("int", "long"), least=1),
    "type": Field(("string",), longest=MAX_ID_LENGTH),
    "payload": Field(("object",), required=False),
    "created": Field(("date", "int", "long", "double")),
    "createdBy": Field(("string", "null"), required=False),
    "metadata": Field(("object",), required=False),
}

#: The query for events that are not whole.
BROKEN: Document = {
    "$nor": [
        {
            "$jsonSchema": {
                "required": [n for n, field in EVENT_FIELDS.items() if field.required],
                "properties": {n: field.schema for n, field in EVENT_FIELDS.items()},
            }
        }
    ]
}
#: What ``event_findings()`` needs of an event: no payload is sent.
SHAPE: Document = {
    **dict.fromkeys(("aggregateId", "aggregateType", "aggregateVersion", "type"), 1),
    "kinds": [{"$type": f"${name}"} for name in EVENT_FIELDS],
}


def event_findings(event: Document) -> Iterator[Finding]:
    """Yield what is wrong with the fields of an event that was read by ``SHAPE``."""
    aggregate_id, version = event.get("aggregateId"), event.get("aggregateVersion")
    of = version_number(version)
    for (name, field), kind in zip(EVENT_FIELDS.items(), event["kinds"], strict=True):
        if found := field.against(kind, event.get(name)):
            yield Finding(
                EVENT,
                aggregate_id if isinstance(aggregate_id, str) else None,
                (of, of) if of else None,
                f"{name} of event {event['_id']}",
                str(field),
                found,
            )


# --- streams ----------------------------------------------------------------


class Heads:
    """The head of each stream of a type, as its versions come in order."""

    def __init__(self) -> None:
        #: Streams that have ended, each with its head; None if its versions are odd.
        self.ended: dict[str, int | None] = {}
        self._id: Any = None
        self._head = 0
        self._dense = True

    def take(self, events: list[Document]) -> None:
        """Follow the versions of some more events."""
        # Stream by stream, not event by event: this runs for the whole store.
        ids, versions = map(_ID, events), list(map(_VERSION, events))
        at = 0
        for aggregate_id, run in groupby(ids):
            if aggregate_id != self._id:
                self.end()
                self._id, self._head, self._dense = aggregate_id, 0, True
            first, length = self._head + 1, len(list(run))
            self._head += length
            if versions[at : at + length] != list(range(first, first + length)):
                self._dense = False
            at += length

    def end(self) -> None:
        """Note the end of the stream at hand."""
        if isinstance(self._id, str):
            self.ended[self._id] = self._head if self._dense else None
        self._id = None


class StreamCheck:
    """Looks at the events of one stream, in order of version, in flat memory."""

    def __init__(self, aggregate_id: str) -> None:
        self.id = aggregate_id
        self.type: str | None = None
        self.head = 0
        self.events = 0
        self.found: list[Finding] = []
        self._same: list[str] = []  # ids of the events at the head
        self._others: dict[str, list[int]] = {}  # versions of each other type

    def take(self, event: Document) -> None:
        """Look at the next event."""
        self.events += 1
        at = version_number(event.get("aggregateVersion"))
        self._take_type(event.get("aggregateType"), at)
        if at is None:  # told by ``event_findings()``
            return
        if at != self.head:
            self._end_version()
            if at > self.head + 1:
                self._add_hole(at)
            self.head = at
        self._same.append(str(event["_id"]))

    def end(self) -> list[Finding]:
        """Return what is wrong with the stream, now that it has been seen."""
        self._end_version()
        for kind, versions in self._others.items():
            self.found.append(
                Finding(
                    TYPE,
                    self.id,
                    (versions[0], versions[-1]),
                    expected=f"type {self.type!r}",
                    found=f"type {kind!r}",
                )
            )
        return self.found

    def _take_type(self, kind: object, at: int | None) -> None:
        if not isinstance(kind, str):  # told by ``event_findings()``
            return
        if self.type is None:
            self.type = kind
        elif kind != self.type and (
            kind in self._others or len(self._others) < _LISTED
        ):
            versions = self._others.setdefault(kind, [at or 0])
            versions[1:] = [at or 0]

    def _add_hole(self, at: int) -> None:
        self.found.append(
            Finding(
                HOLE,
                self.id,
                (self.head + 1, at - 1),
                expected="an event of each version",
                found=f"none before version {at}",
            )
        )

    def _end_version(self) -> None:
        if (count := len(self._same)) > 1:
            ids = ", ".join(self._same[:_LISTED])
            self.found.append(
                Finding(
                    DUPLICATE,
                    self.id,
                    (self.head, self.head),
                    expected="one event",
                    found=f"{count}: {ids}" + (", …" if count > _LISTED else ""),
                )
            )
        self._same.clear()


# --- snapshots --------------------------------------------------------------


def snapshot_finding(
    snapshot: Document, kind: str | None, head: int, revision: str | None
) -> Finding | None:
    """
    Return what is wrong with a snapshot beside its stream, if anything is.

    Args:
        snapshot: its id, type, version and revision.
        kind: the type of its stream; None if there is no stream.
        head: the last version of its stream.
        revision: that of the reducer as it is now; None if there is no reducer.
    """
    version, own_kind = snapshot.get("aggregateVersion"), snapshot.get("aggregateType")
    at = version_number(version)
    ours = revision is not None and snapshot.get("revision") == revision
    if not isinstance(own_kind, str) or (at is None and not ours):
        return None  # written by something else, and used by nobody
    if kind is None:
        return _of(snapshot, ORPHAN, at, f"a stream of type {own_kind!r}", "none")
    if own_kind != kind:
        return _of(snapshot, SNAPSHOT_TYPE, at, f"type {kind!r}", f"type {own_kind!r}")
    if at is None or isinstance(version, float):
        expected = str(EVENT_FIELDS["aggregateVersion"])
        return _of(snapshot, SNAPSHOT_VERSION, at, expected, repr(version))
    if at > head:
        return _of(snapshot, AHEAD, at, f"version {head} at most", f"version {at}")
    return None


def _of(
    snapshot: Document, kind: str, at: int | None, expected: str, found: str
) -> Finding:
    versions = (at, at) if at else None
    return Finding(kind, snapshot["_id"], versions, "", expected, found)


def state_finding(snapshot: Document, state: Document) -> Finding | None:
    """
    Return where a snapshot's state is not ``state``, if it differs.

    Only paths are told: the values may be somebody's personal data.
    """
    paths = differing_paths(snapshot.get("state"), state, "state")
    if not paths:
        return None
    version = snapshot["aggregateVersion"]
    return Finding(
        STATE,
        snapshot["_id"],
        (version, version),
        expected="what its events fold to",
        found=f"other values at {paths}",
    )


def differing_paths(stored: Any, folded: Any, path: str = "") -> str:
    """
    Return the paths at which two values differ as MongoDB holds them; "" if at none.

    The order of keys does not count. Five paths are listed at most.
    """
    if _encoded(stored) == _encoded(folded):
        return ""
    held = bson.decode(_encoded(folded), CODEC)[""]
    found = islice(_differing(stored, held, path), _LISTED + 1)
    paths = [path[:_LONGEST] for path in found]
    return ", ".join(paths[:_LISTED]) + (", …" if len(paths) > _LISTED else "")


def _encoded(value: Any) -> bytes:
    return bson.encode({"": value}, codec_options=CODEC)


def _differing(one: Any, other: Any, path: str) -> Iterator[str]:
    """Yield the paths at which two values differ; the order of keys does not count."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key in sorted(one.keys() | other.keys()):
            if key in one and key in other:
                yield from _differing(one[key], other[key], _below(path, key))
            else:
                yield _below(path, key)
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for index, (item, its) in enumerate(zip(one, other, strict=True)):
            yield from _differing(item, its, f"{path}[{index}]")
    elif not _is_same(one, other):
        yield path


def _below(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _is_same(one: Any, other: Any) -> bool:
    if _is_whole(one) and _is_whole(other):  # of 32 bits here, of 64 there
        return bool(one == other)
    return _encoded(one) == _encoded(other)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
