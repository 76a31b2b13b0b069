"""``manage.py ensure_event_store``: make the indexes."""

from __future__ import annotations

from typing import Any

from ... import indexes, mongo
from ...faces import drive
from ._base import StoreCommand


class Command(StoreCommand):
    """Make the indexes that the event store needs; harmless to repeat."""

    help = (
        "Makes the indexes that the event store needs, as migrate does; for projects "
        "without SQL migrations and for deployments under a user of their own."
    )

    def run(self, **options: Any) -> None:
        """Make what is missing, and say what was made."""
        created = drive(indexes.ensure(mongo.blocking()))
        for index in created:
            self.stdout.write(f"Made {index.collection}.{index.name}: {index.reason}")
        if not created:
            self.stdout.write("Every index is there.")
