"""``manage.py rebuild_aggregates``: fold streams anew and save their snapshots."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from django.core.management.base import CommandError, CommandParser

from ... import mongo, streams
from ...faces import drive
from ...rebuild import AggregateRebuild, RebuildReport
from ...registry import registered
from ._base import WRONG_USE, Progress, StoreCommand, add_selection, distinct

SHOWN = 20  # failures written out


class Command(StoreCommand):
    """Rebuild snapshots; exit code 1 if a stream failed, 2 for wrong use."""

    help = (
        "Folds the events of every stream anew and saves the snapshots. A stream "
        "whose reducer raises is reported and keeps its old snapshot."
    )
    report = RebuildReport()

    def add_arguments(self, parser: CommandParser) -> None:
        """Say what can be chosen."""
        add_selection(parser)
        parser.add_argument(
            "--stale",
            action="store_true",
            help="Only snapshots that are missing, behind, ahead of their stream, or "
            "folded by another revision of the reducer.",
        )
        parser.add_argument(
            "--noinput",
            "--no-input",
            dest="interactive",
            action="store_false",
            help="Do not ask before all snapshots are rebuilt.",
        )

    def run(self, **options: Any) -> None:
        """Rebuild, and end with the exit code that says how it went."""
        types, ids = distinct(options["types"]), distinct(options["ids"])
        stale = options["stale"]
        _check_types(types)
        _check_ids(ids, types)
        if not (types or ids or stale) and options["interactive"]:
            self._ask()
        self.report = RebuildReport()
        total = None
        if not (types or ids or stale):
            total = drive(mongo.blocking().events.count())
        progress = Progress(self.stdout, total, options["verbosity"])

        def show(report: RebuildReport) -> None:
            self.report = report
            streams = f"{report.streams:,} streams"
            failed = f", {report.failed:,} FAILED" if report.failed else ""
            progress.show(report.events, report.seconds, streams + failed)

        try:
            report = AggregateRebuild.build_and_save_all(
                types=types, ids=ids, stale=stale, progress=show
            )
        finally:
            progress.end()
        self._tell(report, options["verbosity"])

    def _tell(self, report: RebuildReport, verbosity: int) -> None:
        for failure in report.failures[:SHOWN]:
            self.stderr.write(self.style.ERROR(f"FAILED {failure}"))
        if report.failed > SHOWN:
            self.stderr.write(f"… and {report.failed - SHOWN:,} more.")
        if not report.ok:
            raise CommandError(f"Rebuilt {report}")
        if verbosity >= 1:
            self.stdout.write(self.style.SUCCESS(f"Rebuilt {report}"))

    def _ask(self) -> None:
        if not sys.stdin.isatty():
            return
        question = "Rebuild the snapshots of every registered type? [y/N] "
        try:
            answer = input(question)
        except EOFError:
            answer = ""
        if answer.strip().lower() not in ("y", "yes"):
            raise CommandError("Nothing was rebuilt.", returncode=WRONG_USE)

    def interrupted(self) -> str:
        """Say how far it came."""
        return (
            f"Stopped: {self.report}. Every snapshot is whole, and the rest are as "
            "they were; run it again, with --stale to do only what is left."
        )


def _check_types(types: Sequence[str] | None) -> None:
    known = registered()
    for kind in types or ():
        if kind not in known:
            names = ", ".join(known) or "none"
            raise CommandError(
                f"No aggregate class is registered under {kind!r}. "
                f"Registered: {names}.",
                returncode=WRONG_USE,
            )
    if not known:
        raise CommandError(
            "No aggregate class is registered. Write one in a module aggregate.py of "
            "an installed app and decorate it with @register_aggregate.",
            returncode=WRONG_USE,
        )


def _check_ids(ids: Sequence[str] | None, types: Sequence[str] | None) -> None:
    known = list(types or registered())
    for aggregate_id in ids or ():
        store = mongo.blocking()
        reason = drive(streams.reason_against(store, aggregate_id, known))
        if reason:
            raise CommandError(reason, returncode=WRONG_USE)
