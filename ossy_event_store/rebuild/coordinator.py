"""
Coordinate a rebuild: split the streams into ranges, and fold them here or in workers.

It records its progress in the database, so that another rebuild can resume.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from contextlib import aclosing, closing
from dataclasses import replace

from ..mongodb.connection import Store
from ..streams.reducers import revision_of
from .dry_run import DryRunBuilder
from .fold_streams import SnapshotBuilder, fold_range
from .options import RebuildOptions
from .progress import RebuildProgress
from .ranges import Part, Span, split
from .report import DryRun, Progress, RebuildReport
from .stale import stale_ids
from .tallies import Tally, save_tally

logger = logging.getLogger("ossy_event_store")

# A few for each, so that one slow range leaves the other workers something to do.
RANGES_PER_WORKER = 4


async def rebuild(
    store: Store, options: RebuildOptions, progress: Progress | None = None
) -> RebuildReport:
    """Rebuild what the options say; the coroutine behind both faces."""
    if options.ids is not None:
        return await _rebuild_ids(store, options, options.ids, progress)
    return await _Rebuild(store, options, progress).run()


async def _rebuild_ids(
    store: Store, options: RebuildOptions, ids: Sequence[str], progress: Progress | None
) -> RebuildReport:
    def report_progress() -> None:
        if progress:
            progress(builder.report)

    make = DryRunBuilder if options.dry_run else SnapshotBuilder
    builder = make(store, report_progress)
    chosen = set(ids)
    for Root in options.roots:
        if options.stale:
            async with aclosing(stale_ids(store, Root)) as found:
                async for some in found:
                    await builder.fold_ids(Root, [i for i in some if i in chosen])
        else:
            await builder.fold_ids(Root, ids)
    builder.tick()
    _log_passed_over(builder.report)
    return builder.report


def _log_passed_over(report: RebuildReport) -> None:
    if report.passed_over:
        logger.warning("%s Run manage.py verify_event_store.", report.passed_over)


class _Rebuild:
    """A rebuild of whole types, or of a share of them, part by part."""

    def __init__(
        self, store: Store, options: RebuildOptions, progress: Progress | None
    ) -> None:
        self.store = store
        self.options = options
        self.progress = progress
        self.roots = {Root.aggregate_type: Root for Root in options.roots}
        self.parts: list[Part] = []
        self.report = RebuildReport()  # of the parts that have ended
        self.running: dict[int, RebuildReport] = {}  # of the parts in work
        self.began = time.monotonic()
        is_recorded = not (options.stale or options.dry_run)
        self.recorded = (
            RebuildProgress(store, options.roots, options.partition)
            if is_recorded
            else None
        )

    async def run(self) -> RebuildReport:
        """Do all of it."""
        if self.options.dry_run:
            self.report.dry_run = {kind: DryRun() for kind in self.roots}
        await self._plan()
        if self.recorded:
            await self.recorded.begin(self.parts)
        left = [number for number, part in enumerate(self.parts) if not part.ended]
        if self.options.workers > 1:
            await self._in_workers(left)
        else:
            for number in left:
                await self._here(number)
        if not (self.options.dry_run or self.options.partition):
            await self._save_tallies()
        if self.recorded:
            await self.recorded.finish()
        self.report.seconds = time.monotonic() - self.began
        self._report_progress()
        _log_passed_over(self.report)
        return self.report

    async def _plan(self) -> None:
        """Make the parts: those of the interrupted rebuild, or new ones."""
        if self.recorded and self.options.resume:
            self.parts, self.report.restart_reason = await self.recorded.load()
        self.parts = self.parts or [Part(Span(kind)) for kind in self.roots]
        planned: list[Part] = []
        for part in self.parts:
            if part.ended:
                planned.append(part)
            else:
                planned += part.divided(await self._split(part.rest))
        self.parts = planned
        for part in planned:
            self.report.resumed += part.streams
            self.report.failed += part.failed
            self.report.failures += part.failures

    async def _split(self, span: Span) -> list[Span]:
        workers = self.options.workers
        if workers == 1:
            return [span]
        return await split(self.store, span, RANGES_PER_WORKER * workers)

    async def _here(self, number: int) -> None:
        part, options = self.parts[number], self.options

        async def record() -> None:
            await self._record(number, builder.report, builder.done)

        def report_progress() -> None:
            self.running[number] = builder.report
            self._report_progress()

        make = DryRunBuilder if options.dry_run else SnapshotBuilder
        builder = make(self.store, report_progress, record)
        tally = Tally(part.span.aggregate_type)
        Root = self.roots[part.span.aggregate_type]
        await fold_range(
            builder, Root, part.span, options.partition, options.stale, tally
        )
        await self._end(number, builder.report, tally)

    async def _in_workers(self, left: Sequence[int]) -> None:
        # Imported here: nothing else needs multiprocessing.
        from .worker import Task
        from .worker_processes import work

        options = self.options
        tasks = [
            Task(
                span := self.parts[number].span,
                revision_of(self.roots[span.aggregate_type]),
                options.partition,
                options.stale,
                options.dry_run,
            )
            for number in left
        ]
        with closing(work(tasks, options.workers)) as messages:
            for task, message in messages:
                number = left[task]
                if message.tally is not None:
                    await self._end(number, message.report, message.tally)
                    continue
                self.running[number] = message.report
                if message.done is not None:
                    await self._record(number, message.report, message.done)
                self._report_progress()

    async def _record(
        self, number: int, report: RebuildReport, done: str | None
    ) -> None:
        """Record that the snapshots of a part are written up to a stream."""
        if self.recorded is None:
            return
        self.parts[number].count(report, done)
        await self.recorded.save(self.parts)

    async def _end(self, number: int, report: RebuildReport, tally: Tally) -> None:
        part = self.parts[number]
        part.count(report, part.span.until)
        part.ended = True
        if self.options.stale:
            part.streams, part.events = tally.streams, tally.events
        self.running.pop(number, None)
        self.report.add(report)
        if self.recorded:
            await self.recorded.save(self.parts)

    async def _save_tallies(self) -> None:
        """Store what was counted of each type, for the overview."""
        for kind in self.roots:
            tally = Tally(kind)
            parts = [part for part in self.parts if part.span.aggregate_type == kind]
            tally.streams = sum(part.streams for part in parts)
            tally.events = sum(part.events for part in parts)
            failures = [failure for part in parts for failure in part.failures]
            tally.count_failures(failures, sum(part.failed for part in parts))
            await save_tally(self.store, tally)

    def _report_progress(self) -> None:
        """Call ``progress`` with the sum of all parts."""
        if self.progress is None:
            return
        total = replace(
            self.report,
            failures=[*self.report.failures],
            passed_over=replace(self.report.passed_over),
        )
        for report in self.running.values():
            total.add(replace(report, dry_run={}))
        total.seconds = time.monotonic() - self.began
        self.progress(total)
