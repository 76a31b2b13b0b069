"""Test rules, projections and subscriptions: ``given(...)``, fixtures and faults."""

from importlib import import_module as _import_module
from typing import TYPE_CHECKING as _TYPE_CHECKING
from typing import Any as _Any

if _TYPE_CHECKING:
    from .as_fixture import as_fixture
    from .factories import event_factory, events_of
    from .given import given
    from .matching import event

# Each name loads its module on first use, so a test pays only for what it uses.
_MODULE_OF = {
    "as_fixture": "as_fixture",
    "event": "matching",
    "event_factory": "factories",
    "events_of": "factories",
    "given": "given",
}

__all__ = [
    "as_fixture",
    "event",
    "event_factory",
    "events_of",
    "given",
]


def __getattr__(name: str) -> _Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(_import_module(f".{_MODULE_OF[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
