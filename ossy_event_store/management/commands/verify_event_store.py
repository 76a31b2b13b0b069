"""``manage.py verify_event_store``: prove that the store is sound."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Sequence
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.utils import timezone
from django.utils.dateparse import parse_datetime

from ...aggregate.registry import registered_aggregates
from ...documents.arguments import check_number
from ...documents.bson_types import Document
from ...documents.display import counted
from ...documents.event_document import check_id
from ...mongodb import connection, deadline
from ...mongodb.ports import drive
from ...streams import lookup
from ...subscriptions import operator_actions
from ...verification.options import SAMPLE_SIZE
from ...verification.report import KINDS, VerifyReport
from ...verification.verify import verify_event_store
from ._base import (
    WRONG_USE,
    Progress,
    StoreCommand,
    add_selection,
    distinct,
    operator_name,
)


class Command(StoreCommand):
    """Verify the store; exit code 1 if there are findings, 2 for wrong use."""

    help = (
        "Looks for anything that is wrong with the events, the snapshots and the "
        "indexes. It writes nothing, unless you accept a loss, and the site may keep "
        "running."
    )
    printed_findings = 100
    report = VerifyReport()

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the options."""
        add_selection(parser)
        parser.add_argument(
            "--since",
            metavar="WHEN",
            help="Only streams that got an event since then: a date, or a date and "
            "time, such as 2026-11-23 or 2026-11-23T10:00+01:00; without an offset, in "
            "the current time zone.",
        )
        sample = parser.add_mutually_exclusive_group()
        sample.add_argument(
            "--sample",
            type=int,
            default=SAMPLE_SIZE,
            metavar="N",
            help="Compare the states of this many snapshots, chosen at random, with "
            "what their events fold to; with --projections, also about as many "
            f"documents of each projection. Default: {SAMPLE_SIZE:,}.",
        )
        sample.add_argument(
            "--all",
            dest="everything",
            action="store_true",
            help="Compare the states of all snapshots; with --projections, also all "
            "documents.",
        )
        parser.add_argument(
            "--projections",
            action="store_true",
            help="Also compare the documents of every registered projection. Reads the "
            "events once more for each projection, or several times with --all if it "
            "has very many documents.",
        )
        parser.add_argument(
            "--json",
            action="store_true",
            help="Write one JSON document instead of lines of text.",
        )
        parser.add_argument(
            "--accept-loss",
            metavar="STREAM",
            help="Instead of verifying, accept that events of this stream are lost, so "
            "that its other events get positions and are delivered. Needs --reason. "
            "Restore the events from a backup if you have one.",
        )
        parser.add_argument(
            "--reason",
            metavar="TEXT",
            help="With --accept-loss: why; it is stored.",
        )

    def run(self, **options: Any) -> None:
        """Verify; the exit code is 1 if there are findings."""
        if options["accept_loss"] is not None:
            self.accept_loss(options["accept_loss"], options["reason"] or "")
            return
        types, ids = distinct(options["types"]), distinct(options["ids"])
        since = _since(options["since"])
        sample = None if options["everything"] else _sample(options["sample"])
        if options["projections"] and (types or ids or since):
            raise CommandError(
                "--projections cannot be combined with --type, --id or --since: a "
                "document of a projection is made from events of many streams.",
                returncode=WRONG_USE,
            )
        _check_types(types)
        _check_ids(ids, types)
        self.report = VerifyReport()
        total = None
        if not (types or ids or since):
            total = drive(connection.blocking().events.count())
        # stdout gets nothing but the document.
        out = self.stderr if options["json"] else self.stdout
        progress = Progress(out, total, options["verbosity"])

        def show(report: VerifyReport) -> None:
            self.report = report
            _show(progress, report)

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
            self._print(report, options["verbosity"])
        if not report.ok:
            raise CommandError(f"Verified {report}")

    def accept_loss(self, stream: str, reason: str) -> None:
        """Accept that events of a stream are lost."""
        if not reason.strip():
            raise CommandError(
                "--accept-loss needs a --reason TEXT.", returncode=WRONG_USE
            )
        try:
            lost = operator_actions.accept_loss(stream, reason, operator_name())
        except ValueError as error:
            raise CommandError(
                f"--accept-loss: {error}", returncode=WRONG_USE
            ) from None
        if not lost:
            raise CommandError(
                f"Nothing to accept: stream {stream!r} has no missing events, or their "
                "loss was already accepted."
            )
        for first, last in lost:
            what = (
                f"version {first}" if first == last else (f"versions {first} to {last}")
            )
            self.stdout.write(f"Accepted the loss of {what} of stream {stream!r}.")

    def _print(self, report: VerifyReport, verbosity: int) -> None:
        most = self.printed_findings
        for finding in report.findings[:most]:
            self.stdout.write(str(finding), self.style.ERROR)
        if report.total > most:
            self.stdout.write(f"… and {report.total - most:,} more.")
        for kind, count in report.found.items():
            self.stdout.write(f"{count:,} {kind}: {KINDS[kind]}")
        if verbosity < 1:
            return
        self._print_not_compared(report)
        if report.ok:
            self.stdout.write(f"Verified {report}", self.style.SUCCESS)

    def _print_not_compared(self, report: VerifyReport) -> None:
        for reason, count in report.not_compared.items():
            self.stdout.write(f"Not compared: {counted(count, 'snapshot')} {reason}.")
        for name, reasons in report.documents_not_compared.items():
            for reason, count in reasons.items():
                self.stdout.write(
                    f"Not compared: {counted(count, 'document')} of projection "
                    f"{name}: {reason}."
                )
        if report.projections == 0:
            self.stdout.write("Not compared: no projection is registered.")

    def interrupted(self) -> str:
        """Return how far the verification came."""
        return f"Stopped: {self.report} so far."


def _show(progress: Progress, report: VerifyReport) -> None:
    more = [counted(report.total, "finding")] if report.found else []
    if scan := report.scan:
        # Positions have no gaps, so the last one is the number of events.
        progress.total = scan.until
        more.insert(0, f"projection {scan.projection}")
        progress.show(scan.position, scan.seconds, ", ".join(more))
    else:
        progress.show(report.reads // 2, report.seconds, ", ".join(more))


def _sample(sample: int) -> int:
    try:
        return check_number(sample, "--sample")
    except ValueError as error:
        raise CommandError(str(error), returncode=WRONG_USE) from None


def _since(text: str | None) -> dt.datetime | None:
    if text is None:
        return None
    try:
        if (when := parse_datetime(text)) is None:
            raise ValueError("write it as 2026-11-23 or 2026-11-23T10:00+01:00")
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
    known = sorted({*drive(lookup.types(store)), *registered_aggregates()})
    for name in types:
        if name not in known:
            names = ", ".join(known) or "none"
            raise CommandError(
                f"There are no events of type {name!r}. Types: {names}.",
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
    """Return why there is nothing to verify, or None."""
    # A broken stream may lack its first event, so more than its existence counts.
    reason = await lookup.stream_problem(store, aggregate_id, types)
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
