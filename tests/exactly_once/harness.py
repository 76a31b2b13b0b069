"""
Consumers as coroutines that stop before each operation, all in one thread.

The blocking face never suspends. Here each operation suspends once before it begins,
so a *process* is stepped from one operation to the next, others run in between, and
one that is killed begins no other operation. The servers are real.
"""

from __future__ import annotations

import contextlib
import contextvars
import threading
import types
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import Any

from django.db import connections
from pymongo.errors import PyMongoError

from ossy_event_store.mongodb import connection
from ossy_event_store.mongodb.blocking_port import BlockingClient, BlockingCollection
from ossy_event_store.mongodb.connection import Store
from ossy_event_store.mongodb.ports import drive
from ossy_event_store.subscriptions.claim import Timings
from ossy_event_store.subscriptions.consumer import Consumer

TICK = 0.01  # seconds that an operation takes, by the clock of the harness
COLLECTIONS = (
    *("events", "snapshots", "leases", "positions"),
    *("subscriptions", "parked", "skipped"),
)
ASYNC = ("count", "count_where", "index_information", "create_index")
ASYNC += ("find_one", "find", "insert_one", "insert_many", "replace_one", "bulk_write")
ASYNC += ("update_one", "update_many", "find_one_and_update", "database_command")
ASYNC += ("delete_one", "delete_many")


class Killed(KeyboardInterrupt):
    """The process was killed: nothing that it would do now happens."""


@types.coroutine
def _suspend() -> Generator[None, None, None]:
    yield


class Clock:
    """The clock of all consumers: it advances with what is done."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


class Crew:
    """All processes of one example, and what they did."""

    def __init__(
        self, clock: Clock, counts: Counter[str], timings: Timings, page_events: int
    ) -> None:
        self.clock = clock
        self.timings = timings
        self.page_events = page_events
        self.counts = counts
        self.all: list[Process] = []
        #: The one that is being stepped.
        self.running: Process | None = None

    @property
    def alive(self) -> list[Process]:
        """Those that are neither dead nor done, the oldest first."""
        return [process for process in self.all if process.is_alive]

    def start(self, declared: Any, alias: str | None = None) -> Process:
        """Start a process; it does its first step when it is told to."""
        if self.alive:
            self.counts["taken over"] += 1
        self.counts["started"] += 1
        process = Process(self, declared, f"process-{len(self.all) + 1}", alias)
        self.all.append(process)
        return process

    def point(self) -> None:
        """Be a place at which a handler's process may be killed."""
        if self.running is not None:
            self.running.burn()

    def wait(self, after: int, seconds: float) -> int:
        """Stand in for the watcher of the head: nothing new, and no time to lose."""
        self.clock.now += seconds
        if self.running is not None:
            self.running.waits += 1
        return after

    def close(self) -> None:
        """End what is left of all processes."""
        for process in self.all:
            process.is_dead = True
        for process in self.all:
            process.close()


class Process:
    """One consumer, from its start until it ends or is killed."""

    def __init__(self, crew: Crew, declared: Any, owner: str, alias: str | None):
        self.crew = crew
        self.owner = owner
        self.stop = threading.Event()
        self.is_dead = False
        self.has_ended = False
        #: How often it waited for events, in a row.
        self.waits = 0
        #: Operations until it is killed.
        self.fuse: int | None = None
        #: The operation before which it stands.
        self.at = ""
        self.transactions = 0
        self.sessions: list[Any] = []
        self.held: list[Any] = []
        #: Sessions whose transactions it ended.
        self.ended_sessions: list[Any] = []
        self._alias = alias
        self._lock = threading.Lock()
        self._thread = threading.get_ident()
        self._context = contextvars.copy_context()
        consumer = Consumer(
            declared,
            owner,
            self.stop,
            crew.timings,
            page_events=crew.page_events,
            clock=crew.clock.monotonic,
        )
        self._coroutine = consumer.run(mortal(connection.blocking(), self))

    @property
    def is_alive(self) -> bool:
        return not (self.is_dead or self.has_ended)

    @property
    def is_in_transaction(self) -> bool:
        """Whether it holds locks, so that others may have to wait for it."""
        return self.transactions > 0

    def step(self) -> None:
        """Do the operation before which it stands, up to the next one."""
        assert self.is_alive
        before, self.crew.running = self.crew.running, self
        try:
            self._context.run(self._coroutine.send, None)
        except StopIteration:
            self.has_ended = True
        except Killed:
            self.is_dead = True
        finally:
            self.crew.running = before

    def run(self, steps: int, until: Callable[[], bool] | None = None) -> int:
        """Do some steps, and more if it holds locks then; return how many."""
        done = 0
        while self.is_alive and (done < steps or self.is_in_transaction):
            if until is not None and not self.is_in_transaction and until():
                break
            self.step()
            done += 1
        return done

    def terminate(self, most: int = 400) -> None:
        """Send it SIGTERM and let it end."""
        self.stop.set()
        self.run(most)
        assert self.has_ended or self.is_dead, "It does not end after SIGTERM."

    # --- operations

    async def before(self, operation: str) -> None:
        """Be at the begin of an operation: suspend, or die."""
        self.at = operation
        self.burn()
        if threading.get_ident() != self._thread or self._is_in_sql():
            return  # a lane in the thread of a pool, which no other process steps
        await _suspend()
        self.burn(0)

    def burn(self, count: int = 1) -> None:
        """Let the fuse burn down; at its end the process dies."""
        with self._lock:
            if self.fuse is not None:
                self.fuse -= count
                if self.fuse < 0:
                    self.is_dead = True
            if self.is_dead:
                raise Killed
            self.crew.clock.now += count * TICK
            self.crew.counts["operations"] += count

    def _is_in_sql(self) -> bool:
        return self._alias is not None and connections[self._alias].in_atomic_block

    # --- its end

    def end_transactions(self) -> None:
        """End what a dead process left open, as the server does after a while."""
        for session in self.sessions:
            with contextlib.suppress(PyMongoError):
                drive(connection.blocking().client.end_transaction(session.session_id))
        self.transactions = 0

    def close(self) -> None:
        """Drop what is left of a dead process."""
        for session in self.sessions:
            with contextlib.suppress(PyMongoError):
                session.end_session()
        with contextlib.suppress(Killed, RuntimeError):
            self._context.run(self._coroutine.close)
        self.held.clear()


