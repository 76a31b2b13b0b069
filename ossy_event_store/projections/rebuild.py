"""
Projections built anew: in place, or beside the one in use, which is then replaced.

A build is a subscription like any other, with a checkpoint of its own: it goes on where
it was when it is broken off, and it can be watched.
"""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from pymongo.errors import PyMongoError

from ..documents.bson_types import Document
from ..exceptions import EventStoreError, StoreUnavailable
from ..mongodb import connection
from ..mongodb.connection import Store
from ..mongodb.deadline import in_time
from ..mongodb.ports import drive
from ..subscriptions import checkpoints
from ..subscriptions.declaration import Subscription, registered_subscriptions
from ..subscriptions.runner import Runner, UntilCaughtUp, assign_positions
from ..subscriptions.transactions import in_transaction
from .projection import BUILD, FRESH, Projection, make_indexes
from .writer import Writer, collection_name, revision

Progress = Callable[[int, int], None]  # the position that is reached, and the last one


@dataclass(frozen=True)
class Built:
    """A projection that was built anew."""

    name: str
    #: The generation that is in use now.
    generation: int
    #: The position up to which it was built when it came into use.
    position: int
    #: Streams that wait since an event could not be applied.
    parked: int


class BuiltMeanwhile(EventStoreError):
    """Another process has built the projection anew at the same time."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name

    def __str__(self) -> str:
        return f"Projection {self.name} was built anew by another process meanwhile."


def build_name(name: str, generation: int) -> str:
    """Return the name of the subscription that builds a generation."""
    return f"{name}@{generation}"


class Rebuild:
    """
    Builds one projection anew.

    Args:
        cls: the projection, which is registered.
        beside: build it beside the one in use, and switch once it has caught up.
        progress: called now and then.
    """

    def __init__(
        self, cls: type[Projection], *, beside: bool, progress: Progress | None = None
    ) -> None:
        self._cls = cls
        self._beside = beside
        self._progress = progress
        self._runner: Runner | None = None
        self._is_stopped = False

    def stop(self) -> None:
        """Break off; what is built is kept, and a build beside goes on next time."""
        self._is_stopped = True
        if self._runner is not None:
            self._runner.stop.set()

    def run(self) -> Built | None:
        """Build it; None if it was broken off."""
        store = connection.blocking()
        declared = registered_subscriptions()[self._cls.name]
        drive(
            checkpoints.find_or_create(
                store,
                declared.name,
                declared.start,
                declared.kind,
                **declared.document_fields,
            )
        )
        if self._beside:
            number = drive(_begin_build(store, self._cls))
            build = self._build(number)
            if not self._catch_up(build):
                return None
            position = drive(_switch(store, self._cls, number, build.name))
        else:
            number = drive(_begin_again(store, self._cls))
            begun = time.monotonic()
            if not self._catch_up(declared):
                return None
            # A reader may have looked up where it is just before.
            time.sleep(max(0.0, begun + FRESH - time.monotonic()))
            drop_old(self._cls, number)
            position = drive(_document(store, self._cls.name))["position"]
        with in_time():
            parked = drive(
                store.parked.count_where({"subscription": {"$eq": self._cls.name}})
            )
        return Built(self._cls.name, number, position, parked)

    def _build(self, number: int) -> Subscription:
        """Return the subscription that builds a generation."""
        declared = registered_subscriptions()[self._cls.name]
        return Subscription(
            build_name(declared.name, number),
            self._cls,
            types=declared.types,
            aggregate_types=declared.aggregate_types,
            kind=BUILD,
            delivery=partial(Writer, generation=number),
            # Once it has come into use, nobody builds on it.
            creates_document=False,
        )

    def _catch_up(self, declared: Subscription) -> bool:
        runner = self._runner = Runner([declared])
        if self._is_stopped:
            return False
        assign_positions(runner.stop)
        reached = UntilCaughtUp([declared.name])

        done = False

        def until() -> bool:
            nonlocal done
            done = reached()
            if not done and not drive(self._exists(declared)):
                raise BuiltMeanwhile(self._cls.name)
            if self._progress is not None:
                self._progress(reached.position, reached.target)
            return done

        runner.run(until)
        return done

    async def _exists(self, declared: Subscription) -> bool:
        with suppress(PyMongoError, StoreUnavailable):
            return (
                await checkpoints.find(connection.blocking(), declared.name) is not None
            )
        return True  # as far as anybody knows


def drop_old(cls: type[Projection], before: int | None = None) -> list[str]:
    """
    Drop the collections of generations before the one in use; return their names.

    Args:
        cls: the projection.
        before: the lowest generation to keep, if not all before that one are to go.
    """
    store = connection.blocking()
    found = drive(_document(store, cls.name))
    names = [
        collection_name(cls.name, number)
        for number in range(1, before or found.get("generation", 1))
    ]
    return [name for name in names if _drop(store, name)]


def _drop(store: Store, name: str) -> bool:
    """Drop a collection; return whether there was one."""
    database: Any = connection.raw(store.events).database
    with in_time():
        there = bool(database.list_collection_names(filter={"name": name}))
        if there:
            database.drop_collection(name)
    return there


async def _document(store: Store, name: str) -> Document:
    with in_time():
        return await store.subscriptions.find_one({"_id": {"$eq": name}}) or {}


async def _begin_build(store: Store, cls: type[Projection]) -> int:
    """
    Begin to build a generation beside the one in use, or continue; return its number.

    A new one has a number that no other had: its collection is empty, and nobody who
    was at work on an earlier build can write to it.
    """
    number, left = 0, 0
    there = _highest(store, cls)

    async def work(session: Any) -> None:
        nonlocal number, left
        found = await _find(store, cls.name, session)
        number, left = found.get("building") or 0, 0
        if number:
            built = await _find(store, build_name(cls.name, number), session)
            if built.get("revision") == revision(cls):
                return
            left = number  # the class has changed since it was begun
            await _forget_build(store, cls, left, session)
        number = _next(found, there)
        await store.subscriptions.update_one(
            {"_id": {"$eq": cls.name}},
            {"$set": {"building": number, "last": number}},
            session=session,
        )
        more = {"generation": number, "revision": revision(cls)}
        now = dt.datetime.now(dt.UTC)
        new = checkpoints.new_document(0, BUILD, **more, created=now, updated=now)
        await store.subscriptions.insert_one(
            {"_id": build_name(cls.name, number), **new}, session=session
        )

    await _in_transaction(store, work)
    if left:
        _drop(store, collection_name(cls.name, left))
    await make_indexes(
        connection.documents(store, collection_name(cls.name, number)), cls
    )
    return number


async def _begin_again(store: Store, cls: type[Projection]) -> int:
    """Let a generation with nothing in it come into use; return its number."""
    found = await _document(store, cls.name)
    number = _next(found, _highest(store, cls))
    await make_indexes(
        connection.documents(store, collection_name(cls.name, number)), cls
    )
    new = {"position": 0, "revision": revision(cls), "lastError": None, "lateAt": None}

    async def work(session: Any) -> None:
        if building := found.get("building"):
            await _forget_build(store, cls, building, session)
        unchanged = {name: found.get(name) for name in ("generation", "last")}
        await _use(store, cls, unchanged, {**new, "generation": number}, session)

    await _in_transaction(store, work)
    return number


def _next(found: Document, there: int) -> int:
    """Return a number that no generation of a projection had."""
    last: int = max(found["generation"], found.get("last") or 0, there)
    return last + 1


def _highest(store: Store, cls: type[Projection]) -> int:
    """
    Return the highest generation that has a collection.

    Without the projection's own document, which somebody may delete, only these tell
    which numbers were given.
    """
    database: Any = connection.raw(store.events).database
    pattern = f"^{collection_name(cls.name, 1)}_[0-9]+$"
    with in_time():
        names = database.list_collection_names(filter={"name": {"$regex": pattern}})
    return max((int(name.rpartition("_")[2]) for name in names), default=0)


async def _use(
    store: Store, cls: type[Projection], now: Document, new: Document, session: Any
) -> None:
    """
    Let a generation come into use where no stream waits, in a transaction.

    Raises:
        BuiltMeanwhile: the projection is not as it was.
    """
    # The process that runs the projection loses its claim, and continues in this one.
    there = await store.subscriptions.update_one(
        {"_id": {"$eq": cls.name}, **now},
        {
            "$inc": {"fence": 1},
            "$set": {**new, "building": None},
            "$max": {"last": new["generation"]},
        },
        session=session,
    )
    if not there:
        raise BuiltMeanwhile(cls.name)
    # With the rest: streams that are thought to wait, and do not, would be lost.
    await store.parked.delete_many({"subscription": {"$eq": cls.name}}, session=session)


async def _switch(store: Store, cls: type[Projection], number: int, build: str) -> int:
    """Let what was built come into use, with its parked streams; all or nothing."""
    name, position = cls.name, 0

    async def work(session: Any) -> None:
        nonlocal position
        # In here: another process may still be at work on the same build.
        built = await _find(store, build, session)
        if not built:
            raise BuiltMeanwhile(name)
        position = built["position"]
        new = {**_taken(built), "generation": number}
        await _use(store, cls, {"building": number}, new, session)
        waiting = await store.parked.find(
            {"subscription": {"$eq": build}}, session=session
        )
        if waiting:
            own = {"subscription": name}
            await store.parked.insert_many(
                [{**one, **own, "_id": {**one["_id"], **own}} for one in waiting],
                session=session,
            )
        await _forget_build(store, cls, number, session)

    await _in_transaction(store, work)
    return position


def _taken(built: Document) -> Document:
    """Return what a projection takes over from its build."""
    fields = ("position", "revision", "lastError", "lateAt")
    return {field: built.get(field) for field in fields}


async def _forget_build(
    store: Store, cls: type[Projection], number: int, session: Any
) -> None:
    """Delete a build but for its documents: nobody can continue it or switch to it."""
    build = {"$eq": build_name(cls.name, number)}
    await store.parked.delete_many({"subscription": build}, session=session)
    await store.subscriptions.delete_one({"_id": build}, session=session)


async def _find(store: Store, name: str, session: Any) -> Document:
    query = {"_id": {"$eq": name}}
    return await store.subscriptions.find_one(query, session=session) or {}


async def _in_transaction(store: Store, work: Callable[[Any], Awaitable[None]]) -> None:
    async def in_time_limit(session: Any) -> None:
        with in_time():
            await work(session)

    async with store.client.session() as session:
        await in_transaction(store, session, partial(in_time_limit, session))
