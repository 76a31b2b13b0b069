"""
Ordered scans in flat memory, which go on where a broken connection ended them.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

from pymongo.errors import CursorNotFound, InvalidOperation, PyMongoError

from ..conf import get_settings
from ..documents.bson_types import Document
from .connection import Store
from .ports import Documents
from .write_errors import Fault, classify

logger = logging.getLogger("ossy_event_store")

BATCH = 1000  # events a round trip

Keys = Sequence[tuple[str, int]]

_IN_ORDER = [("aggregateId", 1), ("aggregateVersion", 1)]


async def scan(
    store: Store, query: Document, *, size: int | None = None, pushed: bool = True
) -> AsyncGenerator[list[Document], None]:
    """
    Yield the events of a query in batches, in order of stream and version.

    Once a batch has come, a connection that breaks, or a primary that goes or falls
    silent, does not end the scan: it is opened again where it stood, until the time-out
    passes without a new event.

    Args:
        store: one face of the store.
        query: which events.
        size: events a round trip.
        pushed: let the server send unasked, which holds a connection until the end;
            False for whoever may take their time.
    """
    last: tuple[str, int] | None = None
    patience = _Patience()
    while True:
        given = last  # what was given before this scan was opened
        found = _batches(
            store.events,
            _from(query, given),
            size or BATCH,
            pushed=pushed,
            sort=_IN_ORDER,
        )
        try:
            async with aclosing(found) as batches:
                async for batch in batches:
                    rest = _after(batch, given) if given else batch
                    if rest:
                        last = rest[-1]["aggregateId"], rest[-1]["aggregateVersion"]
                        yield rest
                        patience.renew()
            return
        except PyMongoError as error:
            if not patience.allows(error):
                raise
        await store.client.pause(0.2)


async def walk(
    store: Store,
    documents: Documents,
    keys: Keys,
    query: Document,
    projection: Document,
    *,
    size: int | None = None,
    indexed: bool = True,
) -> AsyncGenerator[list[Document], None]:
    """
    Yield documents in batches along an index, whatever BSON types stand in it.

    It goes on after a break as ``scan()`` does, and gives no document twice.

    Args:
        store: one face of the store.
        documents: the collection of it.
        keys: those of the index, all ascending.
        query: which documents.
        projection: which fields; ``keys`` must be among them.
        size: documents a round trip.
        indexed: False if the index is not there. The server sorts then, for as long
            as it takes, and a break is an error.
    """
    last: list[tuple[str, Any]] = []
    given = 0  # documents with the key that was given last
    patience = _Patience()
    while True:
        found = _batches(
            documents,
            query,
            size or BATCH,
            bounded=indexed,
            projection=projection,
            **_along(keys, last, indexed),
        )
        again = given
        try:
            async with aclosing(found) as batches:
                async for batch in batches:
                    repeated = _repeated(batch, keys, last, again)
                    again = again - repeated if repeated == len(batch) else 0
                    if rest := batch[repeated:]:
                        given = _tail(rest, keys, last, given)
                        last = _key(rest[-1], keys)
                        yield rest
                        patience.renew()
            return
        except PyMongoError as error:
            if not indexed or not patience.allows(error):
                raise
        await store.client.pause(0.2)


class _Patience:
    """
    How long a scan is opened again: the setting ``TIMEOUT``, from the break on.

    A server that falls silent has used up the time of its batch when that is noticed.
    """

    def __init__(self) -> None:
        self.since = time.monotonic()
        self.renewed = False

    def renew(self) -> None:
        """Note that something new came."""
        self.renewed = True

    def allows(self, error: PyMongoError) -> bool:
        """Whether the scan may be opened again after ``error``."""
        broken = classify(error) in (Fault.UNKNOWN, Fault.UNSENT, Fault.TRANSIENT)
        if not broken and not isinstance(error, CursorNotFound):
            return False
        if self.renewed:
            self.since, self.renewed = time.monotonic(), False
        if time.monotonic() - self.since > get_settings().TIMEOUT:
            return False
        logger.warning("The scan broke off (%s); resuming.", type(error).__name__)
        return True


async def _batches(
    documents: Documents,
    query: Document,
    size: int,
    *,
    bounded: bool = True,
    pushed: bool = True,
    **options: Any,
) -> AsyncGenerator[list[Document], None]:
    """Yield batches, each within the time-out if ``bounded``."""
    options["unbounded"] = not bounded
    # A server that sends unasked and falls silent is noticed by the time-out alone.
    found = documents.batches(query, size, pushed=pushed and bounded, **options)
    try:
        batch = await anext(found, None)
    except InvalidOperation:  # a mongos that cannot, or a client that encrypts
        await found.aclose()
        found = documents.batches(query, size, **options)
        batch = await anext(found, None)
    async with aclosing(found):
        while batch is not None:
            yield batch
            batch = await anext(found, None)


# --- scan -------------------------------------------------------------------


def _from(query: Document, last: tuple[str, int] | None) -> Document:
    if last is None:
        return query
    return {**query, "aggregateId": {**query.get("aggregateId", {}), "$gte": last[0]}}


def _after(batch: list[Document], last: tuple[str, int]) -> list[Document]:
    """Leave out what a scan that was opened again has given before."""
    if batch[0]["aggregateId"] != last[0]:
        return batch
    return [
        event
        for event in batch
        if (event["aggregateId"], event["aggregateVersion"]) > last
    ]


# --- walk -------------------------------------------------------------------


def _along(keys: Keys, last: list[tuple[str, Any]], indexed: bool) -> dict[str, Any]:
    """Return the options that let the server follow the index, from ``last`` on."""
    if not indexed:
        return {"sort": keys, "allow_disk_use": True}
    # A filter with $gte would pass over values of other BSON types; a bound does not.
    return {"sort": keys, "hint": keys, **({"min": dict(last)} if last else {})}


def _key(document: Document, keys: Keys) -> list[tuple[str, Any]]:
    return [(name, document.get(name)) for name, _ in keys]


def _repeated(
    batch: list[Document], keys: Keys, last: list[tuple[str, Any]], again: int
) -> int:
    """Return how many documents at the beginning have been given before."""
    for number, document in enumerate(batch[:again]):
        if _key(document, keys) != last:
            return number
    return min(again, len(batch))


def _tail(
    batch: list[Document], keys: Keys, last: list[tuple[str, Any]], given: int
) -> int:
    """Return how many documents with the last key of ``batch`` are given by now."""
    key = _key(batch[-1], keys)
    for number, document in enumerate(reversed(batch)):
        if _key(document, keys) != key:
            return number
    return len(batch) + (given if key == last else 0)
