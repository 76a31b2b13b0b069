"""
The checker of positions and subscriptions. Pure, no I/O.

Each check is named after what it finds.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Container, Iterable, Iterator
from itertools import chain
from typing import Any

from ..checker import Violations, name_of
from ..database import Document
from .effects import EFFECTS, FOLLOWING, IN_SQL, Effect, Effects
from .keys import KEYS

END = object()


def check(effects: Effects) -> Violations:
    """Return what is wrong, under the name of the check that found it."""
    found = {name_of(find): list(find(effects)) for find in CHECKS}
    return {name: texts for name, texts in found.items() if texts}


# --- what is expected -------------------------------------------------------


def exactly_once(effects: Effects) -> dict[str, list[Effect]]:
    """Return what each subscription did whose effects are exactly once."""
    return {
        **effects.exact,
        **{name: list(projected(effects, name)) for name in effects.documents},
    }


def all_done(effects: Effects) -> dict[str, list[Effect]]:
    """Return what each subscription did."""
    return {**exactly_once(effects), **effects.delivered}


def projected(effects: Effects, name: str) -> Iterator[Effect]:
    """Yield the events that are in the documents of a projection."""
    there = places(effects)
    ids = {event["payload"]["token"]: event["_id"] for event in effects.events}
    for state in effects.documents[name].values():
        for token in chain.from_iterable(state.values()):
            if token in ids:
                yield there[str(ids[token])]


def places(effects: Effects) -> dict[str, Effect]:
    """Return what is done for each event if all is well, by its id."""
    positions = {str(entry["eventId"]): entry["_id"] for entry in effects.entries}
    return {
        event: Effect(event, *place, positions.get(event, 0))
        for event, place in ((str(e["_id"]), _place(e)) for e in effects.events)
    }


def wanted(effects: Effects, name: str) -> list[Document]:
    """Return the events that a subscription has to do something for."""
    key = KEYS.get(name)
    if key is None:
        return effects.events
    return [event for event in effects.events if key(event) is not None]


def skipped(effects: Effects, name: str, *, certain: bool = False) -> set[str]:
    """Return the ids of what was skipped in a subscription, or may have been."""
    return {
        skip.event
        for skip in effects.skips
        if skip.subscription == name and (skip.certain or not certain)
    }


def done_by_stream(
    effects: Effects, name: str
) -> tuple[dict[str, list[Document]], set[str]]:
    """Return what a subscription has to do, and the ids of what it may leave out."""
    certain = skipped(effects, name, certain=True)
    streams: defaultdict[str, list[Document]] = defaultdict(list)
    for event in wanted(effects, name):
        if str(event["_id"]) not in certain:
            streams[event["aggregateId"]].append(event)
    return streams, skipped(effects, name) - certain


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
            yield f"{_name(entry)} at {entry['_id']}, after {heads[stream]}"
        heads[stream] = version


def _place(document: Document) -> tuple[str, int]:
    return document["aggregateId"], document["aggregateVersion"]


def _name(document: Document) -> str:
    return f"version {document['aggregateVersion']} of {document['aggregateId']}"


# --- effects ----------------------------------------------------------------


def missed(effects: Effects) -> Iterator[str]:
    """A subscription has no effect of an event that no operator skipped."""
    for name, done in all_done(effects).items():
        known = {effect.event for effect in done} | skipped(effects, name)
        for event in wanted(effects, name):
            if str(event["_id"]) not in known:
                yield f"{_name(event)} by {name}"


def doubled(effects: Effects) -> Iterator[str]:
    """A subscription whose effects are exactly once has done one twice."""
    for name, done in exactly_once(effects).items():
        for event, count in Counter(effect.event for effect in done).items():
            if count > 1:
                yield f"{event} by {name}: {count}"


def done_though_skipped(effects: Effects) -> Iterator[str]:
    """A skipped event has an effect, of a subscription with effects exactly once."""
    for name, done in exactly_once(effects).items():
        certain = skipped(effects, name, certain=True)
        for effect in done:
            if effect.event in certain:
                yield f"{effect} by {name}"


def of_nothing(effects: Effects) -> Iterator[str]:
    """A subscription has done something for an event that is not there so."""
    there = set(places(effects).values())
    for name, done in {**effects.exact, **effects.delivered}.items():
        for effect in sorted(set(done) - there):
            yield f"{effect} by {name}"


def out_of_order(effects: Effects) -> Iterator[str]:
    """An event came to a subscription before one that is earlier in its stream."""
    for name, done in effects.delivered.items():
        yield from _out_of_order(effects, name, done)


def rows_out_of_order(effects: Effects) -> Iterator[str]:
    """The rows of a stream in an SQL database are not in the order of its versions."""
    for name in IN_SQL:
        yield from _out_of_order(effects, name, effects.exact.get(name, ()))


def _out_of_order(effects: Effects, name: str, done: Iterable[Effect]) -> Iterator[str]:
    """Yield what came, for the first time, after a later one of its stream."""
    heads: defaultdict[str, int] = defaultdict(int)
    first = dict.fromkeys(done)
    for effect in first:
        if effect.version < heads[effect.stream]:
            yield f"{effect} by {name}, after {heads[effect.stream]}"
        heads[effect.stream] = max(heads[effect.stream], effect.version)


def wrong_total(effects: Effects) -> Iterator[str]:
    """What was counted of a stream is not what the stream has."""
    if effects.totals is None:
        return
    streams, optional = done_by_stream(effects, EFFECTS)
    may_lack = {_place(e) for e in effects.events if str(e["_id"]) in optional}
    for stream in streams.keys() | effects.totals.keys():
        count, versions = effects.totals.get(stream, (0, []))
        found = [(stream, version) for version in versions]
        expected = list(map(_place, streams.get(stream, ())))
        if count != len(versions) or not is_fold(found, expected, may_lack):
            yield f"{stream}: {count}, {versions}, not {expected}"


def wrong_projection(effects: Effects) -> Iterator[str]:
    """A read model is not the fold of the events, each stream in its order."""
    for name, documents in effects.documents.items():
        expected, may_lack = fold(effects, name)
        for key in expected.keys() | documents.keys():
            whole, state = expected.get(key, {}), documents.get(key, {})
            for stream in whole.keys() | state.keys():
                found, tokens = state.get(stream, []), whole.get(stream, [])
                if not is_fold(found, tokens, may_lack):
                    yield f"{name} {key!r}, {stream}: {found}, not {tokens}"


def fold(
    effects: Effects, name: str
) -> tuple[dict[Any, dict[str, list[str]]], set[str]]:
    """Return a projection as the log makes it, and the tokens that it may lack."""
    streams, optional = done_by_stream(effects, name)
    documents: dict[Any, dict[str, list[str]]] = {}
    may_lack = set()
    for stream, events in streams.items():
        for event in events:
            token = event["payload"]["token"]
            document = documents.setdefault(KEYS[name](event), {})
            document.setdefault(stream, []).append(token)
            if str(event["_id"]) in optional:
                may_lack.add(token)
    return documents, may_lack


def is_fold(found: list[Any], expected: list[Any], may_lack: Container[Any]) -> bool:
    """Whether something is the expected, in order, but for some that it may lack."""
    rest = iter(found)
    one = next(rest, END)
    for each in expected:
        if one == each:
            one = next(rest, END)
        elif each not in may_lack:
            return False
    return one is END


def late_snapshot(effects: Effects) -> Iterator[str]:
    """A snapshot has not followed its stream to the end."""
    if effects.snapshots is None:
        return
    passed_over = skipped(effects, FOLLOWING)
    heads = {event["aggregateId"]: event for event in effects.events}
    for stream, last in heads.items():
        version, head = effects.snapshots.get(stream), last["aggregateVersion"]
        # After a skipped event a snapshot is not written until the next one.
        if version != head and str(last["_id"]) not in passed_over:
            yield f"{stream}: {version} of {head}"


# --- processes --------------------------------------------------------------


def behind(effects: Effects) -> Iterator[str]:
    """A subscription did not come to the end, though all was well for a while."""
    head = len(effects.entries)
    for name, position in effects.checkpoints.items():
        if position != head:
            yield f"{name} at {position} of {head}"


def parked(effects: Effects) -> Iterator[str]:
    """A stream is still parked, though no handler fails any more."""
    yield from effects.parked


def odd(effects: Effects) -> Iterable[str]:
    """A process ended though it was not killed."""
    return effects.odd


CHECKS: list[Callable[[Effects], Iterable[str]]] = [
    without_a_position,
    with_two_positions,
    position_of_nothing,
    gap,
    against_the_stream,
    missed,
    doubled,
    done_though_skipped,
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
