"""
The built-in subscription that keeps snapshots up to date.

It sees every event, whichever process or program appended it. The attribute
``snapshot_every`` of a class says how often its snapshots are renewed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from django.core.exceptions import ImproperlyConfigured

from ..aggregate.registry import registered_aggregates
from ..documents.bson_types import Document
from ..documents.collections import SNAPSHOTS
from ..exceptions import InvalidState, ReducerError
from ..mongodb import connection
from ..mongodb.connection import Store
from ..mongodb.deadline import in_time
from ..mongodb.ports import ONE_BATCH
from ..positions.reader import wanted
from ..streams.load import fold_stream
from ..streams.reducers import fold as fold_events
from ..streams.reducers import name_of
from ..streams.snapshots import Snapshot, build_snapshot, is_usable, write_snapshots
from . import declaration, parked_streams
from .checkpoints import ClaimLost
from .declaration import Subscription
from .delivery import Delivered, Delivery, by_stream
from .delivery.long_folds import LongFold, LongFolds
from .parked_streams import Failed
from .transactions import HandlerFailed

_DATA = ("payload", "metadata")  # the large fields of an event
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
    """
    Folds delivered events onto the snapshots of their streams.

    Where the reducer has changed, that may be all events of a long stream. Such a fold
    waits for its turn in ``work()``, lest other streams wait for it.
    """

    #: Events before the delivered ones that a delivery folds at once, at most.
    folded_at_once = 10_000

    def __init__(self, store: Store, session: Any, declared: Subscription) -> None:
        # The checkpoint moves past them, so they must be as durable as it is.
        durable = connection.documents(store, SNAPSHOTS)
        super().__init__(replace(store, snapshots=durable), session, declared)
        self._long = LongFolds()
        self._retried: LongFold | None = None

    async def deliver(self, events: Sequence[Document], after: int) -> Delivered:
        """Fold the events onto the snapshots, and write the snapshots that are due."""
        streams = {stream[0]["aggregateId"]: stream for stream in by_stream(events)}
        left, parked = self.folded_at_once, list[Failed]()
        # In pieces: all snapshots of a page may be more than memory should hold.
        query, missing = {"_id": {"$in": list(streams)}}, dict(streams)
        async with aclosing(self._store.snapshots.batches(query, ONE_BATCH)) as found:
            async for stored in found:
                some = {one["_id"]: missing.pop(one["_id"]) for one in stored}
                failed, left = await self._renew(some, stored, left)
                parked += failed
        failed, _ = await self._renew(missing, [], left)
        parked += failed
        for one in parked:
            await self.park(one, None)
        return Delivered(moved=False, parked=parked)

    async def _renew(
        self,
        streams: Mapping[str, Sequence[Document]],
        stored: Sequence[Document],
        left: int,
    ) -> tuple[list[Failed], int]:
        """
        Renew the snapshots of some streams that are due.

        Args:
            streams: the events of each.
            stored: their snapshots: all of them, or none.
            left: how many events before the delivered ones it may fold.

        Returns:
            The events at which streams are to be parked, and how many are left.
        """
        snapshots = {snapshot["_id"]: snapshot for snapshot in stored}
        new: list[Snapshot] = []
        parked: list[Failed] = []
        for aggregate_id, stream in streams.items():
            fold = _due(stream, snapshots.get(aggregate_id))
            if fold is None:
                continue
            many = stream[0]["aggregateVersion"] - 1 - fold.version
            if aggregate_id in self._long or (many > left and not self._long.is_full()):
                self._long.take(fold)
                continue
            left -= max(0, many)
            try:
                new.append(await self._snapshot(fold, stream))
            except (ReducerError, InvalidState) as error:
                parked.append(Failed(_culprit(stream, error), error))
        with in_time():
            written = await write_snapshots(self._store, new, first=not stored)
        for snapshot, refused in written.refused:
            stream = streams[snapshot["_id"]]
            parked.append(Failed(_culprit(stream, refused), refused))
        return parked, left

    async def work(self) -> tuple[bool, list[Failed]]:
        """Fold a piece of a long stream, and write its snapshot after the last one."""
        fold = self._long.first()
        if fold is None:
            return False, []
        failed: list[Failed] = []
        try:
            if not await self._long.advance(self._store, fold):
                return True, []
            if fold.version:  # else its events were deleted meanwhile
                await self._write(_built(fold))
        except (ReducerError, InvalidState) as error:
            failed = [Failed(fold.first, error)]
        self._long.drop(fold)
        return self._long.first() is not None, failed

    def done_up_to(self, seen: int) -> int:
        """Return the position before the first event of a long stream."""
        return self._long.done_up_to(seen)

    async def park(self, failed: Failed, after: int | None) -> bool:
        """Park a stream; the checkpoint moves by itself, as long streams allow."""
        return await super().park(failed, None)

    async def release(self, parked: Document, seen: int) -> bool:
        """Release a parked stream, and move the checkpoint as long streams allow."""
        return await super().release(parked, self.done_up_to(seen))

    async def _write(self, snapshot: Snapshot) -> None:
        """
        Write the snapshot of a stream unless a newer one exists.

        Raises:
            InvalidState: a unique index that the project added refuses it.
        """
        with in_time():
            written = await write_snapshots(self._store, [snapshot])
        for _, refused in written.refused:
            raise refused

    async def redeliver(
        self,
        parked: Document,
        events: Sequence[Document],
        seen: int,
        is_late: Callable[[], bool],
    ) -> int:
        """See ``Delivery``; 0 as long as the fold of a long stream is not done."""
        fold, before = self._retried, events[0]["aggregateVersion"] - 1
        aggregate_id = events[0]["aggregateId"]
        if not fold or fold.aggregate_id != aggregate_id or fold.version > before:
            with in_time():
                query = {"_id": {"$eq": aggregate_id}}
                stored = await self._store.snapshots.find_one(query)
            self._retried = fold = _due(events, stored)
        if fold is not None:
            fold.until = before
            try:
                if not await fold.advance(self._store, is_late):
                    return 0
            except ReducerError as error:
                raise HandlerFailed(error) from error
        return await super().redeliver(parked, events, seen, is_late)

    async def _redeliver(
        self, parked: Document, events: Sequence[Document], seen: int
    ) -> None:
        """Fold the events onto what is folded, and move the stream past them."""
        if self._retried is not None:
            try:
                await self._write(await self._snapshot(self._retried, events))
            except (ReducerError, InvalidState) as error:
                raise HandlerFailed(error) from error
        with in_time():
            if not await parked_streams.advance(self._store, parked, events[-1]):
                raise ClaimLost
        self._retried = None

    async def _snapshot(self, fold: LongFold, stream: Sequence[Document]) -> Snapshot:
        """Return the snapshot after some events, and those between it and them."""
        events = [e for e in stream if e["aggregateVersion"] > fold.version]
        before = events[0]["aggregateVersion"] - 1
        state, version = fold.state, fold.version
        if before > version:
            # Since the reducer has changed, or the class renews its snapshots seldom.
            state, _ = await fold_stream(
                self._store, fold.Root, fold.aggregate_id, state, version, before
            )
        state = fold_events(fold.Root, events, dict(state))
        head = events[-1]["aggregateVersion"]
        return build_snapshot(fold.Root, fold.aggregate_id, head, state)


def _due(stream: Sequence[Document], snapshot: Document | None) -> LongFold | None:
    """Return the fold with which a snapshot has these events, if one is due."""
    Root = registered_aggregates().get(stream[0]["aggregateType"])
    every = snapshot_every(Root) if Root is not None else None
    if every is None:
        return None
    usable = snapshot if is_usable(snapshot, Root) else None
    version = usable["aggregateVersion"] if usable else 0
    head = stream[-1]["aggregateVersion"]
    if head <= version or head // every <= version // every:
        return None
    state = usable["state"] if usable else {}
    first = {name: value for name, value in stream[0].items() if name not in _DATA}
    return LongFold(Root, stream[0]["aggregateId"], state, version, head, first)


def _built(fold: LongFold) -> Snapshot:
    return build_snapshot(fold.Root, fold.aggregate_id, fold.version, fold.state)


def _culprit(stream: Sequence[Document], error: BaseException) -> Document:
    """Return the event of the batch at which the stream has to be parked."""
    version = getattr(error, "version", None)
    for event in stream:
        if event["aggregateVersion"] == version:
            return event
    return stream[-1] if version is None else stream[0]
