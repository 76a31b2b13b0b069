"""The process that hands events on: ``manage.py run_subscriptions``."""

from __future__ import annotations

import signal
from contextlib import suppress
from typing import Any

from django.core.management.base import CommandError, CommandParser

from ... import mongo
from ...faces import drive
from ...mongo import in_time
from ...running import Runner
from ._base import StoreCommand


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

    def run(self, **options: Any) -> None:
        """Run them."""
        verbosity = options["verbosity"]
        check_replica_set()
        runner = Runner(options["names"] or None)
        for number in (signal.SIGTERM, signal.SIGINT):
            with suppress(ValueError):  # not in the main thread, as in a test
                signal.signal(number, lambda *_: runner.stop.set())
        if verbosity >= 1:
            told = ", ".join(consumer.name for consumer in runner.consumers)
            self.stdout.write(f"Running {told or 'no subscription'}.")
            self.stdout.flush()
        runner.run()
        if verbosity >= 1:
            self.stdout.write("Stopped.")


def check_replica_set() -> None:
    """
    Refuse a server on which events cannot be followed.

    Raises:
        CommandError: it is standalone.
    """
    with in_time():
        hello = drive(mongo.blocking().client.command("hello"))
    if "setName" not in hello and hello.get("msg") != "isdbgrid":
        raise CommandError(
            "Subscriptions need a replica set, and this server is standalone: it has "
            "no change streams and no transactions. Run it as a replica set of one: "
            "mongod --replSet NAME, and once rs.initiate() in mongosh."
        )
