"""An event of the Node package, for what goes out and comes in."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from bson import ObjectId

from ossy_event_store import EventStore


@pytest.fixture
def node_event(store):
    """An event as the Node package writes it."""
    event = {
        "_id": ObjectId("65e0a1b2c3d4e5f601234567"),
        "type": "BookBought",
        "aggregateId": "n",
        "aggregateType": "Book",
        "aggregateVersion": 1,
        "payload": {"title": "Emma"},
        "created": 1709209815123,
        "createdBy": "u",
    }
    EventStore.collection.insert_one(event)
    return event


@pytest.fixture
def elsewhere():
    """Call a function as another writer would: in a thread, outside of the block."""
    with ThreadPoolExecutor(1) as thread:
        yield lambda fn, *args, **kwargs: thread.submit(fn, *args, **kwargs).result(30)
