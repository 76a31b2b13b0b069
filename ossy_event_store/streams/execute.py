"""
Execute a decision on an aggregate: load, decide, append, and again after a lost race.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterable
from typing import Any, Generic

from ..documents.arguments import check_number
from ..documents.catalogue.appending import is_event
from ..documents.event_document import check_id
from ..exceptions import AggregateNotFound
from ..mongodb.connection import Store
from .closing.checks import is_closing
from .load import A, append_to, last_tick, load_aggregate, load_stream
from .new_events import Event, next_events
from .races.repeating import until_won
from .reducers import check_reducer

Decision = Event | Iterable[Event] | None


class Execution(Generic[A]):
    """One call of ``Aggregate.execute()``: its checked arguments and its attempts."""

    def __init__(
        self,
        cls: type[A],
        Root: Any,
        aggregate_id: str,
        decide: Callable[[A], Decision],
        attempts: int | None,
    ) -> None:
        self.cls = cls
        self.Root = check_reducer(Root)
        self.aggregate_id = check_id(aggregate_id)
        if not callable(decide):
            raise TypeError(
                f"decide must be a function, not {type(decide).__name__}: it gets the "
                "aggregate and returns events."
            )
        self.decide = decide
        if attempts is not None:
            check_number(attempts, "attempts", 1)
        self.attempts = attempts
        #: The aggregate of the previous attempt.
        self.previous: A | None = None

    async def run(self, store: Store) -> A:
        """Return the aggregate with the events that were decided and appended."""
        return await until_won(
            store, self.aggregate_id, lambda: self._attempt(store), self.attempts
        )

    async def _attempt(self, store: Store) -> A:
        self.previous = aggregate = await self._load(store)
        events = decided_events(self.decide(aggregate))
        if events:
            documents = next_events(
                self.Root,
                self.aggregate_id,
                aggregate.version,
                events,
                last_tick(aggregate),
            )
            await append_to(store, aggregate, documents)
        return aggregate

    async def _load(self, store: Store) -> A:
        """Return the aggregate; after a lost race, read only the new events."""
        previous = self.previous
        if previous is not None and previous.version:
            new = await load_stream(store, self.aggregate_id, previous.version)
            # A copy, since ``decide`` may have kept the aggregate that it got.
            aggregate = copy.copy(previous)
            aggregate.events = [*previous.events, *new]
            if new:
                aggregate.is_closed = is_closing(new[-1])
            return aggregate
        try:
            return await load_aggregate(self.cls, store, self.Root, self.aggregate_id)
        except AggregateNotFound:
            return self.cls(self.Root, self.aggregate_id, [])


def decided_events(decision: Any) -> list[Event]:
    """
    Return the events that ``decide`` returned.

    Raises:
        TypeError: it returned neither events nor None.
    """
    if decision is None:
        return []
    if is_event(decision):
        return [decision]
    if inspect.iscoroutine(decision):
        decision.close()  # it never runs, so Python should not warn of that too
    elif isinstance(decision, Iterable) and not isinstance(decision, (str, bytes)):
        return list(decision)
    raise TypeError(
        "decide must return an event (a dict, or an object of a class with @event), "
        f"several of them, or None, not {type(decision).__name__}."
    )
