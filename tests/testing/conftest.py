"""An empty store, prepared as the kit does it for other projects."""

import pytest
from django.conf import settings

from ossy_event_store.documents.collections import TEST_RUN
from ossy_event_store.mongodb import connection
from ossy_event_store.testing.database import prepare
from tests.support.projections import loans

__all__ = ["loans"]


@pytest.fixture
def kit(store):
    """The store as the fixture ``event_store`` prepares it."""
    if settings.ADMIN:
        pytest.skip("tests that empty a store need every right")
    prepare()
    yield store
    events = connection.raw(connection.blocking().events)  # of a new client, perhaps
    events.database.drop_collection(TEST_RUN)
