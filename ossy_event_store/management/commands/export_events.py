"""``manage.py export_events``: write events as JSON, one object per line."""

from __future__ import annotations

import gzip
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex
from typing import IO, Any, cast

from django.core.management.base import (
    CommandError,
    CommandParser,
    OutputWrapper,
)

from ...documents.bson_types import Document
from ...documents.display import counted
from ...mongodb import connection
from ...mongodb.ports import drive, drive_each
from ...streams import lookup
from ...streams.export_events import export_events
from ...streams.transfer_report import TransferReport
from ._base import (
    WRONG_USE,
    Progress,
    StoreCommand,
    add_selection,
    discard_stdout,
    distinct,
)


class Command(StoreCommand):
    """Export events stream by stream, each in version order."""

    help = (
        "Exports events as JSON objects, one per line, stream by stream in version "
        "order. import_events restores them unchanged."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the options."""
        add_selection(parser)
        parser.add_argument(
            "-o",
            "--output",
            default="-",
            metavar="FILE",
            help="Write to this file, gzipped if it ends in .gz; default: stdout.",
        )

    def run(self, **options: Any) -> None:
        """Export the selected streams."""
        store = connection.blocking()
        queries = _queries(distinct(options["types"]), distinct(options["ids"]))
        total = None if queries != [{}] else drive(store.events.count())
        # Progress goes to stderr, because the events may go to stdout.
        progress = Progress(self.stderr, total, options["verbosity"])
        report = TransferReport()

        def show(current: TransferReport) -> None:
            nonlocal report
            report = current
            progress.show(report.events, report.seconds)

        try:
            with written(options["output"], self.stdout) as write:
                for lines in drive_each(export_events(store, queries, show)):
                    write(lines)
        except BrokenPipeError:
            discard_stdout()  # the reader, for example head, has closed the pipe
        finally:
            progress.end()
        if report.passed_over:
            self.stderr.write(str(report.passed_over), self.style.WARNING)
        if options["verbosity"] >= 1 and options["output"] != "-":
            self.stderr.write(
                f"{counted(report.events, 'event')} in {report.seconds:.1f} s "
                f"({report.rate:,.0f} events/s)",
                self.style.SUCCESS,
            )


def _queries(types: Sequence[str] | None, ids: Sequence[str] | None) -> list[Document]:
    """Return one filter per type, after checking that all types and ids exist."""
    store = connection.blocking()
    if types:
        known = drive(lookup.types(store))
        for kind in types:
            if kind not in known:
                names = ", ".join(known) or "none"
                raise CommandError(
                    f"There are no events of type {kind!r}. Types: {names}.",
                    returncode=WRONG_USE,
                )
    for aggregate_id in ids or ():
        reason = drive(lookup.stream_problem(store, aggregate_id, types))
        if reason:
            raise CommandError(reason, returncode=WRONG_USE)
    some = {"aggregateId": {"$in": list(ids)}} if ids else {}
    if not types:
        return [some]
    return [{"aggregateType": {"$eq": kind}, **some} for kind in types]


@contextmanager
def written(name: str, stdout: OutputWrapper) -> Iterator[Callable[[str], object]]:
    """Open the output; a file gets its name only once it is complete."""
    if name == "-":
        yield from _to_stdout(stdout)
        return
    path = Path(os.path.realpath(name))  # a link stays a link
    if path.exists() and not path.is_file():
        # A pipe or a device cannot be replaced by a finished file.
        yield from _into(_open(path, name, "wb"), name)
        return
    # A name of its own, and a new file: another export may be running, and a link of
    # that name would lead elsewhere.
    part = path.with_name(f".export_events-{token_hex(8)}.part")
    try:
        yield from _into(_open(part, name, "xb"), name, synced=True)
        with _failing_with(name):
            part.replace(path)
            _sync_folder(path.parent)
    finally:
        part.unlink(missing_ok=True)


def _open(path: Path, name: str, mode: str) -> IO[bytes]:
    try:
        if not name:
            raise ValueError("the file name is empty")
        return cast("IO[bytes]", path.open(mode))
    except (OSError, ValueError) as error:
        reason = f"{name or repr(name)}: {getattr(error, 'strerror', None) or error}"
        raise CommandError(reason, returncode=WRONG_USE) from None


@contextmanager
def _failing_with(name: str) -> Iterator[None]:
    """Report an error of the output, for example a full disk, in one line."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise CommandError(
            f"{name}: {error.strerror or error}. The export is not complete."
        ) from None


def _into(
    raw: IO[bytes], name: str, *, synced: bool = False
) -> Iterator[Callable[[str], object]]:
    """Write to a file and close it; sync it to the disk before, if ``synced``."""
    # Without a name or a date inside, the same events give the same file.
    gzipped = name.endswith(".gz")
    file = gzip.GzipFile("", "wb", fileobj=raw, mtime=0) if gzipped else raw

    def write(text: str) -> None:
        with _failing_with(name):
            file.write(text.encode())

    try:
        yield write
        with _failing_with(name):
            if gzipped:
                file.close()
            raw.flush()
            if synced:
                os.fsync(raw.fileno())
    finally:
        # Closing writes what is left in a buffer: of a complete export, nothing.
        for opened in (file, raw):
            with suppress(OSError):
                opened.close()


def _sync_folder(folder: Path) -> None:
    with suppress(OSError):  # not every system and file system can
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def _to_stdout(stdout: OutputWrapper) -> Iterator[Callable[[str], object]]:
    if getattr(stdout, "_out", None) is not sys.stdout:
        yield lambda text: stdout.write(text, ending="")
        return
    # As bytes: UTF-8 whatever the encoding of the locale.
    stdout.flush()
    raw: IO[bytes] = cast(Any, stdout)._out.buffer

    def write(text: str) -> None:
        with _failing_with("stdout"):
            raw.write(text.encode())

    try:
        yield write
        with _failing_with("stdout"):
            raw.flush()
    except CommandError:
        discard_stdout()
        raise
