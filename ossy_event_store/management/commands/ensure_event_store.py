"""``manage.py ensure_event_store``: make the indexes, install the validator."""

from __future__ import annotations

from argparse import BooleanOptionalAction
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.core.management.base import CommandError, CommandParser
from pymongo.errors import OperationFailure

from ...conf import get_settings
from ...mongodb import connection, indexes, schema_validator
from ...mongodb.connection import Store
from ...mongodb.ports import drive
from ...mongodb.schema_validator import Standing
from ...mongodb.write_errors import UNAUTHORIZED
from ...projections import projection
from ._base import StoreCommand

_SAID = {
    Standing.ABSENT: "Installed the validator: eventstore takes nothing but events.",
    Standing.OTHER_VERSION: "Replaced the validator by this version's.",
    Standing.CURRENT: "The validator is there.",
}


class Command(StoreCommand):
    """Make the indexes that the event store needs; harmless to repeat."""

    help = (
        "Makes the indexes that the event store needs, as migrate does; for projects "
        "without SQL migrations and for deployments under a user of their own."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Say what can be chosen."""
        parser.add_argument(
            "--validator",
            action=BooleanOptionalAction,
            help="Install the validator too, with which MongoDB refuses whatever is no "
            "event; or take it off. Without either it stays as it is.",
        )

    def run(self, **options: Any) -> None:
        """Make what is missing, and say what was made."""
        store = connection.blocking()
        created = drive(indexes.ensure(store))
        for index in created:
            self.stdout.write(f"Made {index.collection}.{index.name}: {index.reason}")
        of_projections = drive(projection.ensure_indexes(store))
        for name in of_projections:
            self.stdout.write(f"Made {name}, of a projection.")
        if not (created or of_projections):
            self.stdout.write("Every index is there.")
        if options["validator"] is not None:
            with _rights_named():
                change = _install if options["validator"] else _remove
                self.stdout.write(change(store))
        if options["validator"]:
            self._tell_of_misfits(store)

    def _tell_of_misfits(self, store: Store) -> None:
        seconds = get_settings().TIMEOUT
        try:
            found = drive(schema_validator.misfits(store, seconds))
        except OperationFailure as error:
            if error.code != UNAUTHORIZED:
                raise
            self.stdout.write("This user may not look at what is stored already.")
            return
        if found.ids:
            ids = ", ".join(map(repr, found.ids))
            self.stdout.write(
                self.style.WARNING(
                    "It would refuse some events that are stored already, such as "
                    f"{ids}. They stay, and are read as ever."
                )
            )
        if not found.complete:
            self.stdout.write(
                f"In {seconds:g} s not all that is stored already could be looked at."
            )


def _install(store: Store) -> str:
    before = drive(schema_validator.standing(store))
    if before is Standing.FOREIGN:
        raise CommandError(
            "eventstore has a validator that is not of the event store. To replace "
            "it, take it off first: manage.py ensure_event_store --no-validator"
        )
    if before is not Standing.CURRENT:
        drive(schema_validator.install(store))
    return _SAID[before]


def _remove(store: Store) -> str:
    if drive(schema_validator.standing(store)) is Standing.ABSENT:
        return "There is no validator."
    drive(schema_validator.remove(store))
    return "Took the validator off."


@contextmanager
def _rights_named() -> Iterator[None]:
    try:
        yield
    except OperationFailure as error:
        if error.code != UNAUTHORIZED:
            raise
        raise CommandError(
            "MongoDB refused: to change the validator, this user needs collMod on the "
            "collection eventstore and listCollections on its database."
        ) from None
