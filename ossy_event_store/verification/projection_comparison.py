"""
Compare the documents of projections with a fold of their events.

The checkpoint of a projection moves together with its documents and its parked streams.
So all three are read as of one moment, and soon: the server keeps history for minutes.
The events up to that checkpoint do not change, and are read for as long as it takes.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from pymongo.errors import OperationFailure

from ..documents.bson_types import Document
from ..exceptions import PositionsBroken
from ..mongodb import connection
from ..mongodb.connection import Store
from ..mongodb.deadline import in_time
from ..mongodb.ports import Documents
from ..positions.reader import read, wanted
from ..projections.generations import build_name, collection_name, revision
from ..projections.projection import registered_projections
from .projection_fold import Expected, Missing, Share
from .report import (
    BROKEN_ORDER,
    CHANGED_CLASS,
    EVENT_LOST,
    NEVER_RAN,
    NO_POSITIONS,
    NOT_CHOSEN,
    TOO_LONG,
    Finding,
    Scan,
    VerifyReport,
)

PAGE = 2000  # events a read
DOCUMENTS = 1000  # documents a read
IDS = 10_000  # keys a read
TRIES = 5  # to read documents as of one moment
PAUSE = 0.2  # seconds between two of them

# SnapshotTooOld; SnapshotUnavailable, as for a collection that was made just now.
_NO_SNAPSHOT = (239, 246)
_BY_ID = [("_id", 1)]


@dataclass(frozen=True)
class _Taken:
    """What was read of a projection as of one moment."""

    position: int
    expected: Expected
    #: Shares of the keys that were too much to hold.
    lost: list[Share]
    #: The times of the moment: what is read for it later has to be as new.
    cluster_time: Any
    operation_time: Any


class _Incomparable(Exception):
    """There is nothing to compare the documents with."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class ProjectionComparison:
    """
    Compares every registered projection, one after the other, and writes nothing.

    Args:
        store: one face of the store.
        report: where to count and tell.
        size: how many documents of each projection to choose at random; None compares
            every one.
        tick: called after every page of events.
    """

    def __init__(
        self,
        store: Store,
        report: VerifyReport,
        size: int | None,
        tick: Callable[[], None],
    ) -> None:
        self._store = store
        self._report = report
        self._size = math.inf if size is None else size
        self._tick = tick
        self._lost_events: set[int] = set()

    async def run(self) -> None:
        """Compare the documents of all projections."""
        report = self._report
        report.projections = report.projections_compared = 0
        for cls in registered_projections().values():
            report.projections += 1
            work = _Work(self._store, cls, self._size, report, self._tick)
            try:
                await work.run()
            except _Incomparable as error:
                await work.leave_the_rest(error.reason)
            except PositionsBroken as error:
                self._tell_lost(error)
                await work.leave_the_rest(BROKEN_ORDER)
            else:
                report.projections_compared += self._size > 0
        report.scan = None

    def _tell_lost(self, error: PositionsBroken) -> None:
        if error.position in self._lost_events:  # of another projection as well
            return
        self._lost_events.add(error.position)
        version = error.aggregate_version
        self._report.add(
            Finding(
                EVENT_LOST,
                error.aggregate_id,
                (version, version),
                f"position {error.position}",
                "the event that got it",
                "none",
            )
        )


