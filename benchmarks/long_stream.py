"""
Measure what one stream of a million events does, once its reducer has changed.

The setting ``TIMEOUT`` is 3 seconds. The snapshot of the stream is of another revision,
and other streams get events while ``run_subscriptions`` folds the long one. Each use
runs in a process of its own, beside this one and MongoDB.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import bench

TIMEOUT = 3
OTHERS = 50  # streams
EVERY = 0.05  # seconds between two events of the others
BATCH = 20_000
HERE = Path(__file__).resolve()


class Account:
    aggregate_type = "Account"

    @staticmethod
    def view(events, saved_state):
        state = {"balance": 0, "bookings": 0, **saved_state}
        for event in events:
            state["balance"] += event["payload"]["amount"]
            state["bookings"] += 1
        return state


# --- processes --------------------------------------------------------------


def set_up():
    sys.path[:0] = [str(bench.ROOT), str(bench.ROOT / "example_project")]
    import django
    from django.conf import settings

    from example_project.loans_site import settings as example

    kept = ("INSTALLED_APPS", "MIDDLEWARE", "TEMPLATES", "ROOT_URLCONF", "STATIC_URL")
    settings.configure(
        **{name: getattr(example, name) for name in kept},
        DATABASES={
            "default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}
        },
        OSSY_EVENT_STORE={
            "URL": os.environ["DB_URL"],
            "NAME": os.environ["DB_NAME"],
            "TIMEOUT": TIMEOUT,
            "REBUILD_ON_STARTUP": False,
        },
        ALLOWED_HOSTS=["testserver"],
        SECRET_KEY="of a benchmark",
        USE_TZ=True,
    )
    django.setup()
    from ossy_event_store import AggregateRebuild

    AggregateRebuild.register_aggregate(Account)


def load():
    from ossy_event_store import Aggregate, StoreUnavailable

    try:
        return f"loaded {Aggregate.of(Account, 'long').version:,} events"
    except StoreUnavailable as error:
        return str(error)


def pages():
    from django.contrib.auth.models import User
    from django.core.management import call_command
    from django.test import Client

    call_command("migrate", verbosity=0, skip_checks=True)
    from ossy_event_store import EventStore

    client = Client()
    client.force_login(User.objects.create_superuser("root"))
    found, middle = {}, EventStore.count("long") // 2
    for query in ("", f"?version={middle}", "?version=1", "?fresh=1", "?order=oldest"):
        address = f"/admin/ossy_event_store/stream/long/change/{query}"
        client.get(address)
        began = time.perf_counter()
        answer = client.get(address)
        seconds = time.perf_counter() - began
        found[query or "newest"] = f"{answer.status_code} in {1000 * seconds:.0f} ms"
    return found


def rebuild_one():
    from ossy_event_store import AggregateRebuild

    saved = AggregateRebuild.build_and_save("Account", "long")
    return f"version {saved['aggregateVersion']:,}"


def rebuild_all():
    from ossy_event_store import AggregateRebuild

    report = AggregateRebuild.build_and_save_all(types=["Account"])
    return f"{report.events:,} events, {report.failed} failed"


def subscribe():
    from ossy_event_store.subscriptions import snapshot_subscription
    from ossy_event_store.subscriptions.runner import Runner

    snapshot_subscription.register()
    runner = Runner(["snapshots"])
    threading.Thread(target=lambda: (sys.stdin.read(), runner.stop.set())).start()
    print("started", flush=True)
    runner.run()
    return "stopped"


USES = {one.__name__: one for one in (load, pages, rebuild_one, rebuild_all, subscribe)}


def use(name):
    set_up()
    from ossy_event_store import EventStore

    EventStore.collection.find_one({})  # connected
    before = bench.peak()
    began = time.perf_counter()
    said = USES[name]()
    seconds = time.perf_counter() - began
    grown = bench.peak() - before
    print(json.dumps({"said": said, "s": round(seconds, 1), "MB": grown}))


def run(name):
    done = subprocess.run(
        [sys.executable, HERE, "--use", name],
        env=bench.environment(),
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


# --- the log ----------------------------------------------------------------


def insert(stream, count):
    from ossy_event_store import EventStore

    began = datetime.now(UTC) - timedelta(seconds=count)
    for at in range(0, count, BATCH):
        EventStore.collection.insert_many(
            {
                "aggregateId": stream,
                "aggregateType": "Account",
                "aggregateVersion": version,
                "type": "AmountBooked",
                "payload": {"amount": version % 7, "text": "a booking of some length"},
                "created": began + timedelta(seconds=version),
                "createdBy": "ann",
                "metadata": {},
            }
            for version in range(at + 1, min(at + BATCH, count) + 1)
        )


def assign():
    from ossy_event_store.subscriptions.runner import assign_positions

    assign_positions(threading.Event())


def make_stale():
    """Let the snapshot be of another revision, one event old."""
    from ossy_event_store import Aggregate

    Aggregate.collection.update_one(
        {"_id": "long"}, {"$set": {"revision": "of another reducer"}}
    )


def book(stream):
    from ossy_event_store import EventStore

    head = EventStore.collection.find_one(
        {"aggregateId": stream}, sort=[("aggregateVersion", -1)]
    )
    return EventStore.append_event(
        {
            "aggregateId": stream,
            "aggregateType": "Account",
            "aggregateVersion": head["aggregateVersion"] + 1 if head else 1,
            "type": "AmountBooked",
            "payload": {"amount": 1},
        }
    )["aggregateVersion"]


def has_snapshot(stream, version):
    from ossy_event_store import Aggregate

    found = Aggregate.collection.find_one({"_id": stream}) or {}
    current = found.get("revision") != "of another reducer"
    return current and found.get("aggregateVersion", 0) >= version


def follow():
    """Return how long snapshots of others take while the long stream is folded."""
    command = [sys.executable, HERE, "--use", "subscribe"]
    with subprocess.Popen(
        command,
        env=bench.environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        process.stdout.readline()
        book("other-0")
        while not has_snapshot("other-0", 1):
            time.sleep(0.01)
        began, waits, number = time.perf_counter(), [], 0
        long = book("long")
        while not has_snapshot("long", long):
            number += 1
            stream = f"other-{number % OTHERS}"
            version, asked = book(stream), time.perf_counter()
            while not has_snapshot(stream, version):
                time.sleep(0.005)
            waits.append(1000 * (time.perf_counter() - asked))
            time.sleep(EVERY)
        seconds = time.perf_counter() - began
        process.stdin.close()
        figures = json.loads(process.stdout.read().splitlines()[-1])
    return {
        "the long stream, s": round(seconds, 1),
        "snapshots of others meanwhile": len(waits),
        "p50 ms": round(statistics.median(waits)) if waits else None,
        "max ms": round(max(waits)) if waits else None,
        "MB": figures["MB"],
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--json", action="store_true", help="print JSON as well")
    options = parser.parse_args()
    database, figures = bench.set_up(), {}

    def note(name, figure):
        figures[name] = figure
        print(f"{name}: {figure}", flush=True)

    try:
        insert("long", options.events)
        began = time.perf_counter()
        assign()
        note("positions, s", round(time.perf_counter() - began, 1))
        note("load without a snapshot", run("load"))
        note("admin without a snapshot", run("pages"))
        note("rebuild --id", run("rebuild_one"))
        note("load from a snapshot", run("load"))
        note("admin from a snapshot", run("pages"))
        note("rebuild of all", run("rebuild_all"))
        make_stale()
        from ossy_event_store.mongodb import connection
        from ossy_event_store.mongodb.ports import drive
        from ossy_event_store.subscriptions import checkpoints

        store = connection.blocking()
        drive(checkpoints.find_or_create(store, "snapshots", "now", "snapshots"))
        note("admin with an old snapshot", run("pages"))
        note("run_subscriptions", follow())
        note("load after it", run("load"))
    finally:
        database.client.drop_database(database.name)
    if options.json:
        print(json.dumps({"machine": bench.machine(), "figures": figures}))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--use"]:
        use(sys.argv[2])
    else:
        main()
