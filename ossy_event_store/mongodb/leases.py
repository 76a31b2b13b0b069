"""
Leases: one of many processes does a piece of work, by the server's clock.

A lease is advice, not a lock: the writes of its owner are correct even if another
process writes at the same time.
"""

from __future__ import annotations

import datetime as dt
import os
import secrets
import socket

from pymongo import ReturnDocument

from .connection import Store
from .deadline import in_time
from .write_errors import unless_it_exists


def new_owner() -> str:
    """Return a name for this process: unique, and readable by people."""
    return f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"


async def server_time(store: Store) -> dt.datetime:
    """Return the time by the server's clock, by which leases expire."""
    with in_time():
        reply = await store.client.command("hello")
    time: dt.datetime = reply["localTime"]
    return time if time.tzinfo else time.replace(tzinfo=dt.UTC)


async def acquire(store: Store, name: str, owner: str, seconds: float) -> int:
    """
    Take or renew the lease ``name`` for ``owner``.

    Args:
        store: one face of the store.
        name: the work that one process at a time should do.
        owner: the process, from ``new_owner()``.
        seconds: when it expires unless renewed, by the server's clock.

    Returns:
        The lease's fence, from 1, which grows with each change of owner; or 0 if
        another process holds the lease.
    """
    # The filter of an upsert may not contain $expr, so create the document first.
    with unless_it_exists():  # another process just created it
        await store.leases.update_one(
            {"_id": name},
            {"$setOnInsert": {"owner": None, "fence": 0, "until": None}},
            upsert=True,
        )
    mine = {"$eq": ["$owner", owner]}
    lease = await store.leases.find_one_and_update(
        {
            "_id": name,
            "$or": [{"owner": owner}, {"$expr": {"$lte": ["$until", "$$NOW"]}}],
        },
        [
            {
                "$set": {
                    "fence": {"$cond": [mine, "$fence", {"$add": ["$fence", 1]}]},
                    "owner": owner,
                    "until": {
                        "$dateAdd": {
                            "startDate": "$$NOW",
                            "unit": "millisecond",
                            "amount": round(seconds * 1000),
                        }
                    },
                }
            }
        ],
        return_document=ReturnDocument.AFTER,
    )
    return lease["fence"] if lease else 0


async def release(store: Store, name: str, owner: str) -> None:
    """Release the lease, if ``owner`` still holds it."""
    await store.leases.update_one(
        {"_id": name, "owner": owner}, {"$set": {"owner": None, "until": None}}
    )
