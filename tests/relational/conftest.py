"""The SQL database of these tests, with the tables of the app."""

import pytest

from ossy_event_store.relational import outbox


@pytest.fixture(autouse=True)
def _database(request):
    """An alias ``sql`` that has the tables, and nothing in them."""
    if outbox.is_installed():  # else the tests that need it are skipped
        request.getfixturevalue("sql_database")
