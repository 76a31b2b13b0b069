"""
Rebuild stale snapshots when a process begins to serve.

``ready()`` runs in every process that sets Django up, also in one that forks its
workers afterwards, and uWSGI forks without telling Python. A thread or a connection
that exists by then is broken in the workers. So this begins with the first request,
or earlier in a process that is known to serve and not to fork. Management commands,
tests and the autoreloader's parent do nothing. A database that is down is retried.
"""

from __future__ import annotations

import asyncio
import atexit
import hashlib
import itertools
import logging
import os
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from django.apps import apps
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import request_started
from django.utils.autoreload import DJANGO_AUTORELOAD_ENV
from pymongo.errors import OperationFailure, PyMongoError

from ..aggregate.registry import registered_aggregates
from ..conf import get_settings
from ..documents.collections import STARTUP_LEASE
from ..exceptions import EventStoreError
from ..mongodb import connection, leases, location
from ..mongodb.connection import Store
from ..mongodb.deadline import in_time
from ..mongodb.ports import drive
from ..mongodb.write_errors import short_reason
from ..streams.reducers import revision_of
from .api import AggregateRebuild
from .report import RebuildReport

logger = logging.getLogger("ossy_event_store")

SETS_UP = ("django.core.wsgi", "django.core.asgi")  # for a process that serves
LEASE_SECONDS = 30.0  # renewed well before
# A process relies on another's look for stale snapshots that ended after this process
# began, or this much earlier: workers of a site do not start at the very same time.
RECENT_SECONDS = 10.0
LONGEST_PAUSE_SECONDS = 60.0  # between two attempts while the database is down
END_SECONDS = 1.0  # that the end of the process waits for the thread


@dataclass
class _Rebuild:
    """The rebuild of one process."""

    #: A forked child has another one, and begins its own rebuild.
    process: int = field(default_factory=os.getpid)
    began: float = field(default_factory=time.monotonic)
    #: Set once the first attempt has ended, whatever its outcome.
    attempted: threading.Event = field(default_factory=threading.Event)
    #: Set when the process ends.
    ending: threading.Event = field(default_factory=threading.Event)
    thread: threading.Thread | None = None


class _ProcessEnds(Exception):
    """The process ends, so the rebuild does."""


_rebuild = _Rebuild(process=0)  # of no process
_lock = threading.Lock()


def begin() -> None:
    """Start the rebuild as soon as this process may; called once by ``ready()``."""
    request_started.connect(_on_request, dispatch_uid="ossy_event_store.startup")
    if serves_unforked():
        _start()


def serves_unforked() -> bool:
    """Whether this process is known to serve and not to fork workers for that."""
    if location.is_test_run():
        return False
    if len(sys.argv) > 1 and sys.argv[1].startswith("runserver"):
        # The parent only watches files; the child, or the only process, serves.
        return (
            os.environ.get(DJANGO_AUTORELOAD_ENV) == "true" or "--noreload" in sys.argv
        )
    frame: Any = sys._getframe()
    while frame.f_globals.get("__name__") not in SETS_UP:
        frame = frame.f_back
        if frame is None:
            return False
    # A server forks before it runs an event loop.
    with suppress(RuntimeError):
        return asyncio.get_running_loop() is not None
    # A program that sets the application up by itself is no server that forks.
    caller = frame.f_back
    return caller is not None and caller.f_globals.get("__name__") == "__main__"


def _on_request(**kwargs: object) -> None:
    rebuild = None if location.is_test_run() else _start()
    if rebuild is not None and get_settings().REBUILD_ON_STARTUP == "blocking":
        rebuild.attempted.wait()
    request_started.disconnect(dispatch_uid="ossy_event_store.startup")


def _start() -> _Rebuild | None:
    """Start this process's thread, unless it is started; None if it must not start."""
    global _rebuild
    try:
        if not get_settings().REBUILD_ON_STARTUP:
            return None
    except ImproperlyConfigured as error:
        logger.error("Cannot rebuild stale snapshots: %s", error)
        return None
    with _lock:
        if _rebuild.process != os.getpid():
            _rebuild = _Rebuild()
            _rebuild.thread = threading.Thread(
                target=_keep_trying,
                args=(_rebuild,),
                name="ossy_event_store.rebuild",
                daemon=True,
            )
            _rebuild.thread.start()
    return _rebuild


