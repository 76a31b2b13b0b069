"""
Forget a subscription or projection that no longer exists in the code.
"""

from __future__ import annotations

import datetime as dt
import re
from typing import Any

from django.apps import apps
from django.db import connections

from ..documents.collections import subscription_lease
from ..exceptions import UnknownSubscription
from ..mongodb import connection
from ..mongodb.connection import Store
from ..mongodb.deadline import in_time
from ..mongodb.ports import drive
from ..subscriptions import checkpoints, declaration, parked_streams
from .generations import build_name, collection_name, drop_collection
from .projection import BUILD_KIND, KIND


def forget(name: str) -> list[str]:
    """
    Delete what is stored of a subscription that no longer exists in the code.

    This deletes its checkpoint and parked streams; of a projection, its builds and its
    documents as well, since a later projection of that name would take them for its
    own. Records of skipped events stay.

    Returns:
        The collections that were dropped.

    Raises:
        ValueError: it is declared, or a process runs it.
        UnknownSubscription: nothing is stored of it.
    """
    store = connection.blocking()
    document = drive(checkpoints.find(store, name))
    kind = (document or {}).get("kind", "")
    if declaration.is_declared(name, kind):
        raise ValueError(
            f"{name} is declared in this project. Remove it from the code, and deploy "
            "that, before you forget it."
        )
    if document is None:
        raise UnknownSubscription(name, sorted(declaration.registered_subscriptions()))
    names = [name, *(drive(_builds(store, name)) if kind == KIND else ())]
    for one in names:
        drive(_check_not_running(store, one))
    drive(_delete(store, names))
    using = document.get("using")
    if (
        using is not None
        and using in connections
        and apps.is_installed(checkpoints.RELATIONAL)
    ):
        checkpoints.sql_checkpoints().forget(name, using)
    return _drop_documents(store, name) if kind == KIND else []


async def _builds(store: Store, name: str) -> list[str]:
    """Return the subscriptions that build generations of a projection."""
    builds = {"$regex": f"^{re.escape(build_name(name, 0)[:-1])}[0-9]+$"}
    query = {"_id": builds, "kind": BUILD_KIND}
    with in_time():
        found = await store.subscriptions.find(query, projection=["_id"])
    return [one["_id"] for one in found]


async def _check_not_running(store: Store, name: str) -> None:
    with in_time():
        lease = await store.leases.find_one({"_id": {"$eq": subscription_lease(name)}})
    until = (lease or {}).get("until")
    if lease and until and until > dt.datetime.now(dt.UTC):
        raise ValueError(
            f"{name} is running in process {lease['owner']}, whose code declares it. "
            "End that process before you forget it."
        )


async def _delete(store: Store, names: list[str]) -> None:
    """Delete parked streams and then checkpoints; what is left half can be repeated."""
    await parked_streams.delete_parked(store, {"$in": names})
    with in_time():
        await store.subscriptions.delete_many({"_id": {"$in": names}})


def _drop_documents(store: Store, name: str) -> list[str]:
    """Drop the collections of all generations of a projection; return their names."""
    database: Any = connection.raw(store.events).database
    pattern = f"^{re.escape(collection_name(name, 1))}(_[0-9]+)?$"
    with in_time():
        names = database.list_collection_names(filter={"name": {"$regex": pattern}})
    return [one for one in sorted(names) if drop_collection(store, one)]
