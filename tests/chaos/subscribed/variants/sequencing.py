"""Positions that are assigned too early, and a sequencer that certifies too early."""

from __future__ import annotations

import datetime as dt
import random
from typing import Any

from bson import ObjectId
from pymongo import ReturnDocument

from ossy_event_store import EventStore
from ossy_event_store.mongodb import connection
from ossy_event_store.mongodb.connection import Store
from ossy_event_store.positions.change_stream import ChangeStream
from ossy_event_store.positions.sequencer import Sequencer

from ...database import Document
from ..effects import Effects
from .events import EVENTS, STREAMS, assign_positions, effect_of, made, what_is_left

NOON = dt.datetime(2026, 1, 1, 12, tzinfo=dt.UTC)


# --- writers that do not commit in the order in which they began --------------


class AssignedAfter:
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
        assign_positions(self.sequencer)
        last = self.seen[-1]["position"] if self.seen else 0
        self.seen += EventStore.read_all(last)

    def effects(self) -> Effects:
        self.sequencer.close()
        return what_is_left(
            self.store, delivered={"poll": list(map(effect_of, self.seen))}
        )


class ByField(AssignedAfter):
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


def overtake(store: Store, seed: int, Positions: type[AssignedAfter]) -> Effects:
    """Let writers begin one after another, and commit as it comes; poll in between."""
    choice = random.Random(seed)
    positions = Positions(store)
    open_writes: list[Document] = []
    for number in range(EVENTS):
        open_writes.append(positions.begin(made(number, f"s-{number}")))
        while open_writes and choice.random() < 0.5:
            positions.commit(open_writes.pop(choice.randrange(len(open_writes))))
        if choice.random() < 0.2:
            positions.poll()
    for event in open_writes:
        positions.commit(event)
    positions.poll()
    return positions.effects()


# --- sequencers that end during a scan -----------------------------------------


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
    assign_positions(sequencer)
    sequencer.close()
    return what_is_left(store)
