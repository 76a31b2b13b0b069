"""
The rules for sound events, streams and snapshots, and the findings if they are broken.

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
from ..positions.held_streams import Accepted
from .report import (
    AHEAD,
    DUPLICATE,
    EVENT,
    HOLE,
    ORPHAN,
    SNAPSHOT_TYPE,
    SNAPSHOT_VERSION,
    STATE,
    TAG,
    TYPE,
    Finding,
)

_NAMED = 5  # ids, types and paths in one finding
_PATH_CHARACTERS = 200

_ID, _VERSION = itemgetter("aggregateId"), itemgetter("aggregateVersion")


# --- events -----------------------------------------------------------------


@dataclass(frozen=True)
class Field:
    """The rule for a field of a stored event: BSON types, and length or minimum."""

    bson_types: tuple[str, ...]
    required: bool = True
    max_length: int | None = None
    minimum: int | None = None

    def __str__(self) -> str:
        text = " or ".join(self.bson_types)
        if self.max_length is not None:
            text += f" of 1 to {self.max_length} characters"
        if self.minimum is not None:
            text += f" from {self.minimum}"
        return text

    @property
    def schema(self) -> Document:
        """The rule as JSON schema, which the server checks."""
        rule: Document = {"bsonType": list(self.bson_types)}
        if self.max_length is not None:
            rule |= {"minLength": 1, "maxLength": self.max_length}
        if self.minimum is not None:
            rule["minimum"] = self.minimum
        return rule

    def violation(self, bson_type: str, value: Any) -> str | None:
        """Return what was found instead of what the rule allows, or None."""
        if bson_type == "missing":
            return "nothing" if self.required else None
        if bson_type not in self.bson_types:
            return bson_type
        if self.max_length is not None and isinstance(value, str):
            fits = 1 <= len(value) <= self.max_length
            return None if fits else f"{len(value):,} characters"
        if self.minimum is not None and value < self.minimum:
            return str(value)
        return None


# Events of the Node package are sound: they have no metadata, and ``created`` is a
# number of milliseconds.
EVENT_FIELDS = {
    "_id": Field(("objectId", "string"), max_length=COPY.id_length),
    "aggregateId": Field(("string",), max_length=MAX_ID_LENGTH),
    "aggregateType": Field(("string",), max_length=MAX_ID_LENGTH),
    "aggregateVersion": Field(("int", "long"), minimum=1),
    "type": Field(("string",), max_length=MAX_ID_LENGTH),
    "payload": Field(("object",), required=False),
    "created": Field(("date", "int", "long", "double")),
    "createdBy": Field(("string", "null"), required=False),
    "metadata": Field(("object",), required=False),
    "tags": Field(("array",), required=False),
    "places": Field(("array",), required=False),
    "tick": Field(("int", "long"), required=False, minimum=1),
    "typeVersion": Field(("int", "long"), required=False, minimum=1),
}

#: The query for events that break a rule.
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


def _list(path: str) -> Document:
    """Return the expression for a list; another program may store anything there."""
    return {"$cond": [{"$isArray": [path]}, path, []]}


#: The query for events that have no place in one of their tags.
UNPLACED: Document = {
    "$expr": {"$not": [{"$setIsSubset": [_list("$tags"), _list("$places.t")]}]}
}
#: The projection that gives what ``event_findings()`` needs: no payload is sent.
SHAPE: Document = {
    **dict.fromkeys(("aggregateId", "aggregateType", "aggregateVersion", "type"), 1),
    **dict.fromkeys(("tags", "places", "tick", "typeVersion"), 1),
    "bsonTypes": [{"$type": f"${name}"} for name in EVENT_FIELDS],
}


def event_findings(event: Document) -> Iterator[Finding]:
    """Yield what is wrong with the fields of an event, read with ``SHAPE``."""
    aggregate_id = event.get("aggregateId")
    version = version_number(event.get("aggregateVersion"))
    fields = zip(EVENT_FIELDS.items(), event["bsonTypes"], strict=True)
    for (name, field), bson_type in fields:
        if found := field.violation(bson_type, event.get(name)):
            yield Finding(
                EVENT,
                aggregate_id if isinstance(aggregate_id, str) else None,
                (version, version) if version else None,
                f"{name} of event {event['_id']}",
                str(field),
                found,
            )
    if missing := _without_place(event):
        yield Finding(
            TAG,
            aggregate_id if isinstance(aggregate_id, str) else None,
            (version, version) if version else None,
            f"event {event['_id']}",
            "a place in each of its tags",
            f"none in {', '.join(missing)}",
        )


def _without_place(event: Document) -> list[str]:
    tags, places = event.get("tags"), event.get("places")
    if not isinstance(tags, list):
        return []
    places = places if isinstance(places, list) else []
    names = [place.get("t") for place in places if isinstance(place, dict)]
    return [repr(tag) for tag in tags if tag not in names]


# --- streams ----------------------------------------------------------------


class Heads:
    """The head of each stream of a type, from its versions in order."""

    def __init__(self) -> None:
        #: Streams that have ended, with their heads; None if versions are not 1, 2, 3…
        self.ended: dict[str, int | None] = {}
        self._id: Any = None
        self._head = 0
        self._is_dense = True

    def take(self, events: list[Document]) -> None:
        """Follow the versions of the next events."""
        # Stream by stream, not event by event: this runs for the whole store.
        ids, versions = map(_ID, events), list(map(_VERSION, events))
        start = 0
        for aggregate_id, run in groupby(ids):
            if aggregate_id != self._id:
                self.end()
                self._id, self._head, self._is_dense = aggregate_id, 0, True
            first, length = self._head + 1, len(list(run))
            self._head += length
            expected = list(range(first, first + length))
            if versions[start : start + length] != expected:
                self._is_dense = False
            start += length

    def end(self) -> None:
        """End the current stream."""
        if isinstance(self._id, str):
            self.ended[self._id] = self._head if self._is_dense else None
        self._id = None


class StreamCheck:
    """Checks the events of one stream, in order of version, in constant memory."""

    def __init__(self, aggregate_id: str, accepted: Accepted | None = None) -> None:
        self.id = aggregate_id
        #: Whether it has a hole whose loss was accepted.
        self.has_accepted = False
        self._accepted = accepted or Accepted()
        self.type: str | None = None
        self.head = 0
        self.events = 0
        self.found: list[Finding] = []
        self._ids_at_head: list[str] = []
        self._other_types: dict[str, list[int]] = {}  # first and last version of each

    def take(self, event: Document) -> None:
        """Check the next event."""
        self.events += 1
        version = version_number(event.get("aggregateVersion"))
        self._check_type(event.get("aggregateType"), version)
        if version is None:  # ``event_findings()`` reports it
            return
        if version != self.head:
            self._check_duplicates()
            if version > self.head + 1:
                self._add_hole(version)
            self.head = version
        self._ids_at_head.append(str(event["_id"]))

    def end(self) -> list[Finding]:
        """Return what is wrong with the stream, after its last event."""
        self._check_duplicates()
        for other, versions in self._other_types.items():
            self.found.append(
                Finding(
                    TYPE,
                    self.id,
                    (versions[0], versions[-1]),
                    expected=f"type {self.type!r}",
                    found=f"type {other!r}",
                )
            )
        return self.found

    def _check_type(self, aggregate_type: object, version: int | None) -> None:
        if not isinstance(aggregate_type, str):  # ``event_findings()`` reports it
            return
        if self.type is None:
            self.type = aggregate_type
            return
        others = self._other_types
        if aggregate_type == self.type:
            return
        if aggregate_type in others or len(others) < _NAMED:
            versions = others.setdefault(aggregate_type, [version or 0])
            versions[1:] = [version or 0]

    def _add_hole(self, version: int) -> None:
        if self._accepted.covers(self.head + 1, version - 1):
            self.has_accepted = True
            return
        self.found.append(
            Finding(
                HOLE,
                self.id,
                (self.head + 1, version - 1),
                expected="an event of each version",
                found=f"none before version {version}",
            )
        )

    def _check_duplicates(self) -> None:
        if (count := len(self._ids_at_head)) > 1:
            ids = ", ".join(self._ids_at_head[:_NAMED])
            self.found.append(
                Finding(
                    DUPLICATE,
                    self.id,
                    (self.head, self.head),
                    expected="one event",
                    found=f"{count}: {ids}" + (", …" if count > _NAMED else ""),
                )
            )
        self._ids_at_head.clear()


# --- snapshots --------------------------------------------------------------


def snapshot_finding(
    snapshot: Document, stream_type: str | None, head: int, revision: str | None
) -> Finding | None:
    """
    Return what is wrong with a snapshot, compared with its stream, or None.

    Args:
        snapshot: its id, type, version and revision.
        stream_type: the aggregate type of its stream; None if there is no stream.
        head: the last version of its stream.
        revision: the current one of the reducer; None if there is no reducer.
    """
    raw_version, own_type = (
        snapshot.get("aggregateVersion"),
        snapshot.get("aggregateType"),
    )
    version = version_number(raw_version)
    is_ours = revision is not None and snapshot.get("revision") == revision
    if not isinstance(own_type, str) or (version is None and not is_ours):
        return None  # another program wrote it, and the store does not use it

    def finding(kind: str, expected: str, found: str) -> Finding:
        versions = (version, version) if version else None
        return Finding(kind, snapshot["_id"], versions, "", expected, found)

    if stream_type is None:
        return finding(ORPHAN, f"a stream of type {own_type!r}", "none")
    if own_type != stream_type:
        return finding(SNAPSHOT_TYPE, f"type {stream_type!r}", f"type {own_type!r}")
    if version is None or isinstance(raw_version, float):
        expected = str(EVENT_FIELDS["aggregateVersion"])
        return finding(SNAPSHOT_VERSION, expected, repr(raw_version))
    if version > head:
        return finding(AHEAD, f"version {head} at most", f"version {version}")
    return None


def state_finding(snapshot: Document, state: Document) -> Finding | None:
    """
    Return at which paths a snapshot's state differs from ``state``, or None.

    The finding names only paths: the values may be personal data.
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
    Return the paths at which two values differ once MongoDB holds them, or "".

    The order of keys does not count. At most five paths are named.
    """
    if _encoded(stored) == _encoded(folded):
        return ""
    held = bson.decode(_encoded(folded), CODEC)[""]
    found = islice(_differing(stored, held, path), _NAMED + 1)
    paths = [path[:_PATH_CHARACTERS] for path in found]
    return ", ".join(paths[:_NAMED]) + (", …" if len(paths) > _NAMED else "")


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
    if _is_integer(one) and _is_integer(other):  # 32 bits here, 64 there
        return bool(one == other)
    return _encoded(one) == _encoded(other)


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
