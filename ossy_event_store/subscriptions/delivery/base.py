"""
The interface of a delivery strategy, and what all strategies share.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from ...documents.bson_types import Document
from ...mongodb.connection import Store
from ...mongodb.deadline import in_time
from .. import checkpoints, parked_streams
from ..checkpoints import ClaimLost
from ..declaration import Subscription
from ..parked_streams import Failed
from ..transactions import HandlerFailed


class TooLarge(Exception):
    """The effects of the events do not fit into one transaction; deliver fewer."""


class Delivered(NamedTuple):
    """The outcome of a delivery."""

    #: Whether the checkpoint in MongoDB moved in the same transaction.
    moved: bool
    #: The events at which streams were parked.
    parked: Sequence[Failed] = ()


class Delivery:
    """
    A delivery strategy, used by the process that owns the subscription.

    Args:
        store: one face of the store.
        session: the session of the claim; all of its transactions use it.
        declared: the subscription.
    """

    #: The most events in one delivery; None means any number.
    size: int | None = None
    #: Parked streams that are held in memory; more are looked up, page by page.
    held_parked: float = 100_000
    #: Called with the events at which streams would be parked; if it raises, they stay.
    before_parking: Callable[[Iterable[Failed]], list[Failed]] = list
    #: The most events of a parked stream in one redelivery.
    retry_size = 100

    def __init__(self, store: Store, session: Any, declared: Subscription) -> None:
        self._store = store
        self._session = session
        self._declared = declared
        self._name = declared.name
        self._fence = 0

    async def begin(self, claimed: Document) -> int:
        """Return the position after which to start."""
        self._fence = claimed["fence"]
        if claimed.get("using") is not None:
            await self._keep_in(None)  # it no longer writes to an SQL database
        position: int = claimed["position"]
        return position

    async def _keep_in(self, using: str | None) -> None:
        """Record which SQL database has the checkpoint; None if it is in MongoDB."""
        with in_time():
            changes = {"using": using}
            await checkpoints.move(self._store, self._name, self._fence, changes)

    async def parked(self) -> dict[str, int] | None:
        """
        Return the parked streams, and the position at which each was parked.

        It is None if there are more than ``held_parked``.
        """
        return await parked_streams.positions_parked_at(
            self._store, self._name, self._session, self.held_parked
        )

    async def parked_among(self, streams: Collection[str]) -> dict[str, int]:
        """Return those of some streams that are parked, likewise."""
        return await parked_streams.positions_parked_at_among(
            self._store, self._name, self._session, streams
        )

    async def deliver(self, events: Sequence[Document], after: int) -> Delivered:
        """
        Deliver events, all or none.

        Args:
            events: the events, in global order.
            after: the position of the checkpoint once they are delivered.

        Raises:
            HandlerFailed: one of them failed; if there are several, it is unknown
                which.
            TooLarge: they are too many for one delivery.
            ClaimLost: another process has claimed the subscription.
        """
        raise NotImplementedError

    async def redeliver(
        self,
        parked: Document,
        events: Sequence[Document],
        seen: int,
        is_late: Callable[[], bool],
    ) -> int:
        """
        Deliver the next events of a parked stream, and move the stream past them.

        Args:
            parked: the parked stream.
            events: its next events, the first is that at which it is parked.
            seen: the position of the checkpoint.
            is_late: whether new events should have their turn.

        Returns:
            How many of the events were delivered.

        Raises:
            HandlerFailed: one of them failed, after ``done`` that were delivered.
            ClaimLost: the stream was moved meanwhile.
        """
        try:
            await self._redeliver(parked, events, seen)
        except (HandlerFailed, TooLarge):
            if len(events) == 1:
                raise
            half = events[: len(events) // 2]
            return await self.redeliver(parked, half, seen, is_late)
        return len(events)

    async def _redeliver(
        self, parked: Document, events: Sequence[Document], seen: int
    ) -> None:
        """
        Deliver the next events of a parked stream and move it, all or none.

        Raises:
            HandlerFailed: one of them failed again.
            TooLarge: they are too many for one transaction.
            ClaimLost: the stream was moved meanwhile.
        """
        raise NotImplementedError

    async def _advance(
        self, parked: Document, event: Document, session: Any = None
    ) -> None:
        """
        Move a parked stream past an event.

        Raises:
            ClaimLost: it was moved meanwhile.
        """
        with in_time():
            if not await parked_streams.advance(self._store, parked, event, session):
                raise ClaimLost

    async def park(self, failed: Failed, after: int | None) -> bool:
        """
        Park a stream, and move the checkpoint to ``after`` unless this is None.

        Returns:
            Whether the checkpoint in MongoDB moved in the same transaction.
        """
        self.before_parking([failed])
        changes = {} if after is None else {"position": after}
        await parked_streams.park(
            self._store, self._session, self._name, self._fence, failed, changes
        )
        return after is not None

    async def resume(self, parked: Document) -> Document:
        """Return a parked stream at the event where its retry has to start."""
        return parked

    async def release(self, parked: Document, seen: int) -> bool:
        """
        Release a parked stream whose events up to ``seen`` are all delivered.

        Returns:
            False if it stays parked: an operator has moved it meanwhile.
        """
        return await parked_streams.release(
            self._store, self._session, self._name, self._fence, parked, seen
        )

    async def work(self) -> tuple[bool, Sequence[Failed]]:
        """
        Do a piece of what deliveries left undone, which takes a moment.

        Returns:
            Whether something is left, and the events at which streams are to be parked.
        """
        return False, ()

    def done_up_to(self, seen: int) -> int:
        """Return up to where nothing is left undone, at most ``seen``."""
        return seen

    async def settle(self, position: int) -> None:
        """Move the checkpoint in the SQL database, before the one in MongoDB moves."""


def by_stream(events: Sequence[Mapping[str, Any]]) -> list[list[Any]]:
    """Group events by stream, in order within each."""
    streams: dict[str, list[Any]] = {}
    for event in events:
        streams.setdefault(event["aggregateId"], []).append(event)
    return list(streams.values())
