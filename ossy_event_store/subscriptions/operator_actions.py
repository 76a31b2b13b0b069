"""
What operators do: retry, skip, reset, pause, resume, accept a loss.

The process that runs the subscription notices within a second, or the next one that
runs it. The command ``subscriptions`` and the admin call these functions.
"""

from __future__ import annotations

import datetime as dt
from functools import partial
from secrets import token_hex
from typing import Any

from django.db import Error

from ..documents.arguments import check_number
from ..documents.bson_types import Document
from ..documents.event_document import check_id
from ..exceptions import UnknownSubscription
from ..mongodb import connection
from ..mongodb.connection import Store
from ..mongodb.deadline import in_time
from ..mongodb.ports import drive
from ..mongodb.write_errors import unless_it_exists
from ..positions import damage
from ..positions.reader import head_position
from . import checkpoints, declaration, parked_streams
from .declaration import Subscription
from .transactions import in_transaction


def retry(name: str, aggregate_id: str | None = None) -> int:
    """
    Request a retry of one parked stream, or of all; return how many are marked.

    Without a stream, this also lets a subscription that has stopped continue.
    """
    store = connection.blocking()
    drive(_document(store, name))
    if aggregate_id is not None:
        check_id(aggregate_id)
    marked = drive(parked_streams.request_retry(store, name, aggregate_id))
    if aggregate_id is None:
        with in_time():
            marked += drive(
                store.subscriptions.update_one(
                    {"_id": {"$eq": name}, "stopped": {"$ne": None}},
                    {"$set": {"stopped": None}},
                )
            )
    return marked


def skip(
    name: str,
    aggregate_id: str | None,
    reason: str,
    who: str | None = None,
    position: int | None = None,
) -> Document | None:
    """
    Skip the event at which a parked stream waits, and retry the rest of the stream.

    Args:
        name: the subscription.
        aggregate_id: the parked stream; None skips the event at which the whole
            subscription has stopped.
        reason: why; it is stored in the collection ``skipped``.
        who: who skips it; stored with the reason.
        position: the position of the event that the operator saw. If the stream waits
            at another one by now, nothing is skipped. None skips any event.

    Returns:
        The record that is stored; None if nothing was skipped.
    """
    store = connection.blocking()
    if not reason.strip():
        raise ValueError("Skipping an event needs a reason.")
    document = drive(_document(store, name))
    if aggregate_id is None:
        waiting = document.get("stopped")
    else:
        with in_time():
            waiting = drive(
                store.parked.find_one(
                    {"_id": parked_streams.parked_id(name, check_id(aggregate_id))}
                )
            )
    if not waiting or waiting.get("eventId") is None:
        return None
    if position is not None and waiting["position"] != position:
        return None
    record = _record(name, document, waiting, reason, who)
    if aggregate_id is None:
        skipped = _skip_stopped(store, name, document, record)
    elif (declared := _in_sql(name, document)) is not None:
        skipped = _skip_there(store, declared, waiting, record)
    else:
        skipped = _skip_here(store, waiting, record)
    return record if skipped else None


def reset(name: str, position: int) -> None:
    """
    Let a subscription continue after a position; nothing stays parked.

    Raises:
        ValueError: it is a projection, whose documents a reset would leave as they are;
            or no event has the position yet, so the next ones would be passed over.
    """
    check_number(position, "position")
    store = connection.blocking()
    document = drive(_document(store, name))
    head = drive(head_position(store))
    if position > head:
        raise ValueError(
            f"The last event has position {head:,}. If {name} continued after position "
            f"{position:,}, it would skip the next events. Choose a position from 0 to "
            f"{head:,}."
        )
    if document["kind"] in ("projection", declaration.BUILD_KIND):
        raise ValueError(
            f"{name} is a projection: a reset would not change its documents. Run "
            f"manage.py rebuild_projections {name} instead."
        )
    _continue_after(store, document, position)


def pause(name: str, who: str | None = None) -> bool:
    """
    Pause a subscription until ``resume()``; return False if it is paused already.

    The process that runs it finishes its event or transaction and writes the
    checkpoint; no process delivers events until it is resumed.

    Raises:
        ValueError: it is the build of a projection.
    """
    store = connection.blocking()
    if drive(_document(store, name)).get("kind") == declaration.BUILD_KIND:
        raise ValueError(
            f"{name} is a build of a projection. Interrupt rebuild_projections "
            "--blue-green instead; it resumes when you run it again."
        )
    paused = {"since": dt.datetime.now(dt.UTC), "by": who}
    query = {"_id": {"$eq": name}, "paused": None}
    with in_time():
        return bool(
            drive(store.subscriptions.update_one(query, {"$set": {"paused": paused}}))
        )


