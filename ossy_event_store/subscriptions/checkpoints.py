"""
How far each subscription has come, and who may say so.

One document a subscription. Whoever takes it over raises its ``fence``, and what is
written under an older one is refused: a process that was thought dead, and is not,
moves nothing.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import traceback
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from bson import Binary
from django.apps import apps
from django.core.exceptions import ImproperlyConfigured
from pymongo import ReturnDocument
from pymongo.errors import DuplicateKeyError

from ..documents.bson_types import Document
from ..mongodb.connection import Store
from ..mongodb.deadline import in_time
from ..mongodb.write_errors import short_reason
from ..positions.reader import head_position
from .declaration import Start

KEPT = 4000  # characters of a traceback
RELATIONAL = "ossy_event_store.relational"  # the app with the rows


class ClaimLost(Exception):
    """Another process has taken the subscription over, or somebody has reset it."""


async def find(store: Store, name: str) -> Document | None:
    """Return the document of a subscription, None if it has never run."""
    with in_time():
        return await store.subscriptions.find_one({"_id": {"$eq": name}})


def new_document(position: int, kind: str, **more: Any) -> Document:
    """Return the document of a subscription that has done nothing yet."""
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


async def begin(
    store: Store, name: str, start: Start, kind: str, **more: Any
) -> Document:
    """Return the document of a subscription, made if it is not there."""
    if (found := await find(store, name)) is not None:
        return found
    if start == "beginning":
        start = 0
    elif start == "now":
        start = await head_position(store)
    new = new_document(start, kind, **more)
    with in_time(), contextlib.suppress(DuplicateKeyError):
        await store.subscriptions.update_one(
            {"_id": name},
            {"$setOnInsert": new, "$currentDate": {"created": True, "updated": True}},
            upsert=True,
        )
    return await find(store, name) or {}


async def claim(store: Store, name: str, owner: str, session_id: Any) -> Document:
    """
    Take a subscription over, and return its document with the new fence.

    What the one before left open is ended first: a transaction of a process that was
    killed would hold its documents for a minute.

    Args:
        store: one face of the store.
        name: the subscription.
        owner: this process, which holds the lease.
        session_id: that of the session in which it has its transactions.
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


async def check(store: Store, name: str, fence: int) -> None:
    """
    Look whether the subscription is still claimed with this fence.

    Raises:
        ClaimLost: it is not.
    """
    with in_time():
        found = await store.subscriptions.find_one(
            {"_id": {"$eq": name}}, projection={"fence": 1}
        )
    if found is None or found["fence"] != fence:
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
        fence: that of the claim.
        changes: fields of its document.
        delivered: events that were delivered since it was written last.
        session: that of a transaction around it.
        back: whether the position may be one before that which is there.

    Raises:
        ClaimLost: somebody else has claimed or reset the subscription since.
    """
    query: Document = {"_id": {"$eq": name}, "fence": fence}
    if "position" in changes and not back:
        # Never back by itself: a commit that nobody heard of may have moved it on.
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
    """Let whoever is at work on a subscription lose it; anybody may claim it anew."""
    await store.subscriptions.update_one({"_id": {"$eq": name}}, {"$inc": {"fence": 1}})


async def reset(
    store: Store,
    name: str,
    position: int,
    session: Any = None,
    stopped: Mapping[str, Any] | None = None,
) -> bool:
    """
    Let a subscription go on behind a position; False if there is none.

    Args:
        store: one face of the store.
        name: the subscription.
        position: where it goes on.
        session: that of a transaction around it.
        stopped: only if this is where it has stopped.
    """
    query: Document = {"_id": {"$eq": name}}
    if stopped is not None:
        query["stopped.position"] = stopped["position"]
    with in_time():
        # Who is at work loses its fence, and begins anew from here.
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


def rows() -> Any:
    """
    Return the module that keeps checkpoints as rows of an SQL database.

    Raises:
        ImproperlyConfigured: its app is not installed.
    """
    if not apps.is_installed(RELATIONAL):
        raise ImproperlyConfigured(
            "A subscription with using keeps its checkpoint in that database: add "
            f"{RELATIONAL!r} to INSTALLED_APPS and run manage.py migrate."
        )
    return import_module(f"{RELATIONAL}.checkpoints")


def error_record(
    error: BaseException, event: Mapping[str, Any] | None = None
) -> Document:
    """Return an error as it is kept: what, when, where, and at which event."""
    lines = "".join(traceback.format_exception(error))
    text = f"{type(error).__name__}: {short_reason(error)}"
    kept: Document = {
        "failed": dt.datetime.now(dt.UTC),
        "error": _storable(text),
        "traceback": _storable(lines[-KEPT:]),
    }
    if event is not None:
        kept.update(
            eventId=event["_id"],
            type=event["type"],
            aggregateId=event["aggregateId"],
            aggregateVersion=event["aggregateVersion"],
            position=event["position"],
        )
    return kept


def _storable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()
