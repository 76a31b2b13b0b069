"""Projections built anew: ``manage.py rebuild_projections``."""

from __future__ import annotations

import time
from typing import Any

from django.core.management.base import CommandError, CommandParser

from ...exceptions import UnknownSubscription
from ...mongodb import connection
from ...mongodb.ports import drive
from ...monitoring.status import statuses
from ...projections import projection
from ...projections.rebuild import Rebuild, drop_old
from ...projections.writer import collection_name
from ._base import INTERRUPTED, Progress, StoreCommand
from .run_subscriptions import check_replica_set, ending


class Command(StoreCommand):
    """Build projections anew, from the first event."""

    help = (
        "Build projections anew from the first event: at once, so that readers see "
        "them grow, or beside the ones in use, which are replaced once the new ones "
        "have caught up. run_subscriptions may go on meanwhile."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the arguments."""
        parser.add_argument(
            "names",
            nargs="*",
            metavar="NAME",
            help="The projections; all of them by default.",
        )
        parser.add_argument(
            "--blue-green",
            action="store_true",
            help="Build beside the one in use, and switch when it has caught up. The "
            "old one is kept. Broken off, it goes on the next time.",
        )
        parser.add_argument(
            "--changed",
            action="store_true",
            help="Only those whose class has changed since they were built.",
        )
        parser.add_argument(
            "--drop-old",
            action="store_true",
            help="Only drop what earlier builds with --blue-green have kept.",
        )

    def run(self, **options: Any) -> None:
        """Build them."""
        check_replica_set()
        self.verbosity = options["verbosity"]
        chosen = self.chosen(options["names"], only_changed=options["changed"])
        if not chosen:
            self.stdout.write("There is nothing to build.")
        parked = 0
        for cls in chosen:
            if options["drop_old"]:
                self.drop_old(cls)
            else:
                parked += self.build(cls, beside=options["blue_green"])
        if parked:
            raise CommandError(
                f"{parked:,} streams are parked, since an event of theirs could not be "
                "applied; see manage.py subscriptions show NAME."
            )

    def chosen(
        self, names: list[str], *, only_changed: bool
    ) -> list[type[projection.Projection]]:
        """Return the projections of these names, or all."""
        there = projection.registered()
        for name in names:
            if name not in there:
                raise UnknownSubscription(name, list(there))
        found = [there[name] for name in dict.fromkeys(names)] or list(there.values())
        if not only_changed:
            return found
        changed = {
            one.name for one in drive(statuses(connection.blocking())) if one.changed
        }
        return [cls for cls in found if cls.name in changed]

    def build(self, cls: type[projection.Projection], *, beside: bool) -> int:
        """Build one, and return how many streams are parked."""
        progress, began = Progress(self.stderr, None, self.verbosity), time.monotonic()

        def show(position: int, last: int) -> None:
            progress.total = last
            progress.show(position, time.monotonic() - began)

        rebuild = Rebuild(cls, beside=beside, progress=show)
        with ending(rebuild.stop):
            built = rebuild.run()
        progress.end()
        if built is None:
            raise CommandError("Stopped.", returncode=INTERRUPTED)
        collection = collection_name(built.name, built.generation)
        self.stdout.write(
            f"Built {built.name} up to position {built.position:,}, in collection "
            f"{collection}."
        )
        return built.parked

    def drop_old(self, cls: type[projection.Projection]) -> None:
        """Drop what was kept of one."""
        for name in drop_old(cls):
            self.stdout.write(f"Dropped {name}.")
