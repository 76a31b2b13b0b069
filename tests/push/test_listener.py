"""A listener: its queue, and how it catches up."""

import asyncio

import pytest

from ossy_event_store import EventStore
from ossy_event_store.push.event_filter import EventFilter
from ossy_event_store.push.listener import Listener
from ossy_event_store.push.running_feeds import listening
from tests.support.processes import ON_URL
from tests.support.push import BOOK, joined, received
from tests.support.servers import until

pytestmark = ON_URL


@pytest.mark.parametrize("limits", [{"queue_size": 5}, {"queue_bytes": 700}])
def test_a_slow_listener_has_a_short_queue_and_misses_nothing(
    positions, limit_feeds, limits
):
    limit_feeds(**limits)

    async def slow_and_quick():
        wanted = EventFilter(stream="a")
        async with listening(wanted, 0) as slow, listening(wanted, 0) as quick:
            await joined(slow)
            for _ in range(4):
                await EventStore.aappend_events([BOOK] * 10)
                await received(quick, 10)
                assert len(slow._queue) <= 5
            assert not slow._is_joined
            assert await received(slow, 40) == list(range(1, 41))
            await joined(slow)
            await EventStore.aappend_event(BOOK)
            assert await received(slow, 1) == [41]

    asyncio.run(slow_and_quick())


async def until_late(feed):
    await asyncio.to_thread(until, lambda: feed.late_count)


def test_a_listener_that_lost_a_late_event_with_its_queue_gets_a_reset(
    positions, lend, apply, park, limit_feeds
):
    limit_feeds(queue_size=2)
    wanted = EventFilter(projection="readers")
    lend("a", "BookLent", "BookLent")
    until(lambda: EventStore.head_position() == 2)
    lend("b", "BookLent")
    until(lambda: EventStore.head_position() == 3)

    async def slow():
        async with listening(wanted, None) as listener:
            await joined(listener)
            apply(3)
            await asyncio.to_thread(until, lambda: listener._feed.position == 3)
            park("a", None)
            await until_late(listener._feed)
            assert not listener._is_joined
            (notification,) = await listener.receive(60)
            assert (notification.position, notification.events) == (3, ())
            await joined(listener)
            assert listener.position == 3

    park("a", 1)
    apply(0)
    asyncio.run(slow())


def test_a_listener_that_received_a_late_event_and_lost_its_queue_reads_on(
    positions, lend, apply, park, limit_feeds
):
    limit_feeds(queue_size=2)

    async def slow():
        async with listening(EventFilter(projection="readers"), None) as listener:
            await joined(listener)
            park("a", None)
            (notification,) = await listener.receive(60)
            assert notification.is_late
            apply(4)
            await asyncio.to_thread(until, lambda: not listener._is_joined)
            found = await listener.receive(60)
            assert [notification.position for notification in found] == [2, 3, 4]
            assert all(notification.events for notification in found)

    lend("a", "BookLent", "BookLent", "BookLent", "BookLent")
    until(lambda: EventStore.head_position() == 4)
    park("a", 1)
    apply(1)
    asyncio.run(slow())


def test_a_listener_that_misses_a_late_event_while_catching_up_gets_a_reset(
    positions, lend, apply, park, monkeypatch
):
    wanted = EventFilter(projection="readers")

    async def behind():
        async with listening(wanted, None) as listener:
            await joined(listener)
            feed = listener._feed
            original = feed.missed

            async def missed(*arguments):
                park("a", None)
                found = await original(*arguments)
                await until_late(feed)
                return found

            monkeypatch.setattr(feed, "missed", missed)
            late = Listener(feed, wanted, 1)
            feed.enter(late)
            found = [notification async for notification in notifications(late)]
            assert [(n.position, n.events) for n in found][-1] == (3, ())
            assert await received(listener, 1) == [3]
            feed.leave(late)

    async def notifications(listener):
        while not listener._is_joined:
            for notification in await listener.receive(60):
                yield notification

    lend("b", "BookLent")
    until(lambda: EventStore.head_position() == 1)
    lend("a", "BookLent")
    until(lambda: EventStore.head_position() == 2)
    lend("b", "BookLent")
    until(lambda: EventStore.head_position() == 3)
    park("a", 2)
    apply(3)
    asyncio.run(behind())
