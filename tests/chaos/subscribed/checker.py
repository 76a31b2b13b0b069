"""
The checker of positions and subscriptions. Pure, no I/O.

Each check is named after what it finds.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise

from ..checker import Violations, name_of
from ..database import Document
from ..ledger import Ledger, account
from .effects import Effect, Effects


def check(effects: Effects) -> Violations:
    """Return what is wrong, under the name of the check that found it."""
    found = {name_of(find): list(find(effects)) for find in CHECKS}
    return {name: texts for name, texts in found.items() if texts}


# --- positions --------------------------------------------------------------


def without_a_position(effects: Effects) -> Iterator[str]:
    """An event is there and has no position."""
    placed = {entry["eventId"] for entry in effects.entries}
    for event in effects.events:
        if event["_id"] not in placed:
            yield _name(event)


def with_two_positions(effects: Effects) -> Iterator[str]:
    """An event has more than one position."""
    for event, count in Counter(e["eventId"] for e in effects.entries).items():
        if count > 1:
            yield f"{event}: {count}"


def position_of_nothing(effects: Effects) -> Iterator[str]:
    """A position was given to an event that is not there, or is elsewhere."""
    there = {(event["_id"], *_place(event)) for event in effects.events}
    for entry in effects.entries:
        if (entry["eventId"], *_place(entry)) not in there:
            yield f"{entry['_id']}: {_name(entry)}"


def gap(effects: Effects) -> Iterator[str]:
    """The positions are not 1, 2, 3 ..."""
    for number, entry in enumerate(effects.entries, 1):
        if entry["_id"] != number:
            yield f"{entry['_id']} stands as {number}"
            return


def against_the_stream(effects: Effects) -> Iterator[str]:
    """The positions of a stream are not in the order of its versions."""
    heads: defaultdict[str, int] = defaultdict(int)
    for entry in effects.entries:
        stream, version = _place(entry)
        if version != heads[stream] + 1:
            yield f"{_name(entry)} at {entry['_id']}, behind {heads[stream]}"
        heads[stream] = version


def _place(document: Document) -> tuple[str, int]:
    return document["aggregateId"], document["aggregateVersion"]


def _name(document: Document) -> str:
    return f"version {document['aggregateVersion']} of {document['aggregateId']}"


# --- effects ----------------------------------------------------------------


def missed(effects: Effects) -> Iterator[str]:
    """A subscription has done nothing for an event."""
    for name, done in {**effects.exact, **effects.delivered}.items():
        known = {effect.event for effect in done}
        for event in effects.events:
            if str(event["_id"]) not in known:
                yield f"{_name(event)} by {name}"


def doubled(effects: Effects) -> Iterator[str]:
    """A subscription whose effects are exactly once has done one twice."""
    for name, done in effects.exact.items():
        for event, count in Counter(effect.event for effect in done).items():
            if count > 1:
                yield f"{event} by {name}: {count}"


def of_nothing(effects: Effects) -> Iterator[str]:
    """A subscription has done something for an event that is not there so."""
    positions = {str(entry["eventId"]): entry["_id"] for entry in effects.entries}
    there = {
        Effect(str(event["_id"]), *_place(event), positions.get(str(event["_id"]), 0))
        for event in effects.events
    }
    for name, done in {**effects.exact, **effects.delivered}.items():
        for effect in sorted(set(done) - there):
            yield f"{effect} by {name}"


def out_of_order(effects: Effects) -> Iterator[str]:
    """An event came to a subscription before one that is earlier in its stream."""
    for name, done in effects.delivered.items():
        heads: defaultdict[str, int] = defaultdict(int)
        for effect in done:
            if effect.version > heads[effect.stream] + 1:
                yield f"{effect} by {name}, behind {heads[effect.stream]}"
            heads[effect.stream] = max(heads[effect.stream], effect.version)


def rows_out_of_order(effects: Effects) -> Iterator[str]:
    """The rows of an SQL database are not in the order of the positions."""
    for one, next_one in pairwise(effects.exact.get("rows", ())):
        if next_one.position < one.position:
            yield f"{next_one} behind {one}"


def wrong_total(effects: Effects) -> Iterator[str]:
    """What was counted of a stream is not what the stream has."""
    if effects.totals is None:
        return
    heads = Counter(event["aggregateId"] for event in effects.events)
    for stream, (count, versions) in effects.totals.items():
        if versions != list(range(1, count + 1)) or heads[stream] != count:
            yield f"{stream}: {count} of {heads[stream]}, {versions}"
    yield from (f"{stream}: none" for stream in heads.keys() - effects.totals)


def wrong_projection(effects: Effects) -> Iterator[str]:
    """A read model is not the fold of the events in the order of the positions."""
    if effects.chains is None:
        return
    folded = chains(effects)
    for key in folded.keys() | effects.chains.keys():
        if folded.get(key) != effects.chains.get(key):
            yield f"{key}: {effects.chains.get(key)}, not {folded.get(key)}"


def chains(effects: Effects) -> dict[object, dict[str, object]]:
    """Return the states of the projection, as the log makes them."""
    events = {event["_id"]: event for event in effects.events}
    keyed: defaultdict[object, list[dict[str, object]]] = defaultdict(list)
    for entry in effects.entries:
        if event := events.get(entry["eventId"]):
            keyed[account(event)].append(event)
    return {key: Ledger.view(some, {}) for key, some in keyed.items()}


def late_snapshot(effects: Effects) -> Iterator[str]:
    """A snapshot has not followed its stream to the end."""
    heads = Counter(event["aggregateId"] for event in effects.events)
    for stream, head in heads.items() if effects.snapshots is not None else ():
        version = effects.snapshots.get(stream)
        if version != head:
            yield f"{stream}: {version} of {head}"


# --- processes --------------------------------------------------------------


def behind(effects: Effects) -> Iterator[str]:
    """A subscription did not come to the end, though all was well for a while."""
    head = len(effects.entries)
    for name, position in effects.checkpoints.items():
        if position != head:
            yield f"{name} at {position} of {head}"


def parked(effects: Effects) -> Iterator[str]:
    """A stream waits, though no handler fails by itself."""
    yield from effects.parked


def odd(effects: Effects) -> Iterable[str]:
    """A process ended that nobody had killed."""
    return effects.odd


CHECKS: list[Callable[[Effects], Iterable[str]]] = [
    without_a_position,
    with_two_positions,
    position_of_nothing,
    gap,
    against_the_stream,
    missed,
    doubled,
    of_nothing,
    out_of_order,
    rows_out_of_order,
    wrong_total,
    wrong_projection,
    late_snapshot,
    behind,
    parked,
    odd,
]
