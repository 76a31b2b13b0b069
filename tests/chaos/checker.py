"""
The checker: hold what everybody was told against what is there. Pure, no I/O.

Each check is named after what it finds.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from typing import Any

from ossy_event_store.documents.collections import EVENTS, SNAPSHOTS

from .database import Database, Document
from .history import (
    ACKNOWLEDGED,
    REFUSED,
    UNDECIDED,
    UNSENT,
    History,
    content,
    digest,
    known_of,
)
from .ledger import Ledger

Violations = dict[str, list[str]]


class Evidence:
    """History and database side by side, indexed by what the checks look up."""

    def __init__(self, history: History, database: Database) -> None:
        self.history = history
        self.database = database
        self.operations = history.operations
        self.acknowledged = [o for o in self.operations if o.outcome == ACKNOWLEDGED]
        self.stored: defaultdict[str, list[Document]] = defaultdict(list)
        self.streams: defaultdict[str, list[Document]] = defaultdict(list)
        for event in database.events:
            self.stored[event["payload"]["token"]].append(event)
            self.streams[event["aggregateId"]].append(event)
        self.states = {s: states(events) for s, events in self.streams.items()}


def states(events: list[Document]) -> list[Document]:
    """Return the state at each version, from 0."""
    folded: list[Document] = [{}]
    for event in events:
        folded.append(Ledger.view([event], folded[-1]))
    return folded


def check(history: History, database: Database) -> Violations:
    """Return what is wrong, under the name of the check that found it."""
    evidence = Evidence(history, database)
    found = {name_of(find): list(find(evidence)) for find in CHECKS}
    return {name: texts for name, texts in found.items() if texts}


def name_of(find: Callable[..., Any]) -> str:
    return find.__name__.replace("_", " ")


# --- events -----------------------------------------------------------------


def lost(evidence: Evidence) -> Iterator[str]:
    """An event was acknowledged and is not there."""
    for operation in evidence.acknowledged:
        for token in operation.tokens:
            if token not in evidence.stored:
                yield f"{token} of {operation.stream} by {operation.how}"


def doubled(evidence: Evidence) -> Iterator[str]:
    """An event is there twice, under whatever id."""
    for token, events in evidence.stored.items():
        if len(events) > 1:
            versions = [event["aggregateVersion"] for event in events]
            yield f"{token} of {events[0]['aggregateId']} at {versions}"


def acknowledged_twice(evidence: Evidence) -> Iterator[str]:
    """Two writers were told that they have one version, or one id."""
    owners: dict[Any, str] = {}
    for operation in evidence.acknowledged:
        for event_id, version, _ in operation.returned:
            for key in (("id", event_id), (operation.stream, version)):
                first = owners.setdefault(key, operation.tokens[0])
                if first != operation.tokens[0]:
                    yield f"{key} to {first} and {operation.tokens[0]}"


def hole(evidence: Evidence) -> Iterator[str]:
    """The versions of a stream are not 1, 2, 3 ..."""
    for stream, events in evidence.streams.items():
        versions = [event["aggregateVersion"] for event in events]
        wrong = [n for n, v in enumerate(versions, 1) if n != v]
        if wrong:
            yield f"{stream}: version {versions[wrong[0] - 1]} stands as {wrong[0]}"


def phantom(evidence: Evidence) -> Iterator[str]:
    """An event is there, and its writer was told that it is not."""
    for operation in evidence.operations:
        if operation.outcome in (REFUSED, UNSENT):
            for token in operation.tokens:
                if token in evidence.stored:
                    yield f"{token} of {operation.stream}, {operation.outcome}"


def stranger(evidence: Evidence) -> Iterator[str]:
    """An event is there that nobody has appended."""
    known = {token for o in evidence.operations for token in o.tokens}
    yield from evidence.stored.keys() - known


def moved(evidence: Evidence) -> Iterator[str]:
    """An event has another id or version than its writer was told."""
    for operation, told, event in pairs(evidence):
        if told[:2] != place(event) or event["aggregateId"] != operation.stream:
            yield f"{event['payload']['token']}: told {told[:2]}, has {place(event)}"


def changed(evidence: Evidence) -> Iterator[str]:
    """An event is not what was sent, or not what was returned."""
    for operation, told, event in pairs(evidence):
        token = event["payload"]["token"]
        if content(event) != operation.contents[operation.tokens.index(token)]:
            yield f"{token} is not as it was sent"
        elif told[:2] == place(event) and told[2] != digest(event):
            yield f"{token} is not as it was returned"


def place(event: Document) -> list[Any]:
    return [str(event["_id"]), event["aggregateVersion"]]


def pairs(evidence: Evidence) -> Iterator[tuple[Any, list[Any], Document]]:
    """Yield operation, what was returned, and what is stored, event by event."""
    for operation in evidence.acknowledged:
        returned = zip(operation.tokens, operation.returned, strict=False)
        for token, told in returned:
            if token in evidence.stored:
                yield operation, told, _told(evidence.stored[token], told[0])


def _told(events: list[Document], event_id: str) -> Document:
    """Return the event of this id, if it is among them."""
    return next((e for e in events if str(e["_id"]) == event_id), events[0])


def torn(evidence: Evidence) -> Iterator[str]:
    """Of several events at once only some are there, or not one behind the other."""
    for operation in evidence.operations:
        found = [
            evidence.stored[t][0] for t in operation.tokens if t in evidence.stored
        ]
        versions = [event["aggregateVersion"] for event in found]
        whole = len(found) == len(operation.tokens)
        if found and not (whole and all(b - a == 1 for a, b in pairwise(versions))):
            yield f"{operation.tokens} of {operation.stream}: versions {versions}"


def rewritten(evidence: Evidence) -> Iterator[str]:
    """An event was changed or deleted."""
    for write in evidence.database.writes:
        if write.collection == EVENTS and write.kind != "insert":
            yield f"{write.kind} of {write.id}"


def undecided(evidence: Evidence) -> Iterator[str]:
    """A writer never learned what became of its events, or not of all of them."""
    for operation in evidence.operations:
        told = len(operation.returned)
        partly = operation.outcome == ACKNOWLEDGED and told != len(operation.tokens)
        if partly or operation.outcome == UNDECIDED:
            yield f"{operation.tokens} of {operation.stream}: {operation.returned}"


def unexpected(evidence: Evidence) -> Iterator[str]:
    """A call raised what the library does not announce."""
    for failure in evidence.history.failures:
        if failure.unexpected:
            yield f"{failure.where}: {failure.unexpected}"


# --- tags -------------------------------------------------------------------


def misjudged(evidence: Evidence) -> Iterator[str]:
    """An event was appended though its writer did not know a match before it."""
    events = {str(event["_id"]): event for event in evidence.database.events}
    earlier: defaultdict[str, list[Document]] = defaultdict(list)
    for write in evidence.database.writes:
        event = events.get(write.id)
        if event is None or (write.collection, write.kind) != (EVENTS, "insert"):
            continue
        if "known" in event["payload"]:
            known = event["payload"]["known"]
            matches = known_of(matching(event["payload"]["query"], earlier))
            if matches != known:
                token = event["payload"]["token"]
                yield f"{token} of {event['aggregateId']}: {matches}, not {known}"
        for tag in event.get("tags", ()):
            earlier[tag].append(event)


def matching(
    items: list[list[list[str]]], events: Mapping[str, list[Document]]
) -> list[Document]:
    """Return the events that match a query, by their tags."""
    found = {
        event["_id"]: event
        for _, tags in items
        for event in events[tags[0]]
        if set(tags) <= set(event["tags"])
    }
    return list(found.values())


def hole_in_tag(evidence: Evidence) -> Iterator[str]:
    """The numbers in a tag are not 1, 2, 3 ..., or an event has none in its tag."""
    numbers: defaultdict[str, list[int]] = defaultdict(list)
    for event in evidence.database.events:
        places = {place["t"]: place["n"] for place in event.get("places", ())}
        for name, number in places.items():
            numbers[name].append(number)
        if missing := set(event.get("tags", ())) - places.keys():
            yield f"{event['_id']} has no number in {missing}"
    for name, found in numbers.items():
        if sorted(found) != list(range(1, len(found) + 1)):
            yield f"{name}: {sorted(found)}"


# --- readers ----------------------------------------------------------------


def vanished(evidence: Evidence) -> Iterator[str]:
    """A reader saw an event that is not there, or is another one."""
    there = {
        (event["aggregateId"], event["aggregateVersion"], str(event["_id"]))
        for event in evidence.database.events
    }
    for reading in evidence.history.readings:
        for version, event_id in reading.events:
            if (reading.stream, version, event_id) not in there:
                yield f"version {version} of {reading.stream}, {event_id}"


def gap(evidence: Evidence) -> Iterator[str]:
    """A reader saw a stream with a hole in it."""
    for reading in evidence.history.readings:
        versions = [version for version, _ in reading.events]
        first = reading.after + 1
        if versions != list(range(first, first + len(versions))):
            yield f"{reading.stream} after {reading.after}: {versions}"


# --- snapshots --------------------------------------------------------------


def leading(evidence: Evidence) -> Iterator[str]:
    """A snapshot is ahead of its stream, or was when somebody saw it."""
    for how, stream, version, _ in seen_states(evidence):
        if version >= len(evidence.states.get(stream, [{}])):
            yield f"{how} of {stream} at {version}"


def wrong_state(evidence: Evidence) -> Iterator[str]:
    """A state is not what the events up to its version make."""
    for how, stream, version, state in seen_states(evidence):
        folded = evidence.states.get(stream, [{}])
        if version < len(folded) and folded[version] != state:
            yield f"{how} of {stream} at {version}: {state}, not {folded[version]}"


def seen_states(evidence: Evidence) -> Iterator[tuple[str, str, int, Any]]:
    for seen in evidence.history.observations:
        yield seen.how, seen.stream, seen.version, seen.state
    for each in evidence.database.snapshots:
        yield "last snapshot", each["_id"], each["aggregateVersion"], each["state"]


def replaced(evidence: Evidence) -> Iterator[str]:
    """A newer snapshot was replaced by an older one."""
    versions: dict[str, int] = {}
    for write in evidence.database.writes:
        if write.collection != SNAPSHOTS:
            continue
        before = versions.pop(write.id, 0)
        if write.kind == "delete":
            continue
        now = write.version or 0
        if now < before:
            yield f"{write.id}: {before} by {now}"
        versions[write.id] = now


CHECKS = [
    lost,
    doubled,
    acknowledged_twice,
    hole,
    phantom,
    stranger,
    moved,
    changed,
    torn,
    rewritten,
    undecided,
    unexpected,
    misjudged,
    hole_in_tag,
    vanished,
    gap,
    leading,
    wrong_state,
    replaced,
]
