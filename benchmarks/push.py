"""
Measure open event streams on one process: the delay of an event, and their memory.

A server (uvicorn, one process), a sequencer and MongoDB run beside this process, which
appends events and listens. The delay is the time from the acknowledgement of an append
until a listener has received the event.
"""

import argparse
import asyncio
import json
import os
import re
import resource
import socket
import statistics
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

import bench

RATE = 50  # events a second
HERE = Path(__file__).resolve()
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
]


# --- the processes beside this one ------------------------------------------


def set_up(middleware=()):
    sys.path[:0] = [str(bench.ROOT)]
    import django
    from django.conf import settings

    settings.configure(
        INSTALLED_APPS=[
            "django.contrib.auth",
            "django.contrib.contenttypes",
            "django.contrib.sessions",
            "ossy_event_store",
        ],
        MIDDLEWARE=list(middleware),
        SESSION_ENGINE="django.contrib.sessions.backends.signed_cookies",
        SECRET_KEY="of a benchmark",
        ALLOWED_HOSTS=["*"],
        ROOT_URLCONF="push",
        OSSY_EVENT_STORE={"URL": os.environ["DB_URL"], "NAME": os.environ["DB_NAME"]},
        USE_TZ=True,
    )
    django.setup()


def serve(middleware):
    set_up(MIDDLEWARE if middleware else ())
    import uvicorn
    from django.core.handlers.asgi import ASGIHandler
    from django.urls import path

    from ossy_event_store.push.views import EventSourceView

    async def everybody(request, wanted):
        return True

    view = EventSourceView.as_view(
        may_see=everybody, query=["stream", "type"], lifetime=3600
    )
    sys.modules["push"] = sys.modules["__main__"]
    sys.modules["push"].urlpatterns = [path("", view)]
    config = uvicorn.Config(ASGIHandler(), log_level="error", lifespan="off")
    with socket.create_server(("127.0.0.1", 0), backlog=2048) as listening:
        print(listening.getsockname()[1], flush=True)
        uvicorn.Server(config).run([listening])


def assign_positions():
    set_up()
    from ossy_event_store.mongodb import connection
    from ossy_event_store.mongodb.leases import new_owner
    from ossy_event_store.positions.leased_sequencer import run_sequencer

    print("started", flush=True)
    run_sequencer(connection.blocking, threading.Event(), new_owner())


@contextmanager
def process(*arguments):
    started = subprocess.Popen(
        [sys.executable, HERE, *arguments], stdout=subprocess.PIPE
    )
    try:
        yield started, started.stdout.readline().decode().strip()
    finally:
        started.terminate()
        started.wait()
        started.stdout.close()


# --- measuring --------------------------------------------------------------


def memory_of(pid):
    """Return the resident memory of a process in MB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024


async def until(condition):
    while not condition():  # noqa: ASYNC110 - other processes cannot set an event
        await asyncio.sleep(0.05)


async def listen(port, query, received, connected):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET /?{query} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    await reader.readuntil(b"retry: 3000\n\n")
    await reader.readuntil(b"\n\n")
    connected.append(1)
    try:
        while True:
            block = await reader.readuntil(b"\n\n")
            now = time.perf_counter()
            _, found, data = block.partition(b"data: ")
            if found:
                event = json.loads(data)
                received.append((event["aggregateId"], event["aggregateVersion"], now))
    finally:
        writer.close()


async def measure(port, pid, queries, streams, count, each):
    """Return the delays in ms, and the memory while all connections are open."""
    from ossy_event_store import EventStore

    received, connected, acked = [], [], {}
    tasks = [asyncio.create_task(listen(port, q, received, connected)) for q in queries]
    await until(lambda: len(connected) == len(queries))
    opened = memory_of(pid)
    start = time.perf_counter()
    for number in range(count):
        stored = await EventStore.aappend_event(
            {
                "aggregateId": streams[number % len(streams)],
                "aggregateType": "Book",
                "type": "BookLent",
            }
        )
        key = (stored["aggregateId"], stored["aggregateVersion"])
        acked[key] = time.perf_counter()
        await asyncio.sleep(max(0, start + (number + 1) / RATE - time.perf_counter()))
    await until(lambda: len(received) >= count * each)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert len(received) == count * each
    delays = [1000 * (at - acked[stream, version]) for stream, version, at in received]
    return delays, opened


def summary(what, delays, before, opened, count):
    cuts = statistics.quantiles(delays, n=100, method="inclusive")
    return {
        "what": what,
        "p50 ms": round(cuts[49], 1),
        "p99 ms": round(cuts[98], 1),
        "max ms": round(max(delays), 1),
        "server MB": round(opened),
        "kB a connection": round(1024 * (opened - before) / count),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--connections", type=int, default=1000)
    parser.add_argument("--events", type=int, default=500)
    parser.add_argument("--json", action="store_true", help="print JSON as well")
    options = parser.parse_args()
    many, events = options.connections, options.events
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4 * many)), hard))

    database = bench.set_up()
    host, port = database.client.address
    os.environ["DB_URL"] = f"mongodb://{host}:{port}/?directConnection=true"
    os.environ["DB_NAME"] = database.name
    streams = [f"book-{number}" for number in range(many)]
    own = [f"stream={stream}" for stream in streams]
    cases = [
        ("each listens to one stream", [], own, events, 1),
        ("each listens to one stream, with middleware", ["middleware"], own, events, 1),
        (
            "each listens to every event",
            [],
            ["type=BookLent"] * many,
            events // 10,
            many,
        ),
    ]
    rows = []
    for what, extra, queries, count, each in cases:
        with ExitStack() as stack:
            stack.enter_context(process("positions"))
            server, port = stack.enter_context(process("serve", *extra))
            asyncio.run(measure(int(port), server.pid, own[:1], streams[:1], 1, 1))
            before = memory_of(server.pid)
            delays, opened = asyncio.run(
                measure(int(port), server.pid, queries, streams, count, each)
            )
            rows.append(summary(what, delays, before, opened, many))
    database.client.drop_database(database.name)
    print(" ".join(f"{key} {value}" for key, value in bench.machine().items()))
    print(f"{many} connections, {RATE} events a second")
    for row in rows:
        print("  ".join(f"{key} {value}" for key, value in row.items()))
    if options.json:
        print(json.dumps({"machine": bench.machine(), "rows": rows}))


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        serve(sys.argv[2:])
    elif sys.argv[1:2] == ["positions"]:
        assign_positions()
    else:
        main()
