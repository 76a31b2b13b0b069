"""One worker process of a rebuild: it folds the ranges of streams that it receives."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing import connection
from multiprocessing.connection import Connection
from typing import Any

import django
from django.core.exceptions import ImproperlyConfigured

from ..aggregate.registry import root_of
from ..exceptions import UnexpectedState
from ..mongodb import connection as mongodb_connection
from ..mongodb import location
from ..mongodb.ports import drive
from ..streams.gc_pause import collect_less_often
from ..streams.reducers import revision_of
from .dry_run import DryRunBuilder
from .fold_streams import SnapshotBuilder, fold_range
from .ranges import Partition, Span
from .report import RebuildReport
from .tallies import NAMED_FAILURES, Tally

REPORT_SECONDS = 0.2  # between two messages about the progress of a task


@dataclass(frozen=True)
class Task:
    """What a worker has to do: the streams, and how."""

    span: Span
    revision: str
    partition: Partition | None
    stale: bool
    dry_run: bool


@dataclass(frozen=True)
class WorkerMessage:
    """Progress or result of a task."""

    report: RebuildReport
    #: The stream up to which snapshots are written; None if that has not changed.
    done: str | None = None
    #: With the result: how many streams and events there were.
    tally: Tally | None = None


def serve(parent: Connection, url: str | None, name: str) -> None:
    """
    Do task after task, until the parent closes the connection.

    Args:
        parent: where tasks arrive, and messages go.
        url: where the store's server is; None takes the settings.
        name: its database.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    # Code that looks at the arguments must not take this process for its parent.
    sys.argv = ["ossy_event_store.workers"]
    try:
        django.setup()
        location.adopt(url, name)
        collect_less_often()
        while True:
            _do(parent.recv(), parent)
    except (EOFError, BrokenPipeError):
        return
    except BaseException as error:
        with suppress(OSError):  # the parent no longer listens
            parent.send(portable(error))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)


def _do(task: Task, parent: Connection) -> None:
    Root = root_of(task.span.aggregate_type)
    if revision_of(Root) != task.revision:
        raise ImproperlyConfigured(
            f"The code of {task.span.aggregate_type} changed while the rebuild "
            "started. Run it again."
        )
    last = time.monotonic()

    def report_progress() -> None:
        nonlocal last
        if time.monotonic() - last >= REPORT_SECONDS:
            last = time.monotonic()
            parent.send(WorkerMessage(_light(builder.report)))

    async def report_written() -> None:
        parent.send(WorkerMessage(_light(builder.report), builder.done))

    make = DryRunBuilder if task.dry_run else SnapshotBuilder
    builder = make(mongodb_connection.blocking(), report_progress, report_written)
    tally = Tally(task.span.aggregate_type)
    drive(fold_range(builder, Root, task.span, task.partition, task.stale, tally))
    parent.send(WorkerMessage(builder.report, tally=tally))


def _light(report: RebuildReport) -> RebuildReport:
    """Return a report without what is only needed at the end."""
    return replace(report, failures=report.failures[:NAMED_FAILURES], dry_run={})


def portable(error: BaseException) -> BaseException:
    """Return an error as it can be sent: itself, or one with its text."""
    try:
        again: Any = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own
        if isinstance(again, BaseException):
            return error
        return UnexpectedState(str(error))
    except Exception:
        return UnexpectedState(f"{type(error).__name__}: {error}")
