"""
Delivery at least once: the handler is called, and the checkpoint follows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ...documents.bson_types import Document
from ...mongodb.connection import Store
from ..declaration import Subscription
from ..transactions import HandlerFailed
from .base import Delivered, Delivery
from .handler_call import call


class AtLeastOnce(Delivery):
    """Calls the handler, without a transaction; the checkpoint follows."""

    size = 1

    def __init__(self, store: Store, session: Any, declared: Subscription) -> None:
        super().__init__(store, session, declared)
        self._handle = declared.handle()
        self._is_async = declared.is_async

    async def deliver(self, events: Sequence[Document], after: int) -> Delivered:
        """Call the handler with each event."""
        for event in events:
            await call(self._declared, self._handle, self._is_async, event)
        return Delivered(moved=False)

    async def redeliver(
        self,
        parked: Document,
        events: Sequence[Document],
        seen: int,
        is_late: Callable[[], bool],
    ) -> int:
        """Call the handler until it is late, then move the stream."""
        done, failed = 0, None
        for event in events:
            try:
                await call(self._declared, self._handle, self._is_async, event)
            except HandlerFailed as error:
                failed = HandlerFailed(error.error, done)
                break
            done += 1
            if is_late():
                break
        if done:
            await self._advance(parked, events[done - 1])
        if failed is not None:
            raise failed
        return done
