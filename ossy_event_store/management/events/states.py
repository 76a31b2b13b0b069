"""
``events stream``: its events, its state at a time, and what changed between versions.
"""

from __future__ import annotations

import re
from typing import Any

from ...aggregate import Aggregate
from ...aggregate.registry import root_of
from ...documents.display import brief, visible
from ...event_store import EventStore
from .filters import given_filters
from .listing import missing, stream_events
from .request import Request, checked, wrong

_RANGE = re.compile(r"([0-9]{1,18})\.\.([0-9]{1,18})?")
_SIGNS = {"added": "+", "removed": "-", "changed": "~"}
_MOST = 1000  # characters of a value


def stream(request: Request) -> None:
    """Print the events of a stream, its state, or its changes."""
    is_state, versions = request["state"], request["diff"]
    if not is_state and versions is None:
        stream_events(Request(_of_stream(request), request.output, request.err))
        return
    others = ("jsonl", "format", "limit", "reverse", "scan")
    if any(map(request.__getitem__, others)) or given_filters(request.options):
        raise wrong("--state and --diff can only be combined with --at and --json.")
    if is_state and versions is not None:
        raise wrong("--state cannot be combined with --diff.")
    with request.in_time():
        if versions is None:
            _print_state(request)
        elif request["at"] is not None:
            raise wrong("--diff cannot be combined with --at.")
        else:
            _print_changes(request, versions)


def _of_stream(request: Request) -> dict[str, Any]:
    return {**request.options, "streams": [request["stream"]]}


def _root_of(stream: str) -> Any:
    with checked():
        info = EventStore.get_stream_info(stream)
    if info is None:
        raise missing(stream)
    return root_of(info["aggregateType"]), info["aggregateVersion"]


def _print_state(request: Request) -> None:
    name, output = request["stream"], request.output
    Root, _ = _root_of(name)
    moment = None if request["at"] is None else request.time("at")
    found = Aggregate.of(Root, name, at=moment)
    state = found.view()
    if request["json"]:
        output.json(
            {
                "aggregateId": name,
                "aggregateType": found.type,
                "aggregateVersion": found.version,
                "state": output.as_json(state),
            }
        )
        return
    output.text(f"{visible(found.type)} {visible(name)} at version {found.version}")
    output.text(output.tall(state))


def _print_changes(request: Request, versions: str) -> None:
    name, output = request["stream"], request.output
    found = _RANGE.fullmatch(versions)
    if found is None:
        raise wrong(
            f"--diff must be two versions, such as 3..9, not {brief(versions)}."
        )
    Root, last = _root_of(name)
    old, new = int(found[1]), int(found[2] or last)
    changes = Aggregate.diff(Root, name, old, new)
    if request["json"]:
        rows = [
            {
                "path": list(change.path),
                "change": change.kind,
                "old": output.as_json(change.old),
                "new": output.as_json(change.new),
            }
            for change in changes
        ]
        output.json({"aggregateId": name, "old": old, "new": new, "changes": rows})
        return
    for change in changes:
        before, after = brief(change.old, _MOST), brief(change.new, _MOST)
        value = {"added": after, "removed": before}.get(
            change.kind, f"{before} → {after}"
        )
        output.text(f"{_SIGNS[change.kind]} {change.where}: {value}")
    if not changes:
        request.note(f"Versions {old} and {new} have the same state.")
