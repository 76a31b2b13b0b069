"""Measure the pages of the admin in a small store and in one 100 times as large."""

import gzip
import itertools
import json
import os
import statistics
import sys
import time
from collections import defaultdict

import bench

SMALL, LARGE = 1_000, 100_000  # streams
A_STREAM = 10  # events of each
LONG = 10_000  # events of one more stream
BATCH = 20_000


def set_up():
    """Set up a site with the admin; return a client that is logged in."""
    sys.path[:0] = [str(bench.ROOT), str(bench.ROOT / "example_project")]
    import django
    from django.conf import settings
    from django.core.management import call_command

    from example_project.loans_site import settings as example

    kept = ("INSTALLED_APPS", "MIDDLEWARE", "TEMPLATES", "ROOT_URLCONF", "STATIC_URL")
    settings.configure(
        **{name: getattr(example, name) for name in kept},
        DATABASES={
            "default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}
        },
        OSSY_EVENT_STORE={"URL": os.environ.get("DB_URL", "embedded://")},
        ALLOWED_HOSTS=["testserver"],
        SECRET_KEY="of a benchmark",
        USE_TZ=True,
    )
    django.setup()
    call_command("migrate", verbosity=0, skip_checks=True)
    from django.contrib.auth.models import User
    from django.test import Client

    client = Client()
    client.force_login(User.objects.create_superuser("root"))
    return client


def beginnings(path):
    """Return the first events of every application in the log that has enough."""
    streams = defaultdict(list)
    with gzip.open(path, "rt") as file:
        for line in file:
            event = json.loads(line)
            streams[event["aggregateId"]].append(event)
    for stream in streams.values():
        stream.sort(key=lambda event: event["aggregateVersion"])
    return [s[:A_STREAM] for s in streams.values() if len(s) >= A_STREAM], max(
        streams.values(), key=len
    )


def documents(streams, longest, count):
    """Yield the events of ``count`` streams, and of the long one."""
    import datetime as dt

    from bson import ObjectId

    start = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    step = dt.timedelta(days=200) / count

    def made(event, stream, version, created):
        return event | {
            "_id": str(ObjectId()),
            "aggregateId": stream,
            "aggregateVersion": version,
            "created": created,
            "metadata": {"correlationId": f"visit-{stream}"},
        }

    for number, stream in zip(range(count), itertools.cycle(streams), strict=False):
        name = f"loan-{number:06}"
        for version, event in enumerate(stream, 1):
            # Streams continue while later ones begin, like real ones.
            created = start + (number + version * 3) * step
            yield made(event, name, version, created)
    for version, event in zip(
        range(1, LONG + 1), itertools.cycle(longest), strict=False
    ):
        created = start + dt.timedelta(minutes=version)
        yield made(event, "loan-long", version, created)


def fill(log, count):
    """Fill the connected store, and build its snapshots."""
    from ossy_event_store import AggregateRebuild
    from ossy_event_store.mongodb import connection, indexes
    from ossy_event_store.mongodb.ports import drive

    store = connection.blocking()
    drive(indexes.ensure(store))
    events = connection.raw(store.events)
    made = documents(*log, count)
    while batch := list(itertools.islice(made, BATCH)):
        events.insert_many(batch, ordered=False)
    report = AggregateRebuild.build_and_save_all()
    assert report.ok
    assert report.events == count * A_STREAM + LONG


