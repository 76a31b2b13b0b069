"""Streams for the commands to work on."""

import pytest

from ossy_event_store import EventStore
from ossy_event_store.aggregate import registry


@pytest.fixture
def books(lend):
    lend("a", "BookBought", "BookLent")
    lend("b", "BookBought")
    EventStore.append_event(
        {"aggregateId": "r", "aggregateType": "Reader", "type": "Joined"}
    )


@pytest.fixture
def broken(monkeypatch):
    """A reducer that cannot take one kind of event; ``broken.error`` is raised."""

    class Broken:
        aggregate_type = "Broken"
        revision = "1"
        error = ValueError("no such shelf")

        @classmethod
        def view(cls, events, saved_state):
            if any(event["type"] == "Bad" for event in events):
                raise cls.error
            return {"seen": len(events) + saved_state.get("seen", 0)}

    known = dict(registry._registered)
    monkeypatch.setattr(registry, "_registered", known)
    registry.register_aggregate(Broken)
    for name, kinds in {"x": ["Good"], "y": ["Good", "Bad"]}.items():
        EventStore.append_events(
            [
                {"aggregateId": name, "aggregateType": "Broken", "type": kind}
                for kind in kinds
            ]
        )
    return Broken
