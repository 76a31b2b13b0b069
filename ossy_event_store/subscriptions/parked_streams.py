"""
Parked streams: streams with an event that the handler failed to handle.

A parked stream of a subscription waits at that event, and its later events wait too;
other streams continue. The process that runs the subscription writes these documents,
and so does an operator who retries or skips.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Collection, Mapping, Sequence
from contextlib import aclosing
from secrets import token_hex
from typing import Any, NamedTuple

from ..documents.bson_types import Document
from ..exceptions import PositionsBroken
from ..mongodb.connection import Store
from ..mongodb.deadline import in_time
from .checkpoints import ClaimLost, error_record, move
from .declaration import Subscription
from .transactions import in_transaction

PARKED_PER_READ = 1000  # parked streams that one read returns or one write deletes

# The fields of the failed event, of a parked stream that waits at none in particular.
_NO_EVENT: Document = dict.fromkeys(("eventId", "type", "failed", "error", "traceback"))


class Failed(NamedTuple):
    """An event that failed for good, so its stream has to be parked."""

    event: Document
    error: BaseException
    tries: int = 1


def parked_id(name: str, aggregate_id: str) -> Document:
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
    Park a stream at an event and change the checkpoint, in one transaction.

    Raises:
        ClaimLost: another process has claimed the subscription.
    """

    document = document_of(name, failed)
    changes = {"lastError": error_record(failed.error, failed.event), **changes}

    async def write() -> None:
        with in_time():
            await move(store, name, fence, changes, session=session)
            await park_all(store, session, [document])

    await in_transaction(store, session, write)


async def park_all(store: Store, session: Any, documents: Sequence[Document]) -> None:
    """
    Park streams, by what ``document_of()`` returned, in the open transaction.

    A stream that is parked already stays as it is, unless the new event is earlier:
    whatever the order in which failures are found, a stream waits at the first.
    """
    new = {document["aggregateId"]: document for document in documents}
    ids = [document["_id"] for document in new.values()]
    # No upsert: in a transaction that is tried again, one may violate a unique index
    # (SERVER-95524).
    for found in await store.parked.find({"_id": {"$in": ids}}, session=session):
        document = new.pop(found["aggregateId"])
        if document["position"] < found.get("parkedAtPosition", found["position"]):
            await store.parked.replace_one(
                {"_id": found["_id"]}, document, session=session
            )
    if new:
        await store.parked.insert_many(list(new.values()), session=session)


def document_of(name: str, failed: Failed) -> Document:
    """Return the document of a parked stream; its traceback takes a millisecond."""
    event, error, tries = failed
    record = error_record(error, event)
    return {
        "_id": parked_id(name, event["aggregateId"]),
        "subscription": name,
        "aggregateType": event["aggregateType"],
        "tries": tries,
        "retry": False,
        "since": record["failed"],
        # Unlike the position, this does not move with a retry.
        "parkedAtPosition": event["position"],
        **record,
    }


async def positions_parked_at(
    store: Store, name: str, session: Any, most: float = math.inf
) -> dict[str, int] | None:
    """
    Return all parked streams, and the position at which each was parked.

    It is None if there are more than ``most``.
    """
    query = {"subscription": {"$eq": name}}
    return await _by_stream(store, query, "parkedAtPosition", session, most)


async def positions_parked_at_among(
    store: Store, name: str, session: Any, streams: Collection[str]
) -> dict[str, int]:
    """Return those of some streams that are parked, likewise."""
    query = {"_id": {"$in": [parked_id(name, stream) for stream in streams]}}
    return await _by_stream(store, query, "parkedAtPosition", session) or {}


async def next_positions(store: Store, name: str, session: Any) -> dict[str, int]:
    """Return all parked streams, and the position of the next event of each."""
    query = {"subscription": {"$eq": name}}
    return await _by_stream(store, query, "position", session) or {}


