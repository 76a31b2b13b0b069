"""``manage.py verify_event_store``: prove that the store is sound."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Sequence
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.utils import timezone
from django.utils.dateparse import parse_datetime

from ...documents.bson_types import Document
from ...documents.event_document import check_id
from ...mongodb import connection, deadline
from ...mongodb.ports import drive
from ...registry import registered
from ...streams import lookup
from ...verification.report import KINDS, VerifyReport
from ...verification.verify import SAMPLE, verify_event_store
from ._base import WRONG_USE, Progress, StoreCommand, add_selection, distinct

SHOWN = 100  # findings written out


class Command(StoreCommand):
    """Verify the store; exit code 1 if anything is found, 2 for wrong use."""

    help = (
        "Looks for whatever is wrong with the events, the snapshots and the indexes, "
        "and writes nothing to the store. The site may go on meanwhile."
    )
    report = VerifyReport()

    def add_arguments(self, parser: CommandParser) -> None:
        """Say what can be chosen."""
        add_selection(parser)
        parser.add_argument(
            "--since",
            metavar="WHEN",
            help="Only streams that got an event since: a date, or a date and time, as "
            "2026-11-23 or 2026-11-23T10:00+01:00; without an offset in the current "
            "time zone.",
        )
        some = parser.add_mutually_exclusive_group()
        some.add_argument(
            "--sample",
            type=int,
            default=SAMPLE,
            metavar="N",
            help="Compare the states of this many snapshots, chosen at random, with "
            "what their events fold to, and with --projections about as many documents "
            f"of each projection; default: {SAMPLE:,}.",
        )
        some.add_argument(
            "--all",
            dest="everything",
            action="store_true",
            help="Compare the states of all snapshots, and with --projections all "
            "documents.",
        )
        parser.add_argument(
            "--projections",
            action="store_true",
            help="Compare the documents of every registered projection as well. Reads "
            "the events once more for each projection, or several times with --all "
            "if it has very many documents.",
        )
        parser.add_argument(
            "--json",
            action="store_true",
            help="Write one JSON document in place of lines for people.",
        )

    def run(self, **options: Any) -> None:
        """Verify, and end with the exit code that says how it went."""
        types, ids = distinct(options["types"]), distinct(options["ids"])
        since = _since(options["since"])
        sample = None if options["everything"] else _sample(options["sample"])
        if options["projections"] and (types or ids or since):
            raise CommandError(
                "--projections does not go with --type, --id or --since: a document "
                "of a projection is made of events of many streams.",
                returncode=WRONG_USE,
            )
        _check_types(types)
        _check_ids(ids, types)
        self.report = VerifyReport()
        total = None
        if not (types or ids or since):
            total = drive(connection.blocking().events.count())
        # The document goes to stdout alone.
        out = self.stderr if options["json"] else self.stdout
        progress = Progress(out, total, options["verbosity"])

        def show(report: VerifyReport) -> None:
            self.report = report
            more = [f"{report.total:,} findings"] if report.found else []
            if scan := report.scan:
                # Positions have no gaps: the last one says how many events there are.
                progress.total = scan.until
                more.insert(0, f"projection {scan.projection}")
                progress.show(scan.position, scan.seconds, ", ".join(more))
            else:
                progress.show(report.reads // 2, report.seconds, ", ".join(more))

        try:
            report = verify_event_store(
                types=types,
                ids=ids,
                since=since,
                sample=sample,
                projections=options["projections"],
                progress=show,
            )
        finally:
            progress.end()
        if options["json"]:
            self.stdout.write(json.dumps(report.as_json(), indent=2))
        else:
            self._tell(report, options["verbosity"])
        if not report.ok:
            raise CommandError(f"Verified {report}")

    def _tell(self, report: VerifyReport, verbosity: int) -> None:
        for finding in report.findings[:SHOWN]:
            self.stdout.write(str(finding), self.style.ERROR)
        if report.total > SHOWN:
            self.stdout.write(f"… and {report.total - SHOWN:,} more.")
        for kind, count in report.found.items():
            self.stdout.write(f"{count:,} {kind}: {KINDS[kind]}")
        if verbosity < 1:
            return
        self._tell_not_compared(report)
        if report.ok:
            self.stdout.write(f"Verified {report}", self.style.SUCCESS)

    def _tell_not_compared(self, report: VerifyReport) -> None:
        for reason, count in report.not_compared.items():
            self.stdout.write(f"Not compared: {count:,} snapshots {reason}.")
        for name, reasons in report.documents_not_compared.items():
            for reason, count in reasons.items():
                self.stdout.write(
                    f"Not compared: {count:,} documents of projection {name}: {reason}."
                )
        if report.projections == 0:
            self.stdout.write("Not compared: no projection is registered.")

    def interrupted(self) -> str:
        """Say how far it came."""
        return f"Stopped: {self.report} so far."


def _sample(sample: int) -> int:
    if sample < 0:
        raise CommandError(
            f"--sample {sample}: it must be 0 or more.", returncode=WRONG_USE
        )
    return sample


def _since(text: str | None) -> dt.datetime | None:
    if text is None:
        return None
    try:
        if (when := parse_datetime(text)) is None:
            raise ValueError("use a form as 2026-11-23 or 2026-11-23T10:00+01:00")
        return timezone.make_aware(when) if timezone.is_naive(when) else when
    except (ValueError, OverflowError) as error:
        raise CommandError(
            f"--since {text!r} is not a date or a date and time: {error}.",
            returncode=WRONG_USE,
        ) from None


def _check_types(types: Sequence[str] | None) -> None:
    if not types:
        return
    store = connection.blocking()
    known = sorted({*drive(lookup.types(store)), *registered()})
    for kind in types:
        if kind not in known:
            names = ", ".join(known) or "none"
            raise CommandError(
                f"There are no events of type {kind!r}. Types: {names}.",
                returncode=WRONG_USE,
            )


def _check_ids(ids: Sequence[str] | None, types: Sequence[str] | None) -> None:
    store = connection.blocking()
    for aggregate_id in ids or ():
        reason = drive(_reason_against(store, aggregate_id, types))
        if reason:
            raise CommandError(reason, returncode=WRONG_USE)


async def _reason_against(
    store: connection.Store, aggregate_id: str, types: Sequence[str] | None
) -> str | None:
    """Return why there is nothing to verify: a stream may lack its first event."""
    reason = await lookup.reason_against(store, aggregate_id, types)
    try:
        check_id(aggregate_id)
    except ValueError:
        return reason
    kind: Document = {"aggregateType": {"$in": list(types)}} if types else {}
    for documents, key in ((store.events, "aggregateId"), (store.snapshots, "_id")):
        with deadline.in_time():
            query = {key: {"$eq": aggregate_id}, **kind}
            if await documents.find_one(query, projection={"_id": 1}):
                return None
    return reason
