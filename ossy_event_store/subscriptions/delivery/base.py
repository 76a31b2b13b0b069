"""
What each kind of delivery does, and what all have in common.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ...documents.bson_types import Document
from ...mongodb.connection import Store, in_time
from .. import checkpoints, parked_streams
from ..declaration import Subscription
from ..parked_streams import Failed


class TooLarge(Exception):
    """What the events led to does not fit into one transaction; deliver fewer."""


class Delivered(NamedTuple):
    """What a delivery has done besides its effects."""

    #: Whether the checkpoint in MongoDB moved in the same transaction.
    moved: bool
    #: The events at which a stream was parked.
    parked: Sequence[Failed] = ()


class Delivery:
    """
    One way of delivering events, for one claim; its checkpoint is in MongoDB.

    Args:
        store: one face of the store.
        session: that of the claim's transactions.
        declared: the subscription.
    """

    #: The most events that one delivery takes; None takes any number.
    size: int | None = None

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
        """Note which SQL database has the checkpoint, if one has."""
        with in_time():
            changes = {"using": using}
            await checkpoints.move(self._store, self._name, self._fence, changes)

    async def parked(self) -> dict[str, int]:
        """Return the streams that wait, and since which position."""
        return await parked_streams.parked_streams(
            self._store, self._name, self._session
        )

    async def deliver(self, events: Sequence[Document], after: int) -> Delivered:
        """
        Deliver events, all or none.

        Args:
            events: in their order.
            after: the position of the checkpoint once they are delivered.

        Raises:
            HandlerFailed: one of them failed, and it is not known which.
            TooLarge: they are too many for one delivery.
            ClaimLost: another process has claimed the subscription.
        """
        raise NotImplementedError

    async def redeliver(self, waits: Document, event: Document, seen: int) -> None:
        """
        Deliver the event at which a parked stream waits, and move the stream past it.

        Args:
            waits: the parked stream.
            event: its next event.
            seen: the position of the checkpoint.

        Raises:
            HandlerFailed: it failed again.
            ClaimLost: the stream no longer waits there.
        """
        raise NotImplementedError

    async def park(self, failed: Failed, after: int | None) -> bool:
        """
        Park a stream, and move the checkpoint to ``after`` unless that is None.

        Returns:
            Whether the checkpoint in MongoDB moved in the same transaction.
        """
        changes = {} if after is None else {"position": after}
        await parked_streams.park(
            self._store, self._session, self._name, self._fence, failed, changes
        )
        return after is not None

    async def resume(self, waits: Document) -> Document:
        """Return a parked stream as it is to be retried."""
        return waits

    async def release(self, waits: Document, seen: int) -> bool:
        """
        End the parking of a stream all of whose events up to ``seen`` are delivered.

        Returns:
            False if an operator has moved it meanwhile, and it still waits.
        """
        return await parked_streams.leave(
            self._store, self._session, self._name, self._fence, waits, seen
        )

    async def settle(self, position: int) -> None:
        """Move a checkpoint outside of MongoDB, before the one there moves."""


def by_stream(events: Sequence[Mapping[str, Any]]) -> list[list[Any]]:
    """Return the events stream by stream, each in its order."""
    streams: dict[str, list[Any]] = {}
    for event in events:
        streams.setdefault(event["aggregateId"], []).append(event)
    return list(streams.values())
