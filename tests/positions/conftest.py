"""Fixtures of the tests of positions."""

import pytest

from ossy_event_store.mongodb.indexes import ENTRY_VERSIONS
from ossy_event_store.positions.sequencer import Sequencer


@pytest.fixture
def entries(store, _unbound):
    collection = _unbound(store.positions)
    keys, options = list(ENTRY_VERSIONS.keys), ENTRY_VERSIONS.options
    collection.create_index(keys, **options)
    return collection


@pytest.fixture
def assign(store, entries, history):
    """Assign positions to all events that exist."""
    sequencer = Sequencer(store)

    def assign():
        while entries.count_documents({}) < history.count_documents({}):
            sequencer.advance(0.01)

    yield assign
    sequencer.close()
