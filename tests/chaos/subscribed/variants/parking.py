"""Handlers that fail, what operators do then, and weaker ways to park and release."""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Callable, Container
from dataclasses import replace
from functools import partial
from typing import Any

from django.db import transaction

from ossy_event_store import EventStore, Projection
from ossy_event_store.mongodb import connection
from ossy_event_store.mongodb.connection import Store
from ossy_event_store.positions.sequencer import Sequencer
from ossy_event_store.projections.fold import Fold
from ossy_event_store.projections.writer import Writer, _requests
from ossy_event_store.subscriptions import declaration, operator_actions
from ossy_event_store.subscriptions.declaration import Subscription
from ossy_event_store.subscriptions.delivery import Delivered, Delivery
from ossy_event_store.subscriptions.delivery.sql_transaction import InSQLTransaction
from ossy_event_store.subscriptions.parked_streams import Failed
from tests.support.servers import until

from ...database import Document
from ...ledger import entry
from ..effects import ROWS, Effect, Effects
from ..failing import Bad
from ..keys import CHAINS, KEYS
from ..operated import Skip
from .crashes import Crash, at_work, run_once, run_until
from .events import EVENTS, STREAMS, assign_positions, effect_of, made, what_is_left

DOCUMENTS = 4  # of a projection
BROKEN = 8  # events that fail, of each way
LATER = 6  # events after the one at which a stream is parked
LAST = "last"  # a stream whose events come after all others
SQL = "sql"  # the alias of an SQL database that has the checkpoints' table


# --- subscriptions whose bad events can be fixed ------------------------------


class Scene:
    """A store with some events, and a subscription whose bad events can be fixed."""

    def __init__(self, store: Store, seed: int, declared: Subscription) -> None:
        self.store = store
        self.random = random.Random(seed)
        self.declared = declared
        self.head = 0
        #: Whether the process ends after its next delivery.
        self.dies = False

    def append(self, *streams: str) -> None:
        """Append an event to each of these streams, and give it a position."""
        for stream in streams:
            self.head += 1
            note = self.random.randrange(DOCUMENTS)
            event = {**made(self.head, stream), **entry(f"t-{self.head}", note)}
            EventStore.append_event(event)
        sequencer = Sequencer(self.store)
        assign_positions(sequencer)
        sequencer.close()

    def run(self) -> None:
        """Run to the end of the events; what fails is parked."""
        run_until(self.store, self.declared, self.is_at_the_end)

    def release(self) -> None:
        """Retry what is parked, and run until nothing is."""
        operator_actions.retry(self.declared.name)
        parked = connection.raw(self.store.parked)
        run_until(
            self.store,
            self.declared,
            lambda: not parked.count_documents({}) and self.is_at_the_end(),
        )

    def is_at_the_end(self) -> bool:
        return bool(self.stands and self.stands["position"] == self.head)

    @property
    def stands(self) -> Document | None:
        stand = connection.raw(self.store.subscriptions)
        return stand.find_one({"_id": self.declared.name})

    def run_and_die(self) -> None:
        """Run until the next delivery is done, and let the process end there."""
        self.dies = True
        with contextlib.suppress(Crash):
            run_once(self.store, self.declared, threading.Event())
        assert not self.dies


def dying(Kind: type[Delivery], scene: Scene) -> type[Delivery]:
    """Return the delivery, with the end of its process after the next one."""

    class Dying(Kind):  # type: ignore[misc, valid-type]
        async def deliver(self, events: Any, after: int) -> Delivered:
            done: Delivered = await super().deliver(events, after)
            if scene.dies:
                scene.dies = False
                raise Crash
            return done

    return Dying


