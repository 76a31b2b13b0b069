"""The SQL database of these tests, with the table of checkpoints."""

import shutil
from contextlib import closing, contextmanager

import pytest
from django.conf import settings as django_settings
from django.core.management import call_command
from django.db import connections

from tests.support.relational import POSTGRESQL, SQL

SQLITE = {"ENGINE": "django.db.backends.sqlite3"}
SERVER = {"ENGINE": "django.db.backends.postgresql", "NAME": POSTGRESQL}


@contextmanager
def _alias(blocker, database):
    """An alias ``sql`` of a database."""
    known = {**django_settings.DATABASES, SQL: {"OPTIONS": {}, **database}}
    connections.settings[SQL] = connections.configure_settings(known)[SQL]
    try:
        with blocker.unblock(), closing(connections[SQL]):
            yield
        del connections[SQL]
    finally:
        del connections.settings[SQL]


@contextmanager
def _tables():
    """The table of checkpoints, and another one of effects, until the end."""
    migrate = ("migrate", "ossy_event_store_relational")
    call_command(*migrate, database=SQL, verbosity=0)
    with connections[SQL].cursor() as cursor:
        cursor.execute("CREATE TABLE effects (position bigint PRIMARY KEY)")
    yield
    with connections[SQL].cursor() as cursor:
        cursor.execute("DROP TABLE effects")
    call_command(*migrate, "zero", database=SQL, verbosity=0)


@pytest.fixture(scope="session")
def _migrated(tmp_path_factory, django_db_blocker):
    """A file with the tables; to migrate takes longer than most of the tests."""
    folder = tmp_path_factory.mktemp("sql")
    with _alias(django_db_blocker, {**SQLITE, "NAME": str(folder / "db")}), _tables():
        return shutil.copy(folder / "db", folder / "migrated")


@pytest.fixture(autouse=True)
def _database(request, tmp_path, django_db_blocker):
    """An alias ``sql`` that has the tables, and nothing in them."""
    if POSTGRESQL:
        with _alias(django_db_blocker, SERVER), _tables():
            yield
        return
    file = shutil.copy(request.getfixturevalue("_migrated"), tmp_path)
    with _alias(django_db_blocker, {**SQLITE, "NAME": str(file)}):
        yield
