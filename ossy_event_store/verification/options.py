"""
What to verify, and in pages of what size. Pure, no I/O.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass

from ..documents.arguments import check_moment, check_names
from ..documents.bson_types import Document
from ..documents.event_query import as_stored

SAMPLE_SIZE = 1000  # snapshots compared by default


@dataclass(frozen=True)
class VerifyOptions:
    """Which streams to verify; None chooses all of them."""

    types: Sequence[str] | None = None
    ids: Sequence[str] | None = None
    since: dt.datetime | None = None

    def __post_init__(self) -> None:
        for name in ("types", "ids"):
            object.__setattr__(self, name, check_names(getattr(self, name), name))
        if self.since is not None:
            check_moment(self.since, "since")

    @property
    def event_query(self) -> Document:
        """The query for the events that are chosen."""
        query: Document = self._query("aggregateId")
        if self.since is not None:
            query["created"] = {"$gte": self.since}
        return dict(as_stored(query))

    @property
    def snapshot_query(self) -> Document:
        """The query for the snapshots that are chosen; it ignores ``since``."""
        return self._query("_id")

    def _query(self, id_field: str) -> Document:
        query: Document = {}
        if self.types is not None:
            query["aggregateType"] = {"$in": list(self.types)}
        if self.ids is not None:
            query[id_field] = {"$in": list(self.ids)}
        return query


@dataclass(frozen=True)
class Sizes:
    """How much is read, folded and remembered at a time; tests use other sizes."""

    #: Events of a round trip; None is the default of scans.
    events: int | None = None
    #: Streams and snapshots of a page.
    streams: int = 1000
    #: Streams whose states are compared by one scan.
    compared_streams: int = 100
    #: Suspect streams that are remembered, so that none is reported twice.
    suspects: int = 100_000
    #: Events that are sent as a sign of life, of a round trip: on a slow disk, so
    #: many must arrive within the time-out.
    heartbeats: int = 25


@dataclass(frozen=True)
class ProjectionSizes:
    """How much of a projection is read and held at a time; tests use other sizes."""

    #: Events of a read.
    events: int = 2000
    #: Documents of a read.
    documents: int = 1000
    #: Keys of a read.
    keys: int = 10_000
    #: Keys held at once.
    held_keys: int = 100_000
    #: Bytes of the stored documents that are held, and of the folded ones.
    held_bytes: int = 64 * 1024 * 1024
    #: Parked streams and skipped events held at once.
    held_missing: int = 100_000
    #: Tries to read documents as of one moment.
    tries: int = 5
    #: Between two of them.
    retry_seconds: float = 0.2
