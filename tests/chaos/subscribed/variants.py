"""
Positions and subscriptions that are weaker than ours, each in one point.

A scenario is the same for those as they are and for the weak ones. The seed decides
in which order things happen, and nothing else does.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import random
import threading
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from bson import ObjectId
from django.db import connections, transaction
from pymongo import ReturnDocument

from ossy_event_store import EventStore, Projection
from ossy_event_store.mongodb import connection
from ossy_event_store.mongodb.connection import Store
from ossy_event_store.mongodb.leases import new_owner
from ossy_event_store.mongodb.ports import drive
from ossy_event_store.positions.change_stream import ChangeStream
from ossy_event_store.positions.head_watcher import watcher
from ossy_event_store.positions.sequencer import Sequencer
from ossy_event_store.projections.fold import Fold
from ossy_event_store.projections.writer import Writer, _requests
from ossy_event_store.subscriptions import (
    checkpoints,
    declaration,
    delivery,
    operator_actions,
)
from ossy_event_store.subscriptions.consumer import Consumer
from ossy_event_store.subscriptions.declaration import Subscription
from ossy_event_store.subscriptions.delivery import (
    AtLeastOnce,
    Delivered,
    InDatabase,
    InTransaction,
)
from ossy_event_store.subscriptions.parked_streams import Failed
from tests.support.servers import until

from ..database import Document
from ..ledger import Ledger, entry
from .effects import DIARY, EFFECTS, ROWS, Effect, Effects
from .failing import Bad
from .keys import CHAINS, KEYS
from .operated import Skip

EVENTS = 40  # of a scenario
STREAMS = 8
SCAN = 10  # events a round trip of a scan
DOCUMENTS = 4  # of a projection
BROKEN = 8  # events that fail, of each way
LATER = 6  # events after the one at which a stream is parked
LAST = "last"  # a stream whose events come after all others
SQL = "sql"  # the alias of an SQL database that has the checkpoints' table
CRASHES = 0.1  # chance that a handler's process ends before an effect, or behind it
NOON = dt.datetime(2026, 1, 1, 12, tzinfo=dt.UTC)


def made(number: int, stream: str) -> Document:
    return {
        **entry(f"t-{number}", number),
        "aggregateId": stream,
        "aggregateType": Ledger.aggregate_type,
    }


def given(sequencer: Sequencer) -> None:
    """Let a sequencer work until there is nothing left to do."""
    quiet = 0
    while quiet < 2:
        sequencer.advance(0.05)
        quiet = quiet + 1 if sequencer.is_caught_up else 0


def left(store: Store, **more: Any) -> Effects:
    order = [("aggregateId", 1), ("aggregateVersion", 1)]
    return Effects(
        list(connection.raw(store.events).find(sort=order)),
        list(connection.raw(store.positions).find(sort=[("_id", 1)])),
        **more,
    )


# --- writers that are not done in the order in which they began --------------


class GivenAfter:
    """The positions as they are: given by a sequencer, after the commit."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.events = connection.raw(store.events)
        self.sequencer = Sequencer(store)
        self.seen: list[Document] = []

    def begin(self, event: Document) -> Document:
        return event

    def commit(self, event: Document) -> None:
        EventStore.append_event(event)

    def poll(self) -> None:
        given(self.sequencer)
        last = self.seen[-1]["position"] if self.seen else 0
        self.seen += EventStore.read_all(last)

    def effects(self) -> Effects:
        self.sequencer.close()
        return left(self.store, delivered={"poll": list(map(effect_of, self.seen))})


class ByField(GivenAfter):
    """The events carry what is taken for their position."""

    field = "position"

    def commit(self, event: Document) -> None:
        self.events.insert_one({"aggregateVersion": 1, **event, "_id": ObjectId()})

    def poll(self) -> None:
        last = {"$gt": self.seen[-1][self.field]} if self.seen else {"$exists": True}
        self.seen += self.events.find({self.field: last}, sort=[(self.field, 1)])

    def effects(self) -> Effects:
        self.sequencer.close()
        ordered = list(self.events.find(sort=[(self.field, 1)]))
        entries = [
            {**event, "_id": number, "eventId": event["_id"]}
            for number, event in enumerate(ordered, 1)
        ]
        places = {entry["eventId"]: entry["_id"] for entry in entries}
        seen = [effect_of({**e, "position": places[e["_id"]]}) for e in self.seen]
        return Effects(ordered, entries, delivered={"poll": seen})


