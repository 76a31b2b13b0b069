"""Writers: they decide, append, and do not rest until they know what became of it."""

from __future__ import annotations

import datetime as dt
import itertools
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from ossy_event_store import (
    Aggregate,
    AggregateNotFound,
    BoundaryConflict,
    ConcurrencyError,
    Condition,
    EventStore,
    OutcomeUnknown,
    Query,
    StoreUnavailable,
)

from .calls import Call
from .history import (
    ACKNOWLEDGED,
    REFUSED,
    UNDECIDED,
    UNSENT,
    Failure,
    Intent,
    Operation,
    content,
    digest,
    known_of,
)
from .ledger import Ledger, entry

ANNOUNCED = (
    *(AggregateNotFound, BoundaryConflict, ConcurrencyError, OutcomeUnknown),
    StoreUnavailable,
)
PATIENCE = 120  # seconds for one decision: nothing that the nemesis does lasts so long

Event = dict[str, Any]
Attempt = Callable[[list[Event]], Awaitable[list[Event]]]


def failure(where: str, error: Exception) -> Failure:
    unexpected = "" if isinstance(error, ANNOUNCED) else repr(error)[:500]
    return Failure(where, type(error).__name__, unexpected)


class Writer:
    """
    Appends in every way the library offers, and writes down what it was told.

    Args:
        name: no other writer of the run has it; it is in every token.
        call: the face to use.
        history: where to write what the store said.
        seed: what the writer's choices follow.
        gives_up: whether it may drop a decision when no server was reached, to
            see that nothing of it was sent.
        may_be_killed: whether to write down each decision before it is sent.
    """

    def __init__(
        self,
        name: str,
        call: Call,
        history: Any,
        *,
        seed: object = 0,
        gives_up: bool = True,
        may_be_killed: bool = False,
    ) -> None:
        self.name = name
        self.call = call
        self.history = history
        self.random = random.Random(f"{seed} {name}")
        self.gives_up = gives_up
        self.may_be_killed = may_be_killed
        self.numbers = itertools.count(1)

    # --- the ways to append

    async def load(self, stream: str) -> Aggregate:
        aggregate: Aggregate = await self.call(Aggregate.of, Ledger, stream)
        return aggregate

    async def create(self, stream: str) -> Operation:
        async def attempt(events: list[Event]) -> list[Event]:
            first = {**events[0], "aggregateId": stream}
            # Without a snapshot, for the first event is to be among its events.
            aggregate = await self.call(Aggregate.of, Ledger, first, snapshot=False)
            return list(aggregate.events[:1])

        return await self.resolve(*self.decide(stream, "Aggregate.of", 1), attempt)

    async def add(self, aggregate: Aggregate, count: int = 1) -> Operation:
        async def attempt(events: list[Event]) -> list[Event]:
            await self.call(aggregate.add, *events)
            return aggregate.events[-len(events) :]

        decision = self.decide(aggregate.id, "Aggregate.add", count)
        return await self.resolve(*decision, attempt)

    async def append(
        self, stream: str, count: int = 1, expected: int | None = None
    ) -> Operation:
        how = "EventStore.append" + ("" if expected is None else " expected")
        attempt = self.appending(stream, expected)
        return await self.resolve(*self.decide(stream, how, count), attempt)

    def appending(self, stream: str, expected: int | None) -> Attempt:
        place = {"aggregateId": stream, "aggregateType": Ledger.aggregate_type}

        async def attempt(events: list[Event]) -> list[Event]:
            placed = [{**event, **place} for event in events]
            if len(placed) > 1:
                append_all = EventStore.append_events
                stored = await self.call(append_all, placed, expected_version=expected)
                return list(stored)
            append_one = EventStore.append_event
            return [await self.call(append_one, placed[0], expected_version=expected)]

        return attempt

    async def execute(self, stream: str, count: int = 1) -> Operation:
        """Let the library load and decide, again for each race that it loses."""
        decisions: list[tuple[Operation, list[Event], int]] = []

        def decide(aggregate: Aggregate) -> list[Event]:
            for operation, _, _ in decisions[-1:]:
                self.close(operation, REFUSED)
            decision = self.decide(stream, "Aggregate.execute", count)
            decisions.append((*decision, aggregate.version))
            return decision[1]

        began = time.monotonic()
        now = _now()
        execute = Aggregate.execute
        try:
            aggregate = await self.call(execute, Ledger, stream, decide)
        except Exception as error:
            if not decisions:
                raise
            operation, events, version = decisions[-1]
            self.learn(operation, events, error)
            if operation.unknowns:
                attempt = self.appending(stream, version)
                return await self.resolve(operation, events, attempt)
            if isinstance(error, StoreUnavailable):
                operation.outcome = UNSENT
        else:
            operation = decisions[-1][0]
            self.acknowledge(operation, aggregate.events[-count:], now)
        operation.seconds = operation.longest = time.monotonic() - began
        return self.close(operation, operation.outcome)

    async def append_tagged(self, stream: str, tags: list[str]) -> Operation:
        """Append an event with tags, whatever else there is."""
        decision = self.decide(stream, "EventStore.append tagged", 1)
        return await self.resolve(*decision, self.tagging(stream, tags))

    def tagging(
        self, stream: str, tags: list[str], unless: Condition | None = None
    ) -> Attempt:
        place = {"aggregateId": stream, "aggregateType": Ledger.aggregate_type}

        async def attempt(events: list[Event]) -> list[Event]:
            placed = [{**event, **place, "tags": tags} for event in events]
            append_all = EventStore.append_events
            return list(await self.call(append_all, placed, unless=unless))

        return attempt

    async def append_unless(
        self, stream: str, tags: list[str], query: Query
    ) -> Operation:
        """Append an event that says what was known, unless there is more by now."""
        read = await self.call(EventStore.read_boundary, query)
        known = known_of([event async for event in each(read.events)])
        items = [[one.types, one.tags] for one in query.items]
        decision = self.decide(
            stream, "EventStore.append unless", 1, query=items, known=known
        )
        unless = Condition(query, after=read.token)
        return await self.resolve(*decision, self.tagging(stream, tags, unless))

    # --- decide, and find out

    def decide(
        self, stream: str, how: str, count: int, **payload: Any
    ) -> tuple[Operation, list[Event]]:
        tokens = [f"{self.name}-{next(self.numbers)}" for _ in range(count)]
        events = [entry(token, self.random.randrange(10**6)) for token in tokens]
        for event in events:
            event["payload"].update(payload)
        contents = [content(event) for event in events]
        if self.random.random() < 0.3:  # else the library makes the ids
            events = [{**event, "id": event["payload"]["token"]} for event in events]
        if self.may_be_killed:
            self.history.write(Intent(self.name, stream, how, tokens, contents))
        return Operation(self.name, stream, how, tokens, contents), events

    async def resolve(
        self, operation: Operation, events: list[Event], attempt: Attempt
    ) -> Operation:
        """Try, with the same ids, until the store has said what became of it."""
        began = time.monotonic()
        while operation.outcome == UNDECIDED:
            again = await self.try_once(operation, events, attempt)
            operation.seconds = time.monotonic() - began
            if not again or operation.seconds > PATIENCE:
                break
        return self.close(operation, operation.outcome)

    async def try_once(
        self, operation: Operation, events: list[Event], attempt: Attempt
    ) -> bool:
        """Call the library once; return whether another try makes sense."""
        began, now = time.monotonic(), _now()
        try:
            self.acknowledge(operation, await attempt(events), now)
        except Exception as error:
            return self.learn(operation, events, error)
        finally:
            took = time.monotonic() - began
            operation.longest = max(operation.longest, took)
        return True

    def acknowledge(
        self, operation: Operation, stored: list[Event], now: dt.datetime
    ) -> None:
        operation.outcome = ACKNOWLEDGED
        operation.returned = [
            [str(event["_id"]), event["aggregateVersion"], digest(event)]
            for event in stored
        ]
        if operation.unknowns:
            earlier = any(event["created"] < now for event in stored)
            operation.resolved = "found stored" if earlier else "appended"

    def learn(
        self, operation: Operation, events: list[Event], error: Exception
    ) -> bool:
        """Take in what an error says; return whether to try again."""
        self.history.write(failure(operation.how, error))
        if isinstance(error, (BoundaryConflict, ConcurrencyError)):
            operation.outcome = REFUSED
            operation.resolved = "refused" if operation.unknowns else ""
        elif isinstance(error, OutcomeUnknown):
            operation.unknowns += 1
            for event, event_id in zip(events, error.event_ids, strict=True):
                event["id"] = event_id
        elif isinstance(error, StoreUnavailable):
            gives_up = self.gives_up and self.random.random() < 0.5
            if gives_up and not operation.unknowns:
                operation.outcome = UNSENT
        else:
            return False
        return True

    def close(self, operation: Operation, outcome: str) -> Operation:
        operation.outcome = outcome
        self.history.write(operation)
        return operation


async def each(events: Any) -> AsyncIterator[Event]:
    """Iterate over the events of a boundary, through either face."""
    if hasattr(events, "__anext__"):
        async for event in events:
            yield event
    else:
        for event in events:
            yield event


def _now() -> dt.datetime:
    now = dt.datetime.now(dt.UTC)
    return now.replace(microsecond=now.microsecond // 1000 * 1000)
