"""What a rebuild counts of each aggregate type, kept for the overview."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass, field

from ..documents.bson_types import Document
from ..exceptions import ReducerError
from ..mongodb.connection import Store
from ..mongodb.deadline import in_time

NAMED = 20  # failed streams that a tally names

_TALLY = "tally "  # and the aggregate type: an id among the leases


@dataclass
class Tally:
    """What a rebuild saw of one aggregate type."""

    aggregate_type: str
    streams: int = 0
    events: int = 0
    #: Streams whose reducer raised; the first ones are in ``failures``, by id.
    failed: int = 0
    failures: dict[str, int] = field(default_factory=dict)
    #: When, on the clock of whoever counted.
    at: dt.datetime | None = None

    def note(self, failures: Sequence[ReducerError], failed: int) -> None:
        """Take in which streams could not be folded."""
        self.failed = failed
        self.failures = {
            failure.aggregate_id: failure.version for failure in failures[:NAMED]
        }


async def save_tally(store: Store, tally: Tally) -> None:
    """Keep a tally in place of the one before."""
    document = {
        "aggregateType": tally.aggregate_type,
        "streams": tally.streams,
        "events": tally.events,
        "failed": tally.failed,
        "failures": [
            {"aggregateId": aggregate_id, "aggregateVersion": version}
            for aggregate_id, version in tally.failures.items()
        ],
        "at": dt.datetime.now(dt.UTC),
    }
    with in_time():
        await store.leases.update_one(
            {"_id": _TALLY + tally.aggregate_type}, {"$set": document}, upsert=True
        )


async def tallies(store: Store) -> list[Tally]:
    """Return what the last rebuilds saw, by aggregate type."""
    with in_time():
        found = await store.leases.find(
            {"_id": {"$gte": _TALLY, "$lt": _TALLY + "\U0010ffff"}}, sort=[("_id", 1)]
        )
    return [_tally(document) for document in found]


def _tally(document: Document) -> Tally:
    return Tally(
        document["aggregateType"],
        document["streams"],
        document["events"],
        document["failed"],
        {f["aggregateId"]: f["aggregateVersion"] for f in document["failures"]},
        document["at"],
    )
