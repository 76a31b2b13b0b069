"""What the benchmarks share: a database, turns, medians, and a table."""

import argparse
import json
import os
import platform
import statistics
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NAME = f"benchmark_{os.getpid()}"


def arguments(description, *positional):
    parser = argparse.ArgumentParser(description=description)
    for name, text in positional:
        parser.add_argument(name, help=text)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="print JSON as well")
    return parser.parse_args()


def set_up():
    """Set Django up with the example's aggregates and an empty database."""
    sys.path[:0] = [str(ROOT), str(ROOT / "example_project")]
    import django
    from django.conf import settings

    settings.configure(
        INSTALLED_APPS=["ossy_event_store", "loans"],
        OSSY_EVENT_STORE={
            "URL": os.environ.get("DB_URL", "embedded://"),
            "NAME": NAME,
        },
        USE_TZ=True,
    )
    django.setup()
    from ossy_event_store import EventStore, Mongo, indexes, mongo
    from ossy_event_store.faces import drive

    Mongo.connect()
    drive(indexes.ensure(mongo.blocking()))
    return EventStore.collection.database


def turns(rounds, **functions):
    """
    Call the functions in turn, and return the seconds of each, round by round.

    A function that has more to do than what is measured returns the seconds itself.
    """
    seconds = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            began = time.perf_counter()
            spent = function()
            ended = time.perf_counter()
            seconds[name].append(ended - began if spent is None else spent)
    return seconds


def machine():
    import django
    import pymongo

    from ossy_event_store import EventStore

    info = EventStore.collection.database.client.server_info()
    return {
        "python": platform.python_version(),
        "django": django.get_version(),
        "pymongo": pymongo.version,
        "mongodb": info["version"],
        "cores": os.cpu_count(),
        "machine": platform.machine(),
    }


def row(what, count, seconds, store="store", bare="bare"):
    """Return one line of the table: rates by the medians, and their ratio."""
    mine, other = (statistics.median(seconds[name]) for name in (store, bare))
    return {
        "what": what,
        "store": round(count / mine),
        "bare": round(count / other),
        "ratio": round(other / mine, 2),
        "spread": [
            round(min(seconds[store]) / mine, 2),
            round(max(seconds[store]) / mine, 2),
        ],
    }


def tell(rows, notes, as_json):
    print(" ".join(f"{key} {value}" for key, value in machine().items()))
    print(f"{'':44} {'store/s':>10} {'bare/s':>10} {'ratio':>6}")
    for one in rows:
        print(
            f"{one['what']:44} {one['store']:>10,} {one['bare']:>10,} "
            f"{one['ratio']:>6.2f}"
        )
    for note in notes:
        print(note)
    if as_json:
        print(json.dumps({"machine": machine(), "rows": rows, "notes": notes}))
