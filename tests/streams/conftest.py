"""An event of the Node package, for what goes out and comes in."""

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
