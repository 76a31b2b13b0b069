"""
Limits of a feed: how much it reads and queues, and how long it waits.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class FeedLimits:
    """The limits of a feed; tests use other ones."""

    #: Positions read at a time.
    page_size: int = 500
    #: Bytes of the events of such a page, about, and of one for a listener.
    page_bytes: int = 1_000_000
    #: Events read at a time for one listener that missed them.
    missed_page_size: int = 100
    #: Notifications queued for one listener.
    queue_size: int = 200
    #: And the bytes of their events, about.
    queue_bytes: int = 2_000_000
    #: Listeners that read what they missed at the same time.
    concurrent_readers: int = 8
    #: The same while events are large.
    concurrent_readers_of_large: int = 2
    #: Positions whose events get their keys computed for one listener that returns.
    replayed_positions: int = 1000
    #: Parked streams that are compared between two reads.
    parked_streams: int = 1000
    #: Late events that are announced one by one.
    late_events: int = 100
    #: Between two reads when no new position is announced.
    poll_seconds: float = 5.0
    #: Between two reads while a projection has yet to apply events.
    busy_poll_seconds: float = 0.1
    #: How long to wait for the position of a returning listener to be assigned.
    position_wait_seconds: float = 2.0
    #: Between two looks whether the server stops.
    server_check_seconds: float = 0.2
    #: After a failure; doubled after each further one.
    retry_seconds: float = 0.2
    longest_retry_seconds: float = 5.0
