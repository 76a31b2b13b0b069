"""Test rules, projections and subscriptions: ``given(...)``, fixtures and faults."""

from importlib import import_module as _import_module
from typing import TYPE_CHECKING as _TYPE_CHECKING
from typing import Any as _Any

if _TYPE_CHECKING:
    from .appended_events import AppendedEvents, appended
    from .cases import (
        EventStoreMixin,
        EventStoreTestCase,
        EventStoreTransactionTestCase,
    )
    from .clock import at, travel
    from .factories import event_factory, events_of
    from .given_events import given
    from .matching import event
    from .python_source import as_fixture
    from .running import arun_subscriptions, run_subscriptions

# Each name loads its module on first use, so a test pays only for what it uses.
_MODULE_OF = {
    "AppendedEvents": "appended_events",
    "EventStoreMixin": "cases",
    "EventStoreTestCase": "cases",
    "EventStoreTransactionTestCase": "cases",
    "appended": "appended_events",
    "arun_subscriptions": "running",
    "as_fixture": "python_source",
    "at": "clock",
    "event": "matching",
    "event_factory": "factories",
    "events_of": "factories",
    "given": "given_events",
    "run_subscriptions": "running",
    "travel": "clock",
}

__all__ = [
    "AppendedEvents",
    "EventStoreMixin",
    "EventStoreTestCase",
    "EventStoreTransactionTestCase",
    "appended",
    "arun_subscriptions",
    "as_fixture",
    "at",
    "event",
    "event_factory",
    "events_of",
    "given",
    "run_subscriptions",
    "travel",
]


def __getattr__(name: str) -> _Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(_import_module(f".{_MODULE_OF[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
