"""The SQL database of these tests, with the table of checkpoints."""

from contextlib import closing

import pytest
from django.conf import settings as django_settings
from django.core.management import call_command
from django.db import connections

from tests.support.relational import POSTGRESQL, SQL


@pytest.fixture(autouse=True)
def _database(tmp_path, monkeypatch, django_db_blocker):
    """An alias ``sql`` that has the table, and another one of effects."""
    database = {"ENGINE": "django.db.backends.sqlite3", "NAME": str(tmp_path / "db")}
    if POSTGRESQL:
        database = {"ENGINE": "django.db.backends.postgresql", "NAME": POSTGRESQL}
    known = {**django_settings.DATABASES, SQL: {"OPTIONS": {}, **database}}
    complete = connections.configure_settings(known)[SQL]
    monkeypatch.setitem(connections.settings, SQL, complete)
    app = "ossy_event_store_relational"
    with django_db_blocker.unblock(), closing(connections[SQL]) as connection:
        call_command("migrate", app, database=SQL, verbosity=0)
        with connection.cursor() as cursor:
            cursor.execute("CREATE TABLE effects (position bigint PRIMARY KEY)")
        yield
        with connection.cursor() as cursor:
            cursor.execute("DROP TABLE effects")
        call_command("migrate", app, "zero", database=SQL, verbosity=0)
    del connections[SQL]
