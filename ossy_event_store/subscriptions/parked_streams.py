"""
Parked streams: those whose event a handler could not take, and what is done about it.

A parked stream of a subscription waits at one event; its later events wait behind it,
and those of other streams continue. The process that runs the subscription writes here,
and an operator, who asks for a retry or skips the event.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from ..documents.bson_types import Document
from ..mongodb.connection import Store
from ..mongodb.deadline import in_time
from .checkpoints import ClaimLost, error_record, move
from .declaration import Subscription
from .transactions import in_transaction

MOST = 1000  # parked streams that one look returns

# Of a parked stream that waits at no event in particular.
_UNKNOWN: Document = dict.fromkeys(("eventId", "type", "failed", "error", "traceback"))


class Failed(NamedTuple):
    """An event that failed for good, so that its stream has to wait."""

    event: Document
    error: BaseException
    tries: int = 1


def key(name: str, aggregate_id: str) -> Document:
    """Return the ``_id`` of a stream that a subscription has parked."""
    return {"subscription": name, "aggregateId": aggregate_id}


async def park(
    store: Store,
    session: Any,
    name: str,
    fence: int,
    failed: Failed,
    changes: Mapping[str, Any],
) -> None:
    """
    Let a stream wait at an event, in a transaction with changes of the checkpoint.

    Raises:
        ClaimLost: the subscription was claimed by another process since.
    """

    async def write() -> None:
        with in_time():
            last = {"lastError": error_record(failed.error, failed.event)}
            await move(store, name, fence, {**last, **changes}, session=session)
            await put(store, session, name, [failed])

    await in_transaction(store, session, write)


async def put(store: Store, session: Any, name: str, failed: Sequence[Failed]) -> None:
    """
    Let some streams wait, each at an event, in a transaction that is open.

    A stream that waits already stays as it is, unless this event is an earlier one: a
    stream waits at the first event that fails, in whatever order failures are found.
    """
    new = {one.event["aggregateId"]: _document(name, one) for one in failed}
    ids = [document["_id"] for document in new.values()]
    # No upsert: tried again in a transaction, one may break a unique index
    # (SERVER-95524).
    there = await store.parked.find({"_id": {"$in": ids}}, session=session)
    for found in there:
        document = new.pop(found["aggregateId"])
        if document["position"] < found.get("begun", found["position"]):
            await store.parked.replace_one(
                {"_id": found["_id"]}, document, session=session
            )
    if new:
        await store.parked.insert_many(list(new.values()), session=session)


def _document(name: str, failed: Failed) -> Document:
    event, error, tries = failed
    kept = error_record(error, event)
    return {
        "_id": key(name, event["aggregateId"]),
        "subscription": name,
        "aggregateType": event["aggregateType"],
        "tries": tries,
        "retry": False,
        "since": kept["failed"],
        # Where it began to wait; unlike its position this does not rise.
        "begun": event["position"],
        **kept,
    }


async def parked_streams(store: Store, name: str, session: Any) -> dict[str, int]:
    """Return the ids of all streams that wait, and since which position."""
    return await _all(store, name, "begun", session)


async def places(store: Store, name: str, session: Any) -> dict[str, int]:
    """Return the ids of all streams that wait, and the position of the next event."""
    return await _all(store, name, "position", session)


async def _all(store: Store, name: str, field: str, session: Any) -> dict[str, int]:
    streams: dict[str, int] = {}
    found = store.parked.batches(
        {"subscription": {"$eq": name}},
        MOST,
        projection=["aggregateId", field],
        session=session,
    )
    async for batch in found:
        streams.update((one["aggregateId"], one.get(field, 0)) for one in batch)
    return streams


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
        **_UNKNOWN,
        "position": event["position"] + 1,
        "aggregateVersion": event["aggregateVersion"] + 1,
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
        ClaimLost: another process has let it go on meanwhile, or somebody has skipped it.
    """
    # Never back: what another process has delivered would come twice.
    there = {"_id": waits["_id"], "position": waits["position"]}
    kept, again = error_record(error, event), {"$inc": {"tries": 1}}
    with in_time():
        asked = {"asked": waits.get("asked")}
        noted = await store.parked.update_one(
            {**there, **asked}, {"$set": {**kept, "retry": False}, **again}
        )
        # A retry that was asked for since this one began is still to be made.
        noted = noted or await store.parked.update_one(there, {"$set": kept, **again})
    if not noted:
        raise ClaimLost


