"""``manage.py ensure_event_store``: create the indexes, install the validator."""

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

_INSTALLED = {
    Standing.ABSENT: "Installed the validator: eventstore now accepts only events.",
    Standing.OTHER_VERSION: "Replaced the validator with that of this version.",
    Standing.CURRENT: "The validator is up to date.",
}


class Command(StoreCommand):
    """Create the indexes that the event store needs; safe to repeat."""

    help = (
        "Creates the indexes that the event store needs, as migrate does. For projects "
        "without SQL migrations, and for deployments with a separate MongoDB user."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the options."""
        parser.add_argument(
            "--validator",
            action=BooleanOptionalAction,
            help="Also install the validator, with which MongoDB refuses any document "
            "that is not an event; or remove it. By default it stays as it is.",
        )

    def run(self, **options: Any) -> None:
        """Create what is missing, and print what was created."""
        self._verbosity = options["verbosity"]
        store = connection.blocking()
        created = drive(indexes.ensure(store))
        for index in created:
            self._say(f"Created {index.collection}.{index.name}: {index.reason}")
        for_projections = drive(projection.ensure_indexes(store))
        for name in for_projections:
            self._say(f"Created {name} for a projection.")
        if not (created or for_projections):
            self._say("All indexes exist.")
        if options["validator"] is not None:
            with _explained_rights():
                change = _install if options["validator"] else _remove
                self._say(change(store))
        if options["validator"]:
            self._report_misfits(store)

    def _say(self, text: str) -> None:
        if self._verbosity >= 1:
            self.stdout.write(text)

    def _report_misfits(self, store: Store) -> None:
        seconds = get_settings().TIMEOUT
        try:
            found = drive(schema_validator.misfits(store, seconds))
        except OperationFailure as error:
            if error.code != UNAUTHORIZED:
                raise
            self._say("Stored events were not checked: this user may not read them.")
            return
        if found.ids:
            ids = ", ".join(map(repr, found.ids))
            self._say(
                self.style.WARNING(
                    f"The validator would refuse some stored events, such as {ids}. "
                    "They stay stored and can be read as before."
                )
            )
        if not found.complete:
            self._say(
                f"Not all stored events were checked: the limit is {seconds:g} s."
            )


def _install(store: Store) -> str:
    before = drive(schema_validator.standing(store))
    if before is Standing.FOREIGN:
        raise CommandError(
            "The collection eventstore has a validator that this app did not install. "
            "Remove it first: manage.py ensure_event_store --no-validator"
        )
    if before is not Standing.CURRENT:
        drive(schema_validator.install(store))
    return _INSTALLED[before]


def _remove(store: Store) -> str:
    if drive(schema_validator.standing(store)) is Standing.ABSENT:
        return "No validator is installed."
    drive(schema_validator.remove(store))
    return "Removed the validator."


@contextmanager
def _explained_rights() -> Iterator[None]:
    try:
        yield
    except OperationFailure as error:
        if error.code != UNAUTHORIZED:
            raise
        raise CommandError(
            "MongoDB refused to change the validator: this user needs collMod on the "
            "collection eventstore and listCollections on its database."
        ) from None
