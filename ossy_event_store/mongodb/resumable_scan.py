"""
Ordered scans in constant memory that resume where a connection broke.
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
from ..documents.passed_over import PassedOver
from .connection import Store
from .ports import Documents
from .write_errors import Fault, classify

logger = logging.getLogger("ossy_event_store")

BATCH = 1000  # events a round trip

Keys = Sequence[tuple[str, int]]

_IN_ORDER = [("aggregateId", 1), ("aggregateVersion", 1)]


async def scan(
    store: Store,
    query: Document,
    *,
    size: int | None = None,
    pushed: bool = True,
    passed_over: PassedOver | None = None,
) -> AsyncGenerator[list[Document], None]:
    """
    Yield the events of a query in batches, in order of stream and version.

    After the first batch, a broken connection, or a primary that steps down or falls
    silent, does not end the scan. It resumes where it was, unless no new event arrives
    within the setting ``TIMEOUT``.

    Args:
        store: one face of the store.
        query: which events.
        size: events a round trip.
        pushed: let the server send batches without being asked, which keeps a
            connection until the end; False for readers that may take long.
        passed_over: takes note of documents that are no events, which are left out.
    """
    passed_over = PassedOver() if passed_over is None else passed_over
    last: tuple[str, int] | None = None
    patience = _Patience()
    while True:
        given = last  # yielded before this try
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
                    events = passed_over.events(batch)
                    rest = _after(events, given) if given else events
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
    Yield documents in batches in the order of an index, whatever BSON types it holds.

    It resumes as ``scan()`` does, and yields no document twice.

    Args:
        store: one face of the store.
        documents: one of its collections.
        keys: the keys of the index, all ascending.
        query: which documents.
        projection: which fields; ``keys`` must be among them.
        size: documents a round trip.
        indexed: False if the index does not exist. The server then sorts for as long
            as it takes, and the scan does not resume.
    """
    last: list[tuple[str, Any]] = []
    given = 0  # documents yielded that have the last key
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
                        last = _key_of(rest[-1], keys)
                        yield rest
                        patience.renew()
            return
        except PyMongoError as error:
            if not indexed or not patience.allows(error):
                raise
        await store.client.pause(0.2)


class _Patience:
    """
    How long a scan tries to resume: the setting ``TIMEOUT``, from the break on.

    When a silent server is noticed, the time of its batch has already passed.
    """

    def __init__(self) -> None:
        self.since = time.monotonic()
        self.renewed = False

    def renew(self) -> None:
        """Note that the scan yielded something new."""
        self.renewed = True

    def allows(self, error: PyMongoError) -> bool:
        """Whether the scan may resume after ``error``."""
        broken = classify(error) in (Fault.UNKNOWN, Fault.UNSENT, Fault.TRANSIENT)
        if not broken and not isinstance(error, CursorNotFound):
            return False
        if self.renewed:
            self.since, self.renewed = time.monotonic(), False
        if time.monotonic() - self.since > get_settings().TIMEOUT:
            return False
        logger.warning("Scan interrupted, resuming: %s", type(error).__name__)
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
    """Yield batches, each within the setting ``TIMEOUT`` if ``bounded``."""
    options["unbounded"] = not bounded
    # Only the time-out notices that a server that pushes has fallen silent.
    found = documents.batches(query, size, pushed=pushed and bounded, **options)
    try:
        batch = await anext(found, None)
    except InvalidOperation:  # a mongos that cannot push, or a client that encrypts
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
    """Leave out the events that were yielded before the scan resumed."""
    if not batch or batch[0]["aggregateId"] != last[0]:
        return batch
    return [
        event
        for event in batch
        if (event["aggregateId"], event["aggregateVersion"]) > last
    ]


# --- walk -------------------------------------------------------------------


def _along(keys: Keys, last: list[tuple[str, Any]], indexed: bool) -> dict[str, Any]:
    """Return the options with which the server follows the index from ``last`` on."""
    if not indexed:
        return {"sort": keys, "allow_disk_use": True}
    # A filter with $gte would skip values of other BSON types; a bound does not.
    return {"sort": keys, "hint": keys, **({"min": dict(last)} if last else {})}


def _key_of(document: Document, keys: Keys) -> list[tuple[str, Any]]:
    return [(name, document.get(name)) for name, _ in keys]


def _repeated(
    batch: list[Document], keys: Keys, last: list[tuple[str, Any]], again: int
) -> int:
    """Return how many documents at the beginning were yielded before."""
    for number, document in enumerate(batch[:again]):
        if _key_of(document, keys) != last:
            return number
    return min(again, len(batch))


def _tail(
    batch: list[Document], keys: Keys, last: list[tuple[str, Any]], given: int
) -> int:
    """Return how many documents with the last key of ``batch`` were yielded by now."""
    key = _key_of(batch[-1], keys)
    for number, document in enumerate(reversed(batch)):
        if _key_of(document, keys) != key:
            return number
    return len(batch) + (given if key == last else 0)