async def leave(
    store: Store,
    session: Any,
    name: str,
    fence: int,
    waits: Mapping[str, Any],
    position: int,
) -> bool:
    """
    End the parking of a stream that has nothing left to wait for.

    Args:
        store: one face of the store.
        session: that of its transactions.
        name: the subscription.
        fence: that of its claim.
        waits: the parked stream.
        position: up to where the subscription has delivered events; its checkpoint
            goes there, or the stream's events would come again.

    Returns:
        False if the stream no longer waits where it did.

    Raises:
        ClaimLost: the subscription was claimed by another process since.
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


# --- where another database decides -----------------------------------------


async def replace(
    store: Store,
    session: Any,
    declared: Subscription,
    fence: int,
    *,
    remove: Collection[str],
    add: Mapping[str, int],
) -> None:
    """
    Make the parked streams agree with what another database says.

    Args:
        store: one face of the store.
        session: that of its transactions.
        declared: the subscription.
        fence: that of its claim.
        remove: streams that do not wait.
        add: streams that wait, and the position up to which they are handled. They are
            retried, as nobody knows why they wait.

    Raises:
        ClaimLost: the subscription was claimed by another process since.
    """
    now = dt.datetime.now(dt.UTC)
    added = []
    for aggregate_id, stands in add.items():
        place = await _place_after(store, session, declared, aggregate_id, stands)
        added.append(
            {
                "_id": key(declared.name, aggregate_id),
                "subscription": declared.name,
                "aggregateId": aggregate_id,
                "tries": 0,
                "retry": True,
                "since": now,
                "begun": place["position"],
                **_UNKNOWN,
                **place,
            }
        )

    async def write() -> None:
        with in_time():
            await move(store, declared.name, fence, {}, session=session)
            ids = [key(declared.name, aggregate_id) for aggregate_id in remove]
            for at in range(0, len(ids), MOST):
                some = {"_id": {"$in": ids[at : at + MOST]}}
                await store.parked.delete_many(some, session=session)
            if added:
                await store.parked.insert_many(added, session=session)

    await in_transaction(store, session, write)


async def move_back(
    store: Store, session: Any, declared: Subscription, waits: Document, stands: int
) -> Document:
    """
    Let a parked stream wait at its first event after a position, and return it.

    Raises:
        ClaimLost: it no longer waits where it did.
    """
    place = await _place_after(store, session, declared, waits["aggregateId"], stands)
    if place["position"] >= waits["position"]:
        return waits
    with in_time():
        moved = await store.parked.update_one(
            {"_id": waits["_id"], "position": waits["position"]},
            {"$set": {**_UNKNOWN, **place}},
        )
    if not moved:
        raise ClaimLost
    return {**waits, **_UNKNOWN, **place}


async def waits_at(
    store: Store, declared: Subscription, aggregate_id: str, stands: int, position: int
) -> bool:
    """Whether the first event of a stream after one position stands at another."""
    place = await _place_after(store, None, declared, aggregate_id, stands)
    return bool(place["position"] == position)


async def _place_after(
    store: Store, session: Any, declared: Subscription, aggregate_id: str, stands: int
) -> Document:
    """Return the place of a stream's first wanted event after a position."""
    stream = {"aggregateId": {"$eq": aggregate_id}}
    fields = ["aggregateType", "aggregateVersion"]
    with in_time():
        found = await store.positions.find_one(
            {**declared.query(), **stream, "_id": {"$gt": stands}},
            projection=fields,
            sort=[("aggregateVersion", 1)],
            session=session,
        )
        # Without one it waits for nothing, from its end on.
        found = found or await store.positions.find_one(
            stream, projection=fields, sort=[("aggregateVersion", -1)], session=session
        )
    if found is None:
        return {"aggregateType": None, "aggregateVersion": 1, "position": stands + 1}
    at_end = found["_id"] <= stands
    return {
        "aggregateType": found["aggregateType"],
        "aggregateVersion": found["aggregateVersion"] + at_end,
        "position": stands + 1 if at_end else found["_id"],
    }
