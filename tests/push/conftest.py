"""Fixtures of the push tests: positions, a server, a projection that tests steer."""

from contextlib import ExitStack
from dataclasses import replace

import pytest

from ossy_event_store import EventStore
from ossy_event_store.mongodb import connection
from ossy_event_store.mongodb.indexes import ENTRY_VERSIONS
from ossy_event_store.positions.sequencer import Sequencer
from ossy_event_store.projections import projection as projection_module
from ossy_event_store.projections.generations import in_use
from ossy_event_store.projections.projection import register_projection
from ossy_event_store.push import applied_events
from ossy_event_store.push.feed import Feed
from tests.support.event_source import Source
from tests.support.push import BOOK, Readers, Titles, assigning_positions, running
from tests.support.servers import until
from tests.support.subscriptions import reached
from tests.support.subscriptions import running as running_subscriptions


@pytest.fixture
def positions(store, _unbound, monkeypatch):
    """Assign a position to every event, as the process of the subscriptions does."""
    monkeypatch.setattr(Sequencer, "wait_seconds", 0.03)
    index = ENTRY_VERSIONS
    _unbound(store.positions).create_index(list(index.keys), **index.options)
    with assigning_positions():
        yield


@pytest.fixture
def port(positions):
    """Run a server in this process."""
    with running() as port:
        yield port


@pytest.fixture
def connect(port):
    """Connect to a path below ``/push/``; all connections end with the test."""
    with ExitStack() as stack:

        def connect(path, last=None, **options):
            source = Source(port, f"/push/{path}", last, **options)
            return stack.enter_context(source)

        yield connect


@pytest.fixture
def limit_feeds(monkeypatch):
    """Set other limits of the feeds that start from now on."""

    def limit_feeds(**limits):
        monkeypatch.setattr(Feed, "limits", replace(Feed.limits, **limits))

    return limit_feeds


@pytest.fixture
def apply(store, monkeypatch):
    """Say how far the projection ``readers`` has applied the events."""
    monkeypatch.setitem(projection_module._registered, "readers", Readers)

    def apply(position, **more):
        connection.raw(store.subscriptions).update_one(
            {"_id": "readers"}, {"$set": {"position": position, **more}}, upsert=True
        )

    return apply


@pytest.fixture
def park(store, limit_feeds):
    """Park a stream of ``readers`` from a position on; None releases it."""
    limit_feeds(poll_seconds=0.05)
    collection = connection.raw(store.parked)

    def park(aggregate_id, position, version=1):
        own = {"subscription": "readers", "aggregateId": aggregate_id}
        if position is None:
            collection.delete_one({"_id": own})
            return
        # In one step: a feed that looked in between would see the stream released.
        at = {"position": position, "aggregateVersion": version}
        collection.replace_one({"_id": own}, {**own, **at}, upsert=True)

    return park


@pytest.fixture
def titles(store, quick, monkeypatch, limit_feeds):
    """Run the projection ``titles``, which fails at events of the stream ``a``."""
    limit_feeds(poll_seconds=0.05)
    monkeypatch.setattr(projection_module, "_registered", {})
    monkeypatch.setattr(in_use, "fresh_seconds", 0.0)
    monkeypatch.setattr(Titles, "broken", {"a"})
    connection.raw(store.events).database["projection_titles"].drop()
    register_projection(Titles)
    with running_subscriptions("titles"):
        yield Titles


@pytest.fixture
def lend_to(store):
    """Lend a book, and wait for its position, and for a projection if one is named."""

    def lend_to(reader, aggregate_id, projection=None):
        payload = {"to": reader}
        event = {**BOOK, "aggregateId": aggregate_id, "payload": payload}
        position = EventStore.head_position() + 1
        EventStore.append_event(event)
        until(lambda: EventStore.head_position() == position)
        if projection:
            reached(store, projection, position)

    return lend_to


@pytest.fixture
def meanwhile(monkeypatch):
    """Do something once, after the next read of a feed."""
    due = []

    def do_after(name):
        original = getattr(applied_events, name)

        async def read(*arguments):
            found = await original(*arguments)
            if due:
                due.pop()()
            return found

        monkeypatch.setattr(applied_events, name, read)

    do_after("read_checkpoint")
    do_after("read_parked")
    return due.append
