"""
What an operator asks of a subscription: try again, pass over an event, start elsewhere.

The process that runs the subscription sees it within a second; if none runs, the next
that does. The command ``subscriptions`` and the admin call these.
"""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from secrets import token_hex
from typing import Any

from django.db import Error
from pymongo.errors import DuplicateKeyError

from ..documents.bson_types import Document
from ..exceptions import UnknownSubscription
from ..mongodb import connection
from ..mongodb.connection import Store
from ..mongodb.deadline import in_time
from ..mongodb.ports import drive
from . import checkpoints, declaration, parked_streams
from .declaration import Subscription
from .transactions import in_transaction


def retry(name: str, aggregate_id: str | None = None) -> int:
    """
    Ask for a retry of one parked stream, or of all; return of how many.

    Without a stream, a subscription that has stopped goes on as well.
    """
    store = connection.blocking()
    drive(_there(store, name))
    query: Document = {"subscription": {"$eq": name}}
    if aggregate_id is not None:
        query["aggregateId"] = {"$eq": aggregate_id}
    request = {"retry": True, "asked": token_hex(8)}
    with in_time():
        asked = drive(store.parked.update_many(query, {"$set": request}))
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
    store = connection.blocking()
    if not reason.strip():
        raise ValueError("A reason is needed to pass over an event.")
    at = drive(_there(store, name))
    if aggregate_id is None:
        waits = at.get("stopped")
    else:
        with in_time():
            waits = drive(
                store.parked.find_one({"_id": parked_streams.key(name, aggregate_id)})
            )
    if not waits or waits.get("eventId") is None:
        return None
    if position is not None and waits["position"] != position:
        return None
    record = _record(name, at, waits, reason, who)
    if aggregate_id is None:
        skipped = _skip_stopped(store, name, at, record)
    elif (declared := _in_database(name, at)) is not None:
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
    store = connection.blocking()
    at = drive(_there(store, name))
    if at["kind"] in ("projection", "projection build"):
        raise ValueError(
            f"{name} is a projection: its documents would not follow. Use manage.py "
            f"rebuild_projections {name}."
        )
    _continue_after(store, at, position)


async def _there(store: Store, name: str) -> Document:
    with in_time():
        found = await store.subscriptions.find_one({"_id": {"$eq": name}})
    if found is None:
        raise UnknownSubscription(name, sorted(declaration.registered()))
    return found


def _in_database(name: str, at: Document) -> Subscription | None:
    """Return a subscription whose checkpoint is in an SQL database, else None."""
    declared = declaration.registered().get(name)
    if declared is None or not declared.using:
        return None
    # One that was given ``using`` and has not run since is still in MongoDB.
    return declared if at.get("using") == declared.using else None


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
            **parked_streams.key(name, waits["aggregateId"]),
            "position": kept["position"],
        },
        "subscription": name,
        "reason": reason,
        "skippedBy": who,
        # Of two that skip the same event at the same time, each knows its own.
        "token": token_hex(8),
    }


async def _keep(store: Store, record: Document, session: Any) -> None:
    """Keep a record, in a transaction."""
    query = {"_id": record["_id"]}
    # No upsert (SERVER-95524), and no right to delete: a site may only add to these.
    if await store.skipped.find_one(query, session=session) is None:
        await store.skipped.insert_one(record, session=session)
    else:
        await store.skipped.replace_one(query, record, session=session)
    await store.skipped.update_one(
        query, {"$currentDate": {"skipped": True}}, session=session
    )


async def _announce(store: Store, record: Document) -> None:
    """Keep a record of what another database is about to decide, if there is none."""
    new = {"$setOnInsert": record, "$currentDate": {"skipped": True}}
    with in_time(), suppress(DuplicateKeyError):
        await store.skipped.update_one({"_id": record["_id"]}, new, upsert=True)


async def _confirm(store: Store, record: Document) -> None:
    """Keep the record of what was decided, also if another operator announced it."""
    with in_time():
        await store.skipped.replace_one({"_id": record["_id"]}, record, upsert=True)
        await store.skipped.update_one(
            {"_id": record["_id"]}, {"$currentDate": {"skipped": True}}
        )


