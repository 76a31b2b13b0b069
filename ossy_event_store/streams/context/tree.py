"""
Trees of events by cause, built without recursion from ids that nobody checked. Pure.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...documents.bson_types import Document


@dataclass(frozen=True, eq=False, slots=True)
class TraceNode:
    """An event of a trace, and the events that it caused."""

    #: The event as stored, without ``payload``.
    event: Document
    #: What it caused, oldest first.
    children: tuple[TraceNode, ...]
    #: Whether it names a cause that is not in this trace.
    lacks_cause: bool
    #: Whether its cause is one of its own effects, so that the circle is cut here.
    is_circular: bool

    def __repr__(self) -> str:
        # Without the children: a tree may be deeper than Python's stack.
        kind, event_id = self.event.get("type"), self.event["_id"]
        return f"<TraceNode {kind!r} {event_id!r}, caused {len(self.children)}>"


@dataclass(frozen=True, eq=False, slots=True)
class Trace:
    """The events of a correlation, or the effects of an event, as trees."""

    #: The events without a cause in this trace, oldest first.
    roots: tuple[TraceNode, ...]
    #: How many events it has.
    count: int
    #: Whether there are more, which were left out.
    is_cut: bool

    def walk(self) -> Iterator[tuple[int, TraceNode]]:
        """Yield each node after its cause, with its depth: 1 for a root."""
        stack = [(1, node) for node in reversed(self.roots)]
        while stack:
            depth, node = stack.pop()
            yield depth, node
            stack += [(depth + 1, child) for child in reversed(node.children)]

    @property
    def depth(self) -> int:
        """The most events in a chain from cause to effect; 0 if it is empty."""
        return max((depth for depth, _ in self.walk()), default=0)

    def __repr__(self) -> str:
        cut = ", cut" if self.is_cut else ""
        return f"<Trace of {self.count} events, {len(self.roots)} roots{cut}>"


@dataclass(frozen=True, eq=False, slots=True)
class CauseChain:
    """The events that led to an event."""

    #: Its cause first, then the cause of that, and so on, without ``payload``.
    events: tuple[Document, ...]
    #: Whether there are more, which were left out.
    is_cut: bool
    #: The id that the last one, or the event itself, names as its cause, if no event
    #: has it: it was never in this store, or was deleted outside of it.
    missing: str | None
    #: Whether the last one names an event of the chain as its cause.
    is_circular: bool


def cause_of(event: Mapping[str, Any]) -> str | None:
    """Return the id of an event's cause, as text."""
    return _link(event, "causationId")


def correlation_of(event: Mapping[str, Any]) -> str | None:
    """Return the correlation that an event has itself."""
    return _link(event, "correlationId")


def _link(event: Mapping[str, Any], key: str) -> str | None:
    metadata = event.get("metadata")
    found = metadata.get(key) if isinstance(metadata, Mapping) else None
    return found if isinstance(found, str) and found else None


def id_of(event: Mapping[str, Any]) -> str:
    """Return the id of an event as text, as ``causationId`` has it."""
    return str(event["_id"])


def in_order(events: Sequence[Document]) -> list[Document]:
    """Return events by time, then by id; another program may store any time."""

    def key(event: Document) -> tuple[bool, Any, str]:
        created = event.get("created")
        is_time = isinstance(created, dt.datetime)
        return not is_time, created if is_time else str(created), id_of(event)

    return sorted(events, key=key)


def below(first: Document, events: Sequence[Document]) -> list[Document]:
    """Return those of some events that one has led to, itself first."""
    caused: dict[str | None, list[Document]] = {}
    for event in events:
        caused.setdefault(cause_of(event), []).append(event)
    found, seen = [first], {id_of(first)}
    for event in found:  # which grows meanwhile
        for effect in caused.get(id_of(event), ()):
            if id_of(effect) not in seen:
                seen.add(id_of(effect))
                found.append(effect)
    return found


def tree(
    events: Sequence[Document], *, root: Document | None = None, is_cut: bool = False
) -> Trace:
    """
    Return the trees that some events form.

    Args:
        events: of any order; of those with one id, the first counts.
        root: the event to begin with, also if it is in a circle.
        is_cut: whether some were left out.
    """
    by_id: dict[str, Document] = {}
    for event in in_order(events):
        by_id.setdefault(id_of(event), event)
    causes = {name: _known_cause(event, by_id) for name, event in by_id.items()}
    circular = {name for name, cause in causes.items() if cause == name}
    if root is not None and causes[id_of(root)] is not None:
        circular.add(id_of(root))
    circular |= _heads_of_circles(causes, circular)
    children: dict[str | None, list[str]] = {}
    for name, cause in causes.items():
        parent = None if name in circular else cause
        children.setdefault(parent, []).append(name)
    return _built(by_id, children, circular, is_cut)


def _known_cause(event: Document, by_id: Mapping[str, Document]) -> str | None:
    cause = cause_of(event)
    return cause if cause in by_id else None


def _heads_of_circles(causes: Mapping[str, str | None], cut: set[str]) -> set[str]:
    """Return the first event of each circle that is not cut yet."""
    order = {name: number for number, name in enumerate(causes)}
    heads: set[str] = set()
    done: set[str] = set()
    for start in causes:
        way: dict[str, None] = {}
        at: str | None = start
        while at is not None and at not in done and at not in cut and at not in way:
            way[at] = None
            at = causes[at]
        if at is not None and at in way:
            names = list(way)
            heads.add(min(names[names.index(at) :], key=order.__getitem__))
        done.update(way)
    return heads


def _built(
    by_id: Mapping[str, Document],
    children: Mapping[str | None, list[str]],
    circular: set[str],
    is_cut: bool,
) -> Trace:
    order = list(children.get(None, ()))
    for name in order:  # which grows meanwhile: causes before their effects
        order += children.get(name, ())
    nodes: dict[str, TraceNode] = {}
    for name in reversed(order):
        event, cause = by_id[name], cause_of(by_id[name])
        nodes[name] = TraceNode(
            event,
            tuple(nodes[child] for child in children.get(name, ())),
            lacks_cause=cause is not None and cause not in by_id,
            is_circular=name in circular,
        )
    roots = tuple(nodes[name] for name in children.get(None, ()))
    return Trace(roots, len(nodes), is_cut)
