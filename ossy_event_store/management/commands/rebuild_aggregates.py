"""``manage.py rebuild_aggregates``: fold streams anew and save their snapshots."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from typing import Any

from django.core.management.base import CommandError, CommandParser

from ...mongodb import connection
from ...mongodb.ports import drive
from ...rebuild.api import rebuild_chosen
from ...rebuild.coordinator import RebuildOptions
from ...rebuild.ranges import Partition
from ...rebuild.report import Altered, DryRun, RebuildReport
from ...registry import registered_aggregates
from ...streams import lookup
from ._base import (
    WRONG_USE,
    Progress,
    StoreCommand,
    add_selection,
    distinct,
    sigterm_as_ctrl_c,
)

SHOWN = 20  # failures written out, and paths of a type
DIFFS = 100  # altered states of a type written out


class Command(StoreCommand):
    """Rebuild snapshots; exit code 1 if a stream failed, 2 for wrong use."""

    help = (
        "Folds the events of every stream anew and saves the snapshots. A stream "
        "whose reducer raises is reported and keeps its old snapshot."
    )
    report = RebuildReport()
    is_dry = False

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
            "--workers",
            type=int,
            default=1,
            metavar="N",
            help="Fold in N processes; default: 1. The server has to keep up.",
        )
        parser.add_argument(
            "--partition",
            metavar="I/N",
            help="Only share I of N, with I from 0 to N-1: N machines that are given "
            "0/N, 1/N, … rebuild all streams together and need not know each other.",
        )
        parser.add_argument(
            "--resume",
            action="store_true",
            help="Go on where the last full rebuild of the same types and share broke "
            "off; if a reducer has changed since, begin anew.",
        )
        parser.add_argument(
            "--dry-run",
            action="store_true",
            help="Fold everything and write nothing; tell how the snapshots stand, and "
            "how many states would be altered.",
        )
        parser.add_argument(
            "--diff",
            action="store_true",
            help="A dry run that also writes out what would be altered, old and new.",
        )
        parser.add_argument(
            "--json",
            action="store_true",
            help="Write one JSON document in place of lines for people.",
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
        choice = _choice(options)
        _check_types(choice.types)
        _check_ids(choice.ids, choice.types)
        self.is_dry = choice.dry_run
        is_all = not (choice.types or choice.ids or choice.stale)
        if is_all and not self.is_dry and not choice.resume and options["interactive"]:
            self._ask()
        with sigterm_as_ctrl_c():
            report = self._rebuild(choice, is_all and not choice.partition, options)
        if options["json"]:
            self.stdout.write(json.dumps(_document(report, options["diff"]), indent=2))
        else:
            self._tell(report, options)
        if not report.ok:
            raise CommandError(self._summary(report))

    def _rebuild(
        self, choice: RebuildOptions, is_all: bool, options: dict[str, Any]
    ) -> RebuildReport:
        self.report = RebuildReport()
        total = drive(connection.blocking().events.count()) if is_all else None
        # The document goes to stdout alone.
        out = self.stderr if options["json"] else self.stdout
        progress = Progress(out, total, options["verbosity"])

        def show(report: RebuildReport) -> None:
            self.report = report
            streams = f"{report.streams:,} streams"
            failed = f", {report.failed:,} FAILED" if report.failed else ""
            progress.show(report.events, report.seconds, streams + failed)

        try:
            return rebuild_chosen(choice, show)
        finally:
            progress.end()

    def _tell(self, report: RebuildReport, options: dict[str, Any]) -> None:
        for failure in report.failures[:SHOWN]:
            self.stderr.write(self.style.ERROR(f"FAILED {failure}"))
        if report.failed > SHOWN:
            self.stderr.write(f"… and {report.failed - SHOWN:,} more.")
        for kind, seen in report.dry_run.items():
            if options["diff"]:
                self._tell_diffs(kind, seen)
            self._tell_type(kind, seen)
        if options["verbosity"] < 1:
            return
        if report.anew:
            self.stdout.write(f"Begun anew: {report.anew}.")
        if report.ok:
            self.stdout.write(self.style.SUCCESS(self._summary(report)))

    def _tell_diffs(self, kind: str, seen: DryRun) -> None:
        for altered in seen.alterations[:DIFFS]:
            self.stdout.write(
                f"{kind} {altered.aggregate_id!r}, version {altered.version}:"
            )
            for line in _lines(altered):
                self.stdout.write(f"  {line}")
        if seen.altered > DIFFS:
            self.stdout.write(f"… and {seen.altered - DIFFS:,} more streams.")

    def _tell_type(self, kind: str, seen: DryRun) -> None:
        failed = f"; {seen.failed:,} FAILED" if seen.failed else ""
        self.stdout.write(
            f"{kind}: {seen.streams:,} streams; snapshots: {seen.current:,} current, "
            f"{seen.missing:,} missing, {seen.behind:,} behind, {seen.ahead:,} ahead, "
            f"{seen.other_revision:,} of another revision; of {seen.compared:,} states "
            f"compared {seen.altered:,} would be altered{failed}"
        )
        for path, count in seen.ranked_paths()[:SHOWN]:
            self.stdout.write(f"  {path}: {count:,} streams")
        if len(seen.paths) > SHOWN:
            self.stdout.write(f"  … and {len(seen.paths) - SHOWN:,} more paths.")
        if seen.other_paths:
            self.stdout.write(f"  … and {seen.other_paths:,} changes at yet others.")

    def _summary(self, report: RebuildReport) -> str:
        if self.is_dry:
            return f"Dry run, nothing was written: {report}"
        return f"Rebuilt {report}"

    def _ask(self) -> None:
        if not sys.stdin.isatty():
            return
        # Not input(question): that may write to stdout, where a document may go.
        self.stderr.write("Rebuild the snapshots of every registered type? [y/N] ")
        try:
            answer = input()
        except EOFError:
            answer = ""
        if answer.strip().lower() not in ("y", "yes"):
            raise CommandError("Nothing was rebuilt.", returncode=WRONG_USE)

    def interrupted(self) -> str:
        """Say how far it came."""
        if self.is_dry:
            return f"Stopped, nothing was written: {self.report}."
        return (
            f"Stopped: {self.report}. Every snapshot is whole, and the rest are as "
            "they were; run it again, with --stale to do only what is left, or a full "
            "rebuild with --resume."
        )


def _choice(options: dict[str, Any]) -> RebuildOptions:
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
    except ValueError as error:
        raise CommandError(f"{error}.", returncode=WRONG_USE) from None


def _partition(text: str | None) -> Partition | None:
    if text is None:
        return None
    if not re.fullmatch(r"[0-9]{1,9}/[0-9]{1,9}", text):
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
