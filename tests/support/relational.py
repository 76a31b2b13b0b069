"""
An SQL database that subscriptions write to: SQLite, or a PostgreSQL database.

``TEST_POSTGRESQL`` names that one; libpq's own variables say how it is reached.
"""

import os

from django.db import connections

POSTGRESQL = os.environ.get("TEST_POSTGRESQL")
SQL = "sql"  # its alias


def take_effect(position):
    with connections[SQL].cursor() as cursor:
        cursor.execute("INSERT INTO effects VALUES (%s)", [position])


def effects():
    with connections[SQL].cursor() as cursor:
        cursor.execute("SELECT position FROM effects ORDER BY position")
        return [position for (position,) in cursor.fetchall()]
