"""Boundaries through either face, and types that are declared for a while."""

from contextlib import contextmanager

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
