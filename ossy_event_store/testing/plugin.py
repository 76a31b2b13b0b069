"""
The pytest plugin: a fixture, and nothing that acts without it.
"""

from __future__ import annotations

import sys
from typing import Any

import pytest


@pytest.fixture
def event_store() -> Any:
    """Empty the store for a test, and return the class ``EventStore``."""
    # Here, as pytest loads this in every project in which the package is installed.
    from ..event_store import EventStore
    from .database import prepare

    prepare()
    return EventStore


def pytest_assertrepr_compare(op: str, left: Any, right: Any) -> list[str] | None:
    """Say where the events of ``appended()`` are not as a test expects them."""
    module = sys.modules.get(f"{__package__}.appended_events")
    if module is None or op != "==":
        return None
    if isinstance(right, module.AppendedEvents):
        left, right = right, left
    if not isinstance(left, module.AppendedEvents) or not isinstance(right, list):
        return None
    return [
        "the appended events are not as expected",
        *left.difference(right).split("\n"),
    ]