@atexit.register  # later than the client's, so it runs earlier
def _end() -> None:
    if _rebuild.process == os.getpid() and _rebuild.thread is not None:
        _rebuild.ending.set()
        _rebuild.thread.join(END_SECONDS)


def _keep_trying(rebuild: _Rebuild) -> None:
    """Rebuild under the lease; retry later as long as that fails."""
    # Wait for every app: a reducer may use what another app sets up.
    apps.ready_event.wait()
    owner = leases.new_owner()
    for attempt in itertools.count(2):
        try:
            ended = _attempt(owner, rebuild)
        finally:
            rebuild.attempted.set()
        pause = min(LONGEST_PAUSE_SECONDS, 2.0 ** min(attempt, 6))
        if ended or rebuild.ending.wait(pause):
            return


def _attempt(owner: str, rebuild: _Rebuild) -> bool:
    """Rebuild what is stale; return whether no further attempt is needed."""
    try:
        # None: another process rebuilds. It may die, so try again later.
        return rebuild_stale(owner, rebuild) is not None
    except Exception as error:
        if rebuild.ending.is_set():  # whatever it is: the client may be closed
            return True
        if isinstance(error, (ImproperlyConfigured, OperationFailure)):
            logger.error(
                "Cannot rebuild stale snapshots, giving up: %s", short_reason(error)
            )
            return True
        if isinstance(error, (EventStoreError, PyMongoError)):
            logger.warning(
                "Cannot rebuild stale snapshots yet, retrying: %s", short_reason(error)
            )
            return False
        # Python prints the error of a thread that dies, but not to the site's log.
        logger.exception("Cannot rebuild stale snapshots, giving up.")
        return True


def rebuild_stale(owner: str, rebuild: _Rebuild) -> RebuildReport | None:
    """
    Rebuild stale snapshots, unless a process with the same reducers has just done so.

    Args:
        owner: this process, from ``leases.new_owner()``.
        rebuild: since when it wants to, and whether it ends.

    Returns:
        What was rebuilt; None if another process is doing so.
    """
    if not registered_aggregates():
        return RebuildReport()
    store = connection.blocking()
    renewed = time.monotonic()
    with in_time():
        if not drive(leases.acquire(store, STARTUP_LEASE, owner, LEASE_SECONDS)):
            return None

    def renew(report: RebuildReport) -> None:
        nonlocal renewed
        if rebuild.ending.is_set():
            raise _ProcessEnds
        if time.monotonic() - renewed > LEASE_SECONDS / 3:
            renewed = time.monotonic()
            with in_time():
                drive(leases.acquire(store, STARTUP_LEASE, owner, LEASE_SECONDS))

    reducers = _reducers()
    try:
        with in_time():
            since = time.monotonic() - rebuild.began + RECENT_SECONDS
            if drive(_is_done(store, reducers, since)):
                logger.info("Another process found no stale snapshots at start-up.")
                return RebuildReport()
        report = AggregateRebuild.build_and_save_all(stale=True, progress=renew)
        with in_time():
            drive(_note_done(store, reducers))
    finally:
        with in_time():
            drive(leases.release(store, STARTUP_LEASE, owner))
    if report.streams:
        logger.log(
            logging.INFO if report.ok else logging.ERROR,
            "Rebuilt stale snapshots at start-up: %s",
            report,
        )
    else:
        logger.info("No stale snapshots at start-up.")
    return report


# --- what processes tell each other -----------------------------------------


def _reducers() -> str:
    """Return what names all registered reducers and their revisions."""
    roots = registered_aggregates()
    revisions = [(name, revision_of(Root)) for name, Root in roots.items()]
    return hashlib.sha256(repr(revisions).encode()).hexdigest()


async def _is_done(store: Store, reducers: str, seconds: float) -> bool:
    """Whether a process with the same reducers was done at most so long ago."""
    age = {"$subtract": ["$$NOW", "$done.at"]}  # milliseconds; null if never
    query = {
        "_id": STARTUP_LEASE,
        "done.reducers": reducers,
        "$expr": {"$lte": [age, seconds * 1000]},
    }
    return await store.leases.find_one(query, projection={"_id": 1}) is not None


async def _note_done(store: Store, reducers: str) -> None:
    done = {"reducers": reducers, "at": "$$NOW"}
    await store.leases.update_one({"_id": STARTUP_LEASE}, [{"$set": {"done": done}}])
