"""
Rebuild: the registered aggregate classes, and their snapshots made anew.

All of them, those that are stale, a share of them on each of several machines, in one
process or in several; or none, and a report of what would change.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..documents.bson_types import Document
from ..documents.event_document import check_id
from ..exceptions import AggregateNotFound
from ..mongodb import connection
from ..mongodb.connection import Store
from ..mongodb.deadline import explained, in_time
from ..mongodb.ports import drive
from ..registry import register_aggregate, root_of
from .coordinator import RebuildOptions, rebuild
from .ranges import Partition
from .report import Progress, RebuildReport


class AggregateRebuild:
    """The registered aggregate classes, and the rebuild of their snapshots."""

    #: Register a class; also a class decorator.
    register_aggregate = staticmethod(register_aggregate)

    @classmethod
    def build_and_save_all(
        cls,
        *,
        types: Sequence[str] | None = None,
        ids: Sequence[str] | None = None,
        stale: bool = False,
        workers: int = 1,
        partition: tuple[int, int] | None = None,
        resume: bool = False,
        progress: Progress | None = None,
    ) -> RebuildReport:
        """
        Fold every stream of every registered type and save the snapshots.

        A stream whose reducer raises is reported and keeps its old snapshot; the
        others go on. Live appends meanwhile do no harm.

        Args:
            types: only these types.
            ids: only these streams.
            stale: only snapshots that are missing, behind, ahead of their stream,
                or of another revision of the reducer.
            workers: in how many processes. Each imports the main module anew, so a
                script that asks for them does so below ``if __name__ == "__main__":``.
            partition: only share ``I`` of ``N``, a pair; ``I`` is from 0 to ``N-1``. A
                stream is in one share for ever, by a hash of its id.
            resume: go on where the last full rebuild of the same types and share
                broke off, unless a reducer has changed since.
            progress: called with the report after every batch.

        Raises:
            ValueError: no such share or number, or two arguments exclude each other.
            UnknownAggregateType: a type is not registered.
            StoreUnavailable: no server was reached.
            RebuildBroken: one of several processes ended before its work.
        """
        share = _partition(partition)
        choice = RebuildOptions(types, ids, stale, share, workers, resume)
        return rebuild_chosen(choice, progress)

    @classmethod
    async def abuild_and_save_all(
        cls,
        *,
        types: Sequence[str] | None = None,
        ids: Sequence[str] | None = None,
        stale: bool = False,
        workers: int = 1,
        partition: tuple[int, int] | None = None,
        resume: bool = False,
        progress: Progress | None = None,
    ) -> RebuildReport:
        """
        See ``build_and_save_all()``; reducers run in the loop's thread.

        More than one of ``workers`` is a ``ValueError``: to wait for them blocks.
        """
        share = _partition(partition)
        choice = RebuildOptions(types, ids, stale, share, workers, resume)
        return await _awaitable(choice, progress)

    @classmethod
    def dry_run(
        cls,
        *,
        types: Sequence[str] | None = None,
        ids: Sequence[str] | None = None,
        workers: int = 1,
        partition: tuple[int, int] | None = None,
        progress: Progress | None = None,
    ) -> RebuildReport:
        """
        Fold streams as ``build_and_save_all()`` does, and write nothing at all.

        The report's ``dry_run`` says by type how the snapshots stand, and which states
        the reducer would alter: each compared at the version of its snapshot.
        """
        share = _partition(partition)
        choice = RebuildOptions(types, ids, False, share, workers, dry_run=True)
        return rebuild_chosen(choice, progress)

    @classmethod
    async def adry_run(
        cls,
        *,
        types: Sequence[str] | None = None,
        ids: Sequence[str] | None = None,
        workers: int = 1,
        partition: tuple[int, int] | None = None,
        progress: Progress | None = None,
    ) -> RebuildReport:
        """See ``dry_run()``; more than one of ``workers`` is a ``ValueError``."""
        share = _partition(partition)
        choice = RebuildOptions(types, ids, False, share, workers, dry_run=True)
        return await _awaitable(choice, progress)

    @classmethod
    def build_and_save(cls, aggregate_type: str, aggregate_id: str) -> Document:
        """
        Fold one stream from its beginning, save its snapshot and return it.

        Raises:
            UnknownAggregateType: the type is not registered.
            AggregateNotFound: there is no such stream of this type.
            ReducerError: the reducer raised, or its state cannot be stored; the
                old snapshot is as it was.
        """
        Root = root_of(aggregate_type)
        check_id(aggregate_id)
        with explained():
            return drive(_rebuild_one(connection.blocking(), Root, aggregate_id))

    @classmethod
    async def abuild_and_save(cls, aggregate_type: str, aggregate_id: str) -> Document:
        """See ``build_and_save()``."""
        Root = root_of(aggregate_type)
        check_id(aggregate_id)
        with explained():
            return await _rebuild_one(await connection.awaitable(), Root, aggregate_id)


def _partition(pair: tuple[int, int] | None) -> Partition | None:
    return None if pair is None else Partition(*pair)


def rebuild_chosen(
    choice: RebuildOptions, progress: Progress | None = None
) -> RebuildReport:
    """Rebuild what is chosen, through the blocking face."""
    _ = choice.roots  # an unknown type is said before anybody connects
    with explained():
        return drive(rebuild(connection.blocking(), choice, progress))


async def _awaitable(
    choice: RebuildOptions, progress: Progress | None
) -> RebuildReport:
    if choice.workers > 1:
        raise ValueError("workers: only through the blocking method")
    _ = choice.roots
    with explained():
        return await rebuild(await connection.awaitable(), choice, progress)


async def _rebuild_one(store: Store, Root: Any, aggregate_id: str) -> Document:
    report = await rebuild(store, RebuildOptions([Root.aggregate_type], [aggregate_id]))
    for failure in report.failures:
        raise failure
    if not report.streams:
        raise AggregateNotFound(Root.aggregate_type, aggregate_id)
    with in_time():
        snapshot = await store.snapshots.find_one({"_id": {"$eq": aggregate_id}})
    if snapshot is None:  # discarded by somebody else in between
        raise AggregateNotFound(Root.aggregate_type, aggregate_id)
    return snapshot