def resume(name: str) -> bool:
    """Let a paused subscription continue; return False if it is not paused."""
    store = connection.blocking()
    drive(_document(store, name))
    query = {"_id": {"$eq": name}, "paused": {"$ne": None}}
    with in_time():
        return bool(
            drive(store.subscriptions.update_one(query, {"$set": {"paused": None}}))
        )


def accept_loss(
    aggregate_id: str, reason: str, who: str | None = None
) -> list[tuple[int, int]]:
    """
    Accept that events of a stream are lost, so that everything continues without them.

    The sequencer passes over the holes of the stream, readers pass over positions whose
    event was deleted, and subscriptions that parked the stream retry it. What is left
    of the stream stays as it is.

    Args:
        aggregate_id: the stream.
        reason: why; it is stored in the collection ``eventstore_damaged``.
        who: who accepts it; stored with the reason.

    Returns:
        The first and the last version of each loss; empty if nothing is lost, or all of
        it was accepted before.

    Raises:
        ValueError: there is no reason, or the id is not valid.
    """
    store = connection.blocking()
    check_id(aggregate_id)
    if not reason.strip():
        raise ValueError("Accepting a loss needs a reason.")
    lost = drive(damage.accept(store, aggregate_id, reason, who))
    with in_time():
        names = [one["_id"] for one in drive(store.subscriptions.find({}))]
    for name in names:
        drive(parked_streams.retry_after_loss(store, name, aggregate_id))
    return lost


async def _document(store: Store, name: str) -> Document:
    check_id(name, "name")
    with in_time():
        found = await store.subscriptions.find_one({"_id": {"$eq": name}})
    if found is None:
        raise UnknownSubscription(name, sorted(declaration.registered_subscriptions()))
    return found


def _in_sql(name: str, document: Document) -> Subscription | None:
    """Return the subscription if its checkpoint is in an SQL database, else None."""
    declared = declaration.registered_subscriptions().get(name)
    if declared is None or not declared.using:
        return None
    # If it got ``using`` after its last run, its checkpoint is still in MongoDB.
    return declared if document.get("using") == declared.using else None


def _record(
    name: str, document: Document, waiting: Document, reason: str, who: str | None
) -> Document:
    """Return the record of a skipped event."""
    fields = {k: v for k, v in waiting.items() if k not in ("_id", "retry")}
    if "generation" in document:  # a projection; its next one gets the event again
        fields["generation"] = document["generation"]
    return {
        **fields,
        "_id": {
            **parked_streams.parked_id(name, waiting["aggregateId"]),
            "position": fields["position"],
        },
        "subscription": name,
        "reason": reason,
        "skippedBy": who,
        # If two operators skip the event at the same time, each knows its own record.
        "token": token_hex(8),
    }


async def _store_record(store: Store, record: Document, session: Any) -> None:
    """Store a record, in the open transaction."""
    query = {"_id": record["_id"]}
    # No upsert (SERVER-95524), and no delete: a site may deny that right here.
    if await store.skipped.find_one(query, session=session) is None:
        await store.skipped.insert_one(record, session=session)
    else:
        await store.skipped.replace_one(query, record, session=session)
    await store.skipped.update_one(
        query, {"$currentDate": {"skipped": True}}, session=session
    )


async def _announce(store: Store, record: Document) -> None:
    """Store a record before the SQL database decides, unless there is one."""
    new = {"$setOnInsert": record, "$currentDate": {"skipped": True}}
    with in_time(), unless_it_exists():
        await store.skipped.update_one({"_id": record["_id"]}, new, upsert=True)


async def _confirm(store: Store, record: Document) -> None:
    """Store the record of the decision, even over that of another operator."""
    with in_time():
        await store.skipped.replace_one({"_id": record["_id"]}, record, upsert=True)
        await store.skipped.update_one(
            {"_id": record["_id"]}, {"$currentDate": {"skipped": True}}
        )


async def _withdraw(store: Store, record: Document) -> None:
    """Mark our own record as withdrawn: the event was not skipped."""
    with in_time():
        await store.skipped.update_one(
            {"_id": record["_id"], "token": record["token"]},
            {"$set": {"skipped": None, "withdrawn": True}},
        )


