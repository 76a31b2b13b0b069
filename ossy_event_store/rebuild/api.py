"""
``AggregateRebuild``, the public class: rebuild snapshots from the events.

All snapshots, only stale ones, or a share on each of several machines, in one process
or in several. A dry run writes nothing, and reports what would change.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..aggregate.registry import register_aggregate, root_of
from ..documents.arguments import check_function
from ..documents.bson_types import Document
from ..documents.event_document import check_id
from ..exceptions import AggregateNotFound
from ..mongodb import connection
from ..mongodb.connection import Store
from ..mongodb.deadline import explained, in_time
from ..mongodb.ports import drive
from .coordinator import rebuild
from .options import RebuildOptions
from .ranges import Partition
from .report import Progress, RebuildReport


class AggregateRebuild:
    """Registers aggregate classes, and rebuilds their snapshots."""

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
        rebuild continues with the others. Appends may continue meanwhile.

        Args:
            types: only these types.
            ids: only these streams.
            stale: only streams whose snapshot is missing, older or newer than the
                stream, or of another revision of the reducer.
            workers: the number of processes. Each imports the main module, so a script
                has to call this below ``if __name__ == "__main__":``.
            partition: only share ``I`` of ``N``, as a pair; ``I`` is from 0 to ``N-1``.
                A stream is always in the same share, by a hash of its id.
            resume: continue the last full rebuild of the same types and share, if it
                was interrupted and no reducer has changed since.
            progress: called with the report after every batch.

        Raises:
            ValueError: no such share or number, or two arguments exclude each other.
            UnknownAggregateType: a type is not registered.
            StoreUnavailable: no server was reached.
            RebuildBroken: a worker process died before its work was done.
        """
        share = _partition(partition)
        chosen = RebuildOptions(types, ids, stale, share, workers, resume)
        return run_rebuild(chosen, progress)

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
        See ``build_and_save_all()``; reducers run in the thread of the event loop.

        ``workers`` above 1 is a ``ValueError``: waiting for processes blocks.
        """
        share = _partition(partition)
        chosen = RebuildOptions(types, ids, stale, share, workers, resume)
        return await _run_awaitable(chosen, progress)

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

        The report's ``dry_run`` counts, by type, current and stale snapshots, and lists
        the states that the reducer would alter. Each state is compared at the version
        of its snapshot.
        """
        share = _partition(partition)
        chosen = RebuildOptions(types, ids, False, share, workers, dry_run=True)
        return run_rebuild(chosen, progress)

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
        """See ``dry_run()``; ``workers`` above 1 is a ``ValueError``."""
        share = _partition(partition)
        chosen = RebuildOptions(types, ids, False, share, workers, dry_run=True)
        return await _run_awaitable(chosen, progress)

    @classmethod
    def build_and_save(cls, aggregate_type: str, aggregate_id: str) -> Document:
        """
        Fold one stream from its beginning, save its snapshot and return it.

        Raises:
            UnknownAggregateType: the type is not registered.
            AggregateNotFound: no stream of this type has this id.
            ReducerError: the reducer raised, or its state cannot be stored; the
                old snapshot stays.
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


def _partition(pair: Any) -> Partition | None:
    if pair is None:
        return None
    if not isinstance(pair, (tuple, list)) or len(pair) != 2:
        raise TypeError(
            "partition must be a pair of numbers, such as (0, 4), not "
            f"{type(pair).__name__}."
        )
    return Partition(*pair)


def run_rebuild(
    options: RebuildOptions, progress: Progress | None = None
) -> RebuildReport:
    """Rebuild what the options say, through the blocking face."""
    _check(options, progress)
    with explained():
        return drive(rebuild(connection.blocking(), options, progress))


def _check(options: RebuildOptions, progress: Progress | None) -> None:
    if progress is not None:
        check_function(progress, "progress")
    _ = options.roots  # an unknown type is an error before anything connects


async def _run_awaitable(
    options: RebuildOptions, progress: Progress | None
) -> RebuildReport:
    if options.workers > 1:
        raise ValueError(
            f"workers is {options.workers}; it must be 1 in an awaitable call, since "
            "waiting for processes would block the event loop. Use the blocking method"
        )
    _check(options, progress)
    with explained():
        return await rebuild(await connection.awaitable(), options, progress)


async def _rebuild_one(store: Store, Root: Any, aggregate_id: str) -> Document:
    report = await rebuild(store, RebuildOptions([Root.aggregate_type], [aggregate_id]))
    for failure in report.failures:
        raise failure
    if not report.streams:
        raise AggregateNotFound(Root.aggregate_type, aggregate_id)
    with in_time():
        snapshot = await store.snapshots.find_one({"_id": {"$eq": aggregate_id}})
    if snapshot is None:  # another process has discarded it in between
        raise AggregateNotFound(Root.aggregate_type, aggregate_id)
    return snapshot
