"""``manage.py rebuild_projections``: build projections again from the first event."""

from __future__ import annotations

import time
from typing import Any

from django.core.management.base import CommandError, CommandParser

from ...documents.display import counted
from ...exceptions import UnknownSubscription
from ...mongodb import connection
from ...mongodb.ports import drive
from ...monitoring.status import statuses
from ...projections.generations import collection_name
from ...projections.projection import Projection, registered_projections
from ...projections.rebuild import Rebuild, drop_old
from ._base import INTERRUPTED, Progress, StoreCommand
from .run_subscriptions import check_replica_set, ending


class Command(StoreCommand):
    """Rebuild projections; exit code 1 if a stream is parked."""

    help = (
        "Rebuilds projections from the first event: in place, so that readers see them "
        "grow, or beside the ones in use, which they replace once they have caught up. "
        "run_subscriptions may run meanwhile."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the arguments."""
        parser.add_argument(
            "names",
            nargs="*",
            metavar="NAME",
            help="The projections to rebuild; default: all.",
        )
        parser.add_argument(
            "--blue-green",
            action="store_true",
            help="Build beside the one in use, and switch once it has caught up. Keeps "
            "the old one. An interrupted build resumes next time.",
        )
        parser.add_argument(
            "--changed",
            action="store_true",
            help="Only projections whose class has changed since they were built.",
        )
        parser.add_argument(
            "--drop-old",
            action="store_true",
            help="Build nothing; drop what earlier builds with --blue-green have kept.",
        )

    def run(self, **options: Any) -> None:
        """Rebuild the chosen projections, or drop their old collections."""
        check_replica_set()
        self.verbosity = options["verbosity"]
        chosen = self.chosen(options["names"], only_changed=options["changed"])
        if not chosen:
            self.stdout.write("Nothing to rebuild.")
        parked = 0
        for cls in chosen:
            if options["drop_old"]:
                self.drop_old(cls)
            else:
                parked += self.build(cls, beside=options["blue_green"])
        if parked:
            raise CommandError(
                f"Parked {counted(parked, 'stream')} of which an event could not be "
                "applied; see manage.py subscriptions show NAME."
            )

    def chosen(self, names: list[str], *, only_changed: bool) -> list[type[Projection]]:
        """Return the projections of these names, or all."""
        known = registered_projections()
        for name in names:
            if name not in known:
                raise UnknownSubscription(name, list(known))
        found = [known[name] for name in dict.fromkeys(names)] or list(known.values())
        if not only_changed:
            return found
        changed = {
            one.name for one in drive(statuses(connection.blocking())) if one.changed
        }
        return [cls for cls in found if cls.name in changed]

    def build(self, cls: type[Projection], *, beside: bool) -> int:
        """Rebuild one projection; return how many streams are parked."""
        progress, began = Progress(self.stderr, None, self.verbosity), time.monotonic()

        def show(position: int, last: int) -> None:
            progress.total = last
            progress.show(position, time.monotonic() - began)

        rebuild = Rebuild(cls, beside=beside, progress=show)
        try:
            with ending(rebuild.stop):
                built = rebuild.run()
        except ValueError as error:  # it is paused
            raise CommandError(str(error)) from None
        progress.end()
        if built is None:
            raise CommandError("Stopped.", returncode=INTERRUPTED)
        collection = collection_name(built.name, built.generation)
        self.stdout.write(
            f"Built {built.name} up to position {built.position:,}, in collection "
            f"{collection}."
        )
        return built.parked

    def drop_old(self, cls: type[Projection]) -> None:
        """Drop the collections that builds of one projection have kept."""
        for name in drop_old(cls):
            self.stdout.write(f"Dropped {name}.")
