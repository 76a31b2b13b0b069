"""Boundaries through either face, and types that are declared for a while."""

from contextlib import contextmanager

from bson import ObjectId
from django.conf import settings
from django.test import override_settings

from ossy_event_store import EventStore


def read_boundary(face, query):
    """Return the events of a query and its token."""
    read = face(EventStore.read_boundary, query)
    if hasattr(read.events, "__anext__"):
        return face.runner.run(_all(read.events)), read.token
    return list(read.events), read.token


async def _all(events):
    return [event async for event in events]


@contextmanager
def declared(*names):
    """Declare types as boundaries."""
    changed = {**settings.OSSY_EVENT_STORE, "TYPE_BOUNDARIES": names}
    with override_settings(OSSY_EVENT_STORE=changed):
        yield


def append_elsewhere(history, kind, *tags):
    """Append an event as another process: no queue of this one holds it up."""
    event_id = ObjectId()
    history.insert_one(
        {
            "_id": event_id,
            "aggregateId": str(event_id),
            "aggregateType": "Rival",
            "aggregateVersion": 1,
            "type": kind,
            "payload": {},
            "created": event_id.generation_time,
            "createdBy": None,
            "metadata": {},
            "tags": tags,
            "places": [
                {"t": tag, "n": history.count_documents({"places.t": tag}) + 1}
                for tag in tags
            ],
            "tick": 1000,
        }
    )