# --- its store ----------------------------------------------------------------


class MortalCollection(BlockingCollection):
    """A collection whose operations a process stops before."""

    __slots__ = ()
    process: Process

    async def batches(self, *args: Any, **options: Any) -> AsyncGenerator[Any, None]:
        await self.process.before(f"{self.raw.name}.batches")
        async for batch in super().batches(*args, **options):
            yield batch

    async def aggregate(self, *args: Any, **options: Any) -> AsyncGenerator[Any, None]:
        await self.process.before(f"{self.raw.name}.aggregate")
        async for batch in super().aggregate(*args, **options):
            yield batch


def _stopping(name: str) -> Any:
    original = getattr(BlockingCollection, name)

    async def operation(self: MortalCollection, *args: Any, **options: Any) -> Any:
        await self.process.before(f"{self.raw.name}.{name}")
        return await original(self, *args, **options)

    return operation


for _name in ASYNC:
    setattr(MortalCollection, _name, _stopping(_name))


class MortalClient(BlockingClient):
    """A client whose operations a process stops before; its pauses take no time."""

    __slots__ = ("process",)

    def __init__(self, raw: Any, process: Process) -> None:
        super().__init__(raw)
        self.process = process

    async def command(self, name: str, **options: Any) -> Any:
        await self.process.before(name)
        return await super().command(name, **options)

    async def pause(self, seconds: float) -> None:
        await self.process.before("pause")
        self.process.crew.clock.now += seconds

    @contextlib.asynccontextmanager
    async def meanwhile(self, work: Any) -> AsyncGenerator[Any, None]:
        # In this thread, and so at one of the times at which it could be done.
        result = await work
        yield types.SimpleNamespace(result=lambda: result)

    def session(self) -> AbstractAsyncContextManager[Any]:
        return self._held(super().session(), None)

    def transaction(self, session: Any = None) -> AbstractAsyncContextManager[Any]:
        return self._held(super().transaction(session), "commit")

    @contextlib.asynccontextmanager
    async def _held(self, context: Any, end: str | None) -> AsyncGenerator[Any, None]:
        """Hold a context that a dead process does not leave."""
        process = self.process
        session = await context.__aenter__()
        process.held.append(context)
        process.sessions.append(session)
        process.transactions += end is not None
        try:
            yield session
            if end is not None:
                await process.before(end)
        except BaseException as error:
            if process.is_dead:
                raise
            process.transactions -= end is not None
            if not await context.__aexit__(type(error), error, error.__traceback__):
                raise
        else:
            process.transactions -= end is not None
            await context.__aexit__(None, None, None)

    async def end_transaction(self, session_id: Any) -> None:
        await self.process.before("killSessions")
        self.process.ended_sessions.append(session_id)
        await super().end_transaction(session_id)

    async def find_after_all_writes(self, *args: Any, **options: Any) -> Any:
        await self.process.before("find")
        # Its own reads begin in the raw client and take the collection as it is.
        return await super().find_after_all_writes(*args, **options)


def mortal(store: Store, process: Process) -> Store:
    """Return the store as a process sees it that may be killed."""
    # ``mongo.documents()`` makes others of the same class.
    own = type("Mortal", (MortalCollection,), {"__slots__": (), "process": process})
    collections = {
        name: own(connection.raw(getattr(store, name))) for name in COLLECTIONS
    }
    client: Any = store.client
    return replace(store, client=MortalClient(client.raw, process), **collections)
