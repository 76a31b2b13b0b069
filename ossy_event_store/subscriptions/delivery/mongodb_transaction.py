"""
Delivery in a MongoDB transaction, in which the checkpoint moves as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...documents.bson_types import Document
from ...mongodb.connection import Store
from ...mongodb.deadline import in_time
from .. import checkpoints
from ..declaration import Subscription
from ..transactions import in_transaction
from .base import Delivered, Delivery
from .handler_call import call


class InMongoDBTransaction(Delivery):
    """Calls the handler with the session of a transaction that moves the checkpoint."""

    def __init__(self, store: Store, session: Any, declared: Subscription) -> None:
        super().__init__(store, session, declared)
        self._handle = declared.handle()
        self._is_async = declared.is_async
        self.size = self.retry_size = declared.batch

    async def _call(self, event: Document) -> None:
        await call(self._declared, self._handle, self._is_async, event, self._session)

    async def deliver(self, events: Sequence[Document], after: int) -> Delivered:
        """Call the handler with each event, in one transaction."""

        async def work() -> None:
            # First: a process that lost its claim does not start, and a transaction
            # that a killed process left open locks the document that the next one has
            # to claim.
            with in_time():
                await checkpoints.move(
                    self._store,
                    self._name,
                    self._fence,
                    {"position": after},
                    len(events),
                    self._session,
                )
            for event in events:
                await self._call(event)

        async def again() -> None:
            await checkpoints.check_fence(self._store, self._name, self._fence)

        await in_transaction(self._store, self._session, work, again, handler=True)
        return Delivered(moved=True)

    async def _redeliver(
        self, parked: Document, events: Sequence[Document], seen: int
    ) -> None:
        """Call the handler with each event and move the stream, in one transaction."""

        async def work() -> None:
            for event in events:
                await self._call(event)
            await self._advance(parked, events[-1], self._session)

        await in_transaction(self._store, self._session, work, handler=True)
