"""After ``migrate``: make the indexes, or say plainly why they could not be made."""

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

# Django sends post_migrate after each test that flushes a database, too.
_done: set[tuple[str, str]] = set()


def ensure_indexes(*, using: str, verbosity: int = 1, **kwargs: Any) -> None:
    """
    Make the indexes once ``migrate`` is done with the store's alias.

    A server that is down does not undo a migration of other databases: it is
    logged, a check goes on to name the missing indexes, and
    ``manage.py ensure_event_store`` makes them.
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
        return  # the checks say what is missing
    except (EventStoreError, PyMongoError) as error:
        logger.warning(
            "The event store's indexes were not made: %s. "
            "Run manage.py ensure_event_store when the server is there.",
            short_reason(error),
        )
        return
    if created and verbosity >= 1:
        stdout = kwargs.get("stdout")
        names = ", ".join(created)
        if stdout is not None:
            stdout.write(f"  Made indexes of the event store: {names}\n")
        else:
            logger.info("Made indexes of the event store: %s", names)
