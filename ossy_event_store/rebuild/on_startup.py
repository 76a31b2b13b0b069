"""
Rebuild stale snapshots when a process that serves starts.

``ready()`` runs in every process that sets Django up, so this first finds out whether
the process serves. Management commands, tests and the autoreloader's parent do
nothing. A database that is down is retried and delays no request.
"""

from __future__ import annotations

import itertools
import logging
import os
import sys
import threading
import time
from typing import Any

from django.apps import apps
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import request_started
from django.utils.autoreload import DJANGO_AUTORELOAD_ENV
from pymongo.errors import OperationFailure, PyMongoError

from ..conf import get_settings
from ..documents.collections import STARTUP_LEASE
from ..exceptions import EventStoreError
from ..mongodb import connection, leases, location
from ..mongodb.deadline import in_time
from ..mongodb.ports import drive
from ..mongodb.write_errors import short_reason
from ..registry import registered_aggregates
from .api import AggregateRebuild
from .report import RebuildReport

logger = logging.getLogger("ossy_event_store")

LEASE_SECONDS = 30.0  # renewed well before
LONGEST_PAUSE_SECONDS = 60.0  # between two attempts while the database is down

_started_in: int | None = None  # the id of the process that has started it


def begin() -> None:
    """Start the rebuild if this process serves; called once by ``ready()``."""
    if serves():
        _start()
    else:
        # A server that sets Django up in its own way shows only by its requests.
        request_started.connect(_on_request, dispatch_uid="ossy_event_store.startup")


def serves() -> bool:
    """Whether this process serves, judging by what sets Django up."""
    if location.is_test_run():
        return False
    if len(sys.argv) > 1 and sys.argv[1].startswith("runserver"):
        # The parent only watches files; the child, or the only process, serves.
        return (
            os.environ.get(DJANGO_AUTORELOAD_ENV) == "true" or "--noreload" in sys.argv
        )
    frame: Any = sys._getframe()
    while frame is not None:
        if frame.f_globals.get("__name__") in ("django.core.wsgi", "django.core.asgi"):
            return True
        frame = frame.f_back
    return False


def _on_request(**kwargs: object) -> None:
    request_started.disconnect(dispatch_uid="ossy_event_store.startup")
    if not location.is_test_run():
        _start(may_block=False)


def _start(*, may_block: bool = True) -> None:
    global _started_in
    mode = get_settings().REBUILD_ON_STARTUP
    if _started_in == os.getpid() or not mode:
        return
    _started_in = os.getpid()
    if mode == "blocking" and may_block and _attempt(leases.new_owner()):
        return
    threading.Thread(
        target=_keep_trying, name="ossy_event_store.rebuild", daemon=True
    ).start()


def _keep_trying() -> None:
    """Rebuild under the lease; retry later as long as that fails."""
    # Wait for every app: a reducer may use what another app sets up.
    apps.ready_event.wait()
    owner = leases.new_owner()
    for attempt in itertools.count(1):
        if attempt > 1:
            time.sleep(min(LONGEST_PAUSE_SECONDS, 2.0 ** min(attempt, 6)))
        if _attempt(owner):
            return


def _attempt(owner: str) -> bool:
    """Rebuild what is stale; return whether no further attempt is needed."""
    try:
        # None: another process rebuilds. It may die, so try again later.
        return rebuild_stale(owner) is not None
    except (ImproperlyConfigured, OperationFailure) as error:
        logger.error(
            "Cannot rebuild stale snapshots, giving up: %s", short_reason(error)
        )
        return True
    except (EventStoreError, PyMongoError) as error:
        logger.warning(
            "Cannot rebuild stale snapshots yet, retrying: %s", short_reason(error)
        )
        return False
    except Exception:
        # Python prints the error of a thread that dies, but not to the site's log.
        logger.exception("Cannot rebuild stale snapshots, giving up.")
        return True


def rebuild_stale(owner: str) -> RebuildReport | None:
    """
    Rebuild stale snapshots; return None if another process is doing so.

    Args:
        owner: this process, from ``leases.new_owner()``.
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
        if time.monotonic() - renewed > LEASE_SECONDS / 3:
            renewed = time.monotonic()
            with in_time():
                drive(leases.acquire(store, STARTUP_LEASE, owner, LEASE_SECONDS))

    try:
        report = AggregateRebuild.build_and_save_all(stale=True, progress=renew)
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