class _Work:
    """The comparison of one projection, share after share of its keys."""

    def __init__(
        self,
        store: Store,
        cls: Any,
        size: float,
        report: VerifyReport,
        tick: Callable[[], None],
    ) -> None:
        self._store = store
        self._cls = cls
        self._size = size
        self._report = report
        self._tick = tick
        self._documents = self._of(1)
        self._scanned = 0  # the last position of the scans before
        self._handled = 0  # documents that were compared, or left out for a reason

    def _of(self, generation: int) -> Documents:
        name = collection_name(self._cls.name, generation)
        return connection.documents(self._store, name)

    async def run(self) -> None:
        """Compare documents until there are as many as wanted, or all are done."""
        await self._check_server()
        shares, chosen = [Share(random.getrandbits(64))], 0
        if self._size < math.inf:
            shares = [await self._sample(shares[0])]
        while shares and chosen < self._size:
            taken = await self._take(shares.pop())
            shares += taken.lost
            shares += await self._fold(taken)
            self._compare(taken.expected)
            chosen += len(taken.expected)
        if self._size < math.inf:
            await self.leave_the_rest(NOT_CHOSEN)

    async def _check_server(self) -> None:
        with in_time():
            hello = await self._store.client.command("hello")
        if "setName" not in hello and hello.get("msg") != "isdbgrid":
            raise _Incomparable(NO_POSITIONS)

    async def _sample(self, share: Share) -> Share:
        """Return a share of the keys with about as many documents as wanted."""
        await self._document(None)
        with in_time():
            count = await self._documents.count()
        return Share(share.salt, max(1, int(count / max(1, self._size))))

    async def leave_the_rest(self, reason: str) -> None:
        """Say why the documents that are left are not compared."""
        with in_time():
            left = await self._documents.count() - self._handled
        if left > 0 or reason != NOT_CHOSEN:
            self._leave(reason, max(0, left))

    def _leave(self, reason: str, documents: int) -> None:
        report = self._report
        kept = report.documents_not_compared.setdefault(self._cls.name, {})
        kept[reason] = kept.get(reason, 0) + documents
        report.documents += documents

    # --- one moment

    async def _document(self, session: Any) -> Document:
        """Return the subscription, if it has run with the class as it is now."""
        with in_time():
            found = await self._store.subscriptions.find_one(
                {"_id": {"$eq": self._cls.name}}, session=session
            )
        if found is None:
            raise _Incomparable(NEVER_RAN)
        self._documents = self._of(found.get("generation", 1))
        if found.get("revision") != revision(self._cls):
            raise _Incomparable(CHANGED_CLASS)
        return found

    async def _take(self, share: Share) -> _Taken:
        for attempt in range(1, TRIES + 1):
            try:
                async with self._store.client.snapshot_session() as session:
                    return await self._take_in(session, share)
            except OperationFailure as error:
                if error.code not in _NO_SNAPSHOT:
                    raise
            if attempt < TRIES:
                await self._store.client.pause(PAUSE)
        raise _Incomparable(TOO_LONG)

    async def _take_in(self, session: Any, share: Share) -> _Taken:
        """Read checkpoint, parked streams, skipped events and documents."""
        found = await self._document(session)
        missing = await self._missing(found.get("generation", 1), session)
        expected = Expected(self._cls, share, missing, self._scanned)
        lost: list[Share] = []
        async for ids in self._ids(session):
            expected.choose(ids)
            lost += expected.give_up()
        for ids in expected.unread(DOCUMENTS):
            with in_time():
                expected.read(
                    await self._documents.find(
                        {"_id": {"$in": ids}},
                        projection=["state", "position", "late"],
                        session=session,
                    )
                )
            lost += expected.give_up()
        times = session.cluster_time, session.operation_time
        return _Taken(found["position"], expected, lost, *times)

    async def _missing(self, generation: int, session: Any) -> Missing:
        name = self._cls.name
        parked: dict[str, int] = {}
        skipped: set[int] = set()
        streams = self._store.parked.batches(
            {"subscription": {"$eq": name}},
            DOCUMENTS,
            projection=["aggregateId", "position"],
            session=session,
        )
        async for batch in _in_time(streams):
            parked.update((one["aggregateId"], one["position"]) for one in batch)
        events = self._store.skipped.batches(
            {"subscription": {"$in": [name, build_name(name, generation)]}},
            DOCUMENTS,
            projection=["subscription", "generation", "position"],
            session=session,
        )
        async for batch in _in_time(events):
            for one in batch:
                own = one["subscription"] != name
                # A rebuild begins again: what was skipped before it counts no more.
                if own or one.get("generation", 1) == generation:
                    skipped.add(one["position"])
        return Missing(parked, skipped)

    async def _ids(self, session: Any) -> AsyncGenerator[list[Any], None]:
        """Yield every ``_id``, whatever BSON types there are, from the index alone."""
        last: Document = {}
        while True:
            with in_time():
                found = await self._documents.find(
                    {},
                    projection=["_id"],
                    sort=_BY_ID,
                    hint=_BY_ID,
                    limit=IDS,
                    session=session,
                    **last,
                )
            ids = [one["_id"] for one in found]
            yield ids  # the first is the last of before
            if len(ids) < IDS:
                return
            last = {"min": {"_id": ids[-1]}}  # unlike $gt, of any BSON type

    # --- the events

    async def _fold(self, taken: _Taken) -> list[Share]:
        """Fold the events up to the checkpoint; return the shares that were lost."""
        expected, after = taken.expected, 0
        lost: list[Share] = []
        query = wanted(self._cls.types, self._cls.aggregate_types)
        began = time.monotonic()
        async with self._store.client.session() as session:
            # Another member that became the primary may not know yet what was read.
            session.advance_cluster_time(taken.cluster_time)
            session.advance_operation_time(taken.operation_time)
            while after < taken.position:
                between = {"$gt": after, "$lte": taken.position}
                events = await read(
                    self._store, {**query, "_id": between}, PAGE, session
                )
                full = len(events) == PAGE
                after = events[-1]["position"] if full else taken.position
                for finding in expected.take(events):
                    self._report.add(finding)
                lost += expected.give_up()
                seconds = time.monotonic() - began
                self._report.scan = Scan(self._cls.name, after, taken.position, seconds)
                self._tick()
        self._scanned = max(self._scanned, taken.position)
        return lost

    def _compare(self, expected: Expected) -> None:
        report, compared = self._report, len(expected.stored)
        self._handled += compared
        for finding, reason in expected.differences():
            if finding:
                report.add(finding)
            if reason:
                self._leave(reason, 1)
                compared -= 1
        report.documents += compared
        report.documents_compared += compared


async def _in_time(
    batches: AsyncGenerator[list[Document], None],
) -> AsyncGenerator[list[Document], None]:
    """Yield batches, each within the time-out."""
    async with aclosing(batches):
        while True:
            with in_time():
                batch = await anext(batches, None)
            if batch is None:
                return
            yield batch
