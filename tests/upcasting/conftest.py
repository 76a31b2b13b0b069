"""A library with old events, which its code knows under other names."""

import pytest

from ossy_event_store import Projection, register_projection
from ossy_event_store.aggregate import registry
from ossy_event_store.mongodb import connection
from ossy_event_store.projections import projection
from ossy_event_store.projections.generations import in_use
from tests.support import old_loans
from tests.support.catalogue import declarations  # noqa: F401


@pytest.fixture
def library(store, declarations, monkeypatch):  # noqa: F811
    """The event types are declared, and the class ``Shelf`` is registered."""
    monkeypatch.setattr(old_loans.Broken, "books", set())
    monkeypatch.setattr(registry, "_registered", {"Shelf": old_loans.Shelf})
    old_loans.declare()
    return store


class Weeks(Projection):
    """The weeks of each reader, and what happened to each book."""

    name = "weeks"
    types = ["Lent", "Visited"]
    initial_state = {"weeks": 0, "visits": 0}
    broken = set()

    @staticmethod
    def key(event):
        payload = event["payload"]
        return [payload["reader"], *([payload["book"]] if "book" in payload else [])]

    @classmethod
    def apply(cls, event, state):
        state["weeks"] += event["payload"].get("weeks", 0)
        state["visits"] += event["type"] == "Visited"
        if event["type"] in cls.broken:
            raise ValueError("broken")
        return state


@pytest.fixture
def weeks(store, quick, monkeypatch):
    """The projection ``Weeks``, the only one registered, without documents."""
    monkeypatch.setattr(projection, "_registered", {})
    monkeypatch.setattr(in_use, "fresh_seconds", 0.0)
    monkeypatch.setattr(Weeks, "broken", set())
    database = connection.raw(store.events).database
    for name in database.list_collection_names(filter={"name": {"$regex": "^proj"}}):
        database[name].drop()
    return register_projection(Weeks)
