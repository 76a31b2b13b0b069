"""
One open transaction of the store: it collects events, and stores them at the end.

The events are sent with the commit, or before a read that has to see them. So other
writers do not wait for a block that computes, all conditions are checked at once, and
an event can carry the guards of conditions that were named after it.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from pymongo.errors import PyMongoError

from ...documents.boundaries.places import assign
from ...documents.boundaries.tags import stream_place
from ...documents.bson_types import Document
from ...exceptions import (
    ConcurrencyError,
    InvalidTransaction,
    OutcomeUnknown,
    TransactionAborted,
)
from ...mongodb.connection import Store
from ...mongodb.deadline import (
    explained,
    in_time,
    in_transaction_of_caller,
    raise_if_aborted,
    time_is_up,
    transaction_of_block,
)
from ...mongodb.indexes import STREAM_VERSIONS, look
from ...mongodb.ports import Documents
from ...mongodb.write_errors import Fault, classify, short_reason
from ..append import event_ids, refuse_foreign, same_events
from ..boundaries.guarding import Guarding
from ..boundaries.heads import read_heads
from ..closing.checks import check_end, raise_if_closed
from ..context.signing import sign
from ..new_events import NewEvents
from ..races.repeating import attempts, pause_before
from .reads import EventsAfterFlush

_open: dict[Any, UnitOfWork] = {}


def unit_of(session: Any) -> UnitOfWork | None:
    """Return the open transaction of the store that a session is of, if any."""
    return _open.get(session)


class Repeated(Exception):
    """An earlier run of the transaction has stored its events."""


class UnitOfWork:
    """
    One open transaction of the store.

    Args:
        outside: one face of the store, outside of the transaction.
        session: its session, in which it has begun.
    """

    def __init__(self, outside: Store, session: Any) -> None:
        self.outside = outside
        self.session = session
        #: The store inside of it, without the events that were not sent yet.
        self.sent = replace(
            outside, events=joined(outside.events, session), outside=outside
        )
        #: The store inside of the transaction, for callers.
        self.store = replace(
            self.sent,
            events=EventsAfterFlush(self, self.sent.events),
            snapshots=joined(outside.snapshots, session),
            unit=self,
        )
        #: The version that each of these streams has to be at.
        self.unchanged: dict[str, int] = {}
        #: The version that each stream was at before its first event of this one.
        self.written: dict[str, int] = {}
        #: The last event of each of these streams.
        self.ends: dict[str, Document] = {}
        #: Whether its events are stored; None as long as it is open.
        self.is_stored: bool | None = None
        self._pending = NewEvents()
        self._conditions: list[tuple[Document, Guarding]] = []
        self._flushed: set[str] = set()
        self._ids: list[Any] = []
        self._found = False

    @property
    def is_open(self) -> bool:
        """Whether it can still be read and written."""
        return self.is_stored is None

    # --- append

    async def append(
        self, documents: NewEvents, condition: Guarding | None = None
    ) -> list[Document]:
        """
        Take events into the transaction, and return them.

        Args:
            documents: of one or several streams, each in order; their versions follow
                versions that the caller knows to exist.
            condition: of a boundary; it is checked before the events are sent.

        Raises:
            ConcurrencyError: the transaction itself has appended to the stream since.
            IdempotencyConflict: an id is stored with other content.
            StreamClosed: the transaction itself has closed the stream.
        """
        await sign(self.outside, documents)
        if documents.have_own_ids and (found := await self.find(documents)):
            return found
        for document in documents:
            stream, version = document["aggregateId"], document["aggregateVersion"]
            end = self.ends.get(stream)
            await raise_if_closed(self.sent, end)
            if end is not None and end["aggregateVersion"] != version - 1:
                raise ConcurrencyError(stream, version - 1, end["aggregateVersion"])
            self.written.setdefault(stream, version - 1)
            self.ends[stream] = document
        self._pending.include(documents)
        self._ids += event_ids(documents)
        if condition is not None:
            self._conditions.append((documents[0], condition))
        return documents

    async def find(self, documents: NewEvents) -> list[Document] | None:
        """Return the events as they are stored under their ids, if they are."""
        ids = event_ids(documents)
        found = await self.sent.events.find({"_id": {"$in": ids}})
        own = [event for event in self._pending if event["_id"] in ids]
        if not found and not own:
            return None
        self._found = self._found or bool(found)
        return same_events([*found, *own], documents)

    # --- send and commit

    async def flush(self) -> None:
        """Send the events that were collected so far, so that reads find them."""
        if self._pending:
            await self._send({}, [])

    async def commit(self) -> None:
        """
        Check the conditions, store the events and commit.

        Raises:
            Repeated: an earlier run has stored all of its events.
            ConcurrencyError: streams are not at the versions they have to be at.
            BoundaryConflict: events match a condition of a boundary.
            InvalidTransaction: no event is left to guard a condition.
            TransactionAborted: it conflicted with another transaction.
            OutcomeUnknown: the time ran out before the outcome was clear.
        """
        with in_time():
            in_transaction_of_caller.set(True)
            if self._found and not self._ids:
                raise Repeated
            versions = {
                stream: version
                for stream, version in self.unchanged.items()
                if stream not in self._flushed
            }
            guards: list[str] = []
            if versions.keys() - self.written.keys():
                # Of two such transactions, each of which checks what the other one
                # writes, one takes the number that the other one wants.
                guards = [stream_place(one) for one in (*versions, *self.written)]
                self._check_carrier()
            if versions or self._pending:
                await self._send(versions, list(dict.fromkeys(guards)))
            await self._commit()

    def _check_carrier(self) -> None:
        if self._flushed and not self._pending:
            raise InvalidTransaction(
                "unchanged() came after a query of the store had sent the last event, "
                "so no event is left to guard the condition. Call unchanged() before "
                "you query what the transaction itself has appended."
            )

    async def _send(self, versions: Mapping[str, int], guards: list[str]) -> None:
        """
        Store the pending events, if some streams are at their versions.

        Args:
            versions: the streams to check.
            guards: the names in which one of the events takes a place.
        """
        documents, self._pending = self._pending, NewEvents()
        conditions, self._conditions = self._conditions, []
        taken = {name for names in documents.names for name in names}
        guarded = [name for _, condition in conditions for name in condition.names]
        names = [*taken, *guarded, *(guards if documents else ())]
        if versions or names:
            written = {event["aggregateId"] for event in documents} if names else ()
            heads = await read_heads(self.sent, [*versions, *written], names)
            await self._compare(versions, heads.streams)
        if names:
            own = [list(of_one) for of_one in documents.names]
            for event, condition in conditions:
                index = next(i for i, one in enumerate(documents) if one is event)
                own[index] += await condition.check(self.sent, heads, taken)
            own[-1] += guards
            assign(documents, [list(dict.fromkeys(one)) for one in own], heads)
        if documents:
            await self._insert(documents)

    async def _compare(
        self, versions: Mapping[str, int], ends: Mapping[str, Document]
    ) -> None:
        conflicts = []
        for stream, version in versions.items():
            end = ends.get(stream)
            actual = end["aggregateVersion"] if end else 0
            if stream in self.ends:
                await check_end(self.outside, self.ends[stream], end)
            if actual != version:
                conflicts.append((stream, version, actual))
        if conflicts:
            raise ConcurrencyError.of(conflicts)

    async def _insert(self, documents: NewEvents) -> None:
        await look(self.outside, STREAM_VERSIONS)
        self._flushed |= {event["aggregateId"] for event in documents}
        try:
            await self.sent.events.insert_many(documents)
        except PyMongoError as error:
            refuse_foreign(error)
            await self._explain(error)
            raise

    async def _commit(self) -> None:
        unclear: PyMongoError | None = None
        client = self.outside.client
        for attempt in attempts():
            try:
                await client.commit(self.session)
                return
            except PyMongoError as error:
                if classify(error) is Fault.UNKNOWN:
                    unclear = error
                elif unclear is None:
                    await self._explain(error)
                    raise
                elif await self._was_committed():
                    return
                else:
                    raise
            if time_is_up():
                break
            await pause_before(self.outside, attempt)
        await client.end_transaction(self.session.session_id)
        raise OutcomeUnknown(self._ids) from unclear

    async def _was_committed(self) -> bool:
        query = {"_id": {"$in": self._ids[:1]}}
        client, events = self.outside.client, self.outside.events
        return bool(await client.find_after_all_writes(events, query))

    async def _explain(self, error: PyMongoError) -> None:
        """Raise what a refused write means; return if it means something else."""
        if classify(error) in (Fault.DUPLICATE, Fault.TRANSIENT):
            # The server has aborted the transaction, so look outside of it.
            versions = {**self.unchanged, **self.written}
            heads = await read_heads(self.outside, list(versions), [])
            try:
                await self._compare(versions, heads.streams)
            except ConcurrencyError as lost:
                raise lost from error
            raise TransactionAborted(short_reason(error)) from error
        raise_if_aborted(error)


def joined(documents: Documents, session: Any) -> Documents:
    """Return a collection inside of the transaction of a session."""
    port: Any = documents
    found: Documents = type(port)(port.raw, session)
    return found


@asynccontextmanager
async def open_unit(store: Store) -> AsyncGenerator[UnitOfWork, None]:
    """
    Run what is inside in one transaction, once, and commit it.

    Raises:
        InvalidTransaction: the caller is inside of a transaction already.
        TransactionAborted: it conflicted with another one, or the primary changed.
        TransactionsUnavailable: the server has none.
        StoreUnavailable: no server answered in time.
    """
    _refuse_nested(store)
    unit: UnitOfWork | None = None
    try:
        async with store.client.transaction() as session:
            unit = _open[session] = UnitOfWork(store, session)
            transaction_of_block.set(unit)
            try:
                yield unit
                await unit.commit()
            finally:
                transaction_of_block.set(None)
                del _open[session]
                unit.is_stored = False
        unit.is_stored = True
    except Repeated:
        assert unit is not None  # noqa: S101 - for the type checker
        unit.is_stored = True
    except PyMongoError as error:
        raise_if_aborted(error)
        if unit is None:
            with explained():
                raise
        raise


def _refuse_nested(store: Store) -> None:
    block = transaction_of_block.get()
    if store.outside is not None:
        raise InvalidTransaction(
            "This is inside atomic(), whose transaction every append joins already. "
            "Leave transaction() out, or do it outside of atomic()."
        )
    if block is not None and block.is_open:
        raise InvalidTransaction(
            "This is inside another transaction() block, and transactions cannot be "
            "nested. Pass the session of the outer one to the calls instead."
        )
