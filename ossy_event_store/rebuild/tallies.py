"""Store what the last rebuild counted of each aggregate type, for the overview."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass, field

from ..documents.bson_types import Document
from ..documents.collections import TALLIES
from ..exceptions import ReducerError
from ..mongodb.connection import Store
from ..mongodb.deadline import in_time

NAMED_FAILURES = 20  # failed streams that a tally names


@dataclass
class Tally:
    """The counts of one aggregate type, from a rebuild."""

    aggregate_type: str
    streams: int = 0
    events: int = 0
    #: Streams whose reducer raised.
    failed: int = 0
    #: The first of them: by id, the version at which the reducer raised.
    failures: dict[str, int] = field(default_factory=dict)
    #: When it was counted, by the clock of the process that counted.
    at: dt.datetime | None = None

    def count_failures(self, failures: Sequence[ReducerError], failed: int) -> None:
        """Count the streams that could not be folded, and name the first."""
        self.failed = failed
        self.failures = {
            failure.aggregate_id: failure.version
            for failure in failures[:NAMED_FAILURES]
        }


async def save_tally(store: Store, tally: Tally) -> None:
    """Store a tally in place of the one before."""
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
            {"_id": TALLIES + tally.aggregate_type},
            {"$set": document},
            upsert=True,
        )


async def tallies(store: Store) -> list[Tally]:
    """Return the tallies of the last rebuilds, in order of aggregate type."""
    with in_time():
        found = await store.leases.find(
            {"_id": {"$gte": TALLIES, "$lt": TALLIES + "\U0010ffff"}},
            sort=[("_id", 1)],
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
