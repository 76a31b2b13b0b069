"""
The checkpoint of each subscription, and the fence that protects it.

One document a subscription. A process that claims it raises its ``fence``, and writes
under an older fence are refused: a process that was only thought dead changes nothing.
"""

from __future__ import annotations

import datetime as dt
import logging
import traceback
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from bson import Binary
from django.apps import apps
from django.core.exceptions import ImproperlyConfigured
from pymongo import ReturnDocument

from ..documents.bson_types import Document
from ..documents.masking import mask
from ..mongodb.connection import Store
from ..mongodb.deadline import in_time
from ..mongodb.write_errors import short_reason, unless_it_exists
from ..positions.reader import head_position
from .declaration import Start

logger = logging.getLogger("ossy_event_store")

TRACEBACK_CHARACTERS = 4000  # that are stored of a traceback
RELATIONAL = "ossy_event_store.relational"  # the app with the table of checkpoints


class ClaimLost(Exception):
    """Another process has claimed the subscription, or an operator has reset it."""


async def find(store: Store, name: str) -> Document | None:
    """Return the document of a subscription, None if it has never run."""
    with in_time():
        return await store.subscriptions.find_one({"_id": {"$eq": name}})


def new_document(position: int, kind: str, **more: Any) -> Document:
    """Return the document of a subscription that has delivered nothing yet."""
    return {
        "kind": kind,
        "position": position,
        "fence": 0,
        "owner": None,
        "session": None,
        "delivered": 0,
        "rate": 0.0,
        "stopped": None,
        "lastError": None,
        **more,
    }


async def find_or_create(
    store: Store, name: str, start: Start, kind: str, **more: Any
) -> Document:
    """Return the document of a subscription; create it if it is missing."""
    if (found := await find(store, name)) is not None:
        return found
    position = 0
    if start != "beginning":
        head = await head_position(store)
        position = head if start == "now" else min(start, head)
        if start != "now" and start > head:
            logger.warning(
                "Subscription %s is to start after position %s, which no event has "
                "yet. It starts after the last event, at position %s.",
                name,
                start,
                head,
            )
    new = new_document(position, kind, **more)
    with in_time(), unless_it_exists():
        await store.subscriptions.update_one(
            {"_id": name},
            {"$setOnInsert": new, "$currentDate": {"created": True, "updated": True}},
            upsert=True,
        )
    return await find(store, name) or {}


async def claim(store: Store, name: str, owner: str, session_id: Any) -> Document:
    """
    Claim a subscription, and return its document with the new fence.

    This first ends the open transaction of the previous owner: if that was killed, its
    transaction would lock documents for a minute.

    Args:
        store: one face of the store.
        name: the subscription.
        owner: this process, which holds the lease.
        session_id: the id of the session that its transactions will use.

    Raises:
        ClaimLost: the subscription has no document, or another process was faster.
    """
    with in_time():
        found = await store.subscriptions.find_one({"_id": {"$eq": name}})
    if found is None:
        raise ClaimLost
    if found.get("session") is not None:
        # The client's own commands do not encode what the collections decode.
        session = Binary.from_uuid(found["session"])
        await store.client.end_transaction({"id": session})
    with in_time():
        claimed = await store.subscriptions.find_one_and_update(
            {"_id": {"$eq": name}, "fence": found["fence"]},
            {"$inc": {"fence": 1}, "$set": {"owner": owner, "session": session_id}},
            return_document=ReturnDocument.AFTER,
        )
    if claimed is None:
        raise ClaimLost
    return claimed


async def check_fence(store: Store, name: str, fence: int) -> None:
    """
    Check that the subscription is still claimed with this fence, and not paused.

    Raises:
        ClaimLost: it is not.
    """
    with in_time():
        found = await store.subscriptions.find_one(
            {"_id": {"$eq": name}}, projection={"fence": 1, "paused": 1}
        )
    if found is None or found["fence"] != fence or found.get("paused"):
        raise ClaimLost


async def move(
    store: Store,
    name: str,
    fence: int,
    changes: Mapping[str, Any],
    delivered: int = 0,
    session: Any = None,
    *,
    back: bool = False,
) -> None:
    """
    Write the checkpoint, under the fence with which it was claimed.

    Args:
        store: one face of the store.
        name: the subscription.
        fence: the fence of the claim.
        changes: the fields to set in its document.
        delivered: how many events were delivered since the last write.
        session: the session of a surrounding transaction, if there is one.
        back: whether the position may move backwards.

    Raises:
        ClaimLost: another process has claimed the subscription, or an operator has
            reset it.
    """
    query: Document = {"_id": {"$eq": name}, "fence": fence}
    if "position" in changes and not back:
        # A commit whose answer was lost may have moved it further already.
        query["position"] = {"$lte": changes["position"]}
    update: Document = {
        "$inc": {"delivered": delivered},
        "$currentDate": {"updated": True},
    }
    if changes:
        update["$set"] = dict(changes)
    matched = await store.subscriptions.update_one(query, update, session=session)
    if not matched:
        raise ClaimLost


async def revoke(store: Store, name: str) -> None:
    """Invalidate the owner's fence; any process may claim the subscription."""
    await store.subscriptions.update_one({"_id": {"$eq": name}}, {"$inc": {"fence": 1}})


async def reset(
    store: Store,
    name: str,
    position: int,
    session: Any = None,
    stopped: Mapping[str, Any] | None = None,
) -> bool:
    """
    Let a subscription continue after a position; False if there is none.

    Args:
        store: one face of the store.
        name: the subscription.
        position: the position after which it continues.
        session: the session of a surrounding transaction, if there is one.
        stopped: move it only if it has stopped at this event.
    """
    query: Document = {"_id": {"$eq": name}}
    if stopped is not None:
        query["stopped.position"] = stopped["position"]
    with in_time():
        # The owner loses its fence, claims the subscription again and starts here.
        matched = await store.subscriptions.update_one(
            query,
            {
                "$inc": {"fence": 1},
                "$set": {"position": position, "stopped": None, "lastError": None},
                "$currentDate": {"updated": True},
            },
            session=session,
        )
    return bool(matched)


def sql_checkpoints() -> Any:
    """
    Return the module that keeps checkpoints as rows of an SQL database.

    Raises:
        ImproperlyConfigured: its app is not installed.
    """
    if not apps.is_installed(RELATIONAL):
        raise ImproperlyConfigured(
            "A subscription with using= keeps its checkpoint in that SQL database: add "
            f"{RELATIONAL!r} to INSTALLED_APPS and run manage.py migrate."
        )
    return import_module(f"{RELATIONAL}.checkpoints")


def error_record(
    error: BaseException, event: Mapping[str, Any] | None = None
) -> Document:
    """Return the error record that is stored with a subscription or a stream."""
    lines = mask("".join(traceback.format_exception(error)))
    text = f"{type(error).__name__}: {short_reason(error)}"
    record: Document = {
        "failed": dt.datetime.now(dt.UTC),
        "error": _storable(text),
        "traceback": _storable(lines[-TRACEBACK_CHARACTERS:]),
    }
    if event is not None:
        record.update(
            eventId=event["_id"],
            type=event["type"],
            aggregateId=event["aggregateId"],
            aggregateVersion=event["aggregateVersion"],
            position=event["position"],
        )
    return record


def _storable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()
