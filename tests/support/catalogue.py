"""Declarations of event types that end with their test, and stored events."""

import dataclasses

import pytest

from ossy_event_store.documents.catalogue import catalogue, declaration


@pytest.fixture
def declarations(monkeypatch):
    """No event type is declared yet."""
    empty = declaration.Declarations()
    monkeypatch.setattr(declaration, "declarations", empty)
    monkeypatch.setattr(catalogue, "declarations", empty)
    return empty


def stored(kind="Lent", version=None, **payload):
    """Return a stored event."""
    event = {"_id": "e-1", "type": kind, "payload": payload, "position": 7}
    return event if version is None else {**event, "typeVersion": version}


def event_class(name="Lent", module=__name__):
    """Return a class of events without fields."""
    cls = dataclasses.make_dataclass(name, [])
    cls.__module__ = module
    return cls
