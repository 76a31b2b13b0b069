"""The process that delivers events: ``manage.py run_subscriptions``."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from django.core.management.base import CommandError, CommandParser

from ...documents.display import counted
from ...exceptions import StoreUnavailable
from ...mongodb import connection, schema_validator
from ...mongodb.deadline import in_time
from ...mongodb.ports import drive
from ...mongodb.topology import is_standalone
from ...mongodb.write_errors import short_reason
from ...monitoring.status import statuses
from ...positions.damage import held_up
from ...relational import outbox
from ...relational.relay import relay_all
from ...subscriptions.runner import Runner, UntilCaughtUp, assign_positions
from ._base import StoreCommand

logger = logging.getLogger("ossy_event_store")


class Command(StoreCommand):
    """Run subscriptions until SIGTERM or Ctrl-C."""

    help = (
        "Assign positions to events, and deliver the events to subscriptions, "
        "projections and snapshots, until SIGTERM or Ctrl-C; the current event is "
        "finished first. Append what waits in an outbox. One process can run all of "
        "them. If there are several, each subscription runs in one of them, and "
        "another takes over within seconds when that one ends. Needs a replica set; "
        "one member is enough."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the arguments."""
        parser.add_argument(
            "names",
            nargs="*",
            metavar="NAME",
            help="Subscriptions and projections to run; all of them by default.",
        )
        parser.add_argument(
            "--until-caught-up",
            action="store_true",
            help="End once they have all events that existed at the start, for tests "
            "and cron jobs; exit with 1 if events are left that wait: in a parked or "
            "damaged stream, in an outbox, or since a subscription has stopped.",
        )

    def run(self, **options: Any) -> None:
        """Run them."""
        verbosity = options["verbosity"]
        check_replica_set()
        runner = Runner(options["names"] or None)
        if verbosity >= 1:
            names = ", ".join(consumer.name for consumer in runner.consumers)
            self.stdout.write(f"Running {names or 'no subscription'}.")
            self.stdout.flush()
        with ending(runner.stop.set):
            if options["until_caught_up"]:
                self.catch_up(runner)
            else:
                runner.run()
        if verbosity >= 1:
            self.stdout.write("Stopped.")

    def catch_up(self, runner: Runner) -> None:
        """Run until all events that exist now are delivered."""
        relay_all(runner.stop)
        assign_positions(runner.stop)
        names = [consumer.name for consumer in runner.consumers]
        runner.run(UntilCaughtUp(names) if names else lambda: True)
        failed = [
            one
            for one in drive(statuses(connection.blocking()))
            if one.name in names and (one.parked or one.stopped or one.paused)
        ]
        if failed:
            where = ", ".join(one.name for one in failed)
            why = "paused"
            if not all(one.paused for one in failed):
                why = "a handler failed, and events wait"
            raise CommandError(f"{where}: {why}; see manage.py subscriptions show.")
        for using in outbox.candidates():
            if outbox.has_table(using) and (left := outbox.figures(using)).parked:
                parked = counted(left.parked, "parked stream")
                raise CommandError(
                    f"The outbox of {using} has {parked}; see manage.py outbox."
                )
        damaged, streams = drive(held_up(connection.blocking()))
        if damaged:
            named = "; ".join(f"{one.aggregate_id!r}: {one.reason}" for one in streams)
            raise CommandError(
                f"{counted(damaged, 'damaged stream')} without positions: {named}"
            )


@contextmanager
def ending(end: Callable[[], None]) -> Iterator[None]:
    """Let SIGTERM and Ctrl-C call ``end`` inside the block."""
    before = {}
    for number in (signal.SIGTERM, signal.SIGINT):
        with suppress(ValueError):  # not in the main thread, as in a test
            before[number] = signal.signal(number, lambda *_: end())
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def check_replica_set() -> None:
    """
    Refuse a standalone server; wait for one that is away, as it may be a replica set.

    Raises:
        CommandError: the server is standalone, or its database is of another shape.
    """
    try:
        with in_time():
            other = drive(schema_validator.other_shape(connection.blocking()))
            hello = drive(connection.blocking().client.command("hello"))
    except StoreUnavailable as error:
        # As with a server that goes away later: the subscriptions retry.
        logger.warning(
            "Waiting for MongoDB before the subscriptions start: %s",
            short_reason(error),
        )
        return
    if other is not None:
        raise CommandError(other)
    if is_standalone(hello):
        raise CommandError(
            "Subscriptions need a replica set, and this server is standalone: it has "
            "no change streams and no transactions. Run it as a replica set of one: "
            "start mongod --replSet NAME, then run rs.initiate() once in mongosh."
        )
