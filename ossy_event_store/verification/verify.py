"""
Verification: prove that the store is sound, and write nothing.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

from ..documents.arguments import check_flag, check_function, check_number
from ..mongodb import connection
from ..mongodb.connection import Store
from ..mongodb.deadline import explained
from ..mongodb.ports import drive
from .chosen_streams import check_chosen
from .full_scan import FullScan
from .options import SAMPLE_SIZE, ProjectionSizes, Sizes, VerifyOptions
from .projection_comparison import ProjectionComparison
from .report import VerifyReport
from .run import Progress, Run
from .snapshot_comparison import SnapshotComparison


def verify_event_store(
    *,
    types: Sequence[str] | None = None,
    ids: Sequence[str] | None = None,
    since: dt.datetime | None = None,
    sample: int | None = SAMPLE_SIZE,
    projections: bool = False,
    progress: Progress | None = None,
) -> VerifyReport:
    """
    Look for anything that is wrong with the events, the snapshots and the indexes.

    It writes nothing. Events may be appended meanwhile, and are never mistaken for
    findings.

    Args:
        types: only streams that have an event of one of these aggregate types, or a
            snapshot.
        ids: only these streams.
        since: only streams that got an event since then; an aware datetime.
        sample: how many snapshots, chosen at random, to compare with a fresh fold
            of their events; None compares every one. About as many documents of each
            projection are compared.
        projections: also compare the documents of every registered projection.
        progress: called with the report after every batch.

    Raises:
        ValueError: ``since`` has no time zone, ``sample`` is negative, a type or an id
            is not valid, or streams are chosen together with ``projections``.
        StoreUnavailable: no server was reached.
    """
    options = VerifyOptions(types, ids, since)
    _check_arguments(options, sample, projections, progress)
    with explained():
        return drive(
            verify(connection.blocking(), options, sample, progress, projections)
        )


async def averify_event_store(
    *,
    types: Sequence[str] | None = None,
    ids: Sequence[str] | None = None,
    since: dt.datetime | None = None,
    sample: int | None = SAMPLE_SIZE,
    projections: bool = False,
    progress: Progress | None = None,
) -> VerifyReport:
    """See ``verify_event_store()``; reducers run in the thread of the event loop."""
    options = VerifyOptions(types, ids, since)
    _check_arguments(options, sample, projections, progress)
    with explained():
        store = await connection.awaitable()
        return await verify(store, options, sample, progress, projections)


def _check_arguments(
    options: VerifyOptions,
    sample: int | None,
    projections: bool,
    progress: Progress | None,
) -> None:
    if sample is not None:
        check_number(sample, "sample")
    if progress is not None:
        check_function(progress, "progress")
    if check_flag(projections, "projections") and options != VerifyOptions():
        raise ValueError(
            "projections=True cannot be combined with types, ids or since: a document "
            "of a projection is made from events of many streams."
        )


async def verify(
    store: Store,
    options: VerifyOptions,
    sample: int | None = SAMPLE_SIZE,
    progress: Progress | None = None,
    projections: bool = False,
    *,
    sizes: Sizes | None = None,
    projection_sizes: ProjectionSizes | None = None,
) -> VerifyReport:
    """Verify the chosen streams; the coroutine behind both faces."""
    run = Run(store, progress, sizes)
    comparison = SnapshotComparison(store, run.report, sample, run.sizes)
    await run.check_indexes()
    if options == VerifyOptions():
        await FullScan(run, comparison).check()
    else:
        await check_chosen(run, options, comparison)
    await comparison.run()
    if projections:
        await ProjectionComparison(
            store, run.report, sample, run.tick, projection_sizes
        ).run()
    run.tick()
    return run.report
