"""
Projections built anew: in place, or beside the one in use, which is then replaced.

A build is a subscription like any other, with a checkpoint of its own: it goes on where
it was when it is broken off, and it can be watched.
"""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from pymongo.errors import PyMongoError

from . import checkpoints, mongo
from .exceptions import EventStoreError, StoreUnavailable
from .faces import Document, drive
from .mongo import Store, in_time
from .projecting import Writer, collection_name, revision
from .projections import BUILD, FRESH, Projection, make_indexes
from .running import Reached, Runner, give_positions
from .subscriptions import Subscription, registered
from .transactions import in_transaction

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
        store = mongo.blocking()
        declared = registered()[self._cls.name]
        drive(
            checkpoints.begin(
                store, declared.name, declared.start, declared.kind, **declared.more
            )
        )
        found = drive(_document(store, self._cls.name))
        number = found["generation"] + 1
        if self._beside:
            build = self._build(store, number)
            if not self._catch_up(build):
                return None
            position = drive(_switch(store, self._cls, number, build.name))
        else:
            drive(_begin_anew(store, self._cls, number))
            begun = time.monotonic()
            if not self._catch_up(declared):
                return None
            # A reader may have looked up where it is just before.
            time.sleep(max(0.0, begun + FRESH - time.monotonic()))
            drop_old(self._cls)
            position = drive(_document(store, self._cls.name))["position"]
        with in_time():
            parked = drive(
                store.parked.count_where({"subscription": {"$eq": self._cls.name}})
            )
        return Built(self._cls.name, number, position, parked)

    def _build(self, store: Store, number: int) -> Subscription:
        """Return the subscription that builds a generation, begun or gone on with."""
        declared = registered()[self._cls.name]
        more = {"generation": number, "revision": revision(self._cls)}
        build = Subscription(
            build_name(declared.name, number),
            self._cls,
            types=declared.types,
            aggregate_types=declared.aggregate_types,
            kind=BUILD,
            effect=partial(Writer, generation=number),
            # Once it has come into use, nobody builds on it.
            begins=False,
        )
        begun = drive(_document(store, build.name))
        if begun.get("revision") != more["revision"]:
            # It is a new one, or the class has changed since it was begun.
            drive(_begin_build(store, self._cls, build.name, more))
        return build

    def _catch_up(self, declared: Subscription) -> bool:
        runner = self._runner = Runner([declared])
        if self._is_stopped:
            return False
        give_positions(runner.stop)
        reached = Reached([declared.name])

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
            return await checkpoints.find(mongo.blocking(), declared.name) is not None
        return True  # as far as anybody knows


def drop_old(cls: type[Projection]) -> list[str]:
    """Drop the collections of generations before the one in use; return their names."""
    store = mongo.blocking()
    found = drive(_document(store, cls.name))
    database: Any = mongo.raw(store.events).database
    dropped = []
    with in_time():
        for number in range(1, found.get("generation", 1)):
            name = collection_name(cls.name, number)
            if database.list_collection_names(filter={"name": name}):
                database.drop_collection(name)
                dropped.append(name)
    return dropped


async def _document(store: Store, name: str) -> Document:
    with in_time():
        return await store.subscriptions.find_one({"_id": {"$eq": name}}) or {}


async def _begin_anew(store: Store, cls: type[Projection], number: int) -> None:
    """Let the next generation come into use, with nothing in it."""
    left = mongo.documents(store, collection_name(cls.name, number))
    new = {"position": 0, "revision": revision(cls), "lastError": None, "lateAt": None}
    await make_indexes(left, cls)

    async with store.client.session() as session:

        async def work() -> None:
            with in_time():
                await _use(store, cls, number, new, session)
                # What a build beside has left that was broken off. Not before, as
                # it may be in use by now.
                await left.delete_many({}, session=session)

        await in_transaction(store, session, work)


async def _use(
    store: Store, cls: type[Projection], number: int, new: Document, session: Any
) -> None:
    """
    Let a generation come into use where no stream waits, in a transaction.

    Raises:
        BuiltMeanwhile: another one came into use.
    """
    # Whoever runs the projection loses its claim, and goes on in this one.
    there = await store.subscriptions.update_one(
        {"_id": {"$eq": cls.name}, "generation": number - 1},
        {"$inc": {"fence": 1}, "$set": {**new, "generation": number}},
        session=session,
    )
    if not there:
        raise BuiltMeanwhile(cls.name)
    # With the rest: streams that are thought to wait, and do not, would be lost.
    await store.parked.delete_many({"subscription": {"$eq": cls.name}}, session=session)


async def _switch(store: Store, cls: type[Projection], number: int, build: str) -> int:
    """Let what was built come into use, with its parked streams; all or nothing."""
    name, position = cls.name, 0

    async with store.client.session() as session:

        async def work() -> None:
            nonlocal position
            with in_time():
                # In here: another process may still be at work on the same build.
                built = await store.subscriptions.find_one(
                    {"_id": {"$eq": build}}, session=session
                )
                if not built or built["revision"] != revision(cls):
                    raise BuiltMeanwhile(name)
                position = built["position"]
                await _use(store, cls, number, _taken(built), session)
                waiting = await store.parked.find(
                    {"subscription": {"$eq": build}}, session=session
                )
                for waits in waiting:
                    own = {**waits["_id"], "subscription": name}
                    await store.parked.insert_one(
                        {**waits, "_id": own, "subscription": name}, session=session
                    )
                await store.parked.delete_many(
                    {"subscription": {"$eq": build}}, session=session
                )
                await store.subscriptions.delete_one(
                    {"_id": {"$eq": build}}, session=session
                )

        await in_transaction(store, session, work)
    return position


def _taken(built: Document) -> Document:
    """Return what a projection takes over from its build."""
    fields = ("position", "revision", "lastError", "lateAt")
    return {field: built.get(field) for field in fields}


async def _begin_build(
    store: Store, cls: type[Projection], build: str, more: Document
) -> None:
    """
    Begin a build beside the generation in use, without what an earlier one has left.

    Raises:
        BuiltMeanwhile: another one came into use, perhaps with these documents.
    """
    number = more["generation"]
    documents = mongo.documents(store, collection_name(cls.name, number))
    new = checkpoints.new_document(0, BUILD, **more)
    now = {"created": dt.datetime.now(dt.UTC), "updated": dt.datetime.now(dt.UTC)}

    async with store.client.session() as session:

        async def work() -> None:
            with in_time():
                # Of this and a switch at the same time, one comes first.
                there = await store.subscriptions.update_one(
                    {"_id": {"$eq": cls.name}, "generation": number - 1},
                    {"$currentDate": {"updated": True}},
                    session=session,
                )
                if not there:
                    raise BuiltMeanwhile(cls.name)
                await documents.delete_many({}, session=session)
                query = {"subscription": {"$eq": build}}
                await store.parked.delete_many(query, session=session)
                await store.subscriptions.delete_one(
                    {"_id": {"$eq": build}}, session=session
                )
                await store.subscriptions.insert_one(
                    {"_id": build, **new, **now}, session=session
                )

        await in_transaction(store, session, work)
    await make_indexes(documents, cls)