async def _by_stream(
    store: Store, query: Document, field: str, session: Any, most: float = math.inf
) -> dict[str, int] | None:
    streams: dict[str, int] = {}
    found = store.parked.batches(
        query, PARKED_PER_READ, projection=["aggregateId", field], session=session
    )
    async with aclosing(found) as batches:
        async for batch in batches:
            streams.update((one["aggregateId"], one.get(field, 0)) for one in batch)
            if len(streams) > most:
                return None
    return streams


async def find_parked(
    store: Store, name: str, *, limit: int = PARKED_PER_READ, retry: bool | None = None
) -> list[Document]:
    """Return parked streams, those with the earliest events first."""
    query: Document = {"subscription": {"$eq": name}}
    if retry is not None:
        query["retry"] = retry
    with in_time():
        return await store.parked.find(query, sort=[("position", 1)], limit=limit)


async def request_retry(
    store: Store, name: str, aggregate_id: str | None = None
) -> int:
    """Mark one parked stream for retry, or all; return how many are marked."""
    query: Document = {"subscription": {"$eq": name}}
    if aggregate_id is not None:
        query["aggregateId"] = {"$eq": aggregate_id}
    request = {"retry": True, "retryRequest": token_hex(8)}
    with in_time():
        return await store.parked.update_many(query, {"$set": request})


async def retry_after_loss(store: Store, name: str, aggregate_id: str) -> None:
    """Let a subscription continue that waits at an event that was lost."""
    await request_retry(store, name, aggregate_id)
    lost = {
        "_id": {"$eq": name},
        "stopped.aggregateId": {"$eq": aggregate_id},
        "stopped.error": {"$regex": f"^{PositionsBroken.__name__}"},
    }
    with in_time():
        await store.subscriptions.update_one(lost, {"$set": {"stopped": None}})


async def delete_parked(store: Store, subscription: Mapping[str, Any]) -> None:
    """
    Delete the parked streams of subscriptions that no process runs any more.

    Page by page, and in no transaction: there may be millions.
    """
    while True:
        with in_time():
            found = await store.parked.find(
                {"subscription": subscription},
                projection=["_id"],
                limit=PARKED_PER_READ,
            )
            if not found:
                return
            ids = [one["_id"] for one in found]
            await store.parked.delete_many({"_id": {"$in": ids}})


async def advance(
    store: Store,
    parked: Mapping[str, Any],
    event: Mapping[str, Any],
    session: Any = None,
) -> bool:
    """Move a parked stream past an event; False if it does not wait at that event."""
    matched = await store.parked.update_one(
        {"_id": parked["_id"], "position": parked["position"]},
        {"$set": after_event(event)},
        session=session,
    )
    return bool(matched)


def after_event(event: Mapping[str, Any]) -> Document:
    """Return what changes in a parked stream when it moves past an event."""
    return {
        **_NO_EVENT,
        "position": event["position"] + 1,
        "aggregateVersion": event["aggregateVersion"] + 1,
    }


async def record_failed_retry(
    store: Store,
    parked: Mapping[str, Any],
    event: Mapping[str, Any],
    error: BaseException,
) -> None:
    """
    Record that a retry failed as well; the stream stays parked, at this event.

    Raises:
        ClaimLost: another process or an operator has moved the stream meanwhile.
    """
    # Never back: what another process has delivered would be delivered twice.
    unmoved = {"_id": parked["_id"], "position": parked["position"]}
    record, again = error_record(error, event), {"$inc": {"tries": 1}}
    with in_time():
        answered = {"retryRequest": parked.get("retryRequest")}
        matched = await store.parked.update_one(
            {**unmoved, **answered}, {"$set": {**record, "retry": False}, **again}
        )
        # An operator requested another retry since this one began: it is still to do.
        matched = matched or await store.parked.update_one(
            unmoved, {"$set": record, **again}
        )
    if not matched:
        raise ClaimLost


