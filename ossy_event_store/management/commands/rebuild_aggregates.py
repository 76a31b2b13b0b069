"""``manage.py rebuild_aggregates``: fold streams again and save their snapshots."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from typing import Any

from django.core.management.base import CommandError, CommandParser

from ...aggregate.registry import registered_aggregates
from ...documents.display import counted
from ...mongodb import connection
from ...mongodb.ports import drive
from ...rebuild.api import run_rebuild
from ...rebuild.options import OptionsConflict, RebuildOptions
from ...rebuild.ranges import Partition
from ...rebuild.report import Altered, DryRun, RebuildReport
from ...streams import lookup
from ._base import (
    WRONG_USE,
    Progress,
    StoreCommand,
    add_selection,
    distinct,
    sigterm_as_ctrl_c,
)

SHOWN_FAILURES = 20
SHOWN_PATHS = 20  # of a type
SHOWN_ALTERATIONS = 100  # of a type


class Command(StoreCommand):
    """Rebuild snapshots; exit code 1 if a stream failed, 2 for wrong use."""

    help = (
        "Folds the events of every stream again and saves the snapshots. A stream "
        "whose reducer raises is reported and keeps its old snapshot."
    )
    report = RebuildReport()
    is_dry = False

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the arguments."""
        add_selection(parser)
        parser.add_argument(
            "--stale",
            action="store_true",
            help="Only streams whose snapshot is missing, older or newer than the "
            "stream, or of another revision of the reducer.",
        )
        parser.add_argument(
            "--workers",
            type=int,
            default=1,
            metavar="N",
            help="Fold in N processes; default: 1. More need a server that keeps up.",
        )
        parser.add_argument(
            "--partition",
            metavar="I/N",
            help="Only share I of N, with I from 0 to N-1: N machines with 0/N, 1/N, … "
            "rebuild all streams together and need not know each other.",
        )
        parser.add_argument(
            "--resume",
            action="store_true",
            help="Continue the last full rebuild of the same types and share, if it "
            "was interrupted; start again if a reducer has changed since.",
        )
        parser.add_argument(
            "--dry-run",
            action="store_true",
            help="Fold everything and write nothing; count current and stale "
            "snapshots, and the states that would be altered.",
        )
        parser.add_argument(
            "--diff",
            action="store_true",
            help="A dry run that also prints the old and new values.",
        )
        parser.add_argument(
            "--json",
            action="store_true",
            help="Print the report as one JSON document.",
        )
        parser.add_argument(
            "--noinput",
            "--no-input",
            dest="interactive",
            action="store_false",
            help="Rebuild all snapshots without asking.",
        )

    def run(self, **options: Any) -> None:
        """Rebuild, and exit with the code for its outcome."""
        chosen = _chosen(options)
        _check_types(chosen.types)
        _check_ids(chosen.ids, chosen.types)
        self.is_dry = chosen.dry_run
        is_all = not (chosen.types or chosen.ids or chosen.stale)
        if is_all and not self.is_dry and not chosen.resume and options["interactive"]:
            self._confirm()
        with sigterm_as_ctrl_c():
            report = self._rebuild(chosen, is_all and not chosen.partition, options)
        if options["json"]:
            self.stdout.write(json.dumps(_document(report, options["diff"]), indent=2))
        else:
            self._print(report, options)
        if not report.ok:
            raise CommandError(self._summary(report))

    def _rebuild(
        self, chosen: RebuildOptions, is_all: bool, options: dict[str, Any]
    ) -> RebuildReport:
        self.report = RebuildReport()
        total = drive(connection.blocking().events.count()) if is_all else None
        # Only the document goes to stdout.
        out = self.stderr if options["json"] else self.stdout
        progress = Progress(out, total, options["verbosity"])

        def show(report: RebuildReport) -> None:
            self.report = report
            streams = counted(report.streams, "stream")
            failed = f", {report.failed:,} FAILED" if report.failed else ""
            progress.show(report.events, report.seconds, streams + failed)

        try:
            return run_rebuild(chosen, show)
        finally:
            progress.end()

    def _print(self, report: RebuildReport, options: dict[str, Any]) -> None:
        for failure in report.failures[:SHOWN_FAILURES]:
            self.stderr.write(self.style.ERROR(f"FAILED {failure}"))
        if report.failed > SHOWN_FAILURES:
            self.stderr.write(f"… and {report.failed - SHOWN_FAILURES:,} more.")
        for kind, seen in report.dry_run.items():
            if options["diff"]:
                self._print_alterations(kind, seen)
            self._print_type(kind, seen)
        if options["verbosity"] < 1:
            return
        if report.restart_reason:
            self.stdout.write(f"Nothing to resume: {report.restart_reason}.")
        if report.ok:
            self.stdout.write(self.style.SUCCESS(self._summary(report)))

    def _print_alterations(self, kind: str, seen: DryRun) -> None:
        for altered in seen.alterations[:SHOWN_ALTERATIONS]:
            self.stdout.write(
                f"{kind} {altered.aggregate_id!r}, version {altered.version}:"
            )
            for line in _lines(altered):
                self.stdout.write(f"  {line}")
        if seen.altered > SHOWN_ALTERATIONS:
            more = seen.altered - SHOWN_ALTERATIONS
            self.stdout.write(f"… and {counted(more, 'more stream')}.")

    def _print_type(self, kind: str, seen: DryRun) -> None:
        failed = f"; {seen.failed:,} FAILED" if seen.failed else ""
        self.stdout.write(
            f"{kind}: {counted(seen.streams, 'stream')}; snapshots: {seen.current:,} "
            f"current, {seen.missing:,} missing, {seen.behind:,} behind, "
            f"{seen.ahead:,} ahead, {seen.other_revision:,} of another revision; of "
            f"{counted(seen.compared, 'state')} compared {seen.altered:,} would be "
            f"altered{failed}"
        )
        for path, count in seen.ranked_paths()[:SHOWN_PATHS]:
            self.stdout.write(f"  {path}: {counted(count, 'stream')}")
        if len(seen.paths) > SHOWN_PATHS:
            more = counted(len(seen.paths) - SHOWN_PATHS, "more path")
            self.stdout.write(f"  … and {more}.")
        if seen.other_paths:
            more = counted(seen.other_paths, "change")
            self.stdout.write(f"  … and {more} at other paths.")

    def _summary(self, report: RebuildReport) -> str:
        if self.is_dry:
            return f"Dry run, nothing was written: {report}"
        return f"Rebuilt {report}"

    def _confirm(self) -> None:
        if not sys.stdin.isatty():
            return
        # Not input(question): that may write to stdout, which is for the document.
        self.stderr.write("Rebuild the snapshots of every registered type? [y/N] ")
        try:
            answer = input()
        except EOFError:
            answer = ""
        if answer.strip().lower() not in ("y", "yes"):
            raise CommandError("Nothing was rebuilt.", returncode=WRONG_USE)

    def interrupted(self) -> str:
        """Return how far it got, and how to continue."""
        if self.is_dry:
            return f"Stopped, nothing was written: {self.report}."
        return (
            f"Stopped: {self.report}. The other snapshots are unchanged; run it again, "
            "with --stale to rebuild only what is left, or with --resume to continue a "
            "full rebuild."
        )


