"""
Compare the documents of projections with a fold of their events.

The checkpoint of a projection moves together with its documents and its parked streams.
So all three are read as of one moment, and quickly: the server keeps history for a few
minutes. The events up to that checkpoint never change, so reading them may take long.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any

from pymongo.errors import OperationFailure

from ..documents.bson_types import Document
from ..exceptions import PositionsBroken
from ..mongodb import connection
from ..mongodb.connection import Store
from ..mongodb.deadline import in_time
from ..mongodb.ports import Documents
from ..mongodb.topology import is_standalone
from ..positions.event_pages import PageLimit
from ..positions.reader import LostEvent, read, wanted_by
from ..projections.generations import (
    LATE_DELETIONS,
    build_name,
    collection_name,
    revision,
)
from ..projections.projection import registered_projections
from .options import ProjectionSizes
from .projection_fold import Expected, Missing, Share
from .report import (
    BROKEN_ORDER,
    CHANGED_CLASS,
    EVENT_LOST,
    LATE,
    NEVER_RAN,
    NO_POSITIONS,
    NOT_CHOSEN,
    TOO_LONG,
    TOO_MANY_MISSING,
    Finding,
    Scan,
    VerifyReport,
)

# SnapshotTooOld; SnapshotUnavailable, as for a collection that was just created.
_NO_SNAPSHOT = (239, 246)
_BY_ID = [("_id", 1)]


@dataclass(frozen=True)
class _Moment:
    """What was read of a projection as of one moment."""

    position: int
    expected: Expected
    missing: Missing
    #: Shares of the keys that did not fit into memory.
    lost: list[Share]
    #: The times of the moment: later reads must be at least as new.
    cluster_time: Any
    operation_time: Any


class _Incomparable(Exception):
    """The documents of a projection cannot be compared."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class ProjectionComparison:
    """
    Compares every registered projection, one after the other, and writes nothing.

    Args:
        store: one face of the store.
        report: gets the counts and the findings.
        sample: about how many documents of each projection to choose at random; None
            compares every one.
        tick: called after every page of events.
        sizes: how much to read and hold at a time.
    """

    def __init__(
        self,
        store: Store,
        report: VerifyReport,
        sample: int | None,
        tick: Callable[[], None],
        sizes: ProjectionSizes | None = None,
    ) -> None:
        self._store = store
        self._report = report
        self._sample = math.inf if sample is None else sample
        self._tick = tick
        self._sizes = sizes or ProjectionSizes()
        self._lost_events: set[int] = set()

    async def run(self) -> None:
        """Compare the documents of all projections."""
        report = self._report
        report.projections = report.projections_compared = 0
        for cls in registered_projections().values():
            report.projections += 1
            one = _OneProjection(
                self._store, cls, self._sample, report, self._tick, self._sizes
            )
            try:
                await one.run()
            except _Incomparable as error:
                await one.leave_the_rest(error.reason)
            except PositionsBroken as error:
                self._report_lost_event(error)
                await one.leave_the_rest(BROKEN_ORDER)
            else:
                report.projections_compared += self._sample > 0
        report.scan = None

    def _report_lost_event(self, error: PositionsBroken) -> None:
        if error.position in self._lost_events:  # another projection needed it too
            return
        self._lost_events.add(error.position)
        version = error.aggregate_version
        if self._report.has_lost(error.aggregate_id, version):
            return
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


