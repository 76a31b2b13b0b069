"""
Measure how much memory is needed for a log of large events, above that at the start.

Each use runs in a process of its own, beside this one and MongoDB. A server (uvicorn)
pushes every event to several browsers, the last of which never reads.
"""

import argparse
import asyncio
import json
import os
import socket
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import bench

STREAMS = 2
BROWSERS = 8
NEW_BYTES = 60_000_000  # of the events that are pushed as they are appended
HERE = Path(__file__).resolve()


# --- the uses, each in a process of its own ---------------------------------


def rebuild(events):
    from ossy_event_store import AggregateRebuild

    report = AggregateRebuild.build_and_save_all()
    assert (report.events, report.failed) == (events, 0), report


def export(events):
    from django.core.management import call_command

    call_command("export_events", output=os.devnull, verbosity=0)


def read_all(events):
    from ossy_event_store import EventStore

    assert sum(1 for _ in EventStore.read_all()) == events


def subscriptions(events, projections=1):
    from django.core.management import call_command

    from ossy_event_store import Projection, register_projection

    class Sizes(Projection):
        @staticmethod
        def key(event):
            return event["aggregateId"]

        @staticmethod
        def apply(event, state):
            return {"events": state.get("events", 0) + 1}

    made = []
    for number in range(projections):
        name = f"sizes{number}_{os.getpid()}"
        made.append(register_projection(type(name, (Sizes,), {"name": name})))
    call_command("run_subscriptions", until_caught_up=True, verbosity=0)
    for cls in made:
        counted = sum(cls.get(name)["events"] for name in names())
        assert counted == events, counted


def eight_projections(events):
    subscriptions(events, 8)


def verify(events):
    from django.core.management import call_command

    call_command("verify_event_store", verbosity=0)


USES = {
    "rebuild": rebuild,
    "export": export,
    "read_all": read_all,
    "run_subscriptions, snapshots and a projection": subscriptions,
    "run_subscriptions, snapshots and 8 projections": eight_projections,
    "verify_event_store": verify,
}


def names():
    return [f"stream-{number}" for number in range(STREAMS)]


class Document:
    aggregate_type = "Document"

    @staticmethod
    def view(events, saved_state):
        return {"events": saved_state.get("events", 0) + len(events)}


def set_up(**settings_):
    sys.path[:0] = [str(bench.ROOT)]
    import django
    from django.conf import settings

    settings.configure(
        INSTALLED_APPS=["ossy_event_store"],
        SECRET_KEY="of a benchmark",
        ALLOWED_HOSTS=["*"],
        ROOT_URLCONF="memory",
        OSSY_EVENT_STORE={"URL": os.environ["DB_URL"], "NAME": os.environ["DB_NAME"]},
        USE_TZ=True,
        **settings_,
    )
    django.setup()
    from ossy_event_store import AggregateRebuild

    AggregateRebuild.register_aggregate(Document)


def use(name, events):
    set_up()
    from ossy_event_store import EventStore

    EventStore.collection.find_one({})  # connected
    before = bench.peak()
    began = time.perf_counter()
    USES[name](events)
    seconds = time.perf_counter() - began
    print(json.dumps({"MB": bench.peak() - before, "s": round(seconds, 1)}))


def serve(what):
    set_up()
    import uvicorn
    from django.core.handlers.asgi import ASGIHandler
    from django.urls import path

    from ossy_event_store.push.views import EventSourceView

    async def everybody(request, wanted):
        return True

    class View(EventSourceView):
        @staticmethod
        def data(event):
            data = EventSourceView.data(event)
            return {**data, "payload": event["payload"]} if what == "all" else data

    sys.modules["memory"] = sys.modules["__main__"]
    sys.modules["memory"].urlpatterns = [
        path("", View.as_view(may_see=everybody, query=["type"], lifetime=3600))
    ]
    config = uvicorn.Config(ASGIHandler(), log_level="error", lifespan="off")
    with socket.create_server(("127.0.0.1", 0)) as listening:
        print(listening.getsockname()[1], flush=True)
        uvicorn.Server(config).run([listening])