async def _withdraw(store: Store, record: Document) -> None:
    """Mark a record of our own: the event was not skipped after all."""
    with in_time():
        await store.skipped.update_one(
            {"_id": record["_id"], "token": record["token"]},
            {"$set": {"skipped": None, "withdrawn": True}},
        )


async def _move_on(store: Store, waits: Document, session: Any = None) -> bool:
    """Let a parked stream be retried after an event; False if it waits elsewhere."""
    moved = await store.parked.update_one(
        {"_id": waits["_id"], "position": waits["position"]},
        {"$set": {**parked_streams.behind(waits), "retry": True}},
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
    position, stands = waits["position"], rows.read(name, using, stream)
    if stands is None:
        return False
    if stands >= position:  # a process or an operator ended before it could say so
        with in_time():
            drive(_move_on(store, waits))
        return False
    if not drive(parked_streams.waits_at(store, declared, stream, stands, position)):
        return False
    # A record first: no event is skipped without one.
    drive(_announce(store, record))
    try:
        skipped: bool = rows.skip(name, stream, stands, position, using)
    except Error:
        if rows.read(name, using, stream) == stands:
            drive(_withdraw(store, record))
        raise
    if not skipped:
        drive(_withdraw(store, record))
        return False
    drive(_confirm(store, record))
    with in_time():
        drive(_move_on(store, waits))
    return True


def _skip_stopped(store: Store, name: str, at: Document, record: Document) -> bool:
    """Pass over the event at which a subscription has stopped, and continue."""
    declared, position = _in_database(name, at), at["stopped"]["position"]
    if declared is None:
        return _continue_after(store, at, position, record)
    rows, using = checkpoints.rows(), declared.using
    stands = rows.read(name, using)
    if stands is None or stands < at["position"]:
        return False  # it was restored to an earlier time: retry, and see
    if stands >= position:  # it was handled, or skipped before
        with in_time():
            drive(_resume(store, name, position))
        return False
    # A record first, as that database may decide and nothing else happen.
    drive(_announce(store, record))
    try:
        skipped = _continue_after(store, at, position, record)
    except Error:
        if rows.read(name, using) == stands:
            drive(_withdraw(store, record))
        raise
    if not skipped:
        drive(_withdraw(store, record))
    return skipped


async def _resume(store: Store, name: str, position: int) -> None:
    """Let a subscription that has stopped at a position continue."""
    await store.subscriptions.update_one(
        {"_id": {"$eq": name}, "stopped.position": position},
        {"$set": {"stopped": None}},
    )


def _continue_after(
    store: Store, at: Document, position: int, record: Document | None = None
) -> bool:
    """
    Move the checkpoint and release all parked streams, or pass over one event.

    All of it or nothing: streams that wait no more, and events that do not come again,
    would be lost.

    Args:
        store: the blocking face.
        at: the subscription's document.
        position: where it continues.
        record: what to keep of the event at which it stopped, if that is passed over:
            then streams stay parked, and nothing is done if it has continued meanwhile.
    """
    name: str = at["_id"]
    declared = _in_database(name, at)
    moved = False

    async def move() -> None:
        async with store.client.session() as session:
            # The process that has it in a transaction ends that one, and begins no
            # other.
            await revoke()
            await in_transaction(store, session, partial(work, session), revoke)

    async def revoke() -> None:
        if record is None:
            with in_time():
                await checkpoints.revoke(store, name)

    async def work(session: Any) -> None:
        nonlocal moved
        stopped = None if record is None else at["stopped"]
        with in_time():
            moved = await checkpoints.reset(store, name, position, session, stopped)
            if moved and record is None:
                query = {"subscription": {"$eq": name}}
                await store.parked.delete_many(query, session=session)
            if moved and record is not None:
                await _keep(store, record, session)
        if moved and declared is not None:
            # That database has the last word on where the subscription stands. It is
            # not asked before this transaction is over: nobody can claim meanwhile.
            rows = checkpoints.rows()
            change = rows.reset if record is None else rows.pass_over
            change(name, position, declared.using)

    drive(move())
    return moved
