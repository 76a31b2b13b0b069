"""
The report of a verification: its findings, and what was compared. Pure, no I/O.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, ClassVar

from ..documents.display import counted

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
TAG = "tag"
AFTER_END = "after-end"

#: Every kind of finding, with its meaning.
KINDS = {
    INDEX: "an index is missing, or has other options",
    EVENT_ID: "several events have the same id",
    EVENT: "a field of an event is missing, or has the wrong type or value",
    HOLE: "versions are missing before the end of a stream",
    DUPLICATE: "several events have the same version",
    TYPE: "the events of a stream have several aggregate types",
    ORPHAN: "a snapshot has no stream",
    AHEAD: "a snapshot is newer than its stream",
    SNAPSHOT_TYPE: "a snapshot has another aggregate type than its stream",
    SNAPSHOT_VERSION: "the version of a snapshot is not an integer from 1",
    STATE: "a snapshot's state is not what its events fold to",
    REDUCER: "a reducer raised, or returned a state that cannot be stored",
    DOCUMENT: "a document of a projection is not what its events fold to",
    PROJECTION: "a projection raised, or returned a state that cannot be stored",
    TAG: "the numbers of a tag have a hole, or an event has no number in its tag",
    AFTER_END: "events follow the one that closed their stream",
    EVENT_LOST: "an event that got a position no longer exists",
}

# Why the state of a snapshot was not compared.
OTHER_REVISION = "of another revision of the reducer"
UNREGISTERED = "of a type that is not registered"
UNSOUND = "with findings of their own or of their stream"
CHANGED = "changed during the verification"
NOT_CHOSEN = "not in the sample"

# Why a document of a projection was not compared; UNSOUND and NOT_CHOSEN occur too.
LATE = "a retry applied events late, in an order that is not recorded"
NEVER_RAN = "the projection has never run"
CHANGED_CLASS = "the class, or an upcaster, has changed since they were built"
NO_POSITIONS = "the server is not a replica set, so events have no positions"
BROKEN_ORDER = "an event that it needs no longer exists"
TOO_MANY_MISSING = "too many of its streams are parked, or too many events skipped"
TOO_LONG = "the server does not keep history long enough to read them"


@dataclass(frozen=True)
class Finding:
    """Something that is wrong; every field is text or a number."""

    #: One of ``KINDS``.
    kind: str
    #: The stream, if it concerns one.
    aggregate_id: str | None = None
    #: The first and the last version that it concerns.
    versions: tuple[int, int] | None = None
    #: The index, the id of an event, a field, or a document.
    subject: str = ""
    expected: str = ""
    found: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return it as a dict for ``json.dumps``."""
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
    """The progress of a scan of the events for one projection."""

    projection: str
    #: The position that it has reached.
    position: int
    #: The last position that it reads.
    until: int
    #: Seconds since this scan began.
    seconds: float


@dataclass
class VerifyReport:
    """What a verification has found; ``progress`` gets it while it runs."""

    #: Streams that were checked; one with several types counts once for each.
    streams: int = 0
    #: Events that were checked.
    events: int = 0
    #: Streams with a hole whose loss was accepted.
    accepted: int = 0
    #: Snapshots that were checked.
    snapshots: int = 0
    #: Snapshots whose state was compared with a fresh fold of their events.
    compared: int = 0
    #: How many were not compared, by reason.
    not_compared: dict[str, int] = field(default_factory=Counter)
    #: Registered projections; None if projections were not verified.
    projections: int | None = None
    #: Projections whose documents were compared, in full or a sample.
    projections_compared: int = 0
    #: Documents of projections.
    documents: int = 0
    #: Documents that were compared with a fresh fold of their events.
    documents_compared: int = 0
    #: How many were not compared, by projection and reason.
    documents_not_compared: dict[str, dict[str, int]] = field(default_factory=dict)
    #: How many findings there are, by kind.
    found: dict[str, int] = field(default_factory=Counter)
    #: The first 1,000 findings.
    findings: list[Finding] = field(default_factory=list)
    #: The scan for a projection that is running.
    scan: Scan | None = None
    #: Seconds so far.
    seconds: float = 0.0
    #: Roughly how many reads of events are done: two of each event at the end.
    reads: int = 0
    # How many findings are kept.
    kept_findings: ClassVar[int] = 1000

    @property
    def total(self) -> int:
        """How many findings there are."""
        return sum(self.found.values())

    @property
    def ok(self) -> bool:
        """Whether there are no findings."""
        return not self.found

    @property
    def rate(self) -> float:
        """Events per second."""
        return self.events / self.seconds if self.seconds else 0.0

    def add(self, finding: Finding) -> None:
        """Count a finding, and keep it if it is one of the first."""
        self.found[finding.kind] += 1
        if len(self.findings) < self.kept_findings:
            self.findings.append(finding)

    def has_lost(self, aggregate_id: str, version: int) -> bool:
        """Whether a finding says already that this event is lost."""
        return any(
            one.kind == EVENT_LOST
            and one.aggregate_id == aggregate_id
            and one.versions is not None
            and one.versions[0] <= version <= one.versions[1]
            for one in self.findings
        )

    def as_json(self) -> dict[str, Any]:
        """Return it as a dict for ``json.dumps``; ``findings`` bounds its size."""
        return {
            "sound": self.ok,
            "streams": self.streams,
            "events": self.events,
            "accepted": self.accepted,
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
            f"{counted(self.streams, 'stream')}, {counted(self.events, 'event')}, "
            f"{counted(self.snapshots, 'snapshot')}, {self.compared:,} of them "
            f"compared{self._of_projections()}, in {self.seconds:.1f} s "
            f"({self.rate:,.0f} events/s): {self._outcome()}"
        )

    def _of_projections(self) -> str:
        if self.projections is None:
            return ""
        return (
            f", {counted(self.projections, 'projection')}, "
            f"{counted(self.documents, 'document')}, {self.documents_compared:,} of "
            "them compared"
        )

    def _outcome(self) -> str:
        if self.found:
            return f"{self.total:,} FINDING" + ("S" if self.total != 1 else "")
        left = (self.projections or 0) - self.projections_compared
        what = "accepted loss" if self.accepted == 1 else "accepted losses"
        return (
            "sound"
            + (f", but for {self.accepted:,} {what}" if self.accepted else "")
            + (f", but {counted(left, 'projection')} not compared" if left else "")
        )
