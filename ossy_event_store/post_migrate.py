"""After ``migrate``: create the indexes, or log why they could not be created."""

from __future__ import annotations

import logging
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import CommandError
from pymongo.errors import PyMongoError

from .exceptions import EventStoreError, StoreUnavailable
from .mongodb import connection, indexes, location
from .mongodb.deadline import explained
from .mongodb.ports import drive
from .mongodb.write_errors import short_reason
from .projections import projection

logger = logging.getLogger("ossy_event_store")

# In tests, Django also sends post_migrate after each flush of a database.
_done: set[tuple[str, str]] = set()


def ensure_indexes(*, using: str, verbosity: int = 1, **kwargs: Any) -> None:
    """
    Create the indexes after ``migrate`` of the store's alias.

    A server that is down does not fail the migration of other databases: this logs a
    warning, a check names the missing indexes, and ``manage.py ensure_event_store``
    creates them.

    Raises:
        CommandError: the server answers, but an index cannot be created.
    """
    try:
        with explained():
            created = _created(using)
    except ImproperlyConfigured:
        return  # the checks report the settings
    except StoreUnavailable as error:
        logger.warning(
            "Could not create the indexes of the event store: %s. "
            "Run manage.py ensure_event_store when the server is available.",
            str(error).rstrip("."),
        )
        return
    except (EventStoreError, PyMongoError) as error:
        # The tables are migrated; the exit code tells a deployment of the rest.
        reason = error if isinstance(error, EventStoreError) else short_reason(error)
        raise CommandError(
            f"The indexes of the event store are not complete. {reason}"
        ) from None
    if created and verbosity >= 1:
        stdout = kwargs.get("stdout")
        names = ", ".join(created)
        if stdout is not None:
            stdout.write(f"  Created indexes of the event store: {names}\n")
        else:
            logger.info("Created indexes of the event store: %s", names)


def _created(using: str) -> list[str]:
    """Create the indexes if the store belongs to the alias ``using``."""
    source = location.resolve()
    key = (source.origin + source.url, source.name)
    if not location.is_migrated_with(source, using) or key in _done:
        return []
    if location.is_test_run():
        _done.add(key)
    store = connection.blocking()
    created = [f"{i.collection}.{i.name}" for i in drive(indexes.ensure(store))]
    return created + drive(projection.ensure_indexes(store))
