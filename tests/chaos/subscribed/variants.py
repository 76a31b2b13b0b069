"""
Positions and subscriptions that are weaker than ours, each in one point.

A scenario is the same for those as they are and for the weak ones. The seed decides
in which order things happen, and nothing else does.
"""

from __future__ import annotations

import datetime as dt
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from bson import ObjectId
from pymongo import ReturnDocument

from ossy_event_store import EventStore, checkpoints, mongo
from ossy_event_store.consumer import Consumer
from ossy_event_store.delivery import AtLeastOnce, InTransaction
from ossy_event_store.faces import drive
from ossy_event_store.follow import follower
from ossy_event_store.leases import new_owner
from ossy_event_store.mongo import Store
from ossy_event_store.sequence import Changes, Sequencer
from ossy_event_store.subscriptions import Subscription
from tests.servers import until

from ..database import Document
from ..ledger import Ledger, entry
from .effects import DIARY, EFFECTS, Effect, Effects

EVENTS = 40  # of a scenario
STREAMS = 8
SCAN = 10  # events a round trip of a scan
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
        list(mongo.raw(store.events).find(sort=order)),
        list(mongo.raw(store.positions).find(sort=[("_id", 1)])),
        **more,
    )


# --- writers that are not done in the order in which they began --------------


class GivenAfter:
    """The positions as they are: given by a sequencer, after the commit."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.events = mongo.raw(store.events)
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
        counter = mongo.raw(self.store.leases).find_one_and_update(
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

    def _give(self, found: Any) -> int:
        count = super()._give(found)
        if found and all(token is None for _, token in found):
            now = Changes(self._events)
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

    async def deliver(self, events: Any, after: int, fence: int, park: Any) -> bool:
        await checkpoints.move(self._store, DIARY, fence, {"position": after})
        await super().deliver(events, after, fence, park)
        return True


class OutsideOfTransaction(InTransaction):
    """The effect is stored, and then the checkpoint."""

    async def deliver(self, events: Any, after: int, fence: int, park: Any) -> bool:
        for event in events:
            self._handle(event, None)
        await checkpoints.move(self._store, EFFECTS, fence, {"position": after})
        return True


def crash_in_a_handler(
    store: Store, seed: int, Kind: Callable[..., Any], *, session: bool
) -> Effects:
    choice = random.Random(seed)
    written: list[Effect] = []
    database = mongo.raw(store.events).database
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
    consume(store, declared, partial(_effect, Kind, declared, session))
    if not session:
        return left(store, delivered={name: written})
    found = [Effect(*one["of"]) for one in database[EFFECTS].find()]
    database.drop_collection(EFFECTS)
    return left(store, exact={name: found})


def _effect(
    Kind: Callable[..., Any], declared: Subscription, session: bool, *own: Any
) -> Any:
    store = own[0]
    return Kind(*own, declared) if session else Kind(store, declared)


def consume(store: Store, declared: Subscription, effect: Any) -> None:
    """Run a subscription to the end of the events, anew after each crash."""
    stop = threading.Event()
    declared = replace(declared, effect=effect)

    def work() -> None:
        while not stop.is_set():
            try:
                drive(Consumer(declared, new_owner(), stop).run(store))
            except Crash:
                continue

    def is_at_the_end() -> bool:
        stands = mongo.raw(store.subscriptions).find_one({"_id": declared.name})
        return bool(stands) and stands["position"] == EVENTS

    thread = threading.Thread(target=work)
    thread.start()
    try:
        until(is_at_the_end)
    finally:
        stop.set()
        thread.join()
        follower.close()


# --- all of them --------------------------------------------------------------


@dataclass
class Variant:
    scenario: Callable[..., Effects]
    as_it_is: Callable[..., Any]
    weak: Callable[..., Any]
    #: What the checker finds.
    finds: str


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
}
