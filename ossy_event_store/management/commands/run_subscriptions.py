"""The process that hands events on: ``manage.py run_subscriptions``."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from django.core.management.base import CommandError, CommandParser

from ...exceptions import StoreUnavailable
from ...mongodb import connection
from ...mongodb.deadline import in_time
from ...mongodb.ports import drive
from ...mongodb.write_errors import short_reason
from ...monitoring.status import statuses
from ...subscriptions.runner import Runner, UntilCaughtUp, give_positions
from ._base import StoreCommand

logger = logging.getLogger("ossy_event_store")


class Command(StoreCommand):
    """Run subscriptions until SIGTERM or Ctrl-C."""

    help = (
        "Give events their positions, and hand them to the subscriptions, the "
        "projections and the snapshots, until SIGTERM or Ctrl-C; the event at hand is "
        "finished. Run one process for all of them, or several: each subscription is "
        "run by one at a time, and another takes over within seconds of its end. "
        "Needs a replica set, if only of one."
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
            help="End once they have all events that there were at the start, as in a "
            "test or a cron job; exit with 1 if a stream is parked or one has stopped.",
        )

    def run(self, **options: Any) -> None:
        """Run them."""
        verbosity = options["verbosity"]
        check_replica_set()
        runner = Runner(options["names"] or None)
        if verbosity >= 1:
            told = ", ".join(consumer.name for consumer in runner.consumers)
            self.stdout.write(f"Running {told or 'no subscription'}.")
            self.stdout.flush()
        with ending(runner.stop.set):
            if options["until_caught_up"]:
                self.catch_up(runner)
            else:
                runner.run()
        if verbosity >= 1:
            self.stdout.write("Stopped.")

    def catch_up(self, runner: Runner) -> None:
        """Run until all that is there is handed on."""
        give_positions(runner.stop)
        names = [consumer.name for consumer in runner.consumers]
        runner.run(UntilCaughtUp(names) if names else lambda: True)
        failed = [
            one
            for one in drive(statuses(connection.blocking()))
            if one.name in names and (one.parked or one.stopped)
        ]
        if failed:
            told = ", ".join(one.name for one in failed)
            raise CommandError(
                f"{told}: a handler failed; see manage.py subscriptions show."
            )


@contextmanager
def ending(end: Callable[[], None]) -> Iterator[None]:
    """Let SIGTERM and Ctrl-C call ``end``, for as long as this lasts."""
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
    Refuse a server on which events cannot be followed; one that is away may be well.

    Raises:
        CommandError: it is standalone.
    """
    try:
        with in_time():
            hello = drive(connection.blocking().client.command("hello"))
    except StoreUnavailable as error:
        # As with one that goes away later: what runs here waits for it.
        logger.warning("Subscriptions wait: %s", short_reason(error))
        return
    if "setName" not in hello and hello.get("msg") != "isdbgrid":
        raise CommandError(
            "Subscriptions need a replica set, and this server is standalone: it has "
            "no change streams and no transactions. Run it as a replica set of one: "
            "mongod --replSet NAME, and once rs.initiate() in mongosh."
        )