def _chosen(options: dict[str, Any]) -> RebuildOptions:
    try:
        return RebuildOptions(
            distinct(options["types"]),
            distinct(options["ids"]),
            options["stale"],
            _partition(options["partition"]),
            options["workers"],
            options["resume"],
            options["dry_run"] or options["diff"],
        )
    except OptionsConflict as error:
        raise CommandError(
            f"{_flag(error.first)} cannot be combined with {_flag(error.second)}: "
            f"{error.reason}.",
            returncode=WRONG_USE,
        ) from None
    except ValueError as error:
        reason = str(error).rstrip(".")
        raise CommandError(f"{reason}.", returncode=WRONG_USE) from None


def _flag(option: str) -> str:
    """Return an option as it is written on the command line."""
    return "--id" if option == "ids" else f"--{option.replace('_', '-')}"


def _partition(text: str | None) -> Partition | None:
    if text is None:
        return None
    if not re.fullmatch(r"\d{1,9}/\d{1,9}", text):
        raise ValueError(
            f"partition {text!r}: expected I/N with I from 0 to N-1, as 0/4"
        )
    index, of = text.split("/")
    return Partition(int(index), int(of))


def _document(report: RebuildReport, with_values: bool) -> dict[str, Any]:
    document = report.as_json()
    for seen in document["dry_run"].values():
        if not with_values:
            del seen["alterations"]
    return document


def _lines(altered: Altered) -> list[str]:
    lines = [
        f"{path}: {old or 'nothing'} → {new or 'nothing'}"
        for path, old, new in altered.changes
    ]
    return [*lines, f"… and {altered.more:,} more."] if altered.more else lines


def _check_types(types: Sequence[str] | None) -> None:
    known = registered_aggregates()
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
    known = list(types or registered_aggregates())
    for aggregate_id in ids or ():
        store = connection.blocking()
        reason = drive(lookup.stream_problem(store, aggregate_id, known))
        if reason:
            raise CommandError(reason, returncode=WRONG_USE)
