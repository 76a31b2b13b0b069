"""
``events stats``, ``events types`` and ``events count``.
"""

from __future__ import annotations

from typing import Any

from ...documents.bson_types import Document
from ...documents.catalogue.catalogue import current
from ...documents.display import brief, visible
from ...event_store import EventStore
from ...event_store.query.grouping import Counted, counts
from .arguments import SECONDS
from .filters import given_filters
from .request import Request, wrong
from .template import NOTHING


def stats(request: Request) -> None:
    """Count events by what they have in common."""
    output, by, top = request.output, request["by"], request["top"]
    if top < 1:
        raise wrong(f"--top is {top}; it must be 1 or more.")
    query = request.query()
    with request.in_time():
        seconds = request.seconds or SECONDS
        zone = output.times.name
        found = counts(query, by, seconds=seconds, zone=zone)
    shown = found[:top]
    if request["json"]:
        groups = [
            {"value": output.as_json(one.value), "events": one.events} for one in shown
        ]
        more = len(found) - len(shown)
        total = sum(one.events for one in found)
        output.json(
            {
                "by": by,
                "events": total,
                "groups": groups,
                "more": more,
            }
        )
        return
    _print(request, shown)
    if len(found) > len(shown):
        request.note(f"And {len(found) - len(shown):,} more; see --top.")


def types(request: Request) -> None:
    """List the types of stored events, each with its last event."""
    output = request.output
    declared = current().of_class
    names = {
        one.name: f"{cls.__module__}.{cls.__qualname__}"
        for cls, one in declared.items()
    }
    rows: list[dict[str, Any]] = []
    with request.in_time():
        found = counts(EventStore.query(), "type", seconds=request.seconds or SECONDS)
        for one in sorted(found, key=lambda one: str(one.value)):
            last = _last_of_type(one.value)
            rows.append(
                {
                    "type": one.value,
                    "events": one.events,
                    "last": None
                    if last is None
                    else output.times.shown(last.get("created"), "T"),
                    "declared": names.get(one.value),
                }
            )
    if request["json"]:
        output.json({"types": rows})
        return
    width = max((len(visible(row["type"])) for row in rows), default=0)
    for row in rows:
        time = str(row["last"] or NOTHING).replace("T", " ", 1)
        kind = output.style.SUCCESS(f"{visible(row['type']):<{width}}")
        output.text(
            f"{kind}  {row['events']:>10,}  {time}  {row['declared'] or NOTHING}"
        )


def _last_of_type(name: str) -> Document | None:
    return EventStore.query().types(name).order("created").last()


def count(request: Request) -> None:
    """Print how many events there are."""
    given = given_filters(request.options)
    with request.in_time():
        if not given and request["order"] is None:
            number = EventStore.count()
        else:
            number = request.query().count()
    if request["json"]:
        request.output.json({"events": number})
    else:
        request.output.text(str(number))


def _print(request: Request, shown: list[Counted]) -> None:
    output = request.output
    names = [
        NOTHING
        if one.value is None
        else visible(one.value)
        if isinstance(one.value, str)
        else brief(one.value)
        for one in shown
    ]
    width = max(map(len, names), default=0)
    for name, one in zip(names, shown, strict=True):
        output.text(f"{output.style.SUCCESS(f'{name:<{width}}')}  {one.events:>10,}")
    if not shown:
        request.note("No events match.")
