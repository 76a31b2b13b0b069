"""Run subscriptions in a thread, and see how far they are."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from django.core.management import call_command

from ossy_event_store.mongodb import connection
from ossy_event_store.subscriptions.consumer import PAGE_EVENTS
from ossy_event_store.subscriptions.runner import Runner

from .servers import until


@contextmanager
def running(*names: str, page_events: int = PAGE_EVENTS) -> Iterator[Runner]:
    """Run the subscriptions in a thread, as the command does in a process."""
    runner = Runner(names or None)
    for consumer in runner.consumers:
        consumer.page_events = page_events
    thread = threading.Thread(target=runner.run)
    thread.start()
    try:
        yield runner
    finally:
        runner.stop.set()
        thread.join(30)
        assert not thread.is_alive()


def places(events: Sequence[Mapping[str, Any]]) -> list[tuple[str, int]]:
    """Return the stream and the version of each event."""
    return [(event["aggregateId"], event["aggregateVersion"]) for event in events]


def checkpoint(store: Any, name: str) -> Any:
    """Return the document of a subscription."""
    return connection.raw(store.subscriptions).find_one({"_id": name})


def reached(store: Any, name: str, position: int) -> Any:
    """Wait until the checkpoint of a subscription is at a position."""
    return until(lambda: (checkpoint(store, name) or {}).get("position") == position)


def stopped(store: Any, name: str) -> Any:
    """Wait until a subscription has stopped; return the event at which it did."""
    return until(lambda: (checkpoint(store, name) or {}).get("stopped"))


def parked(store: Any) -> list[Any]:
    """Return all parked streams."""
    return list(connection.raw(store.parked).find())


def said(*command: str) -> str:
    """Return the output of a management command."""
    out = io.StringIO()
    call_command(*command, stdout=out, stderr=out)
    return out.getvalue()
