"""
The database of a test: its indexes exist, and nothing is in it.
"""

from __future__ import annotations

from bson import MaxKey
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command
from pymongo.errors import OperationFailure

from ..conf import is_test_run
from ..documents.collections import SEQUENCER_SCAN
from ..mongodb import connection, location
from ..mongodb.connection import Store, database_name, raw
from ..mongodb.deadline import explained, in_time
from ..positions.change_stream import ChangeStream
from ..projections.empty import empty_test_database

PREFIX = "test_"
NO_CHANGE_STREAMS = 40573  # of a standalone server

# The databases whose indexes this process has created: the URL or alias, and the name.
_ready: set[tuple[str, str | None, str]] = set()


def check_test_run(what: str) -> None:
    """
    Refuse what only tests may do.

    Raises:
        ImproperlyConfigured: no tests run in this process.
    """
    if not is_test_run():
        raise ImproperlyConfigured(
            f"{what} is only for tests, and none run in this process: Django's "
            "setup_test_environment() was not called."
        )


def prepare() -> None:
    """
    Empty the store for a test; create its indexes if this is the first one.

    Raises:
        ImproperlyConfigured: no tests run in this process, or the store's database
            may be a real one.
        StoreUnavailable: no server answered within the setting ``TIMEOUT``.
    """
    check_test_run("The test kit")
    store = connection.blocking()
    name = database_name(store)
    if not name.startswith(PREFIX):
        raise ImproperlyConfigured(
            f"The test kit empties the store before each test, and the database "
            f"{name!r} may be a real one: its name does not begin with {PREFIX!r}. "
            "Remove NAME from TEST in DATABASES, or begin it so."
        )
    empty_test_database()
    source = location.resolve()
    database = (source.url, source.alias, name)
    if database not in _ready:
        with explained():
            call_command("ensure_event_store", verbosity=0)
        _ready.add(database)
    _begin_positions(store)


def _begin_positions(store: Store) -> None:
    """
    Let the events of the test get their positions in the order of their commits.

    Else the first sequencer would find them all stored, and give them positions by
    ``created``, which is equal for some, and which a test may set. So it finds a scan
    that was interrupted at its end, and continues with the changes since now.
    """
    if (token := token_of_now(store)) is not None:
        after = {"created": MaxKey(), "_id": ""}  # past every event
        scan = {"_id": SEQUENCER_SCAN, "token": token, "after": after}
        with explained(), in_time():
            raw(store.leases).insert_one(scan)


def token_of_now(store: Store) -> object | None:
    """Return where the changes after now begin; None if the server has no changes."""
    try:
        with explained(), in_time():
            changes = ChangeStream(raw(store.events))
            changes.close()
    except OperationFailure as error:
        if error.code != NO_CHANGE_STREAMS:
            raise
        return None
    token: object = changes.token
    return token
