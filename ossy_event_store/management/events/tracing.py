"""
``events trace``: which events led to which.
"""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandError

from ...documents.bson_types import Document
from ...documents.display import visible
from ...event_store import EventStore
from ...streams.context.tree import CauseChain, Trace, correlation_of
from .locating import event_of
from .output import Output
from .request import Request, checked, wrong

MOST_EVENTS = 10_000
_DEEPEST = 40  # indents; a chain may be longer than a line


def trace(request: Request) -> None:
    """Print the events of a correlation, or those before and after an event."""
    output, name = request.output, request["correlation_or_event"]
    limit = request.limit(MOST_EVENTS) or MOST_EVENTS
    chain, found = found_by(name, min(limit, MOST_EVENTS))
    before = list(reversed(chain.events)) if chain else []
    is_cut = found.is_cut or bool(chain and chain.is_cut)
    if request["json"]:
        rows: list[dict[str, Any]] = [
            {"depth": depth, **output.event_as_json(event)}
            for depth, event in enumerate(before, 1)
        ]
        rows += [
            {"depth": depth + len(before), **output.event_as_json(node.event)}
            for depth, node in found.walk()
        ]
        output.json({"events": rows, "isCut": is_cut})
        return
    for depth, event in enumerate(before, 1):
        _print(output, event, depth)
    for depth, node in found.walk():
        mark = "  (its cause is not here)" if node.lacks_cause and not before else ""
        mark = "  (caused by its own effects)" if node.is_circular else mark
        _print(output, node.event, depth + len(before), mark)
    if is_cut:
        request.note("There are more events, which are left out; see --limit.")


def found_by(name: str, limit: int) -> tuple[CauseChain | None, Trace]:
    """Return what led to an event and the tree below it; or all of a correlation."""
    with checked():
        of_correlation = EventStore.trace(name, limit=limit)
    if of_correlation.count:
        return None, of_correlation
    try:
        event = event_of(name)
    except CommandError:
        raise wrong(
            f"No events have the correlation {name!r}, and no event has that position, "
            "id or STREAM@VERSION."
        ) from None
    if (correlation := correlation_of(event)) is not None:
        return None, EventStore.trace(correlation, limit=limit)
    chain = EventStore.causes(event["_id"], limit=limit)
    return chain, EventStore.effects(event["_id"], limit=limit)


def _print(output: Output, event: Document, depth: int, mark: str = "") -> None:
    indent = "  " * min(depth - 1, _DEEPEST)
    stream = f"{event.get('aggregateId')}@{event.get('aggregateVersion')}"
    time = output.times.shown(event.get("created"))
    kind = output.style.SUCCESS(visible(str(event.get("type"))))
    output.text(f"{indent}{kind}  {visible(stream)}  {time}  {event['_id']}{mark}")
