"""
What a verification tells: findings, and the report that counts them. Pure.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

INDEX = "index"
EVENT_ID = "event-id"
EVENT = "event"
HOLE = "hole"
DUPLICATE = "duplicate"
TYPE = "type"
ORPHAN = "snapshot-orphan"
AHEAD = "snapshot-ahead"
SNAPSHOT_TYPE = "snapshot-type"
SNAPSHOT_VERSION = "snapshot-version"
STATE = "snapshot-state"
REDUCER = "reducer"
DOCUMENT = "projection-document"
PROJECTION = "projection"
EVENT_LOST = "event-lost"

#: Every kind of finding, with its meaning.
KINDS = {
    INDEX: "an index is missing, or has other options",
    EVENT_ID: "several events have one id",
    EVENT: "a field of an event is missing, or is not of the kind it should be",
    HOLE: "versions are missing before the end of a stream",
    DUPLICATE: "several events have one version",
    TYPE: "the events of a stream are of several types",
    ORPHAN: "a snapshot has no stream",
    AHEAD: "a snapshot is of a version that its stream does not have",
    SNAPSHOT_TYPE: "a snapshot is of another type than its stream",
    SNAPSHOT_VERSION: "the version of a snapshot is not a whole number from 1",
    STATE: "a snapshot's state is not what its events fold to",
    REDUCER: "a reducer raised, or its state cannot be stored",
    DOCUMENT: "a document of a projection is not what its events fold to",
    PROJECTION: "a projection raised, or its state cannot be stored",
    EVENT_LOST: "an event that got a position no longer exists",
}

# Why the state of a snapshot was not compared.
OTHER_REVISION = "of another revision of the reducer"
UNREGISTERED = "of a type that is not registered"
UNSOUND = "with findings of their own or of their stream"
CHANGED = "changed meanwhile"
NOT_CHOSEN = "not in the sample"

# Why a document of a projection was not compared; the two above are used as well.
LATE = "a retry applied events late, in an order that is not recorded"
NEVER_RAN = "the projection has never run"
CHANGED_CLASS = "the class has changed since they were built"
NO_POSITIONS = "the server is no replica set, so events have no positions"
BROKEN_ORDER = "an event that it needs no longer exists"
TOO_LONG = "the server does not keep history long enough to read them"

KEPT = 1000  # findings kept in a report


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong; every field is text or a number."""

    #: One of ``KINDS``.
    kind: str
    #: The stream, if it is of one.
    aggregate_id: str | None = None
    #: The first and the last version that it is about.
    versions: tuple[int, int] | None = None
    #: The index, the event's id, or the field.
    subject: str = ""
    expected: str = ""
    found: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return what ``json.dumps`` takes."""
        return {**vars(self), "versions": self.versions and list(self.versions)}

    def __str__(self) -> str:
        where = []
        if self.aggregate_id is not None:
            where.append(f"stream {self.aggregate_id!r}")
        if self.versions:
            first, last = self.versions
            where.append(
                f"version {first}" if first == last else f"versions {first} to {last}"
            )
        if self.subject:
            where.append(self.subject)
        return (
            f"{self.kind}: {', '.join(where)}: expected {self.expected}, "
            f"found {self.found}"
        )


@dataclass(frozen=True)
class Scan:
    """How far a scan of the events for one projection is."""

    projection: str
    #: The position that is reached, and the last one that is wanted.
    position: int
    until: int
    #: Since this scan began.
    seconds: float


@dataclass
class VerifyReport:
    """What a verification has found; passed to ``progress`` while it runs."""

    #: Streams looked at; one of several types counts once for each.
    streams: int = 0
    #: Events looked at.
    events: int = 0
    #: Snapshots looked at.
    snapshots: int = 0
    #: Snapshots whose state was compared with a fresh fold of their events.
    compared: int = 0
    #: How many were not, by the reason.
    not_compared: dict[str, int] = field(default_factory=Counter)
    #: Registered projections; None if they were not to be looked at.
    projections: int | None = None
    #: Projections of which documents were compared, in full or a sample.
    projections_compared: int = 0
    #: Documents of projections.
    documents: int = 0
    #: Documents that were compared with a fresh fold of their events.
    documents_compared: int = 0
    #: How many were not, by projection and reason.
    documents_not_compared: dict[str, dict[str, int]] = field(default_factory=dict)
    #: How many findings there are, by kind; the first 1,000 are in ``findings``.
    found: dict[str, int] = field(default_factory=Counter)
    findings: list[Finding] = field(default_factory=list)
    #: The scan that runs now, of those for projections.
    scan: Scan | None = None
    #: Seconds so far.
    seconds: float = 0.0
    #: Roughly how many reads of an event are done: two for each, when all are.
    reads: int = 0

    @property
    def total(self) -> int:
        """How many findings there are."""
        return sum(self.found.values())

    @property
    def ok(self) -> bool:
        """Whether nothing was found."""
        return not self.found

    @property
    def rate(self) -> float:
        """Events a second."""
        return self.events / self.seconds if self.seconds else 0.0

    def add(self, finding: Finding) -> None:
        """Count a finding, and keep it if it is among the first."""
        self.found[finding.kind] += 1
        if len(self.findings) < KEPT:
            self.findings.append(finding)

    def as_json(self) -> dict[str, Any]:
        """Return what ``json.dumps`` takes; bounded, as ``findings`` is."""
        return {
            "sound": self.ok,
            "streams": self.streams,
            "events": self.events,
            "snapshots": self.snapshots,
            "compared": self.compared,
            "not_compared": dict(self.not_compared),
            "projections": self.projections,
            "projections_compared": self.projections_compared,
            "documents": self.documents,
            "documents_compared": self.documents_compared,
            "documents_not_compared": self.documents_not_compared,
            "found": dict(self.found),
            "findings": [finding.as_json() for finding in self.findings],
            "seconds": round(self.seconds, 3),
        }

    def __str__(self) -> str:
        return (
            f"{self.streams:,} streams, {self.events:,} events, {self.snapshots:,} "
            f"snapshots, {self.compared:,} of them compared{self._of_projections()}, "
            f"in {self.seconds:.1f} s ({self.rate:,.0f} events/s): {self._outcome()}"
        )

    def _of_projections(self) -> str:
        if self.projections is None:
            return ""
        return (
            f", {self.projections:,} projections, {self.documents:,} documents, "
            f"{self.documents_compared:,} of them compared"
        )

    def _outcome(self) -> str:
        if self.found:
            return f"{self.total:,} FINDINGS"
        left = (self.projections or 0) - self.projections_compared
        return "sound" + (f", but {left:,} projections not compared" if left else "")
