"""
Export events: one line of JSON an event, in flat memory.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from ..documents.bson_types import Document
from ..documents.event_document import not_an_event
from ..mongodb.connection import Store
from ..mongodb.resumable_scan import scan
from .event_lines import line_of
from .transfer_report import Progress, TransferReport

EXAMPLES = 5  # documents that are not events, to name


async def export_events(
    store: Store, queries: Sequence[Document], progress: Progress | None = None
) -> AsyncGenerator[str, None]:
    """
    Yield the events as lines of JSON, stream by stream and in order of version.

    Documents that are not events are passed over, and noted in the report.

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
                events = [event for event in batch if _is_event(event, report)]
                yield "".join(line_of(event) + "\n" for event in events)
                report.events += len(events)
                report.seconds = time.monotonic() - began
                if progress:
                    progress(report)


def _is_event(document: Document, report: TransferReport) -> bool:
    reason = not_an_event(document)
    if reason is not None:
        report.passed_over += 1
        if len(report.examples) < EXAMPLES:
            report.examples.append(f"{document['_id']!r}: {reason}")
    return reason is None