class ByCounter(ByField):
    def begin(self, event: Document) -> Document:
        counter = connection.raw(self.store.leases).find_one_and_update(
            {"_id": "counter"},
            {"$inc": {"last": 1}},
            upsert=True,
            return_document=ReturnDocument.AFTER,
        )
        return {**event, "position": counter["last"]}


class ByCreated(ByField):
    field = "created"

    def begin(self, event: Document) -> Document:
        second = dt.timedelta(seconds=event["payload"]["note"])
        return {**event, "created": NOON + second}


def effect_of(event: Document) -> Effect:
    stream, version = event["aggregateId"], event["aggregateVersion"]
    return Effect(str(event["_id"]), stream, version, event["position"])


def overtake(store: Store, seed: int, Positions: type[GivenAfter]) -> Effects:
    """Let writers begin one after another, and commit as it comes; poll in between."""
    choice = random.Random(seed)
    positions = Positions(store)
    begun: list[Document] = []
    for number in range(EVENTS):
        begun.append(positions.begin(made(number, f"s-{number}")))
        while begun and choice.random() < 0.5:
            positions.commit(begun.pop(choice.randrange(len(begun))))
        if choice.random() < 0.2:
            positions.poll()
    for event in begun:
        positions.commit(event)
    positions.poll()
    return positions.effects()


# --- sequencers that end in the midst of a scan ------------------------------


class CertifiesEarly(Sequencer):
    """Says of each batch of a scan that all up to now has a position."""

    def _assign(self, found: Any) -> int:
        count = super()._assign(found)
        if found and all(token is None for _, token in found):
            now = ChangeStream(self._events)
            self._certify(now.token)
            now.close()
        return count


def end_in_a_scan(store: Store, seed: int, Kind: type[Sequencer]) -> Effects:
    choice = random.Random(seed)
    for number in range(EVENTS):
        EventStore.append_event(made(number, f"s-{choice.randrange(STREAMS)}"))
    for _ in range(2):
        sequencer = Kind(store)
        sequencer.advance(0.05)
        sequencer.close()
    sequencer = Kind(store)
    given(sequencer)
    sequencer.close()
    return left(store)


# --- handlers whose process ends ---------------------------------------------


class Crash(BaseException):
    """The process ends here."""


class CheckpointFirst(AtLeastOnce):
    """The checkpoint moves, and then the handler is called."""

    async def deliver(self, events: Any, after: int) -> Delivered:
        to = {"position": after}
        await checkpoints.move(self._store, self._name, self._fence, to)
        await super().deliver(events, after)
        return Delivered(moved=True)


class OutsideOfTransaction(InTransaction):
    """The effect is stored, and then the checkpoint."""

    async def deliver(self, events: Any, after: int) -> Delivered:
        for event in events:
            self._handle(event, None)
        to = {"position": after}
        await checkpoints.move(self._store, self._name, self._fence, to)
        return Delivered(moved=True)


def crash_in_a_handler(
    store: Store, seed: int, Kind: Callable[..., Any], *, session: bool
) -> Effects:
    choice = random.Random(seed)
    written: list[Effect] = []
    database = connection.raw(store.events).database
    database.drop_collection(EFFECTS)
    database.create_collection(EFFECTS)

    def handle(event: Document, *sessions: Any) -> None:
        if choice.random() < CRASHES:
            raise Crash
        effect = effect_of(event)
        if session:
            database[EFFECTS].insert_one({"of": list(effect)}, session=sessions[0])
        else:
            written.append(effect)
        if choice.random() < CRASHES:
            raise Crash

    for number in range(EVENTS):
        EventStore.append_event(made(number, f"s-{choice.randrange(STREAMS)}"))
    sequencer = Sequencer(store)
    given(sequencer)
    sequencer.close()
    name = EFFECTS if session else DIARY
    declared = Subscription(name, handle, session=session, batch=5)
    consume(store, declared, Kind)
    if not session:
        return left(store, delivered={name: written})
    found = [Effect(*one["of"]) for one in database[EFFECTS].find()]
    database.drop_collection(EFFECTS)
    return left(store, exact={name: found})


def consume(store: Store, declared: Subscription, effect: Any) -> None:
    """Run a subscription to the end of the events, anew after each crash."""
    stand = connection.raw(store.subscriptions)

    def is_at_the_end() -> bool:
        stands = stand.find_one({"_id": declared.name})
        return bool(stands) and stands["position"] == EVENTS

    run_until(store, replace(declared, effect=effect), is_at_the_end)


