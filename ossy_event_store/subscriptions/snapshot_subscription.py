"""
The built-in subscription that keeps snapshots up to date.

It sees every event, whichever process or program appended it. The attribute
``snapshot_every`` of a class says how often its snapshots are renewed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from django.core.exceptions import ImproperlyConfigured

from ..documents.bson_types import Document
from ..documents.collections import SNAPSHOTS
from ..exceptions import InvalidState, ReducerError
from ..mongodb import connection
from ..mongodb.connection import Store
from ..mongodb.deadline import in_time
from ..positions.reader import wanted
from ..registry import registered_aggregates
from ..streams.load import fold_stream
from ..streams.reducers import fold, name_of
from ..streams.snapshots import Snapshot, build_snapshot, is_usable, write_snapshots
from . import declaration, parked_streams
from .checkpoints import ClaimLost
from .declaration import Subscription
from .delivery import Delivered, Delivery, by_stream
from .parked_streams import Failed
from .transactions import HandlerFailed

NAME = "snapshots"
KIND = "snapshots"


def snapshot_every(Root: Any) -> int | None:
    """
    Return after how many events a class's snapshots are renewed; None for never.

    Raises:
        ImproperlyConfigured: its ``snapshot_every`` is neither a number nor None.
    """
    every = getattr(Root, "snapshot_every", 1)
    if every is None:
        return None
    if isinstance(every, bool) or not isinstance(every, int) or every < 1:
        raise ImproperlyConfigured(
            f"{name_of(Root)}.snapshot_every must be a number from 1, or None to let "
            f"only save() and rebuilds store snapshots, not {every!r}."
        )
    return every


def register() -> None:
    """
    Subscribe the snapshots of all registered types.

    ``ready()`` calls it, and so does the registration of a class after that.
    """
    if followed := followed_types():
        declaration.add(
            FollowedTypes(
                NAME,
                Snapshots,
                aggregate_types=followed,
                kind=KIND,
                delivery=Snapshots,
            )
        )


def followed_types() -> tuple[str, ...]:
    """Return the registered types whose snapshots are renewed."""
    return tuple(
        kind
        for kind, Root in registered_aggregates().items()
        if snapshot_every(Root) is not None
    )


class FollowedTypes(Subscription):
    """The subscription of the types that are registered by now, each time it reads."""

    def query(self) -> dict[str, Any]:
        """Return the filter for the entries of their events."""
        return wanted(None, followed_types())


class Snapshots(Delivery):
    """Folds delivered events onto the snapshots of their streams."""

    def __init__(self, store: Store, session: Any, declared: Subscription) -> None:
        # The checkpoint moves past them, so they must be as durable as it is.
        durable = connection.documents(store, SNAPSHOTS)
        super().__init__(replace(store, snapshots=durable), session, declared)

    async def deliver(self, events: Sequence[Document], after: int) -> Delivered:
        """Fold the events onto the snapshots, and write the snapshots that are due."""
        streams = {stream[0]["aggregateId"]: stream for stream in by_stream(events)}
        with in_time():
            found = await self._store.snapshots.find({"_id": {"$in": list(streams)}})
        stored = {snapshot["_id"]: snapshot for snapshot in found}
        new: list[Snapshot] = []
        parked: list[Failed] = []
        for aggregate_id, stream in streams.items():
            try:
                snapshot = await self._folded(stream, stored.get(aggregate_id))
            except (ReducerError, InvalidState) as error:
                parked.append(Failed(_culprit(stream, error), error))
                continue
            if snapshot is not None:
                new.append(snapshot)
        with in_time():
            written = await write_snapshots(self._store, new, first=not stored)
        for snapshot, refused in written.refused:
            stream = streams[snapshot["_id"]]
            parked.append(Failed(_culprit(stream, refused), refused))
        for failed in parked:
            await self.park(failed, None)
        return Delivered(moved=False, parked=parked)

    async def _redeliver(
        self, parked: Document, events: Sequence[Document], seen: int
    ) -> None:
        """Fold the stream again, and move it past the events."""
        aggregate_id = events[-1]["aggregateId"]
        with in_time():
            query = {"_id": {"$eq": aggregate_id}}
            stored = await self._store.snapshots.find_one(query)
        try:
            snapshot = await self._folded(events, stored)
        except (ReducerError, InvalidState) as error:
            raise HandlerFailed(error) from error
        with in_time():
            if snapshot is not None:
                first = stored is None
                written = await write_snapshots(self._store, [snapshot], first=first)
                for _, refused in written.refused:
                    raise HandlerFailed(refused) from refused
            if not await parked_streams.advance(self._store, parked, events[-1]):
                raise ClaimLost

    async def _folded(
        self, stream: Sequence[Document], snapshot: Document | None
    ) -> Snapshot | None:
        """Return the snapshot after these events of a stream, if one is due."""
        Root = registered_aggregates().get(stream[0]["aggregateType"])
        every = snapshot_every(Root) if Root is not None else None
        if every is None:
            return None
        usable = snapshot if is_usable(snapshot, Root) else None
        version = usable["aggregateVersion"] if usable else 0
        head = stream[-1]["aggregateVersion"]
        if head <= version or head // every <= version // every:
            return None
        aggregate_id, state = (
            stream[0]["aggregateId"],
            usable["state"] if usable else {},
        )
        events = [e for e in stream if e["aggregateVersion"] > version]
        before = events[0]["aggregateVersion"] - 1
        if before > version:
            # Perhaps all of a long stream, since the reducer has changed.
            state, _ = await fold_stream(
                self._store, Root, aggregate_id, state, version, before
            )
        state = fold(Root, events, dict(state))
        return build_snapshot(Root, aggregate_id, head, state)


def _culprit(stream: Sequence[Document], error: BaseException) -> Document:
    """Return the event of the batch at which the stream has to be parked."""
    version = getattr(error, "version", None)
    for event in stream:
        if event["aggregateVersion"] == version:
            return event
    return stream[-1] if version is None else stream[0]