class Projected(Scene):
    """A projection; ``keys`` and ``applies`` are the tokens at which it fails."""

    def __init__(self, store: Store, seed: int, Kind: Callable[..., Any]) -> None:
        self.keys: set[str] = set()
        self.applies: set[str] = set()
        cls = self.projection()
        declared = Subscription(
            CHAINS,
            cls,
            kind="projection",
            delivery=dying(Kind, self),
            document_fields=lambda: {"generation": 1, "revision": cls.revision},
        )
        super().__init__(store, seed, declared)
        self.documents = connection.raw(store.events).database[f"projection_{CHAINS}"]
        self.documents.drop()

    def projection(self) -> Any:
        scene = self

        class Chains(Projection):
            name = CHAINS
            revision = "1"

            @staticmethod
            def key(event: Document) -> Any:
                fail_at(event, scene.keys)
                return KEYS[CHAINS](event)

            @staticmethod
            def apply(event: Document, state: Document) -> Document:
                fail_at(event, scene.applies)
                stream, token = event["aggregateId"], event["payload"]["token"]
                return {**state, stream: [*state.get(stream, ()), token]}

        return Chains

    def append_all(self) -> None:
        self.append_some(EVENTS)

    def append_some(self, count: int) -> None:
        self.append(*(f"s-{self.random.randrange(STREAMS)}" for _ in range(count)))

    def some(self, count: int) -> list[str]:
        return [f"t-{n}" for n in self.random.sample(range(1, self.head + 1), count)]

    def fix(self) -> None:
        self.keys.clear()
        self.applies.clear()

    def effects(self) -> Effects:
        found = {one["_id"]: one["state"] for one in self.documents.find()}
        self.documents.drop()
        return what_is_left(self.store, documents={CHAINS: found})


def fail_at(event: Document, tokens: Container[str]) -> None:
    if event["payload"]["token"] in tokens:
        raise Bad(event["payload"]["token"])


def fail_twice_in_a_batch(store: Store, seed: int, Kind: Callable[..., Any]) -> Effects:
    """Let several events of a stream fail in one batch, each in its own way."""
    scene = Projected(store, seed, Kind)
    scene.append_all()
    scene.keys.update(scene.some(BROKEN))
    scene.applies.update(scene.some(BROKEN))
    scene.run()
    scene.fix()
    scene.release()
    return scene.effects()


