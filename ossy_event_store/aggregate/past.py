"""
Load aggregates as of the past, and compare their states.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.client_session import ClientSession

from ..documents.arguments import check_number
from ..documents.diff import Change
from ..documents.event_document import check_id
from ..exceptions import PositionsBroken
from ..mongodb.connection import Store
from ..mongodb.deadline import in_time
from ..mongodb.ports import drive
from ..positions.reader import position_of
from ..positions.versions import last_entry
from ..streams.load import A
from ..streams.past.changes import changes_between
from ..streams.past.moment import Moment
from ..streams.past.versions import (
    before,
    end_of,
    load_at_time,
    load_at_version,
    load_exactly,
)
from ..streams.reducers import check_reducer
from ..streams.transactions.joining import awaitable_store, blocking_store
from ..streams.transactions.unit_of_work import joined
from .ending import TakingPart


class Past(TakingPart):
    """The part of ``Aggregate`` that compares past states."""

    @classmethod
    def diff(
        cls,
        Root: Any,
        aggregate_id: str,
        old: int,
        new: int,
        *,
        session: ClientSession | None = None,
    ) -> list[Change]:
        """
        Return what changed in the state between two versions.

        Args:
            Root: the aggregate class; its reducer of today folds both states.
            aggregate_id: the stream.
            old: a version; 0 is before the first event, where the state is ``{}``.
            new: a version. If it is the earlier one, the changes lead back.
            session: see ``of()``.

        Returns:
            A list of ``Change``: all of them, in the order of the new state's keys,
            those that were removed last. It is empty if the states are equal.

        Raises:
            VersionNotFound: the stream has no event at one of the versions.
            ReducerError: the reducer raised.
            AggregateNotFound, AggregateTypeMismatch, StoreUnavailable: see ``of()``.
        """
        between = _checked(Root, aggregate_id, old, new)
        with in_time():
            return drive(changes_between(blocking_store(session), *between))

    @classmethod
    async def adiff(
        cls,
        Root: Any,
        aggregate_id: str,
        old: int,
        new: int,
        *,
        session: AsyncClientSession | None = None,
    ) -> list[Change]:
        """See ``diff()``."""
        between = _checked(Root, aggregate_id, old, new)
        with in_time():
            return await changes_between(await awaitable_store(session), *between)


def _checked(Root: Any, aggregate_id: Any, old: Any, new: Any) -> Any:
    check_reducer(Root)
    check_id(aggregate_id)
    check_number(old, "old")
    check_number(new, "new")
    return Root, aggregate_id, old, new


async def load_past(
    cls: type[A],
    store: Store,
    Root: Any,
    aggregate_id: str,
    moment: Moment,
    use_snapshot: bool,
) -> A:
    """
    Return the aggregate of a stream as it was at a moment; it is read-only.

    Raises:
        BeforeFirstEvent, VersionNotFound, PositionNotAssigned: the stream has no such
            moment, or not yet.
        AggregateNotFound, AggregateTypeMismatch: see ``load_aggregate()``.
    """
    stream = (Root, aggregate_id)
    if moment.at_version is not None:
        version = moment.at_version
        found = await load_at_version(cls, store, *stream, version, use_snapshot)
    elif moment.at is not None:
        found = await load_at_time(cls, store, *stream, moment.at, use_snapshot)
    else:
        position = moment.at_position or 0
        # Nothing in an open transaction has a position.
        outside = store.outside or store
        found = await _load_at_position(cls, outside, *stream, position, use_snapshot)
    found.is_past = True
    return found


async def _load_at_position(
    cls: type[A],
    store: Store,
    Root: Any,
    aggregate_id: str,
    position: int,
    use_snapshot: bool,
) -> A:
    """
    Return the aggregate of a stream as it was at a position.

    Raises:
        PositionNotAssigned: no event has the position yet.
        BeforeFirstEvent: the first event of the stream has a later one, or none yet.
        PositionsBroken: an event that got a position no longer exists.
    """
    # In a session, a new primary waits until it knows what the old one has shown.
    async with store.client.session() as session:
        inside = replace(store, events=joined(store.events, session))
        entry = await last_entry(store, aggregate_id, position, session)
        if entry is None:
            first = await end_of(inside, Root, aggregate_id, 1)
            began = await position_of(store, {**first, "aggregateId": aggregate_id})
            at = "a position that is not assigned yet" if began is None else _at(began)
            raise before(first, Root, aggregate_id, _at(position), at)
        version = entry["aggregateVersion"]
        found = await load_exactly(
            cls, inside, Root, aggregate_id, version, use_snapshot
        )
    if found is None or (found.events and found.events[-1]["_id"] != entry["eventId"]):
        raise PositionsBroken(entry["_id"], aggregate_id, version)
    return found


def _at(position: int) -> str:
    return f"position {position}"
