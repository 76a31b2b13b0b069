"""ensure_event_store: creates what is missing, and says what it created."""

import pytest

from ossy_event_store import EventStore
from tests.support.commands import run

pytestmark = pytest.mark.versions


def test_indexes_are_created_once(store):
    EventStore.collection.drop_index("aggregateId_1_aggregateVersion_1")
    first, _ = run("ensure_event_store")
    assert first.startswith(
        "Created eventstore.aggregateId_1_aggregateVersion_1: Reads"
    )
    assert run("ensure_event_store")[0] == "All indexes exist.\n"
    assert run("ensure_event_store", "--no-validator", verbosity=0) == ("", "")
