"""Show and operate subscriptions: ``manage.py subscriptions``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from shlex import quote
from typing import Any

from django.core.management.base import CommandError, CommandParser

from ...documents.display import counted
from ...documents.event_document import check_id
from ...exceptions import UnknownSubscription
from ...mongodb import connection
from ...mongodb.ports import drive
from ...monitoring.health import undeclared
from ...monitoring.outboxes import line_of, outboxes
from ...monitoring.status import Status, statuses
from ...projections.forget import forget
from ...subscriptions import checkpoints, operator_actions, parked_streams
from ._base import WRONG_USE, StoreCommand, operator_name

ACTIONS = ("list", "show", "retry", "skip", "reset", "pause", "resume", "forget")
PARKED_STREAMS_SHOWN = 50


class Command(StoreCommand):
    """Show subscriptions, and retry, skip, reset, pause, resume or forget."""

    help = (
        "Show the state of all subscriptions, or of one with its parked streams; retry "
        "what failed, skip an event, reset the position, pause, resume, or forget what "
        "the code no longer declares. A process that runs the subscription notices "
        "within a second."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the arguments."""
        parser.add_argument(
            "action",
            nargs="?",
            default="list",
            choices=ACTIONS,
            metavar="ACTION",
            help="list (the default), or one of these with a NAME: "
            f"{', '.join(ACTIONS[1:])}.",
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
            help="With retry and skip: only this parked stream. Without it, retry "
            "means all parked streams, and skip means the event at which the whole "
            "subscription stopped.",
        )
        parser.add_argument(
            "--reason",
            metavar="TEXT",
            help="With skip: the reason; it is stored with the event.",
        )
        parser.add_argument(
            "--to",
            type=int,
            metavar="POSITION",
            help="With reset: continue after this position; 0 is the beginning. "
            "Handlers get the later events again.",
        )
        parser.add_argument(
            "--json",
            action="store_true",
            help="With list and show: print JSON.",
        )

    def run(self, **options: Any) -> None:
        """Run the action."""
        try:
            self.act(**options)
        except ValueError as error:  # no subscription, stream or position can be this
            raise CommandError(str(error), returncode=WRONG_USE) from None

    def act(self, **options: Any) -> None:
        """Run the action; wrong values are a ``ValueError``."""
        action, name = options["action"], options["name"]
        if name is not None:
            check_id(name, "NAME")
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
        elif action == "reset":
            self.reset(name, options["to"])
        else:
            getattr(self, action)(name)

    def list_all(self, *, as_json: bool) -> None:
        """Print the state of all subscriptions."""
        found = drive(statuses(connection.blocking()))
        if as_json:
            self.stdout.write(_json([one.as_dict() for one in found]))
            return
        if not found:
            self.stdout.write("There are no subscriptions.")
        for line in table(found):
            self.stdout.write(line)
        for one in found:
            for remark in remarks(one):
                self.stdout.write(self.style.WARNING(remark))
        for waits in outboxes():
            if waits.waiting or waits.parked or waits.error:
                line = f"{line_of(waits)}; see manage.py outbox."
                self.stdout.write(self.style.WARNING(line))

    def show(self, name: str, *, as_json: bool) -> None:
        """Print the state of one subscription, with its parked streams."""
        store = connection.blocking()
        found = {one.name: one for one in drive(statuses(store))}
        if name not in found:
            raise UnknownSubscription(name, list(found))
        one = found[name]
        parked = drive(
            parked_streams.find_parked(store, name, limit=PARKED_STREAMS_SHOWN)
        )
        if as_json:
            self.stdout.write(_json({**one.as_dict(), "parked_streams": parked}))
            return
        for line in [*table([one]), *remarks(one)]:
            self.stdout.write(line)
        for stream in parked:
            self.stdout.write("")
            for line in described(stream):
                self.stdout.write(line)
        if one.parked > len(parked):
            self.stdout.write(f"\nand {one.parked - len(parked):,} more.")

    def retry(self, name: str, stream: str | None) -> None:
        """Request a retry."""
        found = drive(checkpoints.find(connection.blocking(), name)) or {}
        has_stopped = stream is None and bool(found.get("stopped"))
        marked = operator_actions.retry(name, stream)
        if not marked:
            raise CommandError(
                f"{name} has not parked stream {stream!r}."
                if stream
                else f"{name} has no parked streams and has not stopped."
            )
        if streams := marked - has_stopped:
            self.stdout.write(f"Marked {counted(streams, 'stream')} for retry.")
        if has_stopped:
            self.stdout.write(f"{name} retries the event at which it stopped.")

    def skip(self, name: str, stream: str | None, reason: str) -> None:
        """Skip an event."""
        if not reason.strip():
            raise CommandError("skip needs a --reason TEXT.", returncode=WRONG_USE)
        record = operator_actions.skip(name, stream, reason, operator_name())
        if record is None:
            raise CommandError(
                f"{name} has not parked stream {stream!r} at an event."
                if stream
                else f"{name} has not stopped; name a parked --stream."
            )
        self.stdout.write(
            f"Skipped {record['type']}, version {record['aggregateVersion']} of "
            f"{record['aggregateId']!r}. The events after it follow."
        )

    def reset(self, name: str, to: int | None) -> None:
        """Continue after another position."""
        if to is None or to < 0:
            raise CommandError(
                "reset needs a position: --to 0 or more.", returncode=WRONG_USE
            )
        operator_actions.reset(name, to)
        self.stdout.write(f"{name} continues after position {to:,}.")

    def pause(self, name: str) -> None:
        """Pause the subscription."""
        try:
            paused = operator_actions.pause(name, operator_name())
        except ValueError as error:
            raise CommandError(str(error)) from None
        if not paused:
            raise CommandError(f"{name} is paused already.")
        self.stdout.write(
            f"{name} is paused; manage.py subscriptions resume {quote(name)} ends it."
        )

    def resume(self, name: str) -> None:
        """Resume the subscription."""
        if not operator_actions.resume(name):
            raise CommandError(f"{name} is not paused.")
        self.stdout.write(f"{name} continues.")

    def forget(self, name: str) -> None:
        """Delete what is stored of a subscription that is gone from the code."""
        try:
            dropped = forget(name)
        except ValueError as error:
            raise CommandError(str(error)) from None
        documents = f", and dropped {', '.join(dropped)}" if dropped else ""
        self.stdout.write(f"Forgot {name}{documents}.")


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, default=str)


