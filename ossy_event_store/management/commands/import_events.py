"""``manage.py import_events``: read events from JSON, one object per line."""

from __future__ import annotations

import gzip
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

from django.core.management.base import CommandError, CommandParser

from ...documents.display import counted
from ...exceptions import InvalidLine
from ...mongodb import connection
from ...mongodb.ports import drive
from ...streams.import_events import LIMITS, import_events
from ...streams.transfer_report import TransferReport
from ._base import WRONG_USE, Progress, StoreCommand


class Command(StoreCommand):
    """Import events; a killed import can simply be run again."""

    help = (
        "Imports events from a file of JSON objects, one per line, as export_events "
        "writes it. Keeps ids, versions and dates, and checks every line. Skips events "
        "that are already stored, so an import can be run again."
    )
    report = TransferReport()
    limits = LIMITS

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the arguments."""
        parser.add_argument(
            "file",
            metavar="FILE",
            help="A file, gzipped if it ends in .gz; - for stdin.",
        )
        parser.add_argument(
            "--dry-run",
            action="store_true",
            help="Check every line against the store, and store nothing. Only a real "
            "import finds two lines that are far apart and contradict each other.",
        )

    def run(self, **options: Any) -> None:
        """Import the file."""
        self.report = TransferReport()
        dry_run = options["dry_run"]
        with opened(options["file"]) as (file, share_read):
            progress = Progress(self.stdout, None, options["verbosity"])

            def show(report: TransferReport) -> None:
                share = share_read()
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
            f"{error}. Stored {counted(self.report.stored, 'event')} before it. Fix "
            "the line and run the import again."
        )

    def interrupted(self) -> str:
        """Return how many events were stored before Ctrl-C."""
        summary = _summary(self.report, False)
        return f"Stopped: {summary} Run the import again to continue."


def _summary(report: TransferReport, dry_run: bool) -> str:
    new = report.events - report.present if dry_run else report.stored
    were = "would be" if dry_run else "was" if new == 1 else "were"
    text = f"{counted(new, 'event')} {were} stored"
    if report.present:
        text += f", {report.present:,} already existed"
    return f"{text}; {report.seconds:.1f} s, {report.rate:,.0f} events/s."


@contextmanager
def opened(name: str) -> Iterator[tuple[IO[bytes], Any]]:
    """Open the file; also return a function for the share that has been read."""
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
    """Yield the number and the text of every line."""
    number = 0
    try:
        for number, line in enumerate(file, 1):
            yield number, line.decode().removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise InvalidLine(number, "", f"not UTF-8: {error.reason}") from None
    except (OSError, EOFError, zlib.error) as error:
        raise InvalidLine(number + 1, "", f"the file cannot be read: {error}") from None
