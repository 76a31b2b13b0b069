"""How subscriptions stand, and what to do about them: ``manage.py subscriptions``."""

from __future__ import annotations

import getpass
import json
from collections.abc import Mapping, Sequence
from typing import Any

from django.core.management.base import CommandError, CommandParser

from ...exceptions import UnknownSubscription
from ...mongodb import connection
from ...mongodb.ports import drive
from ...monitoring.status import Status, statuses
from ...subscriptions import operator_actions, parked_streams
from ._base import WRONG_USE, StoreCommand

ACTIONS = ("list", "show", "retry", "skip", "reset")
SHOWN = 50  # parked streams


class Command(StoreCommand):
    """Look at subscriptions, and operate them."""

    help = (
        "Show how all subscriptions stand, or one of them with its parked streams; try "
        "again what failed, skip an event, or begin elsewhere. A process that runs the "
        "subscription notices within a second."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the arguments."""
        parser.add_argument(
            "action",
            nargs="?",
            default="list",
            choices=ACTIONS,
            metavar="ACTION",
            help="list (the default), show NAME, retry NAME, skip NAME, or reset NAME.",
        )
        parser.add_argument(
            "name",
            nargs="?",
            metavar="NAME",
            help="The subscription or projection.",
        )
        parser.add_argument(
            "--stream",
            metavar="ID",
            help="With retry and skip: only this parked stream. Without it retry means "
            "all of them, and skip the event at which the whole subscription stopped.",
        )
        parser.add_argument(
            "--reason",
            metavar="TEXT",
            help="With skip: why; it is kept with the event.",
        )
        parser.add_argument(
            "--to",
            type=int,
            metavar="POSITION",
            help="With reset: go on behind this position; 0 is the beginning. Handlers "
            "get those events again.",
        )
        parser.add_argument(
            "--json",
            action="store_true",
            help="With list and show: print JSON.",
        )

    def run(self, **options: Any) -> None:
        """Do what the action says."""
        action, name = options["action"], options["name"]
        if action == "list":
            self.list_all(as_json=options["json"])
        elif name is None:
            raise CommandError(
                f"{action} needs the NAME of a subscription.", returncode=WRONG_USE
            )
        elif action == "show":
            self.show(name, as_json=options["json"])
        elif action == "retry":
            self.retry(name, options["stream"])
        elif action == "skip":
            self.skip(name, options["stream"], options["reason"] or "")
        else:
            self.reset(name, options["to"])

    def list_all(self, *, as_json: bool) -> None:
        """Print how all stand."""
        found = drive(statuses(connection.blocking()))
        if as_json:
            self.stdout.write(_json([one.as_dict() for one in found]))
            return
        if not found:
            self.stdout.write("There is no subscription.")
        for line in table(found):
            self.stdout.write(line)
        for one in found:
            for remark in remarks(one):
                self.stdout.write(self.style.WARNING(remark))

    def show(self, name: str, *, as_json: bool) -> None:
        """Print how one stands, with its parked streams."""
        store = connection.blocking()
        found = {one.name: one for one in drive(statuses(store))}
        if name not in found:
            raise UnknownSubscription(name, list(found))
        one = found[name]
        waiting = drive(parked_streams.parked(store, name, limit=SHOWN))
        if as_json:
            self.stdout.write(_json({**one.as_dict(), "parked_streams": waiting}))
            return
        for line in [*table([one]), *remarks(one)]:
            self.stdout.write(line)
        for waits in waiting:
            self.stdout.write("")
            for line in described(waits):
                self.stdout.write(line)
        if one.parked > len(waiting):
            self.stdout.write(f"\nand {one.parked - len(waiting):,} more.")

    def retry(self, name: str, stream: str | None) -> None:
        """Ask for a retry."""
        asked = operator_actions.retry(name, stream)
        if not asked:
            raise CommandError(
                f"Stream {stream!r} is not parked by {name!r}."
                if stream
                else f"Nothing of {name!r} waits for a retry."
            )
        self.stdout.write("To be tried again: " + (stream or f"{asked:,} of {name}."))

    def skip(self, name: str, stream: str | None, reason: str) -> None:
        """Pass over an event."""
        if not reason.strip():
            raise CommandError("skip needs a --reason.", returncode=WRONG_USE)
        kept = operator_actions.skip(name, stream, reason, _who())
        if kept is None:
            raise CommandError(
                f"Stream {stream!r} does not wait at an event of {name!r}."
                if stream
                else f"{name!r} has not stopped; name a parked --stream."
            )
        self.stdout.write(
            f"Skipped {kept['type']}, version {kept['aggregateVersion']} of "
            f"{kept['aggregateId']!r}. The events behind it follow."
        )

    def reset(self, name: str, to: int | None) -> None:
        """Go on elsewhere."""
        if to is None or to < 0:
            raise CommandError(
                "reset needs a position, --to 0 or more.", returncode=WRONG_USE
            )
        try:
            operator_actions.reset(name, to)
        except ValueError as error:
            raise CommandError(str(error)) from None
        self.stdout.write(f"{name} goes on behind position {to:,}.")


def _who() -> str | None:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # a container without a user's name
        return None


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, default=str)


HEADER = ("name", "state", "position", "behind", "seconds", "events/s", "parked", "by")


def table(found: Sequence[Status]) -> list[str]:
    """Return the lines of a table, a subscription a line."""
    rows = [HEADER, *(_row(one) for one in found)]
    widths = [max(len(row[at]) for row in rows) for at in range(len(HEADER))]
    return [
        "  ".join(
            cell.ljust(width) if at in (0, 1, 7) else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
        if len(rows) > 1
    ]


def _row(one: Status) -> tuple[str, ...]:
    return (
        one.name,
        one.state,
        f"{one.position:,}",
        f"{one.lag:,}",
        f"{one.lag_seconds:,.0f}",
        f"{one.rate:,.1f}",
        f"{one.parked:,}",
        one.owner or "-",
    )


def remarks(one: Status) -> list[str]:
    """Return what somebody should look at."""
    found = []
    if one.stopped:
        where = described(one.stopped)[0]
        found.append(f"{one.name} has stopped at {where}: {one.stopped['error']}")
    elif one.last_error:
        when = one.last_error["failed"]
        found.append(
            f"{one.name}, last error at {when:%Y-%m-%d %H:%M:%S} UTC: "
            f"{one.last_error['error']}"
        )
    if one.changed:
        found.append(
            f"{one.name} has changed since it was built: rebuild_projections {one.name}"
        )
    if not one.declared:
        found.append(f"{one.name} is declared nowhere in this project.")
    return found


def described(waits: Mapping[str, Any]) -> list[str]:
    """Return lines about the event at which something waits."""
    if waits.get("eventId") is None:
        return [f"{waits['aggregateId']}: goes on, up to the others"]
    lines = [
        f"{waits['aggregateId']}, version {waits['aggregateVersion']}: {waits['type']} "
        f"(event {waits['eventId']}, position {waits['position']:,})"
    ]
    if "tries" in waits:
        again = ", to be tried again" if waits.get("retry") else ""
        lines += [
            f"  parked {waits['since']:%Y-%m-%d %H:%M:%S} UTC, tries {waits['tries']}"
            f"{again}",
            f"  {waits['error']}",
        ]
    return lines
