"""
What the owner of a subscription does for an operator: retry parked streams.

``operator_actions`` writes the requests; this looks for them now and then.
"""

from __future__ import annotations

from ..documents.bson_types import Document
from ..mongodb.connection import Store
from ..positions.event_pages import PageLimit
from ..positions.reader import LostEvent, read
from . import checkpoints, parked_streams
from .attempts import Attempts
from .claim import Claim
from .declaration import Subscription
from .delivery import Delivery
from .lanes import chunks
from .progress import Progress
from .transactions import HandlerFailed


class OperatorRequests:
    """
    Retries the parked streams of one claim that an operator marked for retry.

    Args:
        store: one face of the store.
        declared: the subscription.
        claim: the claim.
        delivery: delivers the events of parked streams.
        progress: says up to where a parked stream has to catch up.
        attempts: delivers the events of a stream that is released.
    """

    def __init__(
        self,
        store: Store,
        declared: Subscription,
        claim: Claim,
        delivery: Delivery,
        progress: Progress,
        attempts: Attempts,
    ) -> None:
        self._store = store
        self._declared = declared
        self._claim = claim
        self._delivery = delivery
        self._progress = progress
        self._attempts = attempts
        self._looked = 0.0
        self._pages = PageLimit()

    async def look(self) -> None:
        """
        Look whether there is a request, unless that was done a moment ago.

        Raises:
            ClaimLost: the subscription was reset, or another process claimed it.
        """
        clock, seconds = self._claim.clock, self._claim.timings.poll_seconds
        if clock() - self._looked < seconds:
            return
        self._looked = clock()
        name = self._claim.name
        await checkpoints.check_fence(self._store, name, self._claim.fence)
        marked = await parked_streams.find_parked(self._store, name, retry=True)
        if marked:
            # Else events from before a stream was parked might come again after its
            # retry.
            await self._progress.write()
            await self._claim.read_what_is_stored(self._store)
        end = clock() + seconds  # then new events have their turn
        for parked in marked:
            await self._retry(parked, end)
            if clock() >= end:
                return

    async def _retry(self, parked: Document, end: float) -> None:
        """Deliver a parked stream's events: all, up to a failure, or until ``end``."""
        parked = await self._delivery.resume(parked)
        while not self._claim.stop.is_set():
            events = await self._next(parked)
            if not events:
                seen = self._progress.seen
                if await self._delivery.release(parked, seen):
                    self._attempts.unpark(parked["aggregateId"])
                self._progress.move(seen, moved=self._delivery.done_up_to(seen) == seen)
                return
            self._claim.check()
            failed: HandlerFailed | None = None
            try:
                done = await self._redeliver(parked, events, end)
            except HandlerFailed as error:
                failed, done = error, error.done
            self._progress.count(done)
            if done:
                parked = {**parked, **parked_streams.after_event(events[done - 1])}
            if failed is not None:
                await parked_streams.record_failed_retry(
                    self._store, parked, events[done], failed.error
                )
                return
            if self._claim.clock() >= end:
                return

    async def _redeliver(
        self, parked: Document, events: list[Document], end: float
    ) -> int:
        if isinstance(events[0], LostEvent):
            raise HandlerFailed(events[0].error)
        return await self._delivery.redeliver(
            parked, events, self._progress.seen, lambda: self._is_late(end)
        )

    def _is_late(self, end: float) -> bool:
        return self._claim.stop.is_set() or self._claim.clock() >= end

    async def _next(self, parked: Document) -> list[Document]:
        """Return the next events of a parked stream, in order; a lost one by itself."""
        query = {
            **self._declared.query(),
            "aggregateId": {"$eq": parked["aggregateId"]},
            "aggregateVersion": {"$gte": parked["aggregateVersion"]},
            "_id": {"$lte": self._progress.seen},
        }
        size = self._delivery.retry_size
        page = await read(self._store, query, size, self._claim.session, self._pages)
        return next(chunks(page.events, None), [])
