"""
Start the worker processes of a rebuild, and give each its next range of streams.

They are spawned, not forked: PyMongo's threads and locks do not survive a fork. If one
dies, the rebuild ends. All of them end with the process that started them, however it
ended: by Ctrl-C, SIGTERM or a power failure.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from multiprocessing import connection
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

from django.core.exceptions import ImproperlyConfigured

from .. import embedded
from ..conf import get_settings
from ..exceptions import RebuildBroken
from ..mongodb import connection as mongodb_connection
from ..mongodb import location
from .worker import Task, WorkerMessage, serve

JOIN_SECONDS = 5.0  # in which a worker has to end; then it is killed

SETTINGS = "DJANGO_SETTINGS_MODULE"


def work(
    tasks: Sequence[Task], number: int
) -> Generator[tuple[int, WorkerMessage], None, None]:
    """
    Let ``number`` workers do the tasks; yield their messages, each with its task.

    Raises:
        RebuildBroken: a worker died before its work was done.
        ImproperlyConfigured: a worker could not set Django up.
    """
    if not os.environ.get(SETTINGS):
        raise ImproperlyConfigured(
            f"Worker processes need the environment variable {SETTINGS} to set Django "
            "up; settings.configure() does not reach them. Set it, or use one process."
        )
    with _workers(min(number, len(tasks))) as workers:
        yield from _distribute(tasks, workers)


def _distribute(
    tasks: Sequence[Task], workers: dict[Connection, BaseProcess]
) -> Generator[tuple[int, WorkerMessage], None, None]:
    waiting = deque(range(len(tasks)))
    busy: dict[Connection, int] = {}

    def send_next(idle: Connection) -> None:
        if waiting:
            busy[idle] = waiting.popleft()
            with suppress(OSError):  # a worker that is gone is noticed below
                idle.send(tasks[busy[idle]])

    for idle in workers:
        send_next(idle)
    while busy:
        for ready in connection.wait(list(busy)):
            assert isinstance(ready, Connection)  # noqa: S101 - for the type checker
            number = busy[ready]
            message = _receive(ready, tasks[number], workers[ready])
            if message.tally is not None:
                del busy[ready]
                send_next(ready)
            yield number, message


def _receive(worker: Connection, task: Task, process: BaseProcess) -> WorkerMessage:
    try:
        message: WorkerMessage | BaseException = worker.recv()
    except (EOFError, OSError):
        process.join(JOIN_SECONDS)
        raise RebuildBroken(str(task.span), process.exitcode) from None
    if isinstance(message, BaseException):
        raise message
    return message


@contextmanager
def _workers(number: int) -> Iterator[dict[Connection, BaseProcess]]:
    """Start worker processes, and end them, whatever happens."""
    spawn = multiprocessing.get_context("spawn")
    started: dict[Connection, BaseProcess] = {}
    try:
        for _ in range(number):
            ours, theirs = spawn.Pipe()
            process: BaseProcess = spawn.Process(
                target=serve, args=(theirs, *_store()), name="ossy_event_store.rebuild"
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
            process.join(JOIN_SECONDS)
            process.kill()
            process.join()
            process.close()


def _store() -> tuple[str | None, str]:
    """Return the URL of the store's server, or None, and the store's database."""
    source = location.resolve()
    if source.borrows:
        store = mongodb_connection.blocking()
        return None, mongodb_connection.database_name(store)
    url = source.url
    if url.startswith(location.EMBEDDED):
        url = embedded.start(url.removeprefix(location.EMBEDDED), get_settings().MONGOD)
    return None if source.alias else url, source.name


@contextmanager
def _without_ctrl_c() -> Iterator[None]:
    """Block Ctrl-C while a process starts, so that only its parent reacts to it."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
