"""
An SQL database that subscriptions write to: SQLite, or a PostgreSQL database.

``TEST_POSTGRESQL`` names that one; libpq's own variables say how it is reached.
"""

import asyncio
import os
from contextlib import contextmanager

from asgiref.sync import sync_to_async
from django.conf import settings
from django.core.management import call_command
from django.db import connections

POSTGRESQL = os.environ.get("TEST_POSTGRESQL")
SQL = "sql"  # its alias
SQLITE = {"ENGINE": "django.db.backends.sqlite3"}
SERVER = {"ENGINE": "django.db.backends.postgresql", "NAME": POSTGRESQL}


@contextmanager
def alias(blocker, database):
    """An alias ``sql`` of a database."""
    known = {**settings.DATABASES, SQL: {"OPTIONS": {}, **database}}
    connections.settings[SQL] = connections.configure_settings(known)[SQL]
    try:
        with blocker.unblock():
            yield
    finally:
        _disconnect()
        # The thread in which coroutines call what blocks keeps a connection, too.
        asyncio.run(sync_to_async(_disconnect)())
        del connections.settings[SQL]


def _disconnect():
    connections[SQL].close()
    del connections[SQL]


@contextmanager
def tables():
    """The tables of the app, and another one of effects, until the end."""
    migrate = ("migrate", "ossy_event_store_relational")
    call_command(*migrate, database=SQL, verbosity=0)
    with connections[SQL].cursor() as cursor:
        cursor.execute("CREATE TABLE effects (position bigint PRIMARY KEY)")
    yield
    with connections[SQL].cursor() as cursor:
        cursor.execute("DROP TABLE effects")
    call_command(*migrate, "zero", database=SQL, verbosity=0)


def take_effect(position):
    with connections[SQL].cursor() as cursor:
        cursor.execute("INSERT INTO effects VALUES (%s)", [position])


def effects():
    with connections[SQL].cursor() as cursor:
        cursor.execute("SELECT position FROM effects ORDER BY position")
        return [position for (position,) in cursor.fetchall()]
