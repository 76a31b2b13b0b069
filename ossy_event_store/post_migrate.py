"""After ``migrate``: create the indexes, or log why they could not be created."""

from __future__ import annotations

import logging
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.db import DEFAULT_DB_ALIAS
from pymongo.errors import PyMongoError

from .exceptions import EventStoreError
from .mongodb import connection, indexes, location
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
    """
    try:
        source = location.resolve()
        if using != (source.alias or DEFAULT_DB_ALIAS):
            return
        key = (source.origin + source.url, source.name)
        if key in _done:
            return
        if location.is_test_run():
            _done.add(key)
        store = connection.blocking()
        created = [f"{i.collection}.{i.name}" for i in drive(indexes.ensure(store))]
        created += drive(projection.ensure_indexes(store))
    except ImproperlyConfigured:
        return  # the checks report the settings
    except (EventStoreError, PyMongoError) as error:
        logger.warning(
            "Could not create the indexes of the event store: %s. "
            "Run manage.py ensure_event_store when the server is available.",
            short_reason(error),
        )
        return
    if created and verbosity >= 1:
        stdout = kwargs.get("stdout")
        names = ", ".join(created)
        if stdout is not None:
            stdout.write(f"  Created indexes of the event store: {names}\n")
        else:
            logger.info("Created indexes of the event store: %s", names)
