"""
The steps of a projection's rebuild in the database, each in one transaction.

A build beside the generation in use is a subscription of its own, until the projection
switches to it. A rebuild in place switches to an empty generation at once.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from functools import partial
from typing import Any

from ..documents.bson_types import Document
from ..exceptions import BuiltMeanwhile
from ..mongodb import connection
from ..mongodb.connection import Store
from ..mongodb.deadline import in_time
from ..subscriptions import checkpoints, parked_streams
from ..subscriptions.parked_streams import PARKED_PER_READ
from ..subscriptions.transactions import in_transaction
from .generations import (
    build_name,
    collection_name,
    drop_collection,
    highest_generation,
    make_indexes,
    revision,
)
from .projection import BUILD_KIND, Projection


async def find_document(store: Store, name: str) -> Document:
    """Return the document of a projection's subscription; empty if it has none."""
    with in_time():
        return await _find(store, name, None)


async def begin_build(store: Store, cls: type[Projection]) -> int:
    """
    Begin or continue a build beside the generation in use; return its number.

    A new build gets a number that no generation had: its collection is empty, and no
    process that still works on an earlier build can write to it.
    """
    number, abandoned = 0, 0
    highest = highest_generation(store, cls.name)

    async def work(session: Any) -> None:
        nonlocal number, abandoned
        found = await _find(store, cls.name, session)
        number, abandoned = found.get("building") or 0, 0
        if number:
            build = await _find(store, build_name(cls.name, number), session)
            if build.get("revision") == revision(cls):
                return
            abandoned = number  # the class has changed since the build began
            await _forget_build(store, cls, abandoned, session)
        number = _next_generation(found, highest)
        await store.subscriptions.update_one(
            {"_id": {"$eq": cls.name}},
            {"$set": {"building": number, "last": number}},
            session=session,
        )
        more = {"generation": number, "revision": revision(cls)}
        now = dt.datetime.now(dt.UTC)
        new = checkpoints.new_document(0, BUILD_KIND, **more, created=now, updated=now)
        await store.subscriptions.insert_one(
            {"_id": build_name(cls.name, number), **new}, session=session
        )

    await _in_transaction(store, work)
    await _sweep(store, cls, number - 1)
    if abandoned:
        drop_collection(store, collection_name(cls.name, abandoned))
    await _make_indexes(store, cls, number)
    return number


async def begin_in_place(store: Store, cls: type[Projection]) -> int:
    """
    Switch to an empty generation; return its number.

    Raises:
        ValueError: the projection is paused, so no process would fill it.
    """
    found = await find_document(store, cls.name)
    if found.get("paused"):
        raise ValueError(
            f"{cls.name} is paused. Resume it first, or rebuild it with --blue-green."
        )
    number = _next_generation(found, highest_generation(store, cls.name))
    await _make_indexes(store, cls, number)
    new = {"position": 0, "revision": revision(cls), "lastError": None}
    new.update(lateAt=None, lateDeletions=[])

    async def work(session: Any) -> None:
        if building := found.get("building"):
            await _forget_build(store, cls, building, session)
        unchanged = {name: found.get(name) for name in ("generation", "last")}
        await _use(store, cls, unchanged, {**new, "generation": number}, session)

    await _in_transaction(store, work)
    await _sweep(store, cls, number)
    return number


async def switch(store: Store, cls: type[Projection], number: int) -> int:
    """
    Switch to a build, with its checkpoint and parked streams; return its position.

    Raises:
        BuiltMeanwhile: the build no longer exists, or the projection has another.
    """
    name, build, position = cls.name, build_name(cls.name, number), 0

    async def work(session: Any) -> None:
        nonlocal position
        # In the transaction: another process may still work on the same build.
        built = await _find(store, build, session)
        if not built:
            raise BuiltMeanwhile(name)
        position = built["position"]
        fields = ("position", "revision", "lastError", "lateAt")
        new = {field: built.get(field) for field in fields}
        new["lateDeletions"] = built.get("lateDeletions", [])
        new["generation"] = number
        await _use(store, cls, {"building": number}, new, session)
        own = {"subscription": name}
        query = {"subscription": {"$eq": build}}
        found = store.parked.batches(query, PARKED_PER_READ, session=session)
        async with aclosing(found) as batches:
            async for parked in batches:
                await store.parked.insert_many(
                    [{**one, **own, "_id": {**one["_id"], **own}} for one in parked],
                    session=session,
                )
        await _forget_build(store, cls, number, session)

    await _in_transaction(store, work)
    await _sweep(store, cls, number)
    return position


def _next_generation(found: Document, highest: int) -> int:
    """Return a number that no generation of a projection had."""
    last: int = max(found["generation"], found.get("last") or 0, highest)
    return last + 1


async def _make_indexes(store: Store, cls: type[Projection], number: int) -> None:
    documents = connection.documents(store, collection_name(cls.name, number))
    await make_indexes(documents, cls.indexes)


async def _use(
    store: Store, cls: type[Projection], now: Document, new: Document, session: Any
) -> None:
    """
    Make a generation the one in use, without any parked stream.

    Raises:
        BuiltMeanwhile: the projection is no longer as in ``now``.
    """
    # The process that runs the projection loses its claim, and continues with this one.
    found = await store.subscriptions.update_one(
        {"_id": {"$eq": cls.name}, **now},
        {
            "$inc": {"fence": 1},
            "$set": {**new, "building": None},
            "$max": {"last": new["generation"]},
        },
        session=session,
    )
    if not found:
        raise BuiltMeanwhile(cls.name)
    # In the same transaction: a stream that stays parked by mistake would be lost.
    await store.parked.delete_many({"subscription": {"$eq": cls.name}}, session=session)


async def _forget_build(
    store: Store, cls: type[Projection], number: int, session: Any
) -> None:
    """Delete the subscription of a build: no process continues or uses it."""
    build = {"$eq": build_name(cls.name, number)}
    await store.subscriptions.delete_one({"_id": build}, session=session)


async def _sweep(store: Store, cls: type[Projection], upto: int) -> None:
    """Delete the parked streams of builds up to a number, none of which is used."""
    names = [build_name(cls.name, number) for number in range(1, upto + 1)]
    await parked_streams.delete_parked(store, {"$in": names})


async def _find(store: Store, name: str, session: Any) -> Document:
    query = {"_id": {"$eq": name}}
    return await store.subscriptions.find_one(query, session=session) or {}


async def _in_transaction(store: Store, work: Callable[[Any], Awaitable[None]]) -> None:
    async def in_time_limit(session: Any) -> None:
        with in_time():
            await work(session)

    async with store.client.session() as session:
        await in_transaction(store, session, partial(in_time_limit, session))
