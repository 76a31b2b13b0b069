"""What is wrong with the events of a run: lost, phantom, twice, out of order, left."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from .blocks import PARTS

Violations = dict[str, list[str]]


class Block(NamedTuple):
    """A block whose row is in the SQL database: so it has committed."""

    stream: str
    #: When it had not yet written any of its events.
    began: float
    #: When it had committed; None if its writer was killed before it could say so.
    committed: float | None = None


@dataclass
class Left:
    """What a run has left."""

    #: By the name of the writer and the number of the block.
    blocks: Mapping[tuple[str, int], Block]
    #: Of each stream, in the order of versions.
    streams: Mapping[str, Sequence[Mapping[str, Any]]]
    #: Rows of the outbox.
    rows: int = 0
    kills: Mapping[str, int] = field(default_factory=dict)
    #: Seconds from the commits to the appends.
    lags: Sequence[float] = ()


def check(left: Left) -> Violations:
    found: defaultdict[str, list[str]] = defaultdict(list)
    for kind, text in _violations(left):
        found[kind].append(text)
    return dict(found)


def _violations(left: Left) -> Iterator[tuple[str, str]]:
    if left.rows:
        yield "left", f"{left.rows} rows of the outbox"
    for stream, events in left.streams.items():
        yield from _strangers(stream, events, left.blocks)
        yield from _out_of_order(stream, events, left.blocks)
    counts = Counter(
        (*_key(event), event["payload"]["part"])
        for events in left.streams.values()
        for event in events
    )
    for key in left.blocks:
        for part in range(PARTS):
            if (count := counts[*key, part]) != 1:
                yield "twice" if count else "lost", f"{key}, part {part}: {count}"


def _strangers(
    stream: str,
    events: Sequence[Mapping[str, Any]],
    blocks: Mapping[tuple[str, int], Block],
) -> Iterator[tuple[str, str]]:
    for version, event in enumerate(events, 1):
        if event["aggregateVersion"] != version:
            yield "hole", f"{stream}: {event['aggregateVersion']} is at {version}"
        block, part = blocks.get(_key(event)), event["payload"]["part"]
        if block is None or block.stream != stream or part not in range(PARTS):
            yield "phantom", f"{stream}: {_key(event)}, part {part}"


def _key(event: Mapping[str, Any]) -> tuple[str, int]:
    return event["payload"]["worker"], event["payload"]["number"]


def _out_of_order(
    stream: str,
    events: Sequence[Mapping[str, Any]],
    blocks: Mapping[tuple[str, int], Block],
) -> Iterator[tuple[str, str]]:
    last: dict[str, tuple[int, Any]] = {}
    latest, began = None, float("-inf")
    for event in events:
        block, part = blocks.get(key := _key(event)), event["payload"]["part"]
        if block is None or part not in range(PARTS):
            continue
        worker, place = key[0], (key[1], part)
        if place < last.get(worker, (-1, -1)):
            yield "out of order", f"{stream}: {key} comes after {worker, *last[worker]}"
        last[worker] = place
        # A block that had committed before another began comes before it.
        if block.committed is not None and block.committed < began:
            yield "out of order", f"{stream}: {key} comes after {latest}"
        if block.began > began:
            latest, began = key, block.began