COLUMNS = ("name", "state", "position", "lag", "seconds", "events/s", "parked", "by")


def table(found: Sequence[Status]) -> list[str]:
    """Return the lines of a table, one for each subscription."""
    rows = [COLUMNS, *(_row(one) for one in found)]
    widths = [max(len(row[at]) for row in rows) for at in range(len(COLUMNS))]
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
    """Return lines about what an operator should look at."""
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
    if one.paused:
        by = f" by {one.paused['by']}" if one.paused.get("by") else ""
        found.append(
            f"{one.name} was paused at {one.paused['since']:%Y-%m-%d %H:%M:%S} UTC"
            f"{by}; manage.py subscriptions resume {quote(one.name)} ends it."
        )
    if one.ahead:
        found.append(
            f"{one.name} is {one.ahead:,} positions after the last event, and would "
            "pass over the next ones; run manage.py subscriptions reset "
            f"{quote(one.name)}."
        )
    if one.changed:
        found.append(
            f"{one.name} has changed since it was built; run manage.py "
            f"rebuild_projections {one.name}."
        )
    return [*found, *undeclared(one)]


def described(waiting: Mapping[str, Any]) -> list[str]:
    """Return lines about the event at which a stream or a subscription waiting."""
    if waiting.get("eventId") is None:
        return [f"{waiting['aggregateId']}: catching up"]
    lines = [
        f"{waiting['aggregateId']}, version {waiting['aggregateVersion']}: "
        f"{waiting['type']} (event {waiting['eventId']}, position "
        f"{waiting['position']:,})"
    ]
    if "tries" in waiting:
        again = ", marked for retry" if waiting.get("retry") else ""
        lines += [
            f"  parked {waiting['since']:%Y-%m-%d %H:%M:%S} UTC, tries "
            f"{waiting['tries']}"
            f"{again}",
            f"  {waiting['error']}",
        ]
    return lines
