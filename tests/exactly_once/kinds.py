"""One subscription for each kind of effect, and how its effects are read."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, count
from typing import Any, ClassVar

from django.core.management import call_command
from django.db import connections
from pymongo.collection import Collection

from ossy_event_store import Projection, register_aggregate, register_projection
from ossy_event_store.mongodb import connection
from ossy_event_store.mongodb.connection import Store
from ossy_event_store.projections import rebuild
from ossy_event_store.projections.generations import collection_name
from ossy_event_store.subscriptions import declaration, snapshot_subscription
from ossy_event_store.subscriptions.declaration import Subscription

from .model import Doubled, Effects, Lost, Model, OutOfOrder, Violation

NAME = "exactly_once"
TYPE = "Tale"
SQL = "effects"  # the alias of the SQL database
BACKOFF = (0.1, 0.2)

Fault = Callable[[Mapping[str, Any], str], bool]


@dataclass(frozen=True)
class Config:
    """How the subscription is run; drawn for each example."""

    page: int
    batch: int
    retries: int
    #: Seconds between two looks for what an operator asked.
    look: float
    #: Seconds between two writes of a checkpoint that does not move by itself.
    write: float


class Broken(Exception):
    """The handler fails at this event."""


class Kind:
    """
    One kind of effect.

    Args:
        store: the blocking face.
        config: how it is run.
        fault: says whether an event is bad at a place.
        point: called where a handler may be killed.
    """

    name: ClassVar[str]
    exact: ClassVar[bool] = True
    keyed: ClassVar[bool] = False
    may_reset: ClassVar[bool] = True
    #: Where an event may be bad.
    faults: ClassVar[Sequence[str]] = ("before", "after")
    alias: ClassVar[str | None] = None
    #: Whether an event may be skipped just after it has had its effect, as the effect
    #: and the parked stream are in two databases.
    skips_late: ClassVar[bool] = False

    def __init__(
        self, store: Store, config: Config, fault: Fault, point: Callable[[], None]
    ) -> None:
        self.store = store
        self.config = config
        self.fault = fault
        self.point = point
        self.begin()
        self.declared: Subscription = self.declare()

    def begin(self) -> None:
        """Forget what the example before has left."""

    def declare(self) -> Subscription:
        """Register the subscription, and return it."""
        raise NotImplementedError

    def effects(self) -> Effects:
        """Return the effects since the last reset."""
        raise NotImplementedError

    def after_reset(self) -> None:
        """Count no effect from before."""

    def problems(
        self, model: Model, reached: int, waits: Mapping[str, int]
    ) -> Iterator[Violation]:
        """Say what is wrong at this time."""
        return model.problems(self.effects(), reached, waits)

    def missing(self, model: Model) -> Iterator[Violation]:
        """Say what is missing in the end."""
        return model.missing(self.effects())

    def has(self, position: int) -> bool:
        """Whether an event has its effect."""
        return position in chain.from_iterable(self.effects().values())

    # --- for subclasses

    def check(self, event: Mapping[str, Any], where: str) -> None:
        if self.fault(event, where):
            raise Broken(f"{where} {event['position']}")

    def subscribe(self, handler: Any, **options: Any) -> Subscription:
        options = {"retries": self.config.retries, "backoff": BACKOFF, **options}
        declaration.add(Subscription(NAME, handler, **options))
        return declaration.registered_subscriptions()[NAME]

    def collection(self, name: str) -> Collection[dict[str, Any]]:
        return connection.raw(connection.documents(self.store, name))


# --- handlers -----------------------------------------------------------------


class Plain(Kind):
    """A handler whose effects are in no transaction: at least once."""

    name = "plain"
    exact = False
    skips_late = True
    concurrency = 1

    def begin(self) -> None:
        self._log: list[int] = []

    def declare(self) -> Subscription:
        def handler(event: Any) -> None:
            self.check(event, "before")
            self.point()
            self._log.append(event["position"])
            self.point()
            self.check(event, "after")

        return self.subscribe(handler, concurrency=self.concurrency)

    def effects(self) -> Effects:
        return {"": list(self._log)}

    def after_reset(self) -> None:
        self._log.clear()


class Concurrency(Plain):
    """The same with several streams at a time."""

    name = "concurrency"
    concurrency = 3


class Session(Kind):
    """A handler that writes through the session of the checkpoint."""

    name = "session"

    def begin(self) -> None:
        self._numbers = count(1)
        self._since = 0
        self._effects = self.collection("effects")
        self._effects.delete_many({})

    def declare(self) -> Subscription:
        def handler(event: Any, session: Any) -> None:
            self.check(event, "before")
            self.point()
            new = {"_id": next(self._numbers), "position": event["position"]}
            self.insert(new, session)
            self.point()
            self.check(event, "after")

        return self.subscribe(handler, session=True, batch=self.config.batch)

    def insert(self, new: dict[str, Any], session: Any) -> None:
        self._effects.insert_one(new, session=session)

    def effects(self) -> Effects:
        query = {"_id": {"$gt": self._since}}
        found = self._effects.find(query, sort=[("_id", 1)])
        return {"": [one["position"] for one in found]}

    def after_reset(self) -> None:
        self._since = next(self._numbers)


class Using(Kind):
    """A handler that writes to an SQL database, with the checkpoint as a row."""

    name = "using"
    alias = SQL

    def begin(self) -> None:
        self._since = 0
        with connections[SQL].cursor() as cursor:
            cursor.execute("DELETE FROM effects")
            cursor.execute("DELETE FROM ossy_event_store_relational_checkpoint")

    def declare(self) -> Subscription:
        def handler(event: Any) -> None:
            self.check(event, "before")
            self.point()
            with connections[SQL].cursor() as cursor:
                insert = "INSERT INTO effects (position) VALUES (%s)"
                cursor.execute(insert, [event["position"]])
            self.point()
            self.check(event, "after")

        return self.subscribe(handler, using=SQL, batch=self.config.batch)

    def _rows(self) -> list[tuple[int, int]]:
        with connections[SQL].cursor() as cursor:
            cursor.execute("SELECT id, position FROM effects ORDER BY id")
            return list(cursor.fetchall())

    def effects(self) -> Effects:
        return {"": [position for at, position in self._rows() if at > self._since]}

    def after_reset(self) -> None:
        self._since = max((at for at, _ in self._rows()), default=0)


def make_tables() -> None:
    """Make the table of checkpoints and that of effects."""
    app = "ossy_event_store_relational"
    call_command("migrate", app, database=SQL, verbosity=0)
    with connections[SQL].cursor() as cursor:
        cursor.execute(
            "CREATE TABLE effects "
            "(id integer PRIMARY KEY AUTOINCREMENT, position bigint)"
        )


# --- projections ----------------------------------------------------------------


ODD, TWIN = "odd", "twin of "


class Tales(Projection):
    """
    The positions of the events of each key, in two documents that must be the same.

    A third document exists while the number of all events is odd: each event creates
    it or deletes it.
    """

    name = "tales"
    revision = "1"
    aggregate_types = (TYPE,)
    initial_state = {"seen": []}
    #: The kind that is at work.
    kind: ClassVar[Any] = None

    @classmethod
    def key(cls, event):
        cls.kind.check(event, "key")
        key = event["payload"]["key"]
        return None if key is None else [ODD, key, TWIN + key]

    @classmethod
    def apply(cls, event, state, key):
        if key == ODD:
            return None if state["seen"] else {"seen": [event["position"]]}
        cls.kind.check(event, "apply")
        seen = [*state["seen"], event["position"]]
        if cls.kind.fault(event, "state"):
            return {"seen": seen, "bad": threading}  # MongoDB cannot hold it
        return {"seen": seen}


class OfProjection(Kind):
    """The documents of a projection."""

    name = "projection"
    keyed = True
    may_reset = False
    faults = ("key", "apply", "state")
    generation = 1

    def begin(self) -> None:
        Tales.kind = self
        for generation in (1, 2):
            self.collection(collection_name(Tales.name, generation)).drop()

    def declare(self) -> Subscription:
        register_projection(Tales)
        return declaration.registered_subscriptions()[Tales.name]

    def effects(self) -> Effects:
        name = collection_name(Tales.name, self.generation)
        found = self.collection(name).find()
        seen = {document["_id"]: document["state"]["seen"] for document in found}
        twins = {key for key in seen if key.startswith(TWIN)}
        is_odd = seen.pop(ODD, None) is not None
        effects = {key: seen[key] for key in seen.keys() - twins}
        if {TWIN + key: effects[key] for key in effects} != {k: seen[k] for k in twins}:
            raise Lost(f"two documents of a key are not the same: {seen}")
        if is_odd != sum(map(len, effects.values())) % 2:
            raise Doubled(f"a document exists, {is_odd}, after the events of {effects}")
        return effects


class BlueGreen(OfProjection):
    """A build beside the one in use, until it is switched to."""

    name = "blue-green"
    generation = 2

    def declare(self) -> Subscription:
        super().declare()
        found: list[Subscription] = []

        class Looks(_Runner):
            def run(self, until: Callable[[], bool]) -> None:
                found.extend(self.which)

        self._rebuild(Looks)
        return found[0]

    def switch(self) -> bool:
        """Let the build come into use, if it has caught up."""

        class Asks(_Runner):
            def run(self, until: Callable[[], bool]) -> None:
                until()

        if not self._rebuild(Asks):
            return False
        self.declared = declaration.registered_subscriptions()[Tales.name]
        return True

    def _rebuild(self, runner: Any) -> Any:
        # The build runs in the harness: the runner's threads are not to.
        own, rebuild.Runner = rebuild.Runner, runner
        try:
            return rebuild.Rebuild(Tales, beside=True).run()
        finally:
            rebuild.Runner = own


class _Runner:
    """Stands in for the threads of a process that run subscriptions."""

    def __init__(self, which: Sequence[Subscription]) -> None:
        self.which = which
        self.stop = threading.Event()


# --- snapshots ------------------------------------------------------------------


class Tale:
    """An aggregate whose state is the versions of its events."""

    aggregate_type = TYPE
    revision = "1"
    kind: ClassVar[Any] = None

    @classmethod
    def view(cls, events, saved_state):
        seen = list(saved_state.get("seen", ()))
        for event in events:
            if cls.kind.fault(event, "view"):
                raise Broken(event["aggregateVersion"])
            seen.append(event["aggregateVersion"])
        return {"seen": seen}


class OfSnapshots(Kind):
    """Snapshots that follow their streams; what is skipped is in them all the same."""

    name = "snapshots"
    faults = ("view",)

    def begin(self) -> None:
        Tale.kind = self

    def declare(self) -> Subscription:
        register_aggregate(Tale)
        snapshot_subscription.register()
        return declaration.registered_subscriptions()[snapshot_subscription.NAME]

    def effects(self) -> Effects:
        found = connection.raw(self.store.snapshots).find()
        return {snapshot["_id"]: snapshot["state"]["seen"] for snapshot in found}

    def has(self, position: int) -> bool:
        return False

    def problems(
        self, model: Model, reached: int, waits: Mapping[str, int]
    ) -> Iterator[Violation]:
        snapshots = self.effects()
        for stream, seen in snapshots.items():
            if list(seen) != list(range(1, len(seen) + 1)):
                yield OutOfOrder(f"the snapshot of {stream} has versions {seen}")
        for event in model.wanted:
            done = event.version in snapshots.get(event.stream, ())
            # It is a cache: that of a parked stream may be older, and stays so after a
            # skip until the stream's next event.
            if event.stream in waits or model.is_skipped_after(event):
                continue
            if event.position <= reached and not done:
                yield Lost(f"{event} is in no snapshot: checkpoint {reached}")

    def missing(self, model: Model) -> Iterator[Violation]:
        return self.problems(model, len(model.events), {})


KINDS: dict[str, type[Kind]] = {
    kind.name: kind
    for kind in (
        *(OfProjection, BlueGreen, Session, Using),
        *(Plain, Concurrency, OfSnapshots),
    )
}
