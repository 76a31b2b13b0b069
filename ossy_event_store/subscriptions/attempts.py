"""
Deliver an event, try again if it fails, and park its stream if it fails for good.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from ..documents.bson_types import Document
from ..mongodb.connection import Store
from ..mongodb.deadline import in_time
from ..mongodb.write_errors import short_reason
from ..positions.reader import LostEvent
from .checkpoints import error_record
from .claim import Claim
from .declaration import Subscription
from .delivery import Delivery
from .parked_streams import Failed, retry_after_loss
from .progress import Progress
from .transactions import HandlerFailed

logger = logging.getLogger("ossy_event_store")


class StoppedAt(Exception):
    """A handler failed at ``event`` for good, and the subscription is to stop there."""

    def __init__(self, event: Document, error: BaseException) -> None:
        super().__init__(event, error)
        self.event = event
        self.error = error


class GaveUp(Exception):
    """A handler failed after all tries, and the event's stream is to be parked."""

    def __init__(self, failed: Failed) -> None:
        super().__init__(failed)
        self.failed = failed


class Attempts:
    """
    Delivers the events of one claim, each until it succeeds or its stream is parked.

    Args:
        store: one face of the store.
        declared: the subscription.
        claim: the claim.
        delivery: how the events are delivered.
        progress: moves with them.
        parked: the parked streams, and since which position each is parked; None if
            they are too many to be held.
    """

    def __init__(
        self,
        store: Store,
        declared: Subscription,
        claim: Claim,
        delivery: Delivery,
        progress: Progress,
        parked: Mapping[str, int] | None,
    ) -> None:
        self._store = store
        self._declared = declared
        self._claim = claim
        self._delivery = delivery
        self._progress = progress
        #: All parked streams; if they are too many, those of the current page.
        self._parked = dict(parked or {})
        self._are_too_many = parked is None

    async def deliver(self, events: Sequence[Document], after: int) -> None:
        """
        Deliver some events once, and move on to ``after``.

        Raises:
            HandlerFailed, TooLarge, ClaimLost: as ``Delivery.deliver()``.
        """
        moved, parked = await self._delivery.deliver(events, after)
        for failed in parked:
            self._log(failed.event, failed.error, failed.tries, final=True)
            self._parked[failed.event["aggregateId"]] = failed.event["position"]
        self._progress.count(len(events), written=moved)
        self._progress.move(after, moved=moved)

    async def deliver_one(self, event: Document, after: int) -> bool:
        """
        Deliver one event, and try again if it fails.

        Returns:
            False if the process is to stop and the event is not delivered.

        Raises:
            GaveUp: the last try failed as well.
            StoppedAt: so it did, and the subscription is to stop then.
        """
        if isinstance(event, LostEvent):
            await self._failed(event, event.error, self._declared.retries + 1)
        pause, longest = self._declared.backoff
        for tried in range(1, self._declared.retries + 2):
            try:
                await self.deliver([event], after)
                return True
            except HandlerFailed as failed:
                await self._failed(event, failed.error, tried)
            await self._claim.pause(self._store, min(pause, longest), leased=True)
            if self._claim.stop.is_set():
                return False
            pause *= 2
        raise AssertionError("the last try returns or raises")

    async def _failed(self, event: Document, error: BaseException, tried: int) -> None:
        final = tried > self._declared.retries
        self._log(event, error, tried, final=final)
        await self._claim.move(self._store, {"lastError": error_record(error, event)})
        if final and self._declared.on_error == "stop":
            raise StoppedAt(event, error)
        if final:
            raise GaveUp(Failed(event, error, tried))

    def _log(
        self, event: Document, error: BaseException, tried: int, *, final: bool
    ) -> None:
        logger.log(
            logging.ERROR if final else logging.WARNING,
            "Subscription %s failed at event %s (%s, version %s of %r), try %s: %s: %s",
            self._declared.name,
            event["_id"],
            event["type"],
            event["aggregateVersion"],
            event["aggregateId"],
            tried,
            type(error).__name__,
            short_reason(error),
            exc_info=error if final else None,
        )

    async def work(self) -> bool:
        """Do a piece of what deliveries left undone; return whether more is left."""
        is_left, parked = await self._delivery.work()
        for failed in parked:
            self._log(failed.event, failed.error, failed.tries, final=True)
            await self.park(failed, None)
        return is_left

    # --- parked streams

    async def park(self, failed: Failed, after: int | None) -> None:
        """Park a stream; ``after`` is where all before is done, unless it is None."""
        moved = await self._delivery.park(failed, after)
        self._parked[failed.event["aggregateId"]] = failed.event["position"]
        if after is not None:
            self._progress.move(after, moved=moved)
        await self.retry_if_accepted(failed.event)

    async def retry_if_accepted(self, event: Document) -> None:
        """
        Let the stream of an event continue if the event's loss was just accepted.

        Accepting a loss first gives up its position, and then looks for what waits
        there. This looks in the other order, so that one of the two sees the other.
        """
        if not isinstance(event, LostEvent):
            return
        given_up = {"_id": event["position"], "lost": {"$exists": True}}
        with in_time():
            if await self._store.positions.find_one(given_up) is None:
                return
        await retry_after_loss(self._store, self._declared.name, event["aggregateId"])

    async def look_up(self, events: Sequence[Document]) -> None:
        """Find which streams of a page are parked, unless all parked ones are held."""
        if self._are_too_many or len(self._parked) > self._delivery.held_parked:
            self._are_too_many = True
            streams = {event["aggregateId"] for event in events}
            self._parked = await self._delivery.parked_among(streams)

    def unpark(self, aggregate_id: str) -> None:
        """Deliver the events of a stream again from now on."""
        self._parked.pop(aggregate_id, None)

    def is_parked(self, event: Document) -> bool:
        """
        Whether an event is left to the retry of its parked stream.

        Events from before the stream was parked are not: they may come again, or may
        not have been delivered.
        """
        parked_at = self._parked.get(event["aggregateId"])
        return parked_at is not None and event["position"] >= parked_at

    def without_parked(self, events: Sequence[Document]) -> Sequence[Document]:
        """Return the events that are not left to a retry."""
        if not self._parked:
            return events
        return [event for event in events if not self.is_parked(event)]
