"""What readers get of stored events."""

from ossy_event_store.documents.catalogue import catalogue
from ossy_event_store.documents.catalogue.declaration import (
    Declarations,
    Upcaster,
)
from ossy_event_store.documents.catalogue.reading import current_events


def test_a_reader_gets_events_at_the_version_that_the_code_knows(monkeypatch):
    declared = Declarations()
    declared.add(Upcaster("Lent", 1, lambda payload: {**payload, "weeks": 3}))
    monkeypatch.setattr(catalogue, "declarations", declared)
    stored = {"_id": "1", "type": "Lent", "payload": {"book": "Emma"}}
    (event,) = current_events(None, [stored])
    assert event["payload"] == {"book": "Emma", "weeks": 3}
    assert event["typeVersion"] == 2
    assert "typeVersion" not in stored
