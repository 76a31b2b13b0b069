"""Settings and subscriptions for the length of a test."""

import pytest
from django.db import connections

from ossy_event_store.checks import server
from ossy_event_store.subscriptions import declaration


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch):
    monkeypatch.delenv("DB_URL", raising=False)
    monkeypatch.delenv("DB_NAME", raising=False)


@pytest.fixture(autouse=True)
def _any_version(monkeypatch):
    # The tests may run on an old server, such as the embedded one.
    monkeypatch.setattr(server, "FIXED_IN", {})


@pytest.fixture
def alias(monkeypatch):
    """Return a function that adds an alias to DATABASES for the length of a test."""

    def alias(engine, **database):
        named = {"NAME": "test_store", "TEST": {"NAME": "test_store"}}
        database = {"ENGINE": engine, **named, **database}
        monkeypatch.setitem(connections.settings, "events", database)

    return alias


@pytest.fixture
def subscribe(monkeypatch):
    """Declare subscriptions for the length of a test, and no others."""
    monkeypatch.setattr(declaration, "_registered", {})

    def subscribe(name, **options):
        declaration.subscription(name, **options)(lambda event: None)

    return subscribe
