"""Fixtures of the tests of positions."""

import pytest

from ossy_event_store.mongodb.indexes import ENTRY_VERSIONS


@pytest.fixture
def entries(store, _unbound):
    collection = _unbound(store.positions)
    keys, options = list(ENTRY_VERSIONS.keys), ENTRY_VERSIONS.options
    collection.create_index(keys, **options)
    return collection
