"""``manage.py import_events``: read events from JSON, one object per line."""

from __future__ import annotations

import gzip
import sys
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any, cast

from django.core.management.base import CommandError, CommandParser
from pymongo import MongoClient
from pymongo.collection import Collection
from pymongo.errors import PyMongoError

from ...conf import get_settings
from ...documents.bson_types import CODEC
from ...documents.collections import EVENTS
from ...documents.display import counted
from ...documents.extended_json import Malformed, encode, loads
from ...documents.node_3 import SORT, Conversion, converted
from ...exceptions import InvalidLine
from ...mongodb import connection, schema_validator
from ...mongodb.ports import drive
from ...mongodb.write_errors import short_reason
from ...streams.import_events import LIMITS, import_events
from ...streams.transfer_report import TransferReport
from ._base import WRONG_USE, Progress, StoreCommand


class Command(StoreCommand):
    """Import events; a killed import can simply be run again."""

    help = (
        "Imports events from a file of JSON objects, one per line, as export_events "
        "writes it. Keeps ids, versions and dates, and checks every line. Skips events "
        "that are already stored, so an import can be run again. With --from-node-3, "
        "copies the events of the Node package @ossy/event-store 3.x instead."
    )
    report = TransferReport()
    conversion = Conversion()
    limits = LIMITS

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the arguments."""
        parser.add_argument(
            "file",
            nargs="?",
            metavar="FILE",
            help="A file, gzipped if it ends in .gz; - for stdin.",
        )
        parser.add_argument(
            "--from-node-3",
            metavar="URL|FILE",
            help="Copy the events of @ossy/event-store 3.x: from mongodb://HOST/NAME, "
            "or from a file that mongoexport wrote in order of resourceId and version.",
        )
        parser.add_argument(
            "--dry-run",
            action="store_true",
            help="Check every line against the store, and store nothing. Only a real "
            "import finds two lines that are far apart and contradict each other.",
        )

    def run(self, **options: Any) -> None:
        """Import the file, or the events of the Node package."""
        self.report = TransferReport()
        source, dry_run = options["from_node_3"], options["dry_run"]
        if (options["file"] is None) == (source is None):
            raise CommandError(
                "Expected either FILE or --from-node-3 URL|FILE.", returncode=WRONG_USE
            )
        conversion = self.conversion = Conversion()
        with ExitStack() as stack:
            if source is None:
                file, share_read = stack.enter_context(opened(options["file"]))
                lines = numbered(file)
            else:
                _check_target()
                documents, share_read = stack.enter_context(of_node_3(source))
                lines = converted(documents, conversion)
            report = self._import(lines, share_read, options)
        if conversion.passed_over:
            self.stderr.write(str(conversion.passed_over), self.style.WARNING)
        if options["verbosity"] >= 1:
            self.stdout.write(self.style.SUCCESS(_summary(report, dry_run)))
            if conversion.renumbered:
                self.stdout.write(_renumbered(conversion))

    def _import(
        self, lines: Iterator[tuple[int, str]], share_read: Any, options: Any
    ) -> TransferReport:
        progress = Progress(self.stdout, None, options["verbosity"])

        def show(report: TransferReport) -> None:
            share = share_read()
            if share:
                progress.total = round(report.events / share)
            progress.show(report.events, report.seconds)

        try:
            return drive(
                import_events(
                    connection.blocking(),
                    lines,
                    dry_run=options["dry_run"],
                    report=self.report,
                    progress=show,
                    limits=self.limits,
                )
            )
        except InvalidLine as error:
            raise CommandError(self._stopped(error)) from None
        finally:
            progress.end()

    def _stopped(self, error: InvalidLine) -> str:
        event_id = dict(self.conversion.recent).get(error.line)
        event = f"event {event_id!r}, " if event_id is not None else ""
        stored = counted(self.report.stored, "event")
        return (
            f"{event}{error}. Stored {stored} before it. Fix the line and run the "
            "import again."
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


def _renumbered(conversion: Conversion) -> str:
    return (
        f"{conversion.renumbered:,} events got another version, because their streams "
        "have a version twice or not at all. metadata.version keeps the old one."
    )


def _check_target() -> None:
    """Refuse to import into the very database that the Node package uses."""
    reason = drive(schema_validator.other_shape(connection.blocking()))
    if reason is not None:
        raise CommandError(reason, returncode=WRONG_USE)


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


@contextmanager
def of_node_3(source: str) -> Iterator[tuple[Iterator[tuple[int, Any]], Any]]:
    """Open a database or a file of the Node package; see ``opened()``."""
    if "://" not in source:
        with opened(source) as (file, share_read):
            yield _parsed(file), share_read
        return
    with ExitStack() as stack:
        try:
            client = stack.enter_context(_client(source))
            database = client.get_default_database(codec_options=CODEC)
        except (PyMongoError, ValueError, OSError) as error:
            # The driver's message may contain a part of the password.
            raise CommandError(
                "--from-node-3: expected mongodb://USER:PASSWORD@HOST/NAME, with user "
                "and password percent-encoded; MongoClient refused it "
                f"({type(error).__name__})",
                returncode=WRONG_USE,
            ) from None
        yield _documents(database[EVENTS]), lambda: None


def _client(url: str) -> MongoClient[Any]:
    seconds = get_settings().TIMEOUT
    return MongoClient(url, serverSelectionTimeoutMS=round(seconds * 1000))


def _parsed(file: IO[bytes]) -> Iterator[tuple[int, Any]]:
    for number, text in numbered(file):
        if text.strip():
            try:
                yield number, loads(text)
            except Malformed as error:
                raise InvalidLine(number, error.path, error.reason) from None


def _documents(events: Collection[Any]) -> Iterator[tuple[int, Any]]:
    try:
        found = events.find({}, sort=SORT, allow_disk_use=True)
        for number, document in enumerate(found, 1):
            yield number, encode(document)
    except PyMongoError as error:
        raise CommandError(
            f"Cannot read the database of --from-node-3: {short_reason(error)}. "
            "Run the import again to continue."
        ) from None


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