def run_until(
    store: Store, declared: Subscription, condition: Callable[[], bool]
) -> None:
    """Run a subscription until something is true, again after each crash."""
    with at_work(store, declared, threading.Event()):
        until(condition)


@contextlib.contextmanager
def at_work(
    store: Store, declared: Subscription, stop: threading.Event
) -> Iterator[None]:
    """Run a subscription, again after each crash."""

    def work() -> None:
        while not stop.is_set():
            with contextlib.suppress(Crash):
                run_once(store, declared, stop)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        watcher.close()


def run_once(store: Store, declared: Subscription, stop: threading.Event) -> None:
    """Run a subscription until it is told to stop, as a process that gets SIGTERM."""
    try:
        drive(Consumer(declared, new_owner(), stop).run(store))
    finally:
        connections.close_all()


# --- handlers that fail, and what operators do about it ------------------------


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
        given(sequencer)
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


def dying(Kind: type[delivery.Delivery], scene: Scene) -> type[delivery.Delivery]:
    """Return the effect with an end of its process behind a delivery."""

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
            effect=dying(Kind, self),
            more={"generation": 1, "revision": cls.revision},
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
        return left(self.store, documents={CHAINS: found})


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
        super().__init__(store, seed, replace(declared, effect=Kind))

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
    return left(store, exact={ROWS: scene.done})


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
    return left(store, exact={ROWS: scene.done}, skips=skips)


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
        old = await self._find(fold.keys)
        fold.load(old)
        while (key := fold.advance()) is not None:
            fold.restore(key, (await self._find([key])).get(key))
        parked = list(fold.failed.values())
        for failed in parked:
            await self.park(failed, None)
        requests, _ = _requests(fold.changed(), old)
        if requests:
            await self._documents.bulk_write(requests, ordered=False)
        return Delivered(moved=False, parked=parked)


class MongoDBDecides(InDatabase):
    """What is parked stands in MongoDB; the row moves with deliveries alone."""

    async def parked(self) -> dict[str, int]:
        return await delivery.Delivery.parked(self)

    async def park(self, failed: Failed, after: int | None) -> None:
        await delivery.Delivery.park(self, failed, None)
        place = failed.event["aggregateId"], failed.event["position"] - 1
        self._rows.part(self._name, *place, self._using)

    async def release(self, waits: Document, seen: int) -> bool:
        self._rows.join(self._name, waits["aggregateId"], self._using)
        return await delivery.Delivery.release(self, waits, seen)

    async def settle(self, position: int) -> None:
        pass


# --- all of them --------------------------------------------------------------


@dataclass
class Variant:
    scenario: Callable[..., Effects]
    as_it_is: Callable[..., Any]
    weak: Callable[..., Any]
    #: What the checker finds.
    finds: str
    #: Whether it needs an SQL database, under the alias ``SQL``.
    in_sql: bool = False


AT_LEAST_ONCE = partial(crash_in_a_handler, session=False)
EXACTLY_ONCE = partial(crash_in_a_handler, session=True)

VARIANTS = {
    "position by counter before commit": Variant(
        overtake, GivenAfter, ByCounter, "missed"
    ),
    "position by created": Variant(overtake, GivenAfter, ByCreated, "missed"),
    "certified in the midst of a scan": Variant(
        end_in_a_scan, Sequencer, CertifiesEarly, "without a position"
    ),
    "checkpoint before effect": Variant(
        AT_LEAST_ONCE, AtLeastOnce, CheckpointFirst, "missed"
    ),
    "effect and checkpoint apart": Variant(
        EXACTLY_ONCE, InTransaction, OutsideOfTransaction, "doubled"
    ),
    "parked at the last failure of a batch": Variant(
        fail_twice_in_a_batch, Writer, ParksAtTheLast, "missed"
    ),
    "parked though it is applied": Variant(
        fail_at_what_is_applied, Writer, WritesApart, "doubled"
    ),
    "released before what the documents have": Variant(
        retry_before_the_checkpoint, Writer, WritesApart, "missed"
    ),
    "released before its row": Variant(
        end_in_a_release, InDatabase, MongoDBDecides, "doubled", in_sql=True
    ),
    "skipped before its row": Variant(
        end_after_a_skip, InDatabase, MongoDBDecides, "done though skipped", in_sql=True
    ),
}