def addresses(count):
    """Return the addresses of the pages by name, for a store of ``count`` streams."""
    from ossy_event_store import EventStore

    streams, events = (
        f"/admin/ossy_event_store/{name}/" for name in ("stream", "event")
    )
    some = f"loan-{count // 2:06}"
    event = EventStore.collection.find_one({"aggregateId": some})
    who = event["createdBy"]
    return {
        "overview": f"{streams}overview/",
        "streams": streams,
        "streams of a type": f"{streams}?type=LoanApplication",
        "streams last changed by a person": f"{streams}?by={who}",
        "streams active in a period": f"{streams}?since=2026-02-01&until=2026-06-30",
        "streams by prefix": f"{streams}?q=loan-000",
        "a stream of 10": f"{streams}{some}/change/",
        "a stream of 10 at version 5": f"{streams}{some}/change/?version=5",
        "a stream of 10,000": f"{streams}loan-long/change/",
        "a stream of 10,000 at 5,000": f"{streams}loan-long/change/?version=5000",
        "a stream of 10,000 at a time": f"{streams}loan-long/change/"
        "?at=2026-01-03T10:15:00",
        "events": events,
        "events of a type": f"{events}?event_type=A_SUBMITTED",
        "events of a person": f"{events}?by={who}",
        "events of a type and a person": f"{events}?event_type=A_SUBMITTED&by={who}",
        "events of a period": f"{events}?since=2026-02-01&until=2026-06-30",
        "an event": f"{events}{event['_id']}/change/",
    }


def examined(database, get):
    """Return how many index keys and documents the server examines for one page."""
    database.command("profile", 2)
    try:
        get()
    finally:
        database.command("profile", 0)
    entries = list(database["system.profile"].find({}))
    database.drop_collection("system.profile")
    assert entries
    return sum(e.get("keysExamined", 0) + e.get("docsExamined", 0) for e in entries)


def main():
    options = bench.arguments(
        __doc__, ("file", "the log of loan applications, gzipped JSON lines")
    )
    client = set_up()
    from pymongo import MongoClient

    from ossy_event_store import EventStore, Mongo

    Mongo.connect()
    first = EventStore.collection.database.client
    host, port = first.address
    tail = f"?replicaSet={first.topology_description.replica_set_name}"
    # A separate client: the store closes its own when it connects to another place.
    server = MongoClient(host, port, directConnection=True)
    names = {size: f"{bench.NAME}_{size}" for size in (SMALL, LARGE)}
    database = {size: server[name] for size, name in names.items()}
    log = beginnings(options.file)

    def use(size):
        Mongo.connect(f"mongodb://{host}:{port}/{names[size]}{tail}")

    def page(address):
        response = client.get(address, follow=True)
        assert response.status_code == 200, (address, response.status_code)
        assert b"errornote" not in response.content, address

    work, pages = {}, {}
    for size in names:
        use(size)
        began = time.perf_counter()
        fill(log, size)
        print(f"{size:,} streams stored in {time.perf_counter() - began:.0f} s")
        pages[size] = addresses(size)
        for name, address in pages[size].items():
            page(address)
            assert EventStore.collection.database.name == names[size]
            work[size, name] = examined(
                database[size], lambda address=address: page(address)
            )

    seconds = defaultdict(list)
    for _ in range(options.rounds):
        for size in names:
            use(size)
            page(pages[size]["streams"])
            for name, address in pages[size].items():
                for _ in range(3):
                    began = time.perf_counter()
                    page(address)
                    seconds[size, name].append(time.perf_counter() - began)

    print(" ".join(f"{key} {value}" for key, value in bench.machine().items()))
    events = [f"{size * A_STREAM + LONG:,}" for size in names]
    small, large = events
    print(f"{'events':32} {small:>10} {large:>10} {'ratio':>6} {'examined':>14}")
    rows = []
    for name in pages[SMALL]:
        small, large = (statistics.median(seconds[size, name]) for size in names)
        looked = [work[size, name] for size in names]
        ratio = round(large / small, 2)
        rows.append({"page": name, "seconds": [small, large], "examined": looked})
        print(
            f"{name:32} {small * 1000:7.1f} ms {large * 1000:7.1f} ms {ratio:6.2f} "
            f"{looked[0]:7,} {looked[1]:6,}"
        )
    if options.json:
        print(json.dumps({"machine": bench.machine(), "rows": rows}))
    for one in database.values():
        server.drop_database(one.name)


if __name__ == "__main__":
    main()
