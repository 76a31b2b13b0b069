"""
A notification, which a feed queues for its listeners. Pure, no I/O.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Sequence

import bson

from ..documents.bson_types import CODEC, Document
from .event_filter import EventFilter

#: An event at the version that the code knows, and its keys in the projection.
Result = tuple[Document, Collection[str]]


class Notification:
    """
    A notification: what one stored event is at the version that the code knows.

    Without events it says that earlier ones were lost, and that the client has to
    reload its page; or that the code cannot read the event ``skipped``.

    Args:
        position: up to which the receiver now knows everything: that of the event, or
            of the feed if the event is late.
        events: the event; or several, if upcasters make them of it.
        is_late: also for listeners that are already after that position.
        skipped: the event as stored, if the code cannot read it.
    """

    __slots__ = ("events", "is_late", "position", "rendered", "size", "skipped")

    def __init__(
        self,
        position: int,
        events: Sequence[Document] = (),
        *,
        is_late: bool = False,
        skipped: Document | None = None,
    ) -> None:
        self.position = position
        self.events = events
        self.is_late = is_late
        self.skipped = skipped
        #: Bytes of the events.
        self.size = sum(len(bson.encode(e, codec_options=CODEC)) for e in events)
        #: The message as bytes, rendered once for all listeners that get the same.
        self.rendered: dict[Hashable, bytes] = {}

    def at(self, position: int) -> Notification:
        """Return the same for a receiver that knows everything up to a position."""
        return Notification(position, self.events, skipped=self.skipped)


def chosen_of(wanted: EventFilter, results: Sequence[Result]) -> tuple[int, ...]:
    """Return which of the results of a stored event a client wants."""
    return tuple(n for n, one in enumerate(results) if wanted.accepts(*one))


def notification_of(
    wanted: EventFilter,
    position: int,
    results: Sequence[Result],
    skipped: Document | None = None,
) -> Notification | None:
    """Return the notification of a stored event for one client, if it gets one."""
    chosen = chosen_of(wanted, results)
    if not chosen and skipped is None:
        return None
    events = [results[number][0] for number in chosen]
    return Notification(position, events, skipped=skipped)
