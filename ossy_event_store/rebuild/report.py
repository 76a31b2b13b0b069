"""The report of a rebuild or a dry run: counts, failures, altered states; pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ..documents.diff import Change, Diff
from ..documents.display import brief, counted, type_note
from ..documents.passed_over import PassedOver
from ..exceptions import ReducerError

KEPT_FAILURES = 1000
KEPT_ALTERATIONS = 1000  # of a type
KEPT_PATHS = 1000  # different paths of a type; keys of a state may be ids
KEPT_CHANGES = 10  # of an altered state
VALUE_CHARACTERS = 80


@dataclass(frozen=True)
class Altered:
    """A state that the reducer would alter; every field is short and safe to print."""

    aggregate_id: str
    #: The version of the snapshot, at which both states are.
    version: int
    #: Path, old value and new value; ``""`` for a value that does not exist.
    changes: list[tuple[str, str, str]]
    #: How many more changes there are.
    more: int

    def as_json(self) -> dict[str, Any]:
        """Return a dict for ``json.dumps``."""
        keys = ("path", "old", "new")
        changes = [dict(zip(keys, one, strict=True)) for one in self.changes]
        return {**vars(self), "changes": changes}


@dataclass
class DryRun:
    """What a dry run saw of one aggregate type."""

    streams: int = 0
    #: Snapshots at the head of their stream, of this revision of the reducer.
    current: int = 0
    #: Streams without a snapshot, or with a malformed one.
    missing: int = 0
    #: Snapshots older than the head of their stream.
    behind: int = 0
    #: Snapshots of a version that their stream does not have.
    ahead: int = 0
    #: Snapshots of another revision; they may also be behind or ahead.
    other_revision: int = 0
    #: Streams whose reducer or state failed.
    failed: int = 0
    #: Snapshots whose state was compared with a fold up to the same version.
    compared: int = 0
    #: How many of these the reducer would alter; ``alterations`` has the first 1,000.
    altered: int = 0
    alterations: list[Altered] = field(default_factory=list)
    #: In how many streams each path would change; an index of a list is ``[]``.
    paths: Counter[str] = field(default_factory=Counter)
    #: Changes at more paths than these; ``paths`` has at most 1,000.
    other_paths: int = 0

    def alter(self, aggregate_id: str, version: int, found: Diff) -> None:
        """Count a state that the reducer would alter."""
        self.altered += 1
        self._count(Counter({path_of(change) for change in found.items}))
        if len(self.alterations) < KEPT_ALTERATIONS:
            texts = [texts_of(change) for change in found.items[:KEPT_CHANGES]]
            more = found.more + len(found.items) - len(texts)
            self.alterations.append(Altered(aggregate_id, version, texts, more))

    def _count(self, paths: Counter[str]) -> None:
        for path, streams in paths.items():
            if path in self.paths or len(self.paths) < KEPT_PATHS:
                self.paths[path] += streams
            else:
                self.other_paths += streams

    def add(self, other: DryRun) -> None:
        """Add the counts of other streams of the type."""
        for name, value in vars(other).items():
            if isinstance(value, int):
                setattr(self, name, getattr(self, name) + value)
        self._count(other.paths)
        self.alterations += other.alterations[
            : KEPT_ALTERATIONS - len(self.alterations)
        ]

    def ranked_paths(self) -> list[tuple[str, int]]:
        """Return ``paths``, the most frequent first."""
        return sorted(self.paths.items(), key=lambda one: (-one[1], one[0]))

    def as_json(self) -> dict[str, Any]:
        """Return a dict for ``json.dumps``."""
        alterations = [altered.as_json() for altered in self.alterations]
        paths = dict(self.ranked_paths())
        return {**vars(self), "paths": paths, "alterations": alterations}


def path_of(change: Change) -> str:
    """Return a path for counting: ``state.lines[].price``."""
    path = tuple("[]" if isinstance(key, int) else key for key in change.path)
    parts = Change(path, change.kind, None, None).where
    # An index is not a name, so it comes out quoted, as an odd key would.
    return _state(parts.replace('["[]"]', "[]"))


def texts_of(change: Change) -> tuple[str, str, str]:
    """Return path, old value and new value of a change, as text."""
    old = "" if change.kind == "added" else brief(change.old, VALUE_CHARACTERS)
    new = "" if change.kind == "removed" else brief(change.new, VALUE_CHARACTERS)
    if old == new:  # the types differ, or the part that is cut off
        old, new = (
            f"{brief(v, VALUE_CHARACTERS)} ({_type(v)})"
            for v in (change.old, change.new)
        )
    return _state(change.where), old, new


def _state(where: str) -> str:
    return f"state{where}" if where.startswith("[") else f"state.{where}"


def _type(value: object) -> str:
    return type_note(value) or type(value).__name__


@dataclass
class RebuildReport:
    """What a rebuild has done; ``progress`` gets it while it runs."""

    #: Streams folded, including failed ones.
    streams: int = 0
    #: Events folded.
    events: int = 0
    #: Snapshots written.
    saved: int = 0
    #: Streams that already had a newer snapshot, from a live append.
    newer: int = 0
    #: Streams whose reducer or state failed; ``failures`` has the first 1,000.
    failed: int = 0
    failures: list[ReducerError] = field(default_factory=list)
    #: Seconds so far.
    seconds: float = 0.0
    #: Streams that the interrupted rebuild had done. Those that failed then count as
    #: failed here too.
    resumed: int = 0
    #: Why ``resume`` started from the beginning; ``""`` if it did not.
    restart_reason: str = ""
    #: The results of a dry run, by aggregate type.
    dry_run: dict[str, DryRun] = field(default_factory=dict)
    #: The documents of these types that are no events.
    passed_over: PassedOver = field(default_factory=PassedOver)

    @property
    def ok(self) -> bool:
        """Whether no stream failed."""
        return self.failed == 0

    def fail(self, error: ReducerError) -> None:
        """Count a stream that failed; keep the error if it is among the first."""
        self.failed += 1
        if len(self.failures) < KEPT_FAILURES:
            self.failures.append(error)

    def add(self, other: RebuildReport) -> None:
        """Add what another process has done."""
        for name in ("streams", "events", "saved", "newer", "failed"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.failures += other.failures[: KEPT_FAILURES - len(self.failures)]
        self.passed_over.include(other.passed_over)
        for kind, dry_run in other.dry_run.items():
            self.dry_run.setdefault(kind, DryRun()).add(dry_run)

    def as_json(self) -> dict[str, Any]:
        """Return a dict for ``json.dumps``; its size is bounded, as the lists are."""
        failures = [
            {
                "aggregate_type": failure.aggregate_type,
                "aggregate_id": failure.aggregate_id,
                "version": failure.version,
                "error": failure.error,
            }
            for failure in self.failures
        ]
        dry_run = {kind: one.as_json() for kind, one in self.dry_run.items()}
        seconds = round(self.seconds, 3)
        whole = {"failures": failures, "dry_run": dry_run, "seconds": seconds}
        passed_over = {"passed_over": vars(self.passed_over)}
        return {"ok": self.ok, **vars(self), **whole, **passed_over}

    def __str__(self) -> str:
        rate = self.events / self.seconds if self.seconds else 0
        text = (
            f"{counted(self.streams, 'stream')}, {counted(self.events, 'event')} in "
            f"{self.seconds:.1f} s ({rate:,.0f} events/s); "
            f"{counted(self.saved, 'snapshot')} written"
        )
        if self.newer:
            text += f", {counted(self.newer, 'newer one')} kept"
        if self.resumed:
            text += f", {counted(self.resumed, 'stream')} done before"
        if self.passed_over:
            text += f", {counted(self.passed_over.count, 'document')} passed over"
        return text + (f", {self.failed:,} FAILED" if self.failed else "")


Progress = Callable[[RebuildReport], None]