def fail_at_what_is_applied(
    store: Store, seed: int, Kind: Callable[..., Any]
) -> Effects:
    """Kill a process after it wrote documents; what is in them fails for the next."""
    scene = Projected(store, seed, Kind)
    scene.append_some(EVENTS // 4)
    scene.run()
    scene.append_some(EVENTS)
    scene.run_and_die()
    scene.keys.update(scene.some(BROKEN))
    scene.applies.update(scene.some(BROKEN))
    scene.run()
    scene.fix()
    scene.release()
    return scene.effects()


def retry_before_the_checkpoint(
    store: Store, seed: int, Kind: Callable[..., Any]
) -> Effects:
    """Kill a process after it parked streams; retry before the next one starts."""
    scene = Projected(store, seed, Kind)
    scene.append_some(EVENTS // 4)
    scene.run()
    scene.append_some(EVENTS)
    scene.applies.update(scene.some(BROKEN))
    scene.run_and_die()
    scene.fix()
    scene.release()
    return scene.effects()


class InRows(Scene):
    """A subscription that writes to SQL, and fails at each event of one stream."""

    def __init__(self, store: Store, seed: int, Kind: Callable[..., Any]) -> None:
        self.done: list[Effect] = []
        self.broken: set[str] = set()
        #: In how many events from now the process is told to end, and how it is.
        self.left: int | None = None
        self.stop = threading.Event()
        declared = Subscription(ROWS, self.handle, using=SQL, batch=5, retries=0)
        declaration.add(declared)  # an operator looks where its checkpoint is
        super().__init__(store, seed, replace(declared, delivery=Kind))

    def handle(self, event: Document) -> None:
        if event["aggregateId"] in self.broken:
            raise Bad(event["payload"]["token"])
        # If it is rolled back, nothing was done.
        done = partial(self.done.append, effect_of(event))
        transaction.on_commit(done, using=SQL)
        if self.left is not None:
            self.left -= 1
            if self.left == 0:
                self.stop.set()

    def park_the_last(self) -> str:
        """Let the stream of the last event be parked; return which it is."""
        self.append(*(f"s-{self.random.randrange(STREAMS)}" for _ in range(EVENTS)))
        self.broken.add(LAST)
        self.append(LAST)
        until(self.is_at_the_end)
        # The row is no further: these are passed over.
        self.append(*[LAST] * LATER)
        until(self.is_at_the_end)
        return LAST


def end_in_a_release(store: Store, seed: int, Kind: Callable[..., Any]) -> Effects:
    """End a process, as with SIGTERM, while it releases a stream and nothing else."""
    scene = InRows(store, seed, Kind)
    with at_work(store, scene.declared, scene.stop):
        scene.park_the_last()
        scene.left = scene.random.randint(1, LATER)
        scene.broken.clear()
        operator_actions.retry(ROWS)
        until(scene.stop.is_set)
    scene.release()
    return what_is_left(store, exact={ROWS: scene.done})


def end_after_a_skip(store: Store, seed: int, Kind: Callable[..., Any]) -> Effects:
    """Skip the first event of a parked stream, while or before a process is at work."""
    scene = InRows(store, seed, Kind)
    with at_work(store, scene.declared, scene.stop):
        parked = scene.park_the_last()
        if seed % 2:
            scene.stop.set()
        scene.left = scene.random.randint(1, LATER)
        record = operator_actions.skip(ROWS, parked, "chaos")
        scene.broken.clear()
        assert record
        until(scene.stop.is_set)
    scene.release()
    version = record["aggregateVersion"]
    skips = [Skip(ROWS, str(record["eventId"]), parked, version)]
    return what_is_left(store, exact={ROWS: scene.done}, skips=skips)


# --- weaker ways to park and to release ----------------------------------------


class KeepsTheLast(Fold):
    """Of a stream's failures, the last that is found counts."""

    def __init__(self, cls: Any, events: Any) -> None:
        self.bad: set[int] = set()
        super().__init__(cls, events)

    def _fail(self, event: Document, error: BaseException) -> None:
        self.bad.add(event["position"])
        known = self.failed.get(event["aggregateId"])
        if known is None or event["position"] > known.event["position"]:
            self.failed[event["aggregateId"]] = Failed(event, error)

    def _is_parked(self, event: Document) -> bool:
        return event["position"] in self.bad or super()._is_parked(event)


class ParksAtTheLast(Writer):
    """A stream is parked at its last event that fails in a batch."""

    fold_class = KeepsTheLast


class WritesApart(Writer):
    """Parked streams, documents and checkpoint are written one after the other."""

    async def deliver(self, events: Any, after: int) -> Delivered:
        fold = Fold(self._cls, events)
        old = await self._apply(fold, may_split=False)
        parked = list(fold.failed.values())
        for failed in parked:
            await self.park(failed, None)
        requests, _ = _requests(fold.changed(), fold.deleted(), old)
        if requests:
            await self._documents.bulk_write(requests, ordered=False)
        return Delivered(moved=False, parked=parked)


class MongoDBDecides(InSQLTransaction):
    """What is parked stands in MongoDB; the row moves with deliveries alone."""

    async def parked(self) -> dict[str, int]:
        return await Delivery.parked(self)

    async def park(self, failed: Failed, after: int | None) -> None:
        await Delivery.park(self, failed, None)
        place = failed.event["aggregateId"], failed.event["position"] - 1
        self._rows.park(self._name, *place, self._using)

    async def release(self, waits: Document, seen: int) -> bool:
        self._rows.release(self._name, waits["aggregateId"], self._using)
        return await Delivery.release(self, waits, seen)

    async def settle(self, position: int) -> None:
        pass