async def _move_on(store: Store, waiting: Document, session: Any = None) -> bool:
    """Retry a parked stream after its event; False if it was moved meanwhile."""
    moved = await store.parked.update_one(
        {"_id": waiting["_id"], "position": waiting["position"]},
        {"$set": {**parked_streams.after_event(waiting), "retry": True}},
        session=session,
    )
    return bool(moved)


def _skip_here(store: Store, waiting: Document, record: Document) -> bool:
    """Skip an event and store a record of it, both or neither."""
    skipped = False

    async def skip() -> None:
        async with store.client.session() as session:
            await in_transaction(store, session, partial(work, session))

    async def work(session: Any) -> None:
        nonlocal skipped
        with in_time():
            skipped = await _move_on(store, waiting, session)
            if skipped:
                await _store_record(store, record, session)

    drive(skip())
    return skipped


def _skip_there(
    store: Store, declared: Subscription, waiting: Document, record: Document
) -> bool:
    """
    Skip an event of a subscription whose checkpoint is in an SQL database.

    That database decides: the event may have taken effect there, though MongoDB does
    not say so yet.
    """
    rows = checkpoints.sql_checkpoints()
    name, using, stream = declared.name, declared.using, waiting["aggregateId"]
    position, handled = waiting["position"], rows.read(name, using, stream)
    if handled is None:
        return False
    if handled >= position:  # a process or operator died before it moved the stream
        with in_time():
            drive(_move_on(store, waiting))
        return False
    if not drive(parked_streams.waits_at(store, declared, stream, handled, position)):
        return False
    # The record comes first: no event is skipped without one.
    drive(_announce(store, record))
    try:
        skipped: bool = rows.skip(name, stream, handled, position, using)
    except Error:
        if rows.read(name, using, stream) == handled:
            drive(_withdraw(store, record))
        raise
    if not skipped:
        drive(_withdraw(store, record))
        return False
    drive(_confirm(store, record))
    with in_time():
        drive(_move_on(store, waiting))
    return True


def _skip_stopped(
    store: Store, name: str, document: Document, record: Document
) -> bool:
    """Skip the event at which a subscription has stopped, and let it continue."""
    declared, position = _in_sql(name, document), document["stopped"]["position"]
    if declared is None:
        return _continue_after(store, document, position, record)
    rows, using = checkpoints.sql_checkpoints(), declared.using
    handled = rows.read(name, using)
    if handled is None or handled < document["position"]:
        return False  # it was restored to an earlier time: a retry shows what is next
    if handled >= position:  # the event was handled, or skipped, before
        with in_time():
            drive(_resume(store, name, position))
        return False
    # The record comes first: the process may die after that database has decided.
    drive(_announce(store, record))
    try:
        skipped = _continue_after(store, document, position, record)
    except Error:
        if rows.read(name, using) == handled:
            drive(_withdraw(store, record))
        raise
    if not skipped:
        drive(_withdraw(store, record))
    return skipped


async def _resume(store: Store, name: str, position: int) -> None:
    """Let a subscription that stopped at a position continue."""
    await store.subscriptions.update_one(
        {"_id": {"$eq": name}, "stopped.position": position},
        {"$set": {"stopped": None}},
    )


def _continue_after(
    store: Store, document: Document, position: int, record: Document | None = None
) -> bool:
    """
    Move the checkpoint and release all parked streams, or skip one event.

    In one transaction: half of it would lose events.

    Args:
        store: the blocking face.
        document: the subscription's document.
        position: the position after which it continues.
        record: the record of the event at which it stopped, if that is skipped. Then
            streams stay parked, and nothing happens if it has continued meanwhile.
    """
    name: str = document["_id"]
    declared = _in_sql(name, document)
    moved = False

    async def move() -> None:
        async with store.client.session() as session:
            # The owner finishes its transaction, and does not start another one.
            await revoke()
            await in_transaction(store, session, partial(work, session), revoke)

    async def revoke() -> None:
        if record is None:
            with in_time():
                await checkpoints.revoke(store, name)

    async def work(session: Any) -> None:
        nonlocal moved
        stopped = None if record is None else document["stopped"]
        with in_time():
            moved = await checkpoints.reset(store, name, position, session, stopped)
            if moved and record is None:
                query = {"subscription": {"$eq": name}}
                await store.parked.delete_many(query, session=session)
            if moved and record is not None:
                await _store_record(store, record, session)
        if moved and declared is not None:
            # The row decides where the subscription continues. No process reads it
            # before this transaction ends: none can claim the subscription meanwhile.
            rows = checkpoints.sql_checkpoints()
            change = rows.reset if record is None else rows.pass_over
            change(name, position, declared.using)

    drive(move())
    return moved
