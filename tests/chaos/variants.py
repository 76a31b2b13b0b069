"""
Stores that are weaker than ours, each in one point, and what tells them from it.

A scenario is the same for the store as it is and for the weak one; nothing in it is
left to chance.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from bson import ObjectId
from pymongo.read_concern import ReadConcern
from pymongo.write_concern import WriteConcern

from ossy_event_store.mongodb import connection
from ossy_event_store.mongodb.blocking_port import BlockingCollection
from ossy_event_store.mongodb.ports import drive
from ossy_event_store.streams.boundaries.placing import Placing
from tests.support.servers import Servers

from .calls import BlockingCall
from .history import History
from .nemesis import WRITERS, replication_stopped
from .writers import Writer

STREAM = "s"


@dataclass
class Stage:
    """Where a scenario is played: the store is connected to these servers."""

    servers: Servers
    history: History = field(default_factory=History)

    def writer(self, name: str) -> Writer:
        return Writer(name, BlockingCall(), self.history, gives_up=False)


@dataclass
class Variant:
    """A weak store, how it is made, and the scenario in which it shows."""

    weaken: Callable[[Any], None]
    scenario: Callable[[Stage], None]
    members: int
    #: What the checker finds in the end.
    finds: str
    #: Whether the store as it is cannot know the outcome of the last append at first.
    unknown: bool


# --- acknowledged by one server ---------------------------------------------


def acknowledge_alone(monkeypatch: Any) -> None:
    set_concerns(monkeypatch, write_concern=WriteConcern(1))


def set_concerns(monkeypatch: Any, **concerns: Any) -> None:
    options = {**connection.COLLECTION_OPTIONS[connection.EVENTS], **concerns}
    monkeypatch.setitem(connection.COLLECTION_OPTIONS, connection.EVENTS, options)


def kill_the_only_one_who_has_it(stage: Stage) -> None:
    ann = stage.writer("ann")
    drive(ann.create(STREAM))
    primary = stage.servers.primary
    decision = ann.decide(STREAM, "EventStore.append expected", 1)
    attempt = ann.appending(STREAM, 1)
    with replication_stopped(stage.servers):
        drive(ann.try_once(*decision, attempt))
        primary.kill()
    drive(ann.resolve(*decision, attempt))


# --- loaded before a majority has it ----------------------------------------


def read_what_may_vanish(monkeypatch: Any) -> None:
    set_concerns(monkeypatch, read_concern=ReadConcern("local"))


def append_behind_what_vanishes(stage: Stage) -> None:
    """Bob's event goes down with the primary and with Bob; Ann may have seen it."""
    ann, bob = stage.writer("ann"), stage.writer("bob")
    drive(ann.create(STREAM))
    primary = stage.servers.primary
    with replication_stopped(stage.servers):
        decision = bob.decide(STREAM, "EventStore.append expected", 1)
        drive(bob.try_once(*decision, bob.appending(STREAM, 1)))
        loaded = drive(ann.load(STREAM))
        primary.kill()
    drive(ann.add(loaded))


# --- numbered before a majority has it ----------------------------------------


def number_behind_what_vanishes(stage: Stage) -> None:
    """Bob's number goes down with the primary, just after Ann may have seen it."""
    ann, bob = stage.writer("ann"), stage.writer("bob")
    drive(ann.append_tagged(STREAM, ["x"]))
    primary = stage.servers.primary
    assign = Placing.assign
    with ExitStack() as stack:
        stack.enter_context(replication_stopped(stage.servers))
        decision = bob.decide("bob's", "EventStore.append tagged", 1)
        drive(bob.try_once(*decision, bob.tagging("bob's", ["x"])))

        async def vanish(self: Any, store: Any) -> None:
            Placing.assign = assign  # type: ignore[method-assign]
            await assign(self, store)
            primary.kill()
            stack.close()

        Placing.assign = vanish  # type: ignore[method-assign]
        try:
            drive(ann.append_tagged("ann's", ["x"]))
        finally:
            Placing.assign = assign  # type: ignore[method-assign]


# --- snapshots saved without a look -----------------------------------------


def save_blindly(monkeypatch: Any) -> None:
    replace_one = BlockingCollection.replace_one

    async def blind(self: Any, query: Any, document: Any, **options: Any) -> int:
        query = {"_id": document["_id"]}
        return await replace_one(self, query, document, **options)

    monkeypatch.setattr(BlockingCollection, "replace_one", blind)


def save_late(stage: Stage) -> None:
    ann, bob = stage.writer("ann"), stage.writer("bob")
    drive(ann.create(STREAM))
    early = drive(ann.load(STREAM))
    late = drive(bob.load(STREAM))
    drive(bob.add(late))
    late.save()
    early.save()


# --- a new id for each try --------------------------------------------------


def make_new_ids(monkeypatch: Any) -> None:
    insert_one = BlockingCollection.insert_one

    async def renamed(self: Any, document: Any, **options: Any) -> None:
        await insert_one(self, {**document, "_id": ObjectId()}, **options)

    monkeypatch.setattr(BlockingCollection, "insert_one", renamed)


def lose_the_acknowledgement(stage: Stage) -> None:
    ann = stage.writer("ann")
    drive(ann.create(STREAM))
    decision = ann.decide(STREAM, "EventStore.append", 1)
    attempt = ann.appending(STREAM, None)
    primary = stage.servers.primary
    lost = primary.fail_point(
        "onPrimaryTransactionalWrite", {"times": 1}, closeConnection=True
    )
    # The driver's own retries fail as well, until the time is up.
    cut = primary.fail_point(
        "failCommand",
        {"skip": 1},
        failCommands=["insert"],
        closeConnection=True,
        **WRITERS,
    )
    with lost, cut:
        drive(ann.try_once(*decision, attempt))
    drive(ann.resolve(*decision, attempt))


VARIANTS = {
    "acknowledges alone": Variant(
        acknowledge_alone, kill_the_only_one_who_has_it, 3, "lost", True
    ),
    "reads what may vanish": Variant(
        read_what_may_vanish, append_behind_what_vanishes, 3, "hole", False
    ),
    "numbers what may vanish": Variant(
        read_what_may_vanish, number_behind_what_vanishes, 3, "hole in tag", False
    ),
    "saves blindly": Variant(save_blindly, save_late, 1, "replaced", False),
    "makes a new id for each try": Variant(
        make_new_ids, lose_the_acknowledgement, 1, "doubled", True
    ),
}
