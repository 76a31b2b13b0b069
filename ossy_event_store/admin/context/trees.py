"""The tree on an event's page: what led to it, what it led to, what is beside it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ...documents.bson_types import Document
from ...exceptions import IndexMissing
from ...mongodb.connection import Store
from ...mongodb.deadline import in_time
from ...streams.context import traces
from ...streams.context.tree import (
    Trace,
    cause_of,
    correlation_of,
    id_of,
    in_order,
    tree,
)

MOST_EVENTS = 100  # each: of a correlation, and of the effects
MOST_CAUSES = 20


@dataclass(frozen=True)
class EventTree:
    """The tree around an event, and what is missing from it."""

    trace: Trace
    #: Whether the indexes for it do not exist, so that it only shows causes.
    lacks_index: bool


async def tree_of(store: Store, subject: Document) -> EventTree:
    """Return the tree around an event."""
    with in_time():
        chain = await traces.causes(store, subject["_id"], MOST_CAUSES)
        known, is_cut, lacks_index = [*chain.events, subject], False, False
        try:
            effects = await traces.effects(store, subject["_id"], MOST_EVENTS)
            known += [node.event for _, node in effects.walk()]
            is_cut = effects.is_cut
            first = chain.events[-1] if chain.events else subject
            correlation = correlation_of(subject) or id_of(first)
            beside = await traces.trace(store, correlation, MOST_EVENTS)
            is_cut = is_cut or beside.is_cut
            if not beside.is_cut:
                known += [node.event for _, node in beside.walk()]
        except IndexMissing:
            lacks_index = True
    if chain.is_cut:
        names = {id_of(event) for event in known}
        is_cut = is_cut or cause_of(chain.events[-1]) not in names
    return EventTree(tree(in_order(known), is_cut=is_cut), lacks_index)


def rows_of(
    trace: Trace, subject: Document, row_of: Callable[[Document], dict[str, Any]]
) -> list[dict[str, Any]]:
    """
    Return what the template shows of a tree: a row for each event, before its effects.

    ``opens``: its effects follow, in a list inside of it. ``closes``: how many such
    lists end after it. A template cannot call itself for a tree of any depth.
    """
    walked = list(trace.walk())
    rows = []
    for number, (depth, node) in enumerate(walked):
        following = walked[number + 1][0] if number + 1 < len(walked) else 1
        rows.append(
            {
                **row_of(node.event),
                "is_current": node.event["_id"] == subject["_id"],
                "lacks_cause": node.lacks_cause,
                "is_circular": node.is_circular,
                "opens": following > depth,
                "closes": "x" * (depth - following),
            }
        )
    return rows
