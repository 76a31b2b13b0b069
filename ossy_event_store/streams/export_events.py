"""
Export events: one line of JSON an event, in flat memory.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from contextlib import aclosing

from ..documents.bson_types import Document
from ..mongodb.connection import Store
from ..mongodb.resumable_scan import scan
from .event_lines import line_of
from .transfer_report import Progress, TransferReport

PIECE_CHARACTERS = 1_000_000  # that are written at a time


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
        found = scan(store, query, pushed=False, passed_over=report.passed_over)
        async with aclosing(found) as batches:
            async for batch in batches:
                for text in _joined(map(line_of, batch)):
                    yield text
                report.events += len(batch)
                report.seconds = time.monotonic() - began
                if progress:
                    progress(report)
    if progress and report.passed_over and not report.events:
        progress(report)


def _joined(lines: Iterable[str]) -> Iterator[str]:
    """Yield lines, joined to texts of about a million characters."""
    some: list[str] = []
    size = 0
    for line in lines:
        some += line, "\n"
        size += len(line)
        if size > PIECE_CHARACTERS:
            yield "".join(some)
            some, size = [], 0
    if some:
        yield "".join(some)
