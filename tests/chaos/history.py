"""What writers and readers were told, written down as it happens."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import bson

from ossy_event_store.documents.bson_types import CODEC

ACKNOWLEDGED = "acknowledged"  # stored, said the store
REFUSED = "refused"  # not stored: somebody else was faster
UNSENT = "unsent"  # not stored: no server was reached, and the writer gave up
UNDECIDED = "undecided"  # the writer never learned it
KILLED = "killed"  # the writer's process was, before it learned it

CONTENT = ("type", "payload", "createdBy")


@dataclass
class Operation:
    """One decision of a writer: some events of one stream, all or none."""

    writer: str
    stream: str
    #: The call of the library that was used.
    how: str
    #: One an event, in order: it is in the payload, and in no other event.
    tokens: list[str]
    #: Of each event: the digest of what was sent.
    contents: list[str]
    outcome: str = UNDECIDED
    #: Of each event that was returned: id, version, digest of the document.
    returned: list[list[Any]] = field(default_factory=list)
    #: How often the outcome was unknown before it was known.
    unknowns: int = 0
    #: What an unknown outcome turned out to be.
    resolved: str = ""
    #: Seconds of the longest call, and of all tries together.
    longest: float = 0.0
    seconds: float = 0.0


@dataclass
class Intent:
    """What a writer who may be killed is about to append."""

    writer: str
    stream: str
    how: str
    tokens: list[str]
    contents: list[str]


@dataclass
class Reading:
    """The events of a stream after a version, as one call returned them."""

    stream: str
    after: int
    #: Of each event: version, id.
    events: list[list[Any]]


@dataclass
class Observation:
    """A state that somebody saw: in a stored snapshot, or as the view of a load."""

    stream: str
    version: int
    state: Mapping[str, Any]
    how: str = "snapshot"


@dataclass
class Failure:
    """An error that a call of the library raised."""

    where: str
    error: str
    #: Its text, if the library does not announce this error for this call.
    unexpected: str = ""


Entry = Operation | Intent | Reading | Observation | Failure
KINDS = {
    kind.__name__: kind for kind in (Operation, Intent, Reading, Observation, Failure)
}


class History:
    """The entries of a run, in memory."""

    def __init__(self, *entries: Entry) -> None:
        self.operations: list[Operation] = []
        self.intents: list[Intent] = []
        self.readings: list[Reading] = []
        self.observations: list[Observation] = []
        self.failures: list[Failure] = []
        for entry in entries:
            self.write(entry)

    def write(self, entry: Entry) -> None:
        lists: dict[type, list[Any]] = {
            Operation: self.operations,
            Intent: self.intents,
            Reading: self.readings,
            Observation: self.observations,
            Failure: self.failures,
        }
        lists[type(entry)].append(entry)


class HistoryFile:
    """The entries of one process, a line each."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._lock = threading.Lock()

    def write(self, entry: Entry) -> None:
        line = json.dumps({"kind": type(entry).__name__, **vars(entry)}, default=str)
        with self._lock:
            self._file.write(line + "\n")


def read(paths: Iterable[Path]) -> History:
    """Return what the processes of a run have written."""
    history = History()
    for path in paths:
        with path.open() as lines:
            for line in lines:
                if not line.endswith("\n"):
                    continue  # its writer was killed
                fields = json.loads(line)
                history.write(KINDS[fields.pop("kind")](**fields))
    learned = {token for o in history.operations for token in o.tokens}
    for intent in history.intents:
        if not learned.intersection(intent.tokens):
            history.write(Operation(**vars(intent), outcome=KILLED))
    return history


def digest(document: Mapping[str, Any]) -> str:
    """Return what two documents have in common only if they are equal."""
    ordered = {name: document[name] for name in sorted(document)}
    return hashlib.sha256(bson.encode(ordered, codec_options=CODEC)).hexdigest()[:16]


def known_of(events: Iterable[Mapping[str, Any]]) -> str:
    """Return how many events a decision is based on, and the digest of their ids."""
    ids = sorted(str(event["_id"]) for event in events)
    return f"{len(ids)} {hashlib.sha256('/'.join(ids).encode()).hexdigest()[:16]}"


def content(event: Mapping[str, Any]) -> str:
    """Return the digest of what the writer decided: not the id, not the place."""
    return digest({name: event[name] for name in CONTENT})
