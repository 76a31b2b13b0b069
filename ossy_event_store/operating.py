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
from .subscriptions import Subscription
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
    Pass over the event at which a stream waits, and retry the rest of it.

    Args:
        name: the subscription.
        aggregate_id: the parked stream; None passes over the event at which the whole
            subscription has stopped.
        reason: why, for those who come later; kept in the collection ``skipped``.
        who: kept with it.
        position: that of the event that was looked at; what waits at another one by
            now stays there. None skips whichever it is.

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
    record = _record(name, at, waits, reason, who)
    if aggregate_id is None:
        skipped = _continue_after(store, name, waits["position"], at, record)
    elif (declared := _in_database(name)) is not None:
        skipped = _skip_there(store, declared, waits, record)
    else:
        skipped = _skip_here(store, waits, record)
    return record if skipped else None


def reset(name: str, position: int) -> None:
    """
    Let a subscription continue after a position; nothing stays parked.

    Raises:
        ValueError: it is a projection, whose documents hold what they hold.
    """
    store = mongo.blocking()
    if drive(_there(store, name))["kind"] == "projection":
        raise ValueError(
            f"{name} is a projection: its documents would not follow. Use manage.py "
            f"rebuild_projections {name}."
        )
    _continue_after(store, name, position)


async def _there(store: Store, name: str) -> Document:
    with in_time():
        found = await store.subscriptions.find_one({"_id": {"$eq": name}})
    if found is None:
        raise UnknownSubscription(name, sorted(subscriptions.registered()))
    return found


def _in_database(name: str) -> Subscription | None:
    """Return a subscription whose checkpoint is in an SQL database, else None."""
    declared = subscriptions.registered().get(name)
    return declared if declared is not None and declared.using else None


def _record(
    name: str, at: Document, waits: Document, reason: str, who: str | None
) -> Document:
    """Return what is kept of an event that is skipped."""
    kept = {k: v for k, v in waits.items() if k not in ("_id", "retry")}
    if "generation" in at:  # of a projection: the next one gets the event again
        kept["generation"] = at["generation"]
    return {
        **kept,
        "_id": {
            **parking.key(name, waits["aggregateId"]),
            "position": kept["position"],
        },
        "subscription": name,
        "reason": reason,
        "skippedBy": who,
    }


async def _keep(store: Store, record: Document, session: Any = None) -> None:
    query = {"_id": record["_id"]}
    await store.skipped.delete_one(query, session=session)
    await store.skipped.insert_one(record, session=session)
    await store.skipped.update_one(
        query, {"$currentDate": {"skipped": True}}, session=session
    )


async def _move_on(store: Store, waits: Document, session: Any = None) -> bool:
    """Let a parked stream be retried after an event; False if it waits elsewhere."""
    moved = await store.parked.update_one(
        {"_id": waits["_id"], "position": waits["position"]},
        {"$set": {**parking.behind(waits), "retry": True}},
        session=session,
    )
    return bool(moved)


def _skip_here(store: Store, waits: Document, record: Document) -> bool:
    """Skip an event and keep a record of it, both or neither."""
    skipped = False

    async def skip() -> None:
        async with store.client.session() as session:
            await in_transaction(store, session, partial(work, session))

    async def work(session: Any) -> None:
        nonlocal skipped
        with in_time():
            skipped = await _move_on(store, waits, session)
            if skipped:
                await _keep(store, record, session)

    drive(skip())
    return skipped


def _skip_there(
    store: Store, declared: Subscription, waits: Document, record: Document
) -> bool:
    """
    Skip an event of a subscription whose checkpoint is in an SQL database.

    That database decides: the event may have had its effect there, though MongoDB
    does not say so yet.
    """
    rows = checkpoints.rows()
    name, using, stream = declared.name, declared.using, waits["aggregateId"]
    stands = rows.read(name, using, stream)
    if stands is None or not drive(
        parking.waits_at(store, declared, stream, stands, waits["position"])
    ):
        return False
    # The record first: no event is skipped without one.
    with in_time():
        drive(_keep(store, record))
    if not rows.skip(name, stream, stands, waits["position"], using):
        with in_time():
            drive(store.skipped.delete_one({"_id": record["_id"]}))
        return False
    with in_time():
        drive(_move_on(store, waits))
    return True


def _continue_after(
    store: Store,
    name: str,
    position: int,
    stopped: Document | None = None,
    record: Document | None = None,
) -> bool:
    """
    Move the checkpoint and release all parked streams, or pass over one event.

    All of it or nothing: streams that wait no more, and events that do not come again,
    would be lost.

    Args:
        store: the blocking face.
        name: the subscription.
        position: where it continues.
        stopped: its document, if it is to pass over the event at which it stopped:
            then streams stay parked, and nothing is done if it has continued meanwhile.
        record: what to keep of that event.
    """
    declared = _in_database(name)
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
            if moved and record is not None:
                await _keep(store, record, session)
        if moved and declared is not None:
            # That database has the last word on where the subscription stands. It is
            # not asked before this transaction is over: nobody can claim meanwhile.
            rows = checkpoints.rows()
            change = rows.reset if stopped is None else rows.pass_over
            change(name, position, declared.using)

    drive(move())
    return moved