async def release(
    store: Store,
    session: Any,
    name: str,
    fence: int,
    parked: Mapping[str, Any],
    position: int,
) -> bool:
    """
    Release a parked stream whose events are all delivered.

    Args:
        store: one face of the store.
        session: the session of the claim.
        name: the subscription.
        fence: the fence of its claim.
        parked: the parked stream.
        position: up to where the subscription has delivered events. The checkpoint
            moves there first, or the stream's events would be delivered again.

    Returns:
        False if an operator has moved the stream meanwhile.

    Raises:
        ClaimLost: another process has claimed the subscription.
    """
    released = False

    async def write() -> None:
        nonlocal released
        query = {"_id": parked["_id"], "position": parked["position"], "retry": True}
        with in_time():
            await move(store, name, fence, {"position": position}, session=session)
            released = bool(await store.parked.delete_one(query, session=session))

    await in_transaction(store, session, write)
    return released


# --- subscriptions whose checkpoint is in an SQL database --------------------


async def reconcile(
    store: Store,
    session: Any,
    declared: Subscription,
    fence: int,
    *,
    remove: Collection[str],
    add: Mapping[str, int],
) -> None:
    """
    Make the parked streams agree with the rows of an SQL database.

    Args:
        store: one face of the store.
        session: the session of the claim.
        declared: the subscription.
        fence: the fence of its claim.
        remove: streams that are not parked.
        add: streams that are parked, and the position up to which each is handled.
            They are retried, as it is unknown why they are parked.

    Raises:
        ClaimLost: another process has claimed the subscription.
    """
    now = dt.datetime.now(dt.UTC)
    added = []
    for aggregate_id, handled in add.items():
        place = await _first_after(store, session, declared, aggregate_id, handled)
        added.append(
            {
                "_id": parked_id(declared.name, aggregate_id),
                "subscription": declared.name,
                "aggregateId": aggregate_id,
                "tries": 0,
                "retry": True,
                "since": now,
                "parkedAtPosition": place["position"],
                **_NO_EVENT,
                **place,
            }
        )

    async def write() -> None:
        with in_time():
            await move(store, declared.name, fence, {}, session=session)
            ids = [parked_id(declared.name, aggregate_id) for aggregate_id in remove]
            for at in range(0, len(ids), PARKED_PER_READ):
                some = {"_id": {"$in": ids[at : at + PARKED_PER_READ]}}
                await store.parked.delete_many(some, session=session)
            if added:
                await store.parked.insert_many(added, session=session)

    await in_transaction(store, session, write)


async def move_back(
    store: Store, session: Any, declared: Subscription, parked: Document, handled: int
) -> Document:
    """
    Move a parked stream back to its first event after a position, and return it.

    Raises:
        ClaimLost: it was moved meanwhile.
    """
    place = await _first_after(store, session, declared, parked["aggregateId"], handled)
    if place["position"] >= parked["position"]:
        return parked
    with in_time():
        moved = await store.parked.update_one(
            {"_id": parked["_id"], "position": parked["position"]},
            {"$set": {**_NO_EVENT, **place}},
        )
    if not moved:
        raise ClaimLost
    return {**parked, **_NO_EVENT, **place}


async def waits_at(
    store: Store, declared: Subscription, aggregate_id: str, handled: int, position: int
) -> bool:
    """Whether the first event of a stream after ``handled`` is at ``position``."""
    place = await _first_after(store, None, declared, aggregate_id, handled)
    return bool(place["position"] == position)


async def _first_after(
    store: Store, session: Any, declared: Subscription, aggregate_id: str, handled: int
) -> Document:
    """Return type, version and position of a stream's next event after a position."""
    stream = {"aggregateId": {"$eq": aggregate_id}}
    fields = ["aggregateType", "aggregateVersion"]
    with in_time():
        found = await store.positions.find_one(
            {**declared.query(), **stream, "_id": {"$gt": handled}, "lost": None},
            projection=fields,
            sort=[("aggregateVersion", 1)],
            session=session,
        )
        # Without one the stream waits after its last event.
        found = found or await store.positions.find_one(
            stream, projection=fields, sort=[("aggregateVersion", -1)], session=session
        )
    if found is None:
        return {"aggregateType": None, "aggregateVersion": 1, "position": handled + 1}
    at_end = found["_id"] <= handled
    return {
        "aggregateType": found["aggregateType"],
        "aggregateVersion": found["aggregateVersion"] + at_end,
        "position": handled + 1 if at_end else found["_id"],
    }
