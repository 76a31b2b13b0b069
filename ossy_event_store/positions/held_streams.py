"""
The streams that get no positions, as the sequencer knows and records them.

A stream is held up alone: the sequencer records it before it certifies anything beyond
the event that cannot get a position, and tries again when an event of the stream
arrives, or when an operator accepts the loss.
"""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from pymongo.collection import Collection

from ..documents.bson_types import Document

logger = logging.getLogger("ossy_event_store")

HELD_PER_READ = 1000

#: Versions are missing before one that exists.
HOLE = "hole"
#: Another event got the position of a version, and no longer exists.
REPLACED = "replaced"


class Accepted(NamedTuple):
    """The holes of a stream whose loss was accepted."""

    ranges: Sequence[tuple[int, int]] = ()

    def covers(self, first: int, last: int) -> bool:
        """Whether all versions from ``first`` to ``last`` are among them."""
        for low, high in sorted(self.ranges):
            if low <= first <= high:
                first = high + 1
        return first > last


def accepted_of(document: Document | None) -> Accepted:
    """Return the holes of a damaged stream whose loss was accepted."""
    accepted = (document or {}).get("accepted", ())
    holes = [one for one in accepted if one["isHole"]]
    return Accepted([(one["first"], one["last"]) for one in holes])


def contiguous(
    events: Sequence[Document], head: int, accepted: Accepted
) -> list[Document]:
    """Return the first of some events, up to a hole whose loss was not accepted."""
    found: list[Document] = []
    for event in events:
        version = event["aggregateVersion"]
        if version > head + 1 and not accepted.covers(head + 1, version - 1):
            break
        found.append(event)
        head = version
    return found


class HeldStreams:
    """
    The held-up streams, in memory and as they are stored.

    Args:
        damaged: the collection of damaged streams.
    """

    def __init__(self, damaged: Collection[Document]) -> None:
        self._damaged = damaged
        self._ids: set[str] = set()

    def __contains__(self, stream: str) -> bool:
        return stream in self._ids

    def load(self) -> None:
        """Read which streams are held up."""
        self._ids = {
            one["_id"] for one in self._damaged.find({"heldUp": True}, {"_id": 1})
        }

    def among(self, streams: Iterable[str]) -> list[str]:
        """Return which of some streams are held up."""
        return [stream for stream in streams if stream in self._ids]

    def requested(self) -> list[str]:
        """Return the streams whose loss was accepted just now."""
        query = {"request": {"$type": "string"}}
        found = self._damaged.find(query, {"_id": 1}, limit=HELD_PER_READ)
        return [one["_id"] for one in found]

    def find(self, stream: str) -> Document:
        """Return what is stored of a stream; ``{}`` if it was never damaged."""
        return self._damaged.find_one({"_id": {"$eq": stream}}) or {}

    def hold(
        self, event: Document, head: int, reason: str, found: Document | None = None
    ) -> None:
        """
        Record that an event cannot get a position, nor any later one of its stream.

        Args:
            event: the event.
            head: the last version of the stream that has a position.
            reason: ``HOLE`` or ``REPLACED``.
            found: what is stored of the stream, if it was read.
        """
        stream, found = event["aggregateId"], found or {}
        changes: dict[str, Any] = {
            "heldUp": True,
            "aggregateType": event["aggregateType"],
            "head": head,
            "version": event["aggregateVersion"],
            "reason": reason,
        }
        request = found.get("request")
        if request is None and changes.items() <= found.items():
            return  # as it was
        if not found.get("heldUp"):
            changes["since"] = dt.datetime.now(dt.UTC)
            why = why_held(head, event["aggregateVersion"], reason)
            logger.error(
                "Stream %r is damaged: its new events get no positions and are not "
                "delivered. Other streams are not affected. %s",
                stream,
                why,
            )
        query = {"_id": stream}
        self._damaged.update_one(query, {"$set": changes}, upsert=True)
        if request is not None:
            done = {"_id": stream, "request": request}
            self._damaged.update_one(done, {"$set": {"request": None}})
        self._ids.add(stream)

    def release(self, found: Document) -> None:
        """Record that a stream gets positions again, unless it changed meanwhile."""
        unchanged = {name: found.get(name) for name in ("_id", "request", "version")}
        changes = {"request": None, "heldUp": False}
        released = self._damaged.update_one(unchanged, {"$set": changes})
        if released.matched_count and found["_id"] in self._ids:
            self._ids.discard(found["_id"])
            logger.info("Stream %r gets positions again.", found["_id"])


def why_held(head: int, version: int, reason: str) -> str:
    """Return a sentence that says why a stream is held up, and what to do."""
    if reason == HOLE:
        last = version - 1
        lost = (
            f"version {last} is"
            if head + 1 == last
            else (f"versions {head + 1} to {last} are")
        )
        what = f"{lost} missing before version {version}"
    else:
        what = (
            f"version {version} is another event than the one that got its position, "
            "which no longer exists"
        )
    return f"{what[0].upper()}{what[1:]}. Run manage.py verify_event_store."
