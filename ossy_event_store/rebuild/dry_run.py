"""
Dry run: fold streams as a rebuild does, write nothing, and report what would change.

A state is compared at the version of its snapshot: what later events changed is not
what the reducer alters.
"""

from __future__ import annotations

from typing import Any

from ..documents.bson_types import Document
from ..documents.diff import Diff, changes
from ..documents.event_document import stored_state, version_number
from ..exceptions import InvalidState
from ..mongodb.deadline import in_time
from ..streams.reducers import revision_of
from ..streams.snapshots import Snapshot
from .fold_streams import SnapshotBuilder, StreamFold
from .report import DryRun

RECHECK_BATCH = 100  # streams held until they are read again
COMPARED_CHANGES = 200  # changes of a state that are listed; the others are counted


class DryRunBuilder(SnapshotBuilder):
    """Builds snapshots only to compare them with the stored ones."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._saved: dict[str, Document] = {}
        self._open: object = None  # the stream that the next batch may continue
        self._ahead: list[ComparedFold] = []

    async def prepare(self, Root: Any, batch: list[Document]) -> None:
        """Read the snapshots of the streams that begin in a batch."""
        ids = {event["aggregateId"] for event in batch} - {self._open}
        with in_time():
            found = await self.store.snapshots.find(
                {"_id": {"$in": list(ids)}, "aggregateType": Root.aggregate_type}
            )
        self._saved = {snapshot["_id"]: snapshot for snapshot in found}
        self._open = batch[-1]["aggregateId"]

    def stream(self, Root: Any, aggregate_id: str | None = None) -> StreamFold:
        """Return the fold of a stream that begins."""
        saved = self._saved.get(aggregate_id) if aggregate_id is not None else None
        return ComparedFold(Root, aggregate_id, saved)

    def keep(self, stream: StreamFold, snapshot: Snapshot) -> None:
        """Drop the snapshot: none is written."""

    def finish(self, stream: StreamFold) -> None:
        """Count a stream, and what a rebuild would change."""
        failed = self.report.failed
        super().finish(stream)
        if stream.id is not None and isinstance(stream, ComparedFold):
            self._count(stream, is_failed=self.report.failed > failed)

    def _count(self, stream: ComparedFold, is_failed: bool) -> None:
        seen = self._seen(stream)
        seen.streams += 1
        seen.failed += is_failed
        if stream.saved is None:
            seen.missing += 1
            return
        seen.other_revision += stream.is_of_another_revision
        seen.behind += stream.until < stream.version
        if stream.until > stream.version:
            self._ahead.append(stream)
        elif stream.until == stream.version:
            seen.current += not stream.is_of_another_revision
        if stream.found is not None and not is_failed:
            seen.compared += 1
            if stream.found.items:
                seen.alter(str(stream.id), stream.until, stream.found)

    def _seen(self, stream: StreamFold) -> DryRun:
        return self.report.dry_run.setdefault(stream.Root.aggregate_type, DryRun())

    def is_time_to_write(self) -> bool:
        """Whether ``write()`` has enough to do."""
        return len(self._ahead) >= RECHECK_BATCH

    async def write(self) -> None:
        """Read streams older than their snapshot again: an append may have arrived."""
        streams, self._ahead = self._ahead, []
        for stream in streams:
            with in_time():
                events = await self.store.client.find_after_all_writes(
                    self.store.events,
                    {
                        "aggregateId": {"$eq": stream.id},
                        "aggregateVersion": {"$gte": stream.until},
                    },
                    projection={"_id": 1},
                    limit=1,
                )
            seen = self._seen(stream)
            seen.ahead += not events
            seen.current += bool(events) and not stream.is_of_another_revision


class ComparedFold(StreamFold):
    """The fold of a stream, compared with its snapshot at the same version."""

    def __init__(
        self, Root: Any, aggregate_id: str | None = None, saved: Document | None = None
    ) -> None:
        super().__init__(Root, aggregate_id)
        #: The version of the snapshot; 0 without one.
        self.until = version_number(saved.get("aggregateVersion")) or 0 if saved else 0
        is_one = saved and self.until and isinstance(saved.get("state"), dict)
        self.saved = saved if is_one else None
        #: What the reducer alters; None if it cannot be compared.
        self.found: Diff | None = None

    @property
    def is_of_another_revision(self) -> bool:
        """Whether another reducer made the snapshot."""
        return self.saved is not None and (
            self.saved.get("revision") != revision_of(self.Root)
        )

    def take(self, events: list[Document]) -> None:
        """Take some more events; compare when the snapshot's version is reached."""
        if self.saved is None or self.version >= self.until:
            super().take(events)
            return
        at = sum(event["aggregateVersion"] <= self.until for event in events)
        super().take(events[:at])
        if at and events[at - 1]["aggregateVersion"] == self.until:
            self.fold()
            self._compare(self.saved)
        super().take(events[at:])

    def _compare(self, saved: Document) -> None:
        if self.error is not None:
            return
        try:
            state = stored_state(self.state, self.Root.aggregate_type)
        except InvalidState:
            return
        self.found = changes(saved["state"], state, COMPARED_CHANGES)
