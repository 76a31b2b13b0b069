"""
See whether a process grows: what it holds before and after a great many operations.

There are four kinds of work: event loops that begin, append with the awaitable face,
and end; requests to an async view under WSGI, each with its own loop; event streams to
a server, opened and closed; appends, half of them from threads, half from tasks. For
each, the memory, threads and open files of the process, and the sessions and
connections that MongoDB has, must end where they began. Exits with 1 if one does not.

Starts a MongoDB server of its own, since it counts what the whole server has. Needs
Linux; the event streams need uvicorn.
"""

import argparse
import asyncio
import ctypes
import json
import os
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import bench
import push

MB = 1024 * 1024
SERVING, THREADS, TASKS, WAVE = 4, 8, 64, 100
AGGREGATES = 1000
SECONDS = 10  # until what was closed is gone from the server, too
EVENT = {
    "aggregateType": "Book",
    "type": "BookLent",
    "payload": {"to": "ann", "note": "x" * 100},
}
# By how much a figure may differ in the end: a session may be in use just then, and the
# allocator keeps some memory. Five bytes an operation are less than any kept object.
ALLOWED = {"memory": 5 * MB, "threads": 0, "files": 0, "sessions": 5, "connections": 0}
BYTES = 5


def event(number):
    return {**EVENT, "aggregateId": f"{number % AGGREGATES}"}


# --- the kinds of work ------------------------------------------------------


@contextmanager
def loops():
    """An event loop for each operation, with the client that belongs to it."""
    from ossy_event_store import EventStore

    def work(count):
        for number in range(count):
            asyncio.run(EventStore.aappend_event(event(number)))

    yield work, os.getpid()


@contextmanager
def requests():
    """A request to an async view, from the threads of a WSGI server."""
    from django.core.handlers.wsgi import WSGIHandler
    from django.http import JsonResponse
    from django.test import override_settings
    from django.test.client import RequestFactory
    from django.urls import path

    from ossy_event_store import EventStore

    async def append(request, number):
        stored = await EventStore.aappend_event(event(number))
        return JsonResponse({"version": stored["aggregateVersion"]})

    def answer(number):
        environ = RequestFactory().get(f"/{number}").environ
        found = []
        response = handler(environ, lambda status, headers: found.append(status))
        body = b"".join(response)
        response.close()
        assert found == ["200 OK"], (found, body)

    def in_thread(numbers):
        for number in numbers:
            answer(number)

    def work(count):
        list(pool.map(in_thread, (range(n, count, SERVING) for n in range(SERVING))))

    own = {"ROOT_URLCONF": (path("<int:number>", append),), "MIDDLEWARE": []}
    own["ALLOWED_HOSTS"] = ["*"]
    with override_settings(**own), ThreadPoolExecutor(SERVING) as pool:
        handler = WSGIHandler()
        yield work, os.getpid()


@contextmanager
def streams():
    """Event streams to a server, in waves: each receives an event and is closed."""
    from ossy_event_store import EventStore

    async def wave(count):
        received, connected = [], []
        tasks = [
            asyncio.create_task(push.listen(port, "type=BookLent", received, connected))
            for _ in range(count)
        ]
        await push.until(lambda: len(connected) == count)
        await EventStore.aappend_event(event(0))
        await push.until(lambda: len(received) == count)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def work(count):
        for begun in range(0, count, WAVE):
            asyncio.run(wave(min(WAVE, count - begun)))

    with push.process("positions"), push.process("serve") as (server, port):
        yield work, server.pid


@contextmanager
def appends():
    """Appends with the blocking face from threads, and the awaitable from tasks."""
    from ossy_event_store import EventStore

    def in_thread(numbers):
        for number in numbers:
            EventStore.append_event(event(number))

    async def in_tasks(count):
        async def task(numbers):
            for number in numbers:
                await EventStore.aappend_event(event(number))

        await asyncio.gather(*(task(range(n, count, TASKS)) for n in range(TASKS)))

    def work(count):
        half = count // 2
        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(in_thread, (range(n, half, THREADS) for n in range(THREADS))))
        asyncio.run(in_tasks(count - half))

    yield work, os.getpid()


KINDS = {loops: 10_000, requests: 10_000, streams: 2_000, appends: 1_000_000}


# --- measuring --------------------------------------------------------------


def held(pid):
    """Return what a process holds, and what the server holds for all processes."""
    from ossy_event_store.mongodb import connection
    from tests.support import growth

    store = connection.blocking()
    client = connection.raw(store.events).database.client
    # The server writes down which sessions are open every five minutes, or now.
    client.admin.command("refreshLogicalSessionCacheNow")
    sessions = client.config["system.sessions"].count_documents({})
    if pid == os.getpid():
        ctypes.CDLL(None).malloc_trim(0)
    return {**growth.held(store, pid)._asdict(), "sessions": sessions}


def settled(pid, start, allowed):
    """Return what is held in the end, once what has been closed is gone."""
    until = time.monotonic() + SECONDS
    while grown(start, end := held(pid), allowed) and time.monotonic() < until:
        time.sleep(0.5)
    return end


def grown(start, end, allowed):
    """Return the figures that grew by more than is allowed."""
    return [name for name, most in allowed.items() if end[name] - start[name] > most]


def measure(kind, count):
    """Return the figures before and after the work; the first part of it warms up."""
    allowed = {**ALLOWED, "memory": ALLOWED["memory"] + BYTES * count}
    with kind() as (work, pid):
        work(max(2 * WAVE, count // 20))
        start, began = held(pid), time.perf_counter()
        work(count)
        seconds = time.perf_counter() - began
        end = settled(pid, start, allowed)
    return {
        "kind": kind.__name__,
        "count": count,
        "seconds": round(seconds, 1),
        "start": start,
        "end": end,
        "allowed": allowed,
        "grown": grown(start, end, allowed),
    }


def lines_of(found):
    yield f"{found['count']:,} {found['kind']} in {found['seconds']:,} s"
    for name, most in found["allowed"].items():
        start, end = found["start"][name], found["end"][name]
        unit, digits = (MB, 1) if name == "memory" else (1, 0)
        cells = [f"{n / unit:>10,.{digits}f}" for n in (start, end, end - start)]
        wrong = "  GROWN" if name in found["grown"] else ""
        label = f"{name}, MB" if name == "memory" else name
        allowed = f"(allowed {most / unit:.{digits}f})"
        yield f"  {label:12} {' '.join(cells)}  {allowed}{wrong}"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    names = {kind.__name__: kind for kind in KINDS}
    parser.add_argument("--only", action="append", choices=names, help="this kind")
    parser.add_argument("--count", type=int, help="operations, instead of each kind's")
    parser.add_argument("--json", action="store_true", help="print JSON as well")
    options = parser.parse_args()
    sys.path[:0] = [str(bench.ROOT)]
    from tests.support import servers

    figures = []
    with (
        tempfile.TemporaryDirectory() as folder,
        servers.running(Path(folder)) as server,
    ):
        os.environ |= {"DB_URL": server.url(), "DB_NAME": bench.NAME}
        bench.set_up()
        print(bench.about(), flush=True)
        for name in options.only or names:
            kind = names[name]
            figures.append(measure(kind, options.count or KINDS[kind]))
            print("\n".join(lines_of(figures[-1])), flush=True)
            bench.empty()
        if options.json:
            print(json.dumps({"machine": bench.machine(), "figures": figures}))
    sys.exit(any(found["grown"] for found in figures))


if __name__ == "__main__":
    main()
