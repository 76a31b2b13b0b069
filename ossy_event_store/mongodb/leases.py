"""
Leases: one of many processes does a piece of work, by the server's clock.

A lease is advice, not a lock: whoever holds one writes in a way that would be
right without it.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket

from pymongo import ReturnDocument
from pymongo.errors import DuplicateKeyError

from .connection import Store


def new_owner() -> str:
    """Return a name for this process that no other has, readable by people."""
    return f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"


async def acquire(store: Store, name: str, owner: str, seconds: float) -> int:
    """
    Take or renew the lease ``name`` for ``owner``; 0 if another holds it.

    Returns:
        The lease's fence, from 1: it grows each time another owner takes the lease.

    Args:
        store: one face of the store.
        name: what is leased.
        owner: who asks, from ``new_owner()``.
        seconds: how long it holds, by the server's clock, unless renewed.
    """
    # An upsert may not compare with the server's clock, so the document comes first.
    with contextlib.suppress(DuplicateKeyError):  # another process made it just now
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
    """Give the lease back, if ``owner`` still holds it."""
    await store.leases.update_one(
        {"_id": name, "owner": owner}, {"$set": {"owner": None, "until": None}}
    )
