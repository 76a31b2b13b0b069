"""
Export events: one line of JSON an event, in flat memory.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from ..documents.bson_types import Document
from ..mongodb.connection import Store
from ..mongodb.resumable_scan import scan
from .event_lines import line_of
from .transfer_report import Progress, TransferReport


async def export_events(
    store: Store, queries: Sequence[Document], progress: Progress | None = None
) -> AsyncGenerator[str, None]:
    """
    Yield the events as lines of JSON, stream by stream and in order of version.

    Args:
        store: one face of the store.
        queries: filters on ``aggregateType`` and ``aggregateId``, one after another.
        progress: called with the report after every batch.
    """
    report, began = TransferReport(), time.monotonic()
    for query in queries:
        # A slow download must not keep one of the site's connections checked out.
        async with aclosing(scan(store, query, pushed=False)) as batches:
            async for batch in batches:
                yield "".join(line_of(event) + "\n" for event in batch)
                report.events += len(batch)
                report.seconds = time.monotonic() - began
                if progress:
                    progress(report)
