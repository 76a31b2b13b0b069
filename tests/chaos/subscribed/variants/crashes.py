"""Handlers whose process ends, and deliveries that do not survive it."""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from django.db import connections

from ossy_event_store import EventStore
from ossy_event_store.mongodb import connection
from ossy_event_store.mongodb.connection import Store
from ossy_event_store.mongodb.leases import new_owner
from ossy_event_store.mongodb.ports import drive
from ossy_event_store.positions.head_watcher import watcher
from ossy_event_store.positions.sequencer import Sequencer
from ossy_event_store.subscriptions import checkpoints
from ossy_event_store.subscriptions.consumer import Consumer
from ossy_event_store.subscriptions.declaration import Subscription
from ossy_event_store.subscriptions.delivery import Delivered
from ossy_event_store.subscriptions.delivery.at_least_once import AtLeastOnce
from ossy_event_store.subscriptions.delivery.mongodb_transaction import (
    InMongoDBTransaction,
)
from tests.support.servers import until

from ...database import Document
from ..effects import DIARY, EFFECTS, Effect, Effects
from .events import EVENTS, STREAMS, assign_positions, effect_of, made, what_is_left

CRASHES = 0.1  # chance that a handler's process ends before an effect, or after it


class Crash(KeyboardInterrupt):
    """The process ends here."""


class CheckpointFirst(AtLeastOnce):
    """The checkpoint moves, and then the handler is called."""

    async def deliver(self, events: Any, after: int) -> Delivered:
        to = {"position": after}
        await checkpoints.move(self._store, self._name, self._fence, to)
        await super().deliver(events, after)
        return Delivered(moved=True)


class OutsideOfTransaction(InMongoDBTransaction):
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
    assign_positions(sequencer)
    sequencer.close()
    name = EFFECTS if session else DIARY
    declared = Subscription(name, handle, session=session, batch=5)
    consume(store, declared, Kind)
    if not session:
        return what_is_left(store, delivered={name: written})
    found = [Effect(*one["of"]) for one in database[EFFECTS].find()]
    database.drop_collection(EFFECTS)
    return what_is_left(store, exact={name: found})


def consume(store: Store, declared: Subscription, delivery: Any) -> None:
    """Run a subscription to the end of the events, again after each crash."""
    stand = connection.raw(store.subscriptions)

    def is_at_the_end() -> bool:
        stands = stand.find_one({"_id": declared.name})
        return bool(stands) and stands["position"] == EVENTS

    run_until(store, replace(declared, delivery=delivery), is_at_the_end)


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
