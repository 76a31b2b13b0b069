"""
The ordered scan: every event of a query, by stream and version, in flat memory.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing

import pymongo
from pymongo.errors import CursorNotFound, PyMongoError

from .conf import get_settings
from .faces import Document
from .faults import Fault, classify
from .mongo import Store

logger = logging.getLogger("ossy_event_store")

BATCH = 1000  # events a round trip

_IN_ORDER = [("aggregateId", 1), ("aggregateVersion", 1)]


async def scan(store: Store, query: Document) -> AsyncGenerator[list[Document], None]:
    """
    Yield the events of a query in batches, in order of stream and version.

    A connection that breaks, or a primary that goes, does not end the scan: it is
    opened again where it stood, until the time-out passes without a batch.
    """
    last: tuple[str, int] | None = None
    since = time.monotonic()
    while True:
        given = last  # what was given before this scan was opened
        try:
            async with aclosing(_batches(store, _from(query, given))) as batches:
                async for batch in batches:
                    rest = _after(batch, given) if given else batch
                    if rest:
                        last = rest[-1]["aggregateId"], rest[-1]["aggregateVersion"]
                        yield rest
                    since = time.monotonic()
            return
        except PyMongoError as error:
            broken = classify(error) in (Fault.UNKNOWN, Fault.UNSENT, Fault.TRANSIENT)
            if not broken and not isinstance(error, CursorNotFound):
                raise
            if time.monotonic() - since > get_settings().TIMEOUT:
                raise
            logger.warning("The scan broke off (%s); resuming.", type(error).__name__)
        await store.client.pause(0.2)


async def _batches(
    store: Store, query: Document
) -> AsyncGenerator[list[Document], None]:
    """Yield batches, each within the time-out."""
    async with aclosing(store.events.batches(query, BATCH, sort=_IN_ORDER)) as batches:
        while True:
            with pymongo.timeout(get_settings().TIMEOUT):
                batch = await anext(batches, None)
            if batch is None:
                return
            yield batch


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
