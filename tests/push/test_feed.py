"""The feed: each event reaches each of its listeners once."""

import asyncio
import random
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from ossy_event_store import EventStore, Mongo
from ossy_event_store.mongodb import connection, indexes, location
from ossy_event_store.mongodb.ports import drive
from ossy_event_store.positions.head_watcher import watcher
from ossy_event_store.push import feed
from ossy_event_store.push.event_filter import EventFilter
from ossy_event_store.push.listener import Listener
from ossy_event_store.push.running_feeds import listening
from tests.support import servers
from tests.support.event_source import Source
from tests.support.processes import ON_URL
from tests.support.push import BOOK, assigning_positions, joined, received, versions
from tests.support.servers import until

pytestmark = ON_URL


def test_a_browser_that_reconnects_receives_what_it_missed(connect, lend):
    source = connect("book/a/").begin()
    lend("a", "BookBought")
    assert versions(source.take(1)) == [("a", 1)]
    source.close()
    lend("b", "BookBought")
    lend("a", "BookLent", "BookRead")
    until(lambda: EventStore.head_position() == 4)
    source = connect("book/a/?after=0", last=source.last)
    lend("a", "BookLent")
    assert versions(source.take(3)) == [("a", 2), ("a", 3), ("a", 4)]


@pytest.mark.parametrize("page", [2, 100])
def test_many_missed_events_are_read_page_by_page(connect, lend, page, limit_feeds):
    limit_feeds(missed_page_size=page)
    for number in range(6):
        lend(f"b-{number}", "BookBought", "BookLent")
    until(lambda: EventStore.head_position() == 12)
    assert len(connect("all/", last=0).take(12)) == 12
    lent = connect("lent/", last=0).take(6)
    assert {m.data["aggregateVersion"] for m in lent} == {2}
    assert versions(connect("book/b-3/", last=0).take(2)) == [("b-3", 1), ("b-3", 2)]


def test_a_position_after_the_last_one_causes_a_reset(connect, lend, limit_feeds):
    limit_feeds(position_wait_seconds=0.1)
    lend("a", "BookBought")
    until(lambda: EventStore.head_position() == 1)
    source = connect("all/", last=1000)
    message = source.message()
    assert (message.name, message.id, message.data) == ("reset", "1", {"position": 1})
    lend("a", "BookLent")
    assert versions(source.take(1)) == [("a", 2)]


def test_browsers_reconnect_when_positions_are_assigned_again(
    connect, lend, store, limit_feeds
):
    limit_feeds(poll_seconds=0.05)
    lend("a", "BookBought")
    until(lambda: EventStore.head_position() == 1)
    source = connect("all/").begin()
    connection.raw(store.positions).delete_many({})
    assert source.message() is None


def test_a_deleted_event_is_skipped(connect, lend, history, caplog):
    lend("a", "BookBought", "BookLent", "BookRead")
    until(lambda: EventStore.head_position() == 3)
    history.delete_one({"aggregateVersion": 2})
    assert versions(connect("all/", last=0).take(2)) == [("a", 1), ("a", 3)]
    assert "Event feed skipped a deleted event: Position 2" in caplog.text


PATHS = {
    "all/": lambda event: True,
    "lent/": lambda event: event["type"] == "BookLent",
    "book/b-1/": lambda event: event["aggregateId"] == "b-1",
}


@pytest.mark.faults
def test_clients_that_keep_reconnecting_get_each_event_once_and_in_order(port):
    def write(number):
        event = {"aggregateId": f"b-{number}", "aggregateType": "Book"}
        for turn in range(60):
            kind = "BookLent" if turn % 3 else "BookBought"
            EventStore.append_event({**event, "type": kind})

    def read(path, count, seed):
        chance, last, ids = random.Random(seed), 0, []
        while len(ids) < count:
            with Source(port, f"/push/{path}", last) as source:
                messages = source.take(min(chance.randint(1, 20), count - len(ids)))
                ids += [int(message.id) for message in messages]
                last = source.last
        return ids

    counts = {"all/": 480, "lent/": 320, "book/b-1/": 60}
    with ThreadPoolExecutor(14) as pool:
        readers = [
            (path, pool.submit(read, path, count, seed))
            for seed in range(2)
            for path, count in counts.items()
        ]
        for writer in [pool.submit(write, number) for number in range(8)]:
            writer.result()
        ids = [(path, reader.result()) for path, reader in readers]
    events = list(EventStore.read_all())
    expected = {
        path: [event["position"] for event in events if is_wanted(event)]
        for path, is_wanted in PATHS.items()
    }
    assert {path: len(found) for path, found in expected.items()} == counts
    assert ids == 2 * list(expected.items())


def test_a_listener_that_joins_during_a_read_misses_nothing(positions, monkeypatch):
    entered = []

    async def join_late():
        async with listening(EventFilter(types=frozenset(["BookLent"])), 0) as early:
            await joined(early)
            late = Listener(early._feed, EventFilter(stream="b"), 0)
            original = feed.read_events

            async def read(*arguments):
                found = await original(*arguments)
                if not entered:
                    entered.append(late)
                    early._feed.enter(late)
                    await late.receive(0.01)
                    assert late._is_joined
                return found

            monkeypatch.setattr(feed, "read_events", read)
            await EventStore.aappend_events([BOOK])
            found = await received(early, 1)
            await EventStore.aappend_event({**BOOK, "aggregateId": "b"})
            assert await received(early, 1) == [2]
            assert found == [1]
            assert await received(late, 1) == [2]
            early._feed.leave(late)

    asyncio.run(join_late())
    assert entered


# --- MongoDB goes down -------------------------------------------------------


@pytest.fixture
def use(tmp_path):
    """Use a MongoDB of its own."""
    with ExitStack() as stack:

        def use(**options):
            server = stack.enter_context(servers.running(tmp_path / "mongo", **options))
            stack.callback(Mongo.close)
            stack.callback(watcher.close)
            watcher.close()
            location.use(server.url())
            drive(indexes.ensure(connection.blocking()))
            return server

        yield use


@pytest.mark.faults
def test_a_listener_waits_for_a_server_that_is_down(use, limit_feeds):
    limit_feeds(retry_seconds=0.05, longest_retry_seconds=0.2)
    server = use()

    async def before_and_after():
        async with listening(EventFilter(), 0) as listener:
            await EventStore.aappend_event(BOOK)
            assert await received(listener, 1) == [1]
            server.members[0].kill()
            assert await listener.receive(0.5) == []
            server.members[0].start()
            await asyncio.to_thread(until, server.find_primary)
            await EventStore.aappend_event(BOOK)
            assert await received(listener, 1) == [2]

    with assigning_positions():
        asyncio.run(before_and_after())


@pytest.mark.faults
def test_a_standalone_server_is_reported_in_the_log(use, caplog):
    use(name=None)

    async def listen():
        async with listening(EventFilter(), None) as listener:
            assert await listener.receive(60) == []
            assert listener.position == 0

    asyncio.run(listen())
    assert "Event feed needs a replica set" in caplog.text
