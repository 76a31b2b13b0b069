"""Show and operate the outbox: ``manage.py outbox``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from django.core.management.base import CommandError, CommandParser
from django.db import DEFAULT_DB_ALIAS, Error

from ...documents.display import counted
from ...mongodb.write_errors import short_reason
from ...monitoring.outboxes import OutboxStatus, line_of, outboxes
from ...relational import outbox
from ._base import WRONG_USE, StoreCommand, operator_name

if TYPE_CHECKING:
    from ...relational.models import Outbox

ROWS_SHOWN = 50


class Command(StoreCommand):
    """Show what waits in the outbox, and retry or discard what is parked."""

    help = (
        "Show the events that SQL transactions wrote with append_on_commit() and that "
        "are still to be appended; retry or discard those that cannot be appended as "
        "they are. run_subscriptions appends the others."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the arguments."""
        parser.add_argument(
            "action",
            nargs="?",
            default="list",
            choices=("list", "retry", "discard"),
            metavar="ACTION",
            help="list (the default), retry or discard.",
        )
        parser.add_argument(
            "number",
            nargs="?",
            type=int,
            metavar="NUMBER",
            help="The parked event, by the number that list shows. With retry: only "
            "this one; without it, all of them.",
        )
        parser.add_argument(
            "--using",
            metavar="ALIAS",
            help="Only the outbox of this database. Default: all of them with list, "
            f"{DEFAULT_DB_ALIAS!r} with retry and discard.",
        )
        parser.add_argument(
            "--reason",
            metavar="TEXT",
            help="With discard: the reason; it is stored with the event.",
        )
        parser.add_argument(
            "--json", action="store_true", help="With list: print JSON."
        )

    def run(self, **options: Any) -> None:
        """Run the action."""
        using, number = options["using"], options["number"]
        try:
            if options["action"] == "list":
                self.list_all(using, as_json=options["json"])
                return
            using = using or DEFAULT_DB_ALIAS
            check_outbox(using)
            if options["action"] == "retry":
                self.retry(using, number)
            else:
                self.discard(using, number, options["reason"] or "")
        except Error as error:
            raise CommandError(
                f"The SQL database failed: {short_reason(error)}"
            ) from None

    def list_all(self, using: str | None, *, as_json: bool) -> None:
        """Print what waits, and the parked and discarded events."""
        if using is not None:
            check_outbox(using)
        found = [one for one in outboxes() if using in (None, one.using)]
        if as_json:
            shown = [
                {**one.as_dict(), "parked_events": _events_of(one)} for one in found
            ]
            self.stdout.write(json.dumps(shown, indent=2, default=str))
            return
        if not found:
            self.stdout.write("No database has an outbox.")
        for one in found:
            self.stdout.write(line_of(one))
            if one.error is None:
                self.show_rows(one)

    def show_rows(self, one: OutboxStatus) -> None:
        """Print the parked and the discarded events of an outbox."""
        parked = outbox.parked_rows(one.using, ROWS_SHOWN)
        for row in parked:
            self.stdout.write(f"\n{_where(row)}\n  parked, tries {row.tries}")
            self.stdout.write(f"  {row.error}")
        if one.parked > len(parked):
            self.stdout.write(f"\nand {one.parked - len(parked):,} more.")
        for row in outbox.discarded_rows(one.using, ROWS_SHOWN):
            by = f" by {row.discarded_by}" if row.discarded_by else ""
            self.stdout.write(f"\n{_where(row)}\n  discarded{by}: {row.reason}")

    def retry(self, using: str, number: int | None) -> None:
        """Let parked events wait again."""
        found = outbox.retry(using, number)
        if not found:
            raise CommandError(_not_parked(using, number))
        self.stdout.write(
            f"{counted(found, 'event')} of the outbox of {using} will be retried by "
            "run_subscriptions."
        )

    def discard(self, using: str, number: int | None, reason: str) -> None:
        """Discard a parked event."""
        if number is None:
            raise CommandError(
                "discard needs the NUMBER of a parked event.", returncode=WRONG_USE
            )
        if not reason.strip():
            raise CommandError("discard needs a --reason TEXT.", returncode=WRONG_USE)
        row = outbox.discard(using, number, reason, operator_name())
        if row is None:
            raise CommandError(_not_parked(using, number))
        self.stdout.write(
            f"Discarded {_where(row)}. The events after it in its stream follow."
        )


def check_outbox(using: str) -> None:
    """Refuse a database without an outbox."""
    known = outbox.candidates()
    if using not in known or not outbox.has_table(using):
        names = ", ".join(one for one in known if outbox.has_table(one)) or "none"
        raise CommandError(
            f"The database {using!r} has no outbox. Those with one: {names}.",
            returncode=WRONG_USE,
        )


def _where(row: Outbox) -> str:
    return f"{row.pk}: {row}"


def _not_parked(using: str, number: int | None) -> str:
    if number is None:
        return f"The outbox of {using} has no parked events."
    return f"The outbox of {using} has no parked event {number}."


def _events_of(one: OutboxStatus) -> list[dict[str, Any]]:
    if one.error is not None:
        return []
    names = ("event_id", "type", "aggregate_id", "created", "tries", "failed", "error")
    return [
        {"number": row.pk, **{name: getattr(row, name) for name in names}}
        for row in outbox.parked_rows(one.using, ROWS_SHOWN)
    ]
