"""
A run of the verification: its store, its report, and the indexes that are missing.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable

from ..documents.bson_types import Document
from ..mongodb.connection import Store
from ..mongodb.indexes import Index, missing
from ..mongodb.resumable_scan import walk
from .options import Sizes
from .report import INDEX, Finding, VerifyReport

Progress = Callable[[VerifyReport], None]


class Run:
    """
    What the checks of one run share.

    Args:
        store: one face of the store.
        progress: called with the report after every batch.
        sizes: how much to read at a time.
    """

    def __init__(
        self, store: Store, progress: Progress | None = None, sizes: Sizes | None = None
    ) -> None:
        self.store = store
        self.report = VerifyReport()
        self.sizes = sizes or Sizes()
        self.missing_indexes: list[Index] = []
        self._progress = progress
        self._began = time.monotonic()

    def tick(self) -> None:
        """Note the time, and report the progress."""
        self.report.seconds = time.monotonic() - self._began
        if self._progress:
            self._progress(self.report)

    async def check_indexes(self) -> None:
        """Find the indexes that are missing; later reads go without them."""
        self.missing_indexes = await missing(self.store)
        for index in self.missing_indexes:
            kind = "a unique index on " if index.unique else "an index on "
            self.report.add(
                Finding(
                    INDEX,
                    subject=f"{index.collection}.{index.name}",
                    expected=kind + ", ".join(key for key, _ in index.keys),
                    found="none, or one with other options",
                )
            )

    def has(self, *indexes: Index) -> bool:
        """Whether none of some indexes is missing."""
        return not any(index in self.missing_indexes for index in indexes)

    def walk(
        self,
        index: Index,
        query: Document,
        projection: Document,
        size: int | None = None,
    ) -> AsyncGenerator[list[Document], None]:
        """Yield events in batches along an index, or without it if it is missing."""
        return walk(
            self.store,
            self.store.events,
            index.keys,
            query,
            projection,
            size=size or self.sizes.events,
            indexed=self.has(index),
        )
