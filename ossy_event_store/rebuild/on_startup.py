"""
Start-up: a process that serves brings stale snapshots up to date.

``ready()`` runs in every process that sets Django up, so it first has to be known
what kind this is. Management commands, tests and the autoreloader's parent do
nothing; a database that is down is retried and delays nobody.
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
from ..exceptions import EventStoreError
from ..mongodb import connection, leases, location
from ..mongodb.deadline import in_time
from ..mongodb.ports import drive
from ..mongodb.write_errors import short_reason
from ..registry import registered_aggregates
from .api import AggregateRebuild
from .report import RebuildReport

logger = logging.getLogger("ossy_event_store")

LEASE = "rebuild"
HOLD = 30.0  # seconds a lease holds; renewed well before
LONGEST_WAIT = 60.0  # seconds between two tries while the database is down

_begun_in: int | None = None  # the process that has begun


def begin() -> None:
    """Begin the rebuild if this process serves; called once by ``ready()``."""
    if serves():
        _begin()
    else:
        # A server that sets Django up in a way of its own is known by its requests.
        request_started.connect(_on_request, dispatch_uid="ossy_event_store.startup")


def serves() -> bool:
    """Whether this process is a web server's, told by who is setting Django up."""
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
        _begin(may_block=False)


def _begin(*, may_block: bool = True) -> None:
    global _begun_in
    wanted = get_settings().REBUILD_ON_STARTUP
    if _begun_in == os.getpid() or not wanted:
        return
    _begun_in = os.getpid()
    if wanted == "blocking" and may_block and _try(leases.new_owner()):
        return
    threading.Thread(
        target=_keep_trying, name="ossy_event_store.rebuild", daemon=True
    ).start()


def _keep_trying() -> None:
    """Rebuild under the lease; while that cannot be done, try again later."""
    # Not before every app is ready: a reducer may use what another sets up.
    apps.ready_event.wait()
    owner = leases.new_owner()
    for attempt in itertools.count(1):
        if attempt > 1:
            time.sleep(min(LONGEST_WAIT, 2.0 ** min(attempt, 6)))
        if _try(owner):
            return


def _try(owner: str) -> bool:
    """Rebuild what is stale; return whether there is nothing left to try."""
    try:
        # None: another process is at it, which may die, so look in again later.
        return rebuild_stale(owner) is not None
    except (ImproperlyConfigured, OperationFailure) as error:
        logger.error("Snapshots are not rebuilt: %s", short_reason(error))
        return True
    except (EventStoreError, PyMongoError) as error:
        logger.warning(
            "Snapshots are not rebuilt yet, to be tried again: %s", short_reason(error)
        )
        return False
    except Exception:
        # A thread that dies would say so to nobody who reads the site's log.
        logger.exception("Snapshots are not rebuilt.")
        return True


def rebuild_stale(owner: str) -> RebuildReport | None:
    """
    Rebuild stale snapshots if no other process is doing so; else return None.

    Args:
        owner: this process, from ``leases.new_owner()``.
    """
    if not registered_aggregates():
        return RebuildReport()
    store = connection.blocking()
    with in_time():
        if not drive(leases.acquire(store, LEASE, owner, HOLD)):
            return None
    renewed = time.monotonic()

    def renew(report: RebuildReport) -> None:
        nonlocal renewed
        if time.monotonic() - renewed > HOLD / 3:
            renewed = time.monotonic()
            with in_time():
                drive(leases.acquire(store, LEASE, owner, HOLD))

    try:
        report = AggregateRebuild.build_and_save_all(stale=True, progress=renew)
    finally:
        with in_time():
            drive(leases.release(store, LEASE, owner))
    if report.streams:
        logger.log(
            logging.INFO if report.ok else logging.ERROR, "Start-up rebuild: %s", report
        )
    else:
        logger.info("Start-up rebuild: every snapshot is current.")
    return report