# --- push -------------------------------------------------------------------


async def connect(port, query):
    """Open a stream of events, and read nothing of them."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**25)
    writer.write(f"GET /?{query} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    await reader.readuntil(b"retry: 3000\n\n")
    return reader, writer


async def listen(connection, count):
    """Receive some events."""
    reader, writer = connection
    while count > 0:
        count -= (await reader.readuntil(b"\n\n")).count(b"data: ")
    writer.close()


async def push(port, pid, events, size):
    """Return the memory at the start, with missed events, and with new ones too."""

    async def opened(query):
        return [await connect(port, query) for _ in range(BROWSERS - 1)]

    await listen(await connect(port, "type=None&after=0"), 0)
    before = bench.peak(pid)
    idle = [await connect(port, "after=0")]
    await asyncio.gather(*(listen(one, events) for one in await opened("after=0")))
    missed = bench.peak(pid)
    listening, idle = await opened(""), [*idle, await connect(port, "")]
    await asyncio.to_thread(insert, NEW_BYTES // size, size, events)
    await asyncio.to_thread(assign)
    await asyncio.gather(*(listen(one, NEW_BYTES // size) for one in listening))
    for _, writer in idle:
        writer.close()
    return missed - before, bench.peak(pid) - before


# --- the log ----------------------------------------------------------------


def insert(count, size, after=0, *, small=False):
    """Insert events of a size in bytes, of the streams in turn."""
    from ossy_event_store import EventStore

    payload = {"text": "x" * size}
    if small:  # 65 bytes each
        line = {"article": 123456, "amount": 12, "price": 99.5, "currency": "EUR"}
        payload = {"lines": [line] * (size // 65)}
    for at in range(after, after + count):
        EventStore.collection.insert_one(
            {
                "aggregateId": names()[at % STREAMS],
                "aggregateType": "Document",
                "aggregateVersion": at // STREAMS + 1,
                "type": "DocumentChanged",
                "payload": payload,
                "created": datetime.now(UTC),
                "createdBy": None,
                "metadata": {},
            }
        )


def assign():
    import threading

    from ossy_event_store.subscriptions.runner import assign_positions

    assign_positions(threading.Event())


def run(environment, *arguments):
    done = subprocess.run(
        [sys.executable, HERE, *map(str, arguments)],
        env=environment,
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def pushed(environment, what, events, size):
    command = [sys.executable, HERE, "--serve", what]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as server:
        try:
            port = int(server.stdout.readline())
            return asyncio.run(push(port, server.pid, events, size))
        finally:
            server.terminate()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=1200)
    parser.add_argument("--size", type=int, default=1_000_000, help="bytes an event")
    parser.add_argument(
        "--small-values", action="store_true", help="many small values, not one text"
    )
    parser.add_argument("--only", nargs="*", default=[], help="uses that begin so")
    parser.add_argument("--json", action="store_true", help="print JSON as well")
    options = parser.parse_args()
    events, size = options.events, options.size

    database = bench.set_up()
    environment, figures = bench.environment(), {}
    insert(events, size, small=options.small_values)
    assign()
    print(f"{events} events of {size:,} bytes: MB above the start", flush=True)

    def is_wanted(name):
        return not options.only or name.startswith(tuple(options.only))

    def note(name, figure):
        figures[name] = figure
        print(f"{name}: {figure}", flush=True)

    try:
        for name in filter(is_wanted, USES):
            note(name, run(environment, "--use", name, events))
        for what in ("fields", "all"):
            if is_wanted("push"):
                missed, new = pushed(environment, what, events, size)
                events += NEW_BYTES // size
                note(f"push, {what}", {"missed MB": missed, "and new MB": new})
    finally:
        database.client.drop_database(database.name)
    if options.json:
        print(json.dumps({"machine": bench.machine(), "figures": figures}))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--use"]:
        use(sys.argv[2], int(sys.argv[3]))
    elif sys.argv[1:2] == ["--serve"]:
        serve(sys.argv[2])
    else:
        main()
