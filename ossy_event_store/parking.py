"""
Parked streams: those whose event a handler could not take, and what is done about it.

A parked stream of a subscription waits at one event; its later events wait behind it,
and those of other streams go on. The process that runs the subscription writes here,
and an operator, who asks for a retry or skips the event.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .checkpoints import Lost, move, told
from .faces import Document
from .mongo import Store, in_time
from .transactions import in_transaction

MOST = 1000  # parked streams that one look returns


def key(name: str, aggregate_id: str) -> Document:
    """Return the ``_id`` of a stream that a subscription has parked."""
    return {"subscription": name, "aggregateId": aggregate_id}


async def park(
    store: Store,
    session: Any,
    name: str,
    fence: int,
    event: Mapping[str, Any],
    error: BaseException,
    tries: int,
) -> None:
    """
    Let a stream wait at an event; a stream that waits already stays as it is.

    Raises:
        Lost: the subscription was claimed by another process since.
    """
    kept = told(error, event)
    document = {
        "_id": key(name, event["aggregateId"]),
        "subscription": name,
        "aggregateType": event["aggregateType"],
        "tries": tries,
        "retry": False,
        "since": kept["failed"],
        # Where it began to wait; unlike its position this does not go on.
        "begun": event["position"],
        **kept,
    }

    async def write() -> None:
        with in_time():
            await move(store, name, fence, {"lastError": kept}, session=session)
            there = {"_id": document["_id"]}
            # No upsert: tried again in a transaction, one may break a unique index
            # (SERVER-95524).
            if await store.parked.find_one(there, session=session) is None:
                await store.parked.insert_one(document, session=session)

    await in_transaction(store, session, write)


async def parked_streams(store: Store, name: str, session: Any) -> dict[str, int]:
    """Return the ids of all streams that wait, and since which position."""
    begun: dict[str, int] = {}
    found = store.parked.batches(
        {"subscription": {"$eq": name}},
        MOST,
        projection=["aggregateId", "begun"],
        session=session,
    )
    async for batch in found:
        begun.update((one["aggregateId"], one.get("begun", 0)) for one in batch)
    return begun


async def parked(
    store: Store, name: str, *, limit: int = MOST, retry: bool | None = None
) -> list[Document]:
    """Return parked streams, those that wait longest first."""
    query: Document = {"subscription": {"$eq": name}}
    if retry is not None:
        query["retry"] = retry
    with in_time():
        return await store.parked.find(query, sort=[("position", 1)], limit=limit)


async def advance(
    store: Store,
    waits: Mapping[str, Any],
    event: Mapping[str, Any],
    session: Any = None,
) -> bool:
    """Let a parked stream go on behind an event; False if it does not wait there."""
    matched = await store.parked.update_one(
        {"_id": waits["_id"], "position": waits["position"]},
        {"$set": behind(event)},
        session=session,
    )
    return bool(matched)


def behind(event: Mapping[str, Any]) -> Document:
    """Return what changes in a parked stream that goes on behind an event."""
    return {
        "position": event["position"] + 1,
        "aggregateVersion": event["aggregateVersion"] + 1,
        "eventId": None,
        "type": None,
        "failed": None,
        "error": None,
        "traceback": None,
    }


async def failed_again(
    store: Store,
    waits: Mapping[str, Any],
    event: Mapping[str, Any],
    error: BaseException,
) -> None:
    """
    Note that a retry failed as well; the stream waits on, at this event.

    Raises:
        Lost: another process has let it go on meanwhile, or somebody has skipped it.
    """
    with in_time():
        # Never back: what another one has handed on would come twice.
        noted = await store.parked.update_one(
            {"_id": waits["_id"], "position": waits["position"]},
            {
                "$set": {**told(error, event), "retry": False},
                "$inc": {"tries": 1},
            },
        )
    if not noted:
        raise Lost


async def leave(
    store: Store,
    session: Any,
    name: str,
    fence: int,
    waits: Mapping[str, Any],
    position: int,
) -> bool:
    """
    Take a stream out that has nothing left to wait for.

    Args:
        store: one face of the store.
        session: that of its transactions.
        name: the subscription.
        fence: that of its claim.
        waits: the parked stream.
        position: up to where the subscription has handed events on; its checkpoint
            goes there, or the stream's events would come again.

    Raises:
        Lost: the subscription was claimed by another process since.
    """
    left = False

    async def write() -> None:
        nonlocal left
        query = {"_id": waits["_id"], "position": waits["position"], "retry": True}
        with in_time():
            await move(store, name, fence, {"position": position}, session=session)
            left = bool(await store.parked.delete_one(query, session=session))

    await in_transaction(store, session, write)
    return left
