"""What the tasks and threads of a run do, over and over."""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable
from typing import Any

from ossy_event_store import (
    Aggregate,
    AggregateNotFound,
    AggregateRebuild,
    EventStore,
    any_of,
    item,
)

from .calls import Call
from .history import ACKNOWLEDGED, Observation, Reading
from .ledger import Ledger
from .writers import Writer, failure

SHARED = 6  # streams that all processes write to at a time
GENERATION = 10.0  # seconds until they write to new ones: streams stay short
TAGS = 8  # in which all processes decide at a time
OWN = 100  # appends to a stream that nobody else writes to
MANY = 300  # streams, of those that live as long as the run
AGAIN = 5  # events that a reader reads once more

Step = Callable[[], Awaitable[object]]


def shared_stream(choice: random.Random) -> str:
    generation = int(time.time() // GENERATION)  # the same in every process
    return f"shared-{generation}-{choice.randrange(SHARED)}"


def some(choice: random.Random) -> int:
    """How many events to append at once: mostly one."""
    return choice.choices((1, 2, 3), (80, 12, 8))[0]


async def repeat(
    name: str, step: Step, call: Call, history: Any, stopped: Callable[[], bool]
) -> None:
    while not stopped():
        try:
            await step()
        except Exception as error:
            history.write(failure(name, error))
            await call.pause(0.05)


class OwnStreams:
    """Writes to streams of its own: what it has loaded stays true."""

    def __init__(self, writer: Writer) -> None:
        self.writer = writer
        self.held: Aggregate | None = None
        self.left = 0
        self.number = 0

    async def step(self) -> None:
        writer = self.writer
        if self.left == 0:
            self.number += 1
            self.left = OWN
            self.held = None
        stream = f"own-{writer.name}-{self.number}"
        if self.held is None:
            try:
                self.held = await writer.load(stream)
            except AggregateNotFound:
                await writer.create(stream)
                return
        operation = await writer.add(self.held, some(writer.random))
        self.left -= 1
        if operation.outcome != ACKNOWLEDGED:
            self.held = None
        elif self.left % 20 == 0:
            await writer.call(self.held.save)


class SharedStreams:
    """Writes where everybody writes, each time in another way."""

    def __init__(self, writer: Writer) -> None:
        self.writer = writer
        self.ways = [self.add, self.add, self.expect, self.anywhere, self.first]
        if hasattr(Aggregate, "execute"):
            self.ways += [self.execute, self.execute]

    async def step(self) -> None:
        stream = self.stream()
        way = self.writer.random.choice(self.ways)
        try:
            await way(stream, some(self.writer.random))
        except AggregateNotFound:
            await self.writer.create(stream)

    def stream(self) -> str:
        return shared_stream(self.writer.random)

    async def add(self, stream: str, count: int) -> None:
        await self.writer.add(await self.writer.load(stream), count)

    async def expect(self, stream: str, count: int) -> None:
        version = (await self.writer.load(stream)).version
        await self.writer.append(stream, count, version)

    async def anywhere(self, stream: str, count: int) -> None:
        await self.writer.append(stream, count)

    async def first(self, stream: str, count: int) -> None:
        await self.writer.append(stream, count, 0)

    async def execute(self, stream: str, count: int) -> None:
        await self.writer.execute(stream, count)


class ManyStreams(SharedStreams):
    """Writes to many streams, at a pace that leaves others time to follow."""

    def stream(self) -> str:
        return f"many-{self.writer.random.randrange(MANY)}"

    async def step(self) -> None:
        await super().step()
        await self.writer.call.pause(self.writer.random.random() * 0.05)


class Deciders:
    """Decides on the events of random queries, each time tagged with some tags."""

    def __init__(self, writer: Writer) -> None:
        self.writer = writer

    async def step(self) -> None:
        stream = f"{shared_stream(self.writer.random)}-of-{self.writer.name}"
        if self.writer.random.random() < 0.3:
            await self.writer.append_tagged(stream, self.tags())
            return
        items = (item(tags=self.tags()) for _ in range(some(self.writer.random)))
        await self.writer.append_unless(stream, self.tags(), any_of(*items))

    def tags(self) -> list[str]:
        generation = int(time.time() // GENERATION)
        chosen = self.writer.random.sample(range(TAGS), some(self.writer.random))
        return [f"tag-{generation}-{number}" for number in chosen]


class Saver:
    """Loads and saves, some time after it loaded; now and then a rebuild."""

    def __init__(self, name: str, call: Call, history: Any, seed: object) -> None:
        self.call = call
        self.history = history
        self.random = random.Random(f"{seed} {name}")

    async def step(self) -> None:
        stream = shared_stream(self.random)
        aggregate = await self.call(Aggregate.of, Ledger, stream)
        self.history.write(
            Observation(stream, aggregate.version, aggregate.view(), "view")
        )
        await self.call.pause(self.random.random() * 0.1)
        await self.call(aggregate.save)
        if self.random.random() < 0.02:
            rebuild = AggregateRebuild.build_and_save
            await self.call(rebuild, Ledger.aggregate_type, stream)


class Reader:
    """Reads snapshots and streams, some of each stream again and again."""

    def __init__(self, name: str, call: Call, history: Any, seed: object) -> None:
        self.call = call
        self.history = history
        self.random = random.Random(f"{seed} {name}")
        self.seen: dict[str, int] = {}

    async def step(self) -> None:
        stream = shared_stream(self.random)
        snapshot = await self.call(Aggregate.find, stream)
        if snapshot:
            seen = snapshot["aggregateVersion"], snapshot["state"]
            self.history.write(Observation(stream, *seen))
        after = max(0, self.seen.get(stream, 0) - AGAIN)
        events = await self.call(EventStore.get_event_stream, stream, after)
        if events:
            seen = [[event["aggregateVersion"], str(event["_id"])] for event in events]
            self.history.write(Reading(stream, after, seen))
            self.seen[stream] = events[-1]["aggregateVersion"]
        await self.call.pause(self.random.random() * 0.1)
