"""Empty the store between two tests, and nothing but a database of tests."""

from __future__ import annotations

from django.core.exceptions import ImproperlyConfigured

from ..documents.collections import TEST_RUN
from ..mongodb import connection, location
from ..mongodb.deadline import explained, in_time
from .generations import collection_name, in_use


def empty_test_database() -> None:
    """
    Delete all documents of the store and of projections; for the set-up of a test.

    Indexes stay, and collections of others.

    Raises:
        ImproperlyConfigured: no tests run in this process, or the database holds events
            that no test run left there.
        StoreUnavailable: no server answered within the setting ``TIMEOUT``.
    """
    if not location.is_test_run():
        raise ImproperlyConfigured(
            "empty_test_database() is only for tests, and none run in this process: "
            "Django's setup_test_environment() was not called."
        )
    with explained(), in_time():
        events = connection.raw(connection.blocking().events)
        database = events.database
        names = database.list_collection_names()
        if TEST_RUN not in names:
            # Django itself makes the database of an alias for its tests.
            if not location.resolve().borrows and events.find_one({}, {"_id": 1}):
                raise ImproperlyConfigured(
                    f"The database {database.name!r} contains events, but not the "
                    f"collection {TEST_RUN!r}, which marks a database of tests. If "
                    "only tests use it, drop it; else choose another name for tests."
                )
            database.create_collection(TEST_RUN)
        prefix = collection_name("", 1)
        for name in names:
            if name in connection.COLLECTION_OPTIONS or name.startswith(prefix):
                database[name].delete_many({})
    in_use.forget()
