"""``manage.py import_events``: bring events in, one JSON object a line."""

from __future__ import annotations

import gzip
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

from django.core.management.base import CommandError, CommandParser

from ...exceptions import InvalidLine
from ...mongodb import connection
from ...mongodb.ports import drive
from ...streams.import_events import LIMITS, import_events
from ...streams.transfer_report import TransferReport
from ._base import WRONG_USE, Progress, StoreCommand


class Command(StoreCommand):
    """Import events; a killed import is simply run again."""

    help = (
        "Imports events from a file of JSON objects, one a line, as export_events "
        "writes it. Ids, versions and dates are kept, and every line is checked. "
        "What is stored already is passed over, so an import can be run again."
    )
    report = TransferReport()
    limits = LIMITS

    def add_arguments(self, parser: CommandParser) -> None:
        """Say what can be chosen."""
        parser.add_argument(
            "file",
            metavar="FILE",
            help="A file, gzipped if it ends in .gz; - for stdin.",
        )
        parser.add_argument(
            "--dry-run",
            action="store_true",
            help="Check every line against the store, and store nothing. Two lines far "
            "apart that contradict each other are found by the import alone.",
        )

    def run(self, **options: Any) -> None:
        """Import the file."""
        self.report = TransferReport()
        dry_run = options["dry_run"]
        with opened(options["file"]) as (file, position):
            progress = Progress(self.stdout, None, options["verbosity"])

            def show(report: TransferReport) -> None:
                share = position()
                if share:
                    progress.total = round(report.events / share)
                progress.show(report.events, report.seconds)

            try:
                report = drive(
                    import_events(
                        connection.blocking(),
                        numbered(file),
                        dry_run=dry_run,
                        report=self.report,
                        progress=show,
                        limits=self.limits,
                    )
                )
            except InvalidLine as error:
                raise CommandError(self._stopped(error)) from None
            finally:
                progress.end()
        if options["verbosity"] >= 1:
            self.stdout.write(self.style.SUCCESS(_summary(report, dry_run)))

    def _stopped(self, error: InvalidLine) -> str:
        return (
            f"{error}. {self.report.stored:,} events before it were stored. Mend the "
            "line and run the import again."
        )

    def interrupted(self) -> str:
        """Say how far it came."""
        return f"Stopped: {_summary(self.report, False)} Run it again to go on."


def _summary(report: TransferReport, dry_run: bool) -> str:
    new = report.events - report.present if dry_run else report.stored
    text = f"{new:,} events {'would be' if dry_run else 'were'} stored"
    if report.present:
        text += f", {report.present:,} were there already"
    return f"{text}; {report.seconds:.1f} s, {report.rate:,.0f} events/s."


@contextmanager
def opened(name: str) -> Iterator[tuple[IO[bytes], Any]]:
    """Open the file, and a function that tells which share of it is read."""
    if name == "-":
        yield sys.stdin.buffer, lambda: None
        return
    path = Path(name)
    try:
        raw = path.open("rb")
        size = path.stat().st_size
    except OSError as error:
        reason = f"{name}: {error.strerror or error}"
        raise CommandError(reason, returncode=WRONG_USE) from None
    with raw:
        file = gzip.GzipFile(fileobj=raw) if path.suffix == ".gz" else raw
        yield cast("IO[bytes]", file), lambda: raw.tell() / size if size else None


def numbered(file: IO[bytes]) -> Iterator[tuple[int, str]]:
    """Yield number and text of every line."""
    number = 0
    try:
        for number, line in enumerate(file, 1):
            yield number, line.decode().removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise InvalidLine(number, "", f"not UTF-8: {error.reason}") from None
    except (OSError, EOFError, zlib.error) as error:
        raise InvalidLine(number + 1, "", f"the file cannot be read: {error}") from None
