"""
The feeds that run in this process: one of each projection an event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from weakref import WeakKeyDictionary

from .event_filter import EventFilter
from .feed import Feed
from .listener import Listener
from .projection_feed import ProjectionFeed

_feeds: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str | None, Feed]]
_feeds = WeakKeyDictionary()


@asynccontextmanager
async def listening(
    wanted: EventFilter, after: int | None, *, reconnects: bool = False
) -> AsyncIterator[Listener]:
    """
    Listen inside the block.

    Args:
        wanted: which events.
        after: the position after which to start; None starts with the next event.
        reconnects: whether the client listened before, up to that position.
    """
    feed = _feed_of(wanted.projection)
    listener = Listener(feed, wanted, after, reconnects=reconnects)
    feed.enter(listener)
    try:
        yield listener
    finally:
        feed.leave(listener)


def _feed_of(projection: str | None) -> Feed:
    feeds = _feeds.setdefault(asyncio.get_running_loop(), {})
    if projection not in feeds:
        feeds[projection] = (
            Feed(_forget) if projection is None else ProjectionFeed(_forget, projection)
        )
    return feeds[projection]


def _forget(feed: Feed) -> None:
    feeds = _feeds.get(asyncio.get_running_loop(), {})
    for name, one in list(feeds.items()):
        if one is feed:
            del feeds[name]
