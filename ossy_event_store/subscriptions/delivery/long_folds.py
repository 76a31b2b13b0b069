"""
Long streams that a reducer has to fold from their beginning, a piece at a time.

Meanwhile the snapshots of other streams are renewed. The checkpoint stays before the
events of the long streams, so nothing is lost if the process ends.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ...documents.bson_types import Document
from ...mongodb.connection import Store
from ...streams.load import fold_stream


@dataclass
class LongFold:
    """The fold of one stream, as far as it has come."""

    Root: Any
    aggregate_id: str
    state: Mapping[str, Any]
    version: int
    #: The version at which it ends.
    until: int
    #: The first delivered event that is not in the snapshot, without its data.
    first: Document

    async def advance(self, store: Store, is_late: Callable[[], bool]) -> bool:
        """
        Fold until the end or until it is late; return whether that was the end.

        Raises:
            ReducerError: the reducer raised.
        """
        if self.version >= self.until:
            return True
        self.state, self.version = await fold_stream(
            store,
            self.Root,
            self.aggregate_id,
            self.state,
            self.version,
            self.until,
            is_late,
        )
        return self.version >= self.until or not is_late()


class LongFolds:
    """The streams that wait for their fold; the first of them is being folded."""

    #: Streams that wait at most; further ones are folded at once.
    most = 1000
    #: How long a piece takes, before new events have their turn.
    piece_seconds = 0.1

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._folds: dict[str, LongFold] = {}

    def __contains__(self, aggregate_id: str) -> bool:
        return aggregate_id in self._folds

    def is_full(self) -> bool:
        """Whether no further stream can wait."""
        return len(self._folds) >= self.most

    def take(self, fold: LongFold) -> None:
        """Let the fold of a stream wait; if one does, let it end at the later event."""
        known = self._folds.setdefault(fold.aggregate_id, fold)
        known.until = max(known.until, fold.until)

    def done_up_to(self, seen: int) -> int:
        """Return the position before the first event that is not folded."""
        firsts = (fold.first["position"] - 1 for fold in self._folds.values())
        return min(seen, min(firsts, default=seen))

    def first(self) -> LongFold | None:
        """Return the fold whose turn it is."""
        return next(iter(self._folds.values()), None)

    async def advance(self, store: Store, fold: LongFold) -> bool:
        """Fold a piece; return whether it was the last one."""
        end = self._clock() + self.piece_seconds
        return await fold.advance(store, lambda: self._clock() >= end)

    def drop(self, fold: LongFold) -> None:
        """Forget a stream."""
        del self._folds[fold.aggregate_id]
