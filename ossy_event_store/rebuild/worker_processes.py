"""
Processes that fold parts of a rebuild, and the process that hands the parts out.

They are spawned, not forked: PyMongo's threads and locks do not survive a fork. One
that ends before its work ends the rebuild. All of them end with the one that began
them, however that ended: by Ctrl-C, SIGTERM or the power.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from multiprocessing import connection
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

import django
from django.core.exceptions import ImproperlyConfigured

from .. import embedded
from ..conf import get_settings
from ..exceptions import RebuildBroken
from ..mongodb import connection as mongodb_connection
from ..mongodb import location
from ..mongodb.ports import drive
from ..registry import root_of
from ..streams.gc_pause import fewer_collections
from ..streams.reducers import revision_of
from .dry_run import DryRefold
from .fold_streams import Refold, run_part
from .ranges import Partition, Span
from .report import RebuildReport
from .tallies import NAMED, Tally

TELL = 0.2  # seconds between two words of a process on how far it is
END = 5.0  # seconds in which a process has to end

SETTINGS = "DJANGO_SETTINGS_MODULE"


@dataclass(frozen=True)
class Task:
    """What a process is to do: the streams, and how."""

    span: Span
    revision: str
    partition: Partition | None
    stale: bool
    dry_run: bool


@dataclass(frozen=True)
class WorkerMessage:
    """What a process tells: how far it is with its task, or that it is done."""

    report: RebuildReport
    #: The stream up to which snapshots are written; None if that is not new.
    done: str | None = None
    #: At the end: how many streams and events there were.
    tally: Tally | None = None


# --- who hands out ----------------------------------------------------------


def work(
    tasks: Sequence[Task], number: int
) -> Generator[tuple[int, WorkerMessage], None, None]:
    """
    Have ``number`` processes do the tasks; yield what they tell, by task.

    Raises:
        RebuildBroken: a process ended before its work.
        ImproperlyConfigured: a process could not set Django up.
    """
    if not os.environ.get(SETTINGS):
        raise ImproperlyConfigured(
            f"Processes of their own need the environment's {SETTINGS}, to set Django "
            "up; settings.configure() does not reach them."
        )
    with _processes(min(number, len(tasks))) as processes:
        yield from _handed_out(tasks, processes)


def _handed_out(
    tasks: Sequence[Task], processes: dict[Connection, BaseProcess]
) -> Generator[tuple[int, WorkerMessage], None, None]:
    waiting = deque(range(len(tasks)))
    busy: dict[Connection, int] = {}

    def hand_out(idle: Connection) -> None:
        if waiting:
            busy[idle] = waiting.popleft()
            with suppress(OSError):  # its end is noticed below
                idle.send(tasks[busy[idle]])

    for idle in processes:
        hand_out(idle)
    while busy:
        for ready in connection.wait(list(busy)):
            assert isinstance(ready, Connection)  # noqa: S101 - for the type checker
            number = busy[ready]
            word = _heard(ready, tasks[number], processes[ready])
            if word.tally is not None:
                del busy[ready]
                hand_out(ready)
            yield number, word


def _heard(told: Connection, task: Task, process: BaseProcess) -> WorkerMessage:
    try:
        word: WorkerMessage | BaseException = told.recv()
    except (EOFError, OSError):
        process.join(END)
        raise RebuildBroken(str(task.span), process.exitcode) from None
    if isinstance(word, BaseException):
        raise word
    return word


@contextmanager
def _processes(number: int) -> Iterator[dict[Connection, BaseProcess]]:
    """Start processes, and end them, whatever happens."""
    spawn = multiprocessing.get_context("spawn")
    started: dict[Connection, BaseProcess] = {}
    try:
        for _ in range(number):
            ours, theirs = spawn.Pipe()
            process: BaseProcess = spawn.Process(
                target=_serve, args=(theirs, *_store()), name="ossy_event_store.rebuild"
            )
            with _without_ctrl_c(), closing(theirs):
                process.start()
            started[ours] = process
        yield started
    finally:
        for ours, process in started.items():
            ours.close()
            process.terminate()
        for process in started.values():
            process.join(END)
            process.kill()
            process.join()
            process.close()


def _store() -> tuple[str | None, str]:
    """Return where the store's server runs, if a URL says so, and its database."""
    source = location.resolve()
    if source.borrows:
        return None, mongodb_connection.raw(
            mongodb_connection.blocking().events
        ).database.name
    url = source.url
    if url.startswith(location.EMBEDDED):
        url = embedded.start(url.removeprefix(location.EMBEDDED), get_settings().MONGOD)
    return None if source.alias else url, source.name


@contextmanager
def _without_ctrl_c() -> Iterator[None]:
    """Let a process that is started not get it; it is for who started it."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


# --- who works --------------------------------------------------------------


def _serve(told: Connection, url: str | None, name: str) -> None:
    """Do task after task, until nobody gives one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    # What this process is must not be taken from the arguments of another.
    sys.argv = ["ossy_event_store.workers"]
    try:
        django.setup()
        location.adopt(url, name)
        with fewer_collections():
            while True:
                _do(told.recv(), told)
    except (EOFError, BrokenPipeError):
        return
    except BaseException as error:
        with suppress(OSError):  # nobody listens any more
            told.send(_portable(error))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)


def _do(task: Task, told: Connection) -> None:
    Root = root_of(task.span.kind)
    if revision_of(Root) != task.revision:
        raise ImproperlyConfigured(
            f"The code of {task.span.kind} changed while the rebuild began: "
            "run it again."
        )
    last = time.monotonic()

    def tell() -> None:
        nonlocal last
        if time.monotonic() - last >= TELL:
            last = time.monotonic()
            told.send(WorkerMessage(_light(fold.report)))

    async def written() -> None:
        told.send(WorkerMessage(_light(fold.report), fold.done))

    make = DryRefold if task.dry_run else Refold
    fold = make(mongodb_connection.blocking(), tell, written)
    tally = Tally(task.span.kind)
    drive(run_part(fold, Root, task.span, task.partition, task.stale, tally))
    told.send(WorkerMessage(fold.report, tally=tally))


def _light(report: RebuildReport) -> RebuildReport:
    """Return a report without what only its reader needs at the end."""
    return replace(report, failures=report.failures[:NAMED], dry_run={})


def _portable(error: BaseException) -> BaseException:
    """Return an error as it can be sent: as it is, or as its text."""
    try:
        again: Any = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own
        return error if isinstance(again, BaseException) else RuntimeError(str(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
