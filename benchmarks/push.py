"""
Open streams of events on one process: how late an event comes, and what they weigh.

A server (uvicorn, one process), a sequencer, and MongoDB run beside this process, which
appends events and listens. The delay is from the acknowledgement of an append until the
event stands at who listens.
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


def give_positions():
    set_up()
    from ossy_event_store.mongodb import connection
    from ossy_event_store.mongodb.leases import new_owner
    from ossy_event_store.positions.leased_sequencer import run_sequencer

    print("begun", flush=True)
    run_sequencer(connection.blocking, threading.Event(), new_owner())


@contextmanager
def process(*arguments):
    begun = subprocess.Popen([sys.executable, HERE, *arguments], stdout=subprocess.PIPE)
    try:
        yield begun, begun.stdout.readline().decode().strip()
    finally:
        begun.terminate()
        begun.wait()
        begun.stdout.close()


# --- measuring --------------------------------------------------------------


def weight(pid):
    """Return the resident memory of a process in MB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024


async def until(condition):
    while not condition():  # noqa: ASYNC110 - what happens elsewhere is looked for
        await asyncio.sleep(0.05)


async def listen(port, query, heard, begun):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET /?{query} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    await reader.readuntil(b"retry: 3000\n\n")
    await reader.readuntil(b"\n\n")
    begun.append(1)
    try:
        while True:
            block = await reader.readuntil(b"\n\n")
            now = time.perf_counter()
            _, found, data = block.partition(b"data: ")
            if found:
                event = json.loads(data)
                heard.append((event["aggregateId"], event["aggregateVersion"], now))
    finally:
        writer.close()


async def measure(port, pid, queries, streams, count, each):
    """Return the delays in ms, and the memory with all connections open."""
    from ossy_event_store import EventStore

    heard, begun, acked = [], [], {}
    tasks = [asyncio.create_task(listen(port, q, heard, begun)) for q in queries]
    await until(lambda: len(begun) == len(queries))
    opened = weight(pid)
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
    await until(lambda: len(heard) >= count * each)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert len(heard) == count * each
    delays = [1000 * (at - acked[stream, version]) for stream, version, at in heard]
    return delays, opened


def told(what, delays, before, opened, count):
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
        ("a stream each", [], own, events, 1),
        ("a stream each, middleware", ["middleware"], own, events, 1),
        ("all want every event", [], ["type=BookLent"] * many, events // 10, many),
    ]
    rows = []
    for what, extra, queries, count, each in cases:
        with ExitStack() as stack:
            stack.enter_context(process("positions"))
            server, port = stack.enter_context(process("serve", *extra))
            asyncio.run(measure(int(port), server.pid, own[:1], streams[:1], 1, 1))
            before = weight(server.pid)
            delays, opened = asyncio.run(
                measure(int(port), server.pid, queries, streams, count, each)
            )
            rows.append(told(what, delays, before, opened, many))
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
        give_positions()
    else:
        main()
