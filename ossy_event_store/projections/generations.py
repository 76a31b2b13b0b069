"""The generations of a projection: a collection each, of which one is in use."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from pymongo.errors import OperationFailure

from ..mongodb import connection
from ..mongodb.connection import Store
from ..mongodb.deadline import explained, in_time
from ..mongodb.indexes import NAMESPACE_NOT_FOUND
from ..mongodb.ports import Documents
from ..streams.reducers import revision_of
from ..subscriptions.declaration import BUILD_SIGN

LATE_DELETIONS = 1000  # positions of deletions out of order that are noted


def revision(cls: Any) -> str:
    """Return the revision of a projection's class, as ``revision_of`` a reducer."""
    return revision_of(cls)


def collection_name(name: str, generation: int) -> str:
    """Return the collection of one generation of a projection."""
    first = f"projection_{name}"
    return first if generation == 1 else f"{first}_{generation}"


def build_name(name: str, generation: int) -> str:
    """Return the name of the subscription that builds a generation."""
    return f"{name}{BUILD_SIGN}{generation}"


class GenerationsInUse:
    """Knows which generation of each projection is in use, a moment ago at most."""

    #: How long a look-up counts. The documents of before are kept after a switch.
    fresh_seconds = 1.0

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], tuple[int, float]] = {}

    async def documents(self, store: Store, name: str) -> Documents:
        """Return the documents of the generation in use."""
        events: Any = store.events
        key = (str(events.raw.full_name), name)
        generation, read_at = self._known.get(key, (1, 0.0))
        now = time.monotonic()
        if now - read_at > self.fresh_seconds or not read_at:
            found = await store.subscriptions.find_one(
                {"_id": {"$eq": name}}, projection={"generation": 1}
            )
            generation = (found or {}).get("generation", 1)
            self._known[key] = generation, now
        return connection.documents(store, collection_name(name, generation))

    def forget(self) -> None:
        """Look every generation up again."""
        self._known.clear()


in_use = GenerationsInUse()


async def make_indexes(documents: Documents, indexes: Sequence[Any]) -> list[str]:
    """Make the indexes of one generation; return those that were missing."""
    collection: Any = documents
    with in_time():
        try:
            existing = set(await documents.index_information())
        except OperationFailure as error:
            if error.code != NAMESPACE_NOT_FOUND:
                raise
            existing = set()
    # Not bounded in time: on a large collection a build may take hours.
    names = [await documents.create_index(keys, unbounded=True) for keys in indexes]
    return [f"{collection.raw.name}.{name}" for name in names if name not in existing]


def highest_generation(store: Store, name: str) -> int:
    """
    Return the highest generation that has a collection.

    If somebody deletes the projection's own document, only the collections tell which
    numbers were used.
    """
    database: Any = connection.raw(store.events).database
    pattern = f"^{collection_name(name, 1)}_[0-9]+$"
    with in_time():
        names = database.list_collection_names(filter={"name": {"$regex": pattern}})
    return max((int(name.rpartition("_")[2]) for name in names), default=0)


def drop_collection(store: Store, name: str) -> bool:
    """Drop a collection; return whether it existed."""
    database: Any = connection.raw(store.events).database
    with in_time():
        exists = bool(database.list_collection_names(filter={"name": name}))
    if exists:
        # Not bounded in time: to drop millions of documents may take a while.
        with explained():
            database.drop_collection(name)
    return exists
