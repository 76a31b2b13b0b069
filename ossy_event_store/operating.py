"""
What an operator asks of a subscription: try again, pass over an event, start elsewhere.

The process that runs the subscription sees it within a second; if none runs, the next
that does. The command ``subscriptions`` and the admin call these.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from . import checkpoints, mongo, parking, subscriptions
from .exceptions import UnknownSubscription
from .faces import Document, drive
from .mongo import Store, in_time
from .transactions import in_transaction


def retry(name: str, aggregate_id: str | None = None) -> int:
    """
    Ask for a retry of one parked stream, or of all; return of how many.

    Without a stream, a subscription that has stopped goes on as well.
    """
    store = mongo.blocking()
    drive(_there(store, name))
    query: Document = {"subscription": {"$eq": name}}
    if aggregate_id is not None:
        query["aggregateId"] = {"$eq": aggregate_id}
    with in_time():
        asked = drive(store.parked.update_many(query, {"$set": {"retry": True}}))
        if aggregate_id is None:
            asked += drive(
                store.subscriptions.update_one(
                    {"_id": {"$eq": name}, "stopped": {"$ne": None}},
                    {"$set": {"stopped": None}},
                )
            )
    return asked


def skip(
    name: str,
    aggregate_id: str | None,
    reason: str,
    who: str | None = None,
    position: int | None = None,
) -> Document | None:
    """
    Pass over the event at which a stream waits, and let the rest of it go on.

    Args:
        name: the subscription.
        aggregate_id: the parked stream; None passes over the event at which the whole
            subscription has stopped.
        reason: why, for those who come later; kept in the collection ``skipped``.
        who: kept with it.
        position: that of the event that was looked at; what waits at another one by
            now waits on. None skips whichever it is.

    Returns:
        What is kept of it; None if nothing waits there.
    """
    store = mongo.blocking()
    if not reason.strip():
        raise ValueError("A reason is needed to pass over an event.")
    at = drive(_there(store, name))
    if aggregate_id is None:
        waits = at.get("stopped")
    else:
        with in_time():
            waits = drive(
                store.parked.find_one({"_id": parking.key(name, aggregate_id)})
            )
    if not waits or waits.get("eventId") is None:
        return None
    if position is not None and waits["position"] != position:
        return None
    record = drive(_record(store, name, waits, reason, who))
    if aggregate_id is None:
        return record if _go_on_behind(store, name, waits["position"], at) else None
    with in_time():
        went_on = drive(
            store.parked.update_one(
                {"_id": waits["_id"], "position": waits["position"]},
                {"$set": {**parking.behind(waits), "retry": True}},
            )
        )
    return record if went_on else None


def reset(name: str, position: int) -> None:
    """
    Let a subscription go on behind a position; nothing stays parked.

    Raises:
        ValueError: it is a projection, whose documents hold what they hold.
    """
    store = mongo.blocking()
    if drive(_there(store, name))["kind"] == "projection":
        raise ValueError(
            f"{name} is a projection: its documents would not follow. Use manage.py "
            f"rebuild_projections {name}."
        )
    _go_on_behind(store, name, position)


async def _there(store: Store, name: str) -> Document:
    with in_time():
        found = await store.subscriptions.find_one({"_id": {"$eq": name}})
    if found is None:
        raise UnknownSubscription(name, sorted(subscriptions.registered()))
    return found


async def _record(
    store: Store, name: str, waits: Document, reason: str, who: str | None
) -> Document:
    """Keep what is passed over, before it is: no event goes without a record."""
    kept = {k: v for k, v in waits.items() if k not in ("_id", "retry")}
    record = {
        **kept,
        "_id": {
            **parking.key(name, waits["aggregateId"]),
            "position": kept["position"],
        },
        "subscription": name,
        "reason": reason,
        "skippedBy": who,
    }
    with in_time():
        await store.skipped.replace_one({"_id": record["_id"]}, record, upsert=True)
        await store.skipped.update_one(
            {"_id": record["_id"]}, {"$currentDate": {"skipped": True}}
        )
    return record


def _go_on_behind(
    store: Store, name: str, position: int, stopped: Document | None = None
) -> bool:
    """
    Let a subscription go on behind a position, and no stream wait any more.

    All or nothing: streams that wait no more, and events that do not come again,
    would be lost.

    Args:
        store: the blocking face.
        name: the subscription.
        position: where it goes on.
        stopped: its document, if it is to pass over the event at which it stopped:
            then streams wait on, and nothing is done if it has gone on meanwhile.
    """
    declared = subscriptions.registered().get(name)
    rows: Any = checkpoints.rows() if declared is not None and declared.using else None
    moved = False

    async def move() -> None:
        async with store.client.session() as session:
            # Whoever has it in a transaction ends that one, and begins no other.
            await take_away()
            await in_transaction(store, session, partial(work, session), take_away)

    async def take_away() -> None:
        if stopped is None:
            with in_time():
                await checkpoints.take_away(store, name)

    async def work(session: Any) -> None:
        nonlocal moved
        with in_time():
            moved = await checkpoints.reset(
                store, name, position, session, stopped and stopped["stopped"]
            )
            if moved and stopped is None:
                query = {"subscription": {"$eq": name}}
                await store.parked.delete_many(query, session=session)
        if moved and rows is not None:
            # That database has the last word on where the subscription stands. It is
            # not asked before this transaction is over: nobody can claim meanwhile.
            rows.reset(name, position, declared and declared.using)

    drive(move())
    return moved
