"""
What a rebuild does: it divides the streams into parts, and does one after the other.

In this process or in several, with a note of how far it is, so that another one can go
on; the parts themselves are folded by ``refold``.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import aclosing, closing
from dataclasses import dataclass, replace
from typing import Any

from ..mongodb.connection import Store
from ..registry import registered_aggregates, root_of
from ..streams.gc_pause import fewer_collections
from ..streams.reducers import revision_of
from . import worker_processes
from .dry_run import DryRefold
from .fold_streams import Refold, run_part
from .progress import RebuildProgress
from .ranges import Part, Partition, Span, split
from .report import DryRun, Progress, RebuildReport
from .stale import stale_ids
from .tallies import Tally, save_tally
from .worker_processes import Task

PIECES = 4  # ranges for each process: what one is slow with, others go around


@dataclass(frozen=True)
class RebuildOptions:
    """
    What to rebuild, and how.

    Raises:
        ValueError: two of these do not go together.
    """

    types: Sequence[str] | None = None
    ids: Sequence[str] | None = None
    stale: bool = False
    partition: Partition | None = None
    workers: int = 1
    resume: bool = False
    dry_run: bool = False

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise ValueError(f"workers {self.workers}: expected 1 or more")
        for holds, reason in self._refused():
            if holds:
                raise ValueError(reason)

    def _refused(self) -> list[tuple[bool, str]]:
        chosen = self.ids is not None
        return [
            (chosen and self.workers > 1, "ids and workers: one process is enough"),
            (chosen and bool(self.partition), "ids and partition: ids are a share"),
            (chosen and self.resume, "ids and resume: only a rebuild of all is noted"),
            (
                self.stale and self.resume,
                "stale and resume: stale by itself does only what is left",
            ),
            (self.dry_run and self.resume, "dry run and resume: it writes no note"),
            (
                self.dry_run and self.stale,
                "dry run and stale: it tells of every stream whether it is stale",
            ),
        ]

    @property
    def roots(self) -> list[Any]:
        """The classes of the streams."""
        if self.types is None:
            return list(registered_aggregates().values())
        return [root_of(kind) for kind in self.types]


async def rebuild(
    store: Store, choice: RebuildOptions, progress: Progress | None = None
) -> RebuildReport:
    """Rebuild what is chosen; the coroutine behind both faces."""
    with fewer_collections():
        if choice.ids is not None:
            return await _rebuild_ids(store, choice, choice.ids, progress)
        return await _Rebuild(store, choice, progress).run()


async def _rebuild_ids(
    store: Store, choice: RebuildOptions, ids: Sequence[str], progress: Progress | None
) -> RebuildReport:
    def tell() -> None:
        if progress:
            progress(work.report)

    work = (DryRefold if choice.dry_run else Refold)(store, tell)
    chosen = set(ids)
    for Root in choice.roots:
        if choice.stale:
            async with aclosing(stale_ids(store, Root)) as found:
                async for some in found:
                    await work.run_ids(Root, [i for i in some if i in chosen])
        else:
            await work.run_ids(Root, ids)
    work.tick()
    return work.report


class _Rebuild:
    """A rebuild of whole types, or of a share of them, part by part."""

    def __init__(
        self, store: Store, choice: RebuildOptions, progress: Progress | None
    ) -> None:
        self.store = store
        self.choice = choice
        self.progress = progress
        self.roots = {Root.aggregate_type: Root for Root in choice.roots}
        self.parts: list[Part] = []
        self.report = RebuildReport()  # of the parts that have ended
        self.live: dict[int, RebuildReport] = {}  # of those at work
        self.began = time.monotonic()
        is_noted = not (choice.stale or choice.dry_run)
        self.notes = (
            RebuildProgress(store, choice.roots, choice.partition) if is_noted else None
        )

    async def run(self) -> RebuildReport:
        """Do all of it."""
        if self.choice.dry_run:
            self.report.dry_run = {kind: DryRun() for kind in self.roots}
        await self._divide()
        if self.notes:
            await self.notes.begin(self.parts)
        left = [number for number, part in enumerate(self.parts) if not part.ended]
        if self.choice.workers > 1:
            await self._in_processes(left)
        else:
            for number in left:
                await self._here(number)
        if not (self.choice.dry_run or self.choice.partition):
            await self._save_tallies()
        if self.notes:
            await self.notes.forget()
        self.report.seconds = time.monotonic() - self.began
        self._tell()
        return self.report

    async def _divide(self) -> None:
        """Make the parts: those of the rebuild that broke off, or new ones."""
        if self.notes and self.choice.resume:
            self.parts, self.report.anew = await self.notes.find()
        self.parts = self.parts or [Part(Span(kind)) for kind in self.roots]
        divided: list[Part] = []
        for part in self.parts:
            if part.ended:
                divided.append(part)
            else:
                divided += part.divided(await self._split(part.rest))
        self.parts = divided
        for part in divided:
            self.report.resumed += part.streams
            self.report.failed += part.failed
            self.report.failures += part.failures

    async def _split(self, span: Span) -> list[Span]:
        workers = self.choice.workers
        if workers == 1:
            return [span]
        return await split(self.store, span, PIECES * workers)

    async def _here(self, number: int) -> None:
        part = self.parts[number]

        async def written() -> None:
            await self._note(number, work.report, work.done)

        def tell() -> None:
            self.live[number] = work.report
            self._tell()

        choice, tally = self.choice, Tally(part.span.kind)
        work = (DryRefold if choice.dry_run else Refold)(self.store, tell, written)
        Root = self.roots[part.span.kind]
        await run_part(work, Root, part.span, choice.partition, choice.stale, tally)
        await self._end(number, work.report, tally)

    async def _in_processes(self, left: Sequence[int]) -> None:
        tasks = [self._task(self.parts[number].span) for number in left]
        with closing(worker_processes.work(tasks, self.choice.workers)) as words:
            for at, word in words:
                number = left[at]
                if word.tally is not None:
                    await self._end(number, word.report, word.tally)
                    continue
                self.live[number] = word.report
                if word.done is not None:
                    await self._note(number, word.report, word.done)
                self._tell()

    def _task(self, span: Span) -> Task:
        choice, revision = self.choice, revision_of(self.roots[span.kind])
        return Task(span, revision, choice.partition, choice.stale, choice.dry_run)

    async def _note(self, number: int, report: RebuildReport, done: str | None) -> None:
        """Take in that snapshots were written, up to a stream."""
        if self.notes is None:
            return
        self.parts[number].count(report, done)
        await self.notes.note(self.parts)

    async def _end(self, number: int, report: RebuildReport, tally: Tally) -> None:
        part = self.parts[number]
        part.count(report, part.span.until)
        part.ended = True
        if self.choice.stale:
            part.streams, part.events = tally.streams, tally.events
        self.live.pop(number, None)
        self.report.add(report)
        if self.notes:
            await self.notes.note(self.parts)

    async def _save_tallies(self) -> None:
        """Keep what was seen of each type for the overview."""
        for kind in self.roots:
            tally = Tally(kind)
            parts = [part for part in self.parts if part.span.kind == kind]
            tally.streams = sum(part.streams for part in parts)
            tally.events = sum(part.events for part in parts)
            failures = [failure for part in parts for failure in part.failures]
            tally.note(failures, sum(part.failed for part in parts))
            await save_tally(self.store, tally)

    def _tell(self) -> None:
        """Tell how far all of it is."""
        if self.progress is None:
            return
        total = replace(self.report, failures=[*self.report.failures])
        for report in self.live.values():
            total.add(replace(report, dry_run={}))
        total.seconds = time.monotonic() - self.began
        self.progress(total)
