"""``manage.py export_events``: bring events out, one JSON object a line."""

from __future__ import annotations

import gzip
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

from django.core.management.base import (
    CommandError,
    CommandParser,
    OutputWrapper,
)

from ...documents.bson_types import Document
from ...mongodb import connection
from ...mongodb.ports import drive, drive_each
from ...streams import lookup
from ...streams.export_events import export_events
from ...streams.transfer_report import TransferReport
from ._base import WRONG_USE, Progress, StoreCommand, add_selection, distinct


class Command(StoreCommand):
    """Export events, stream by stream, each in order of version."""

    help = (
        "Exports events as JSON objects, one a line, stream by stream in order of "
        "version. import_events brings them back equal."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Say what can be chosen."""
        add_selection(parser)
        parser.add_argument(
            "-o",
            "--output",
            default="-",
            metavar="FILE",
            help="Write to this file, gzipped if it ends in .gz; default: stdout.",
        )

    def run(self, **options: Any) -> None:
        """Export what was asked for."""
        store = connection.blocking()
        queries = _queries(distinct(options["types"]), distinct(options["ids"]))
        total = None if queries != [{}] else drive(store.events.count())
        # The events may go to stdout, so what is said of them does not.
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
            # The reader, head for one, has had enough.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        finally:
            progress.end()
        if options["verbosity"] >= 1 and options["output"] != "-":
            self.stderr.write(
                f"{report.events:,} events in {report.seconds:.1f} s "
                f"({report.rate:,.0f} events/s)",
                self.style.SUCCESS,
            )


def _queries(types: Sequence[str] | None, ids: Sequence[str] | None) -> list[Document]:
    """Return one filter a type, after making sure that all names exist."""
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
    """Open the output; a file appears under its name only once it is whole."""
    if name == "-":
        yield from _to_stdout(stdout)
        return
    path = Path(os.path.realpath(name))  # a link stays a link
    gzipped = name.endswith(".gz")
    if path.exists() and not path.is_file():
        # A pipe or a device cannot be written beside it and moved.
        with _open(path, name) as raw:
            yield from _into(raw, gzipped=gzipped)
        return
    part = Path(f"{path}.part")
    try:
        with _open(part, name) as raw:
            yield from _into(raw, gzipped=gzipped)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _open(path: Path, name: str) -> IO[bytes]:
    try:
        if not name:
            raise ValueError("a file needs a name")
        return path.open("wb")
    except (OSError, ValueError) as error:
        reason = f"{name or repr(name)}: {getattr(error, 'strerror', None) or error}"
        raise CommandError(reason, returncode=WRONG_USE) from None


def _into(raw: IO[bytes], *, gzipped: bool) -> Iterator[Callable[[str], object]]:
    if not gzipped:
        yield lambda text: raw.write(text.encode())
        return
    # No name and no date inside: equal events give an equal file.
    with gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as file:
        yield lambda text: file.write(text.encode())


def _to_stdout(stdout: OutputWrapper) -> Iterator[Callable[[str], object]]:
    if getattr(stdout, "_out", None) is not sys.stdout:
        yield lambda text: stdout.write(text, ending="")
        return
    # As bytes, whatever encoding the terminal's locale has.
    stdout.flush()
    raw: IO[bytes] = cast(Any, stdout)._out.buffer
    yield lambda text: raw.write(text.encode())
    raw.flush()
