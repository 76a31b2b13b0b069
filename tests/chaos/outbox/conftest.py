"""A run has an SQL database of its own, which pytest-django knows nothing of."""

import pytest


@pytest.fixture(autouse=True)
def _unblocked(django_db_blocker):
    with django_db_blocker.unblock():
        yield
