"""
The feed of one projection: events are delivered once the projection applied them.

An event of a parked stream is applied by a retry long after the checkpoint passed it.
The feed announces such a late event under the position that it has reached itself.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from time import monotonic
from typing import Any

from ..documents.bson_types import Document
from ..documents.catalogue.catalogue import current
from ..documents.catalogue.objects import stored_events
from ..documents.catalogue.reading import current_events
from ..mongodb.connection import Store
from ..mongodb.write_errors import short_reason
from ..positions import reader
from ..positions.event_pages import PageLimit
from ..projections import projection as projection_module
from ..projections.fold import keys_of
from ..streams.reducers import pass_on_what_ends
from . import applied_events
from .applied_events import NEVER, Checkpoint, ParkedStreams
from .event_filter import ANY_EVENT, EventFilter, projection_key
from .feed import Feed
from .feed_reads import read_events
from .listener import Listener
from .notification import Notification, Result, notification_of

logger = logging.getLogger("ossy_event_store")

Keyed = tuple[Document, list[Result]]  # a stored event, and its results with keys


class ProjectionFeed(Feed):
    """The events of the store, as a projection applies them."""

    def __init__(self, on_end: Callable[[Feed], None], name: str) -> None:
        super().__init__(on_end)
        self.projection = projection_module.registered_projections()[name]
        self._checkpoint = Checkpoint(0, NEVER)
        self._parked: ParkedStreams = {}
        self._checked_at = 0.0  # when the parked streams were read

    async def _first_position(self, store: Store, session: Any) -> int:
        self._checked_at = monotonic()
        position = (await self._read_checkpoint(store, session)).position
        self._parked = await self._read_parked(store, session)
        # Again: listeners that connect need every late event up to that read.
        self._checkpoint = await self._read_checkpoint(store, session)
        self.late_at = self._checkpoint.late_at
        return position

    async def _read_checkpoint(self, store: Store, session: Any) -> Checkpoint:
        name = self.projection.name
        return await applied_events.read_checkpoint(store, session, name)

    async def _read_parked(self, store: Store, session: Any) -> ParkedStreams:
        name, limit = self.projection.name, self.limits.parked_streams
        return await applied_events.read_parked(store, session, name, limit)

    async def _deliver(self, store: Store, session: Any, after: int) -> bool:
        now = await self._read_checkpoint(store, session)
        if now.position < after:
            return False  # the projection is being rebuilt
        is_due = monotonic() - self._checked_at >= self.limits.poll_seconds
        if now.position > after or is_due:
            await self._deliver_late(store, session, after, now)
        if now.position == after:
            return False
        upto = min(now.position, after + self.limits.page_size)
        applied, upto = await self._applied(store, session, after, upto)
        for event, results in applied:
            listeners = self._listeners_for_results(results, event)
            self._offer_each(event["position"], results, None, listeners)
        self.position = upto
        return True

    async def _deliver_late(
        self, store: Store, session: Any, after: int, now: Checkpoint
    ) -> None:
        """Announce the late events up to the feed's position."""
        checked_at = monotonic()
        parked = await self._read_parked(store, session)
        if parked != self._parked:
            now = await self._read_checkpoint(store, session)  # as at the beginning
        late = await self._late(store, session, parked, after, now)
        # Nothing is awaited from here on: after a failure, all of it is done again.
        self._checked_at, self._parked, self._checkpoint = checked_at, parked, now
        self.late_at = now.late_at
        if late is None:
            self.late_count += 1
            everyone = set[Listener]().union(*self._index.values())
            self._offer(Notification(after, is_late=True), everyone)
        elif late:
            self.late_count += 1
            for event, results in late:
                listeners = self._listeners_for_results(results, event)
                self._offer_each(after, results, None, listeners, is_late=True)

    async def _late(
        self,
        store: Store,
        session: Any,
        parked: ParkedStreams,
        upto: int,
        now: Checkpoint,
    ) -> list[Keyed] | None:
        """Return the late events since the last check; None if they are unknown."""
        old = self._parked
        if parked is None or old is None:
            return None if applied_events.may_be_late(self._checkpoint, now) else []
        late = await applied_events.applied_late(
            store, session, self._query(), old, parked, upto, self.limits.late_events
        )
        if not late:
            return None if late is None else []
        query: Document = {"_id": {"$in": late}}
        size = len(late) + 1
        limit = PageLimit(first=size)
        events, last = await read_events(store, query, size, session, limit)
        if last is not None:
            return None  # too large to be announced one by one
        return await self._with_keys(store, session, events)

    def _listeners_for_results(
        self, results: list[Result], event: Document
    ) -> list[Listener]:
        keys = dict.fromkeys(key for _, keys in results for key in keys)
        return self._matching([ANY_EVENT, *map(projection_key, keys)], event)

    def _query(self) -> Document:
        cls = self.projection
        return reader.wanted_by(cls.types, cls.aggregate_types, cls.tags)

    async def missed(
        self, wanted: EventFilter, after: int, upto: int
    ) -> tuple[list[Notification], int]:
        """See ``Feed``; a listener that missed too much gets a reset."""
        if upto - after > self.limits.replayed_positions:
            # No index knows the keys, and a page of a projection reloads anyway.
            return [Notification(upto)], upto
        return await super().missed(wanted, after, upto)

    async def _missed(
        self, store: Store, session: Any, wanted: EventFilter, after: int, upto: int
    ) -> tuple[list[Notification], int]:
        upto = min(upto, after + self.limits.page_size)
        applied, upto = await self._applied(store, session, after, upto)
        missed = (
            notification_of(wanted, event["position"], results)
            for event, results in applied
            if wanted.matches(event)
        )
        return [one for one in missed if one is not None], upto

    async def _applied(
        self, store: Store, session: Any, after: int, upto: int
    ) -> tuple[list[Keyed], int]:
        """
        Return the applied events between two positions, each with its keys.

        Returns:
            The events, and up to which position: ``upto``, or less if they are large.
        """
        query = {**self._query(), "_id": {"$gt": after, "$lte": upto}}
        size = self.limits.page_size + 1
        events, last = await read_events(store, query, size, session, self._pages)
        upto = upto if last is None else last
        parked = self._parked
        if parked is None:
            streams = (event["aggregateId"] for event in events)
            name = self.projection.name
            parked = await applied_events.parked_among(store, session, name, streams)
        applied = [
            event for event in events if applied_events.is_applied(event, parked)
        ]
        return await self._with_keys(store, session, applied), upto

    async def _with_keys(
        self, store: Store, session: Any, events: Iterable[Document]
    ) -> list[Keyed]:
        """Return the events that have keys, each with them, without skipped ones."""
        keyed = [(event, self._results_of(event)) for event in events]
        found = [(event, results) for event, results in keyed if results]
        if not found:
            return []
        positions = [event["position"] for event, _ in found]
        generation, name = self._checkpoint.generation, self.projection.name
        skipped = await applied_events.skipped_among(
            store, session, name, generation, positions
        )
        return [one for one in found if one[0]["position"] not in skipped]

    def _results_of(self, event: Document) -> list[Result]:
        """Return what a stored event is today, each with its keys, if it has any."""
        cls = self.projection
        try:
            # Documents to send, and what the projection gets of each.
            documents = current().upcasted([event], cls.types)
            found = current_events(cls, documents)
            with stored_events(found):
                keys = [keys_of(cls, one) for one in found]
            return [
                (document, list(map(str, its)))
                for document, its in zip(documents, keys, strict=True)
                if its
            ]
        except BaseException as error:
            pass_on_what_ends(error)
            # Not a failure of the feed: the projection parks the stream and reports it.
            logger.warning(
                "Event feed skipped position %s, projection %s failed to compute its "
                "key: %s",
                event["position"],
                self.projection.name,
                short_reason(error),
            )
            return []
