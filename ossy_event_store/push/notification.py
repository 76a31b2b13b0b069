"""
A notification, which a feed queues for its listeners. Pure, no I/O.
"""

from __future__ import annotations

from collections.abc import Hashable

import bson

from ..documents.bson_types import CODEC, Document


class Notification:
    """
    A notification. ``event`` is None if earlier ones were lost.

    The client then has to reload its page.

    Args:
        position: up to which the receiver now knows everything: that of the event, or
            of the feed if the event is late.
        event: the event.
        is_late: also for listeners that are already after that position.
    """

    __slots__ = ("event", "is_late", "position", "rendered", "size")

    def __init__(
        self, position: int, event: Document | None, *, is_late: bool = False
    ) -> None:
        self.position = position
        self.event = event
        self.is_late = is_late
        #: Bytes of the event.
        self.size = len(bson.encode(event, codec_options=CODEC)) if event else 0
        #: The message as bytes, rendered once for all listeners that get the same.
        self.rendered: dict[Hashable, bytes] = {}