class _OneProjection:
    """The comparison of one projection, share after share of its keys."""

    def __init__(
        self,
        store: Store,
        cls: Any,
        sample: float,
        report: VerifyReport,
        tick: Callable[[], None],
        sizes: ProjectionSizes,
    ) -> None:
        self._store = store
        self._cls = cls
        self._sample = sample
        self._report = report
        self._tick = tick
        self._sizes = sizes
        self._documents = self._documents_of(1)
        self._scanned = 0  # the last position of the scans so far
        self._counted = 0  # documents that were compared, or left out for a reason

    def _documents_of(self, generation: int) -> Documents:
        name = collection_name(self._cls.name, generation)
        return connection.documents(self._store, name)

    async def run(self) -> None:
        """Compare documents until the sample is complete, or all are compared."""
        await self._check_server()
        shares, chosen = [Share(random.getrandbits(64))], 0
        if self._sample < math.inf:
            shares = [await self._sampled(shares[0])]
        while shares and chosen < self._sample:
            moment = await self._read(shares.pop())
            shares += moment.lost
            shares += await self._fold(moment)
            self._compare(moment.expected)
            chosen += len(moment.expected)
        if self._sample < math.inf:
            await self.leave_the_rest(NOT_CHOSEN)

    async def _check_server(self) -> None:
        with in_time():
            hello = await self._store.client.command("hello")
        if is_standalone(hello):
            raise _Incomparable(NO_POSITIONS)

    async def _sampled(self, share: Share) -> Share:
        """Return a share of the keys with about as many documents as the sample."""
        await self._read_subscription(None)
        with in_time():
            count = await self._documents.count()
        return Share(share.salt, max(1, int(count / max(1, self._sample))))

    async def leave_the_rest(self, reason: str) -> None:
        """Count the documents that are left, with the reason."""
        with in_time():
            left = await self._documents.count() - self._counted
        if left > 0 or reason != NOT_CHOSEN:
            self._leave(reason, max(0, left))

    def _leave(self, reason: str, documents: int) -> None:
        report = self._report
        reasons = report.documents_not_compared.setdefault(self._cls.name, {})
        reasons[reason] = reasons.get(reason, 0) + documents
        report.documents += documents

    # --- one moment

    async def _read_subscription(self, session: Any) -> Document:
        """Return the subscription, if it ran with the current class."""
        with in_time():
            found = await self._store.subscriptions.find_one(
                {"_id": {"$eq": self._cls.name}}, session=session
            )
        if found is None:
            raise _Incomparable(NEVER_RAN)
        self._documents = self._documents_of(found.get("generation", 1))
        if found.get("revision") != revision(self._cls):
            raise _Incomparable(CHANGED_CLASS)
        return found

    async def _read(self, share: Share) -> _Moment:
        for attempt in range(1, self._sizes.tries + 1):
            try:
                async with self._store.client.snapshot_session() as session:
                    return await self._read_in(session, share)
            except OperationFailure as error:
                if error.code not in _NO_SNAPSHOT:
                    raise
            if attempt < self._sizes.tries:
                await self._store.client.pause(self._sizes.retry_seconds)
        raise _Incomparable(TOO_LONG)

    async def _read_in(self, session: Any, share: Share) -> _Moment:
        """Read checkpoint, parked streams, skipped events and documents."""
        found = await self._read_subscription(session)
        deleted = found.get("lateDeletions", ())
        if len(deleted) >= LATE_DELETIONS:
            raise _Incomparable(LATE)  # only so many are noted
        missing = await self._missing(found.get("generation", 1), session)
        missing = replace(missing, deleted_late=frozenset(deleted))
        expected = Expected(self._cls, share, missing, self._scanned, self._sizes)
        lost: list[Share] = []
        async for ids in self._ids(session):
            expected.choose(ids)
            lost += expected.give_up()
        for ids in expected.unread(self._sizes.documents):
            documents = self._documents.batches(
                {"_id": {"$in": ids}},
                self._sizes.documents,
                projection=["state", "position", "late"],
                session=session,
            )
            async for batch in _in_time(documents):
                expected.add_stored(batch)
                lost += expected.give_up()
        times = session.cluster_time, session.operation_time
        return _Moment(found["position"], expected, missing, lost, *times)

    async def _missing(self, generation: int, session: Any) -> Missing:
        name = self._cls.name
        parked: dict[str, int] = {}
        skipped: set[int] = set()
        streams = self._store.parked.batches(
            {"subscription": {"$eq": name}},
            self._sizes.documents,
            projection=["aggregateId", "position"],
            session=session,
        )
        async for batch in _in_time(streams):
            parked.update((one["aggregateId"], one["position"]) for one in batch)
            self._limit(len(parked))
        events = self._store.skipped.batches(
            {"subscription": {"$in": [name, build_name(name, generation)]}},
            self._sizes.documents,
            projection=["subscription", "generation", "position"],
            session=session,
        )
        async for batch in _in_time(events):
            for one in batch:
                own = one["subscription"] != name
                # A rebuild starts over: events skipped before it no longer count.
                if own or one.get("generation", 1) == generation:
                    skipped.add(one["position"])
            self._limit(len(parked) + len(skipped))
        return Missing(parked, skipped)

    def _limit(self, missing: int) -> None:
        """Give up a projection of which more is missing than memory should hold."""
        if missing > self._sizes.held_missing:
            raise _Incomparable(TOO_MANY_MISSING)

    async def _ids(self, session: Any) -> AsyncGenerator[list[Any], None]:
        """Yield every ``_id``, whatever BSON types there are, from the index alone."""
        last: Document = {}
        limit = self._sizes.keys
        while True:
            with in_time():
                found = await self._documents.find(
                    {},
                    projection=["_id"],
                    sort=_BY_ID,
                    hint=_BY_ID,
                    limit=limit,
                    session=session,
                    **last,
                )
            ids = [one["_id"] for one in found]
            yield ids  # the first is the last of the page before
            if len(ids) < limit:
                return
            last = {"min": {"_id": ids[-1]}}  # unlike $gt, of any BSON type

    # --- the events

    async def _fold(self, moment: _Moment) -> list[Share]:
        """Fold the events up to the checkpoint; return the shares that were lost."""
        expected, after, limit = moment.expected, 0, self._sizes.events
        lost: list[Share] = []
        pages = PageLimit()
        query = wanted_by(self._cls.types, self._cls.aggregate_types, self._cls.tags)
        began = time.monotonic()
        async with self._store.client.session() as session:
            # A member that just became the primary may lack what was read.
            session.advance_cluster_time(moment.cluster_time)
            session.advance_operation_time(moment.operation_time)
            while after < moment.position:
                between = {"$gt": after, "$lte": moment.position}
                page = await read(
                    self._store, {**query, "_id": between}, limit, session, pages
                )
                after = page.last if page.is_full else moment.position
                for event in page.events:
                    if isinstance(event, LostEvent) and not moment.missing.holds(event):
                        raise event.error
                for finding in expected.fold(page.events):
                    self._report.add(finding)
                lost += expected.give_up()
                seconds = time.monotonic() - began
                self._report.scan = Scan(
                    self._cls.name, after, moment.position, seconds
                )
                self._tick()
        self._scanned = max(self._scanned, moment.position)
        return lost

    def _compare(self, expected: Expected) -> None:
        report, compared = self._report, len(expected.stored)
        self._counted += compared
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
