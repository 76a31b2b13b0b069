"""Shared by the benchmarks: a database, turns, medians, and a table."""

import argparse
import importlib.util
import json
import os
import platform
import re
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
    from ossy_event_store import EventStore, Mongo
    from ossy_event_store.mongodb import connection, indexes
    from ossy_event_store.mongodb.ports import drive
    from ossy_event_store.streams.gc_pause import collect_less_often

    collect_less_often()  # as a command does
    Mongo.connect()
    drive(indexes.ensure(connection.blocking()))
    return EventStore.collection.database


def empty():
    """Drop and recreate the collections: deleting a million events takes far longer."""
    from ossy_event_store import EventStore
    from ossy_event_store.mongodb import connection, indexes
    from ossy_event_store.mongodb.ports import drive

    database = EventStore.collection.database
    for name in database.list_collection_names():
        database.drop_collection(name)
    drive(indexes.ensure(connection.blocking()))


def environment():
    """Return the variables with which another process uses the same database."""
    from ossy_event_store import EventStore

    url = os.environ.get("DB_URL")
    if url is None:
        host, port = EventStore.collection.database.client.address
        url = f"mongodb://{host}:{port}/?directConnection=true"
    return {**os.environ, "DB_URL": url, "DB_NAME": NAME, "PYTHONPATH": str(ROOT)}


def resident():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def peak(pid="self"):
    """
    Return the most memory that a process ever had, in MB; Linux only.

    Unlike ``ru_maxrss``, that of the process that started it does not count.
    """
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+)", status)[1]) // 1024


def turns(rounds, **functions):
    """
    Call the functions in turn, and return the seconds of each, round by round.

    Every second round runs backwards, so that none of them always follows another.
    A function that does more than what is measured returns the seconds itself.
    """
    seconds = {name: [] for name in functions}
    order = list(functions.items())
    for _ in range(rounds):
        for name, function in order:
            began = time.perf_counter()
            spent = function()
            ended = time.perf_counter()
            own = isinstance(spent, float)
            seconds[name].append(spent if own else ended - began)
        order.reverse()
    return seconds


def machine():
    import django
    import pymongo

    from ossy_event_store import EventStore, __version__

    info = EventStore.collection.database.client.server_info()
    return {
        "ossy_event_store": __version__,
        "python": platform.python_version(),
        "django": django.get_version(),
        "pymongo": pymongo.version,
        "driver in C": importlib.util.find_spec("bson._cbson") is not None,
        "mongodb": info["version"],
        "cores": os.cpu_count(),
        "processor": processor(),
        "machine": platform.machine(),
        "system": platform.system(),
    }


def processor():
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((x.split(": ")[1] for x in lines if x.startswith("model name")), "?")


# --- rows -------------------------------------------------------------------


def row(what, count, seconds, store="store", bare="bare", *, least=None, most=None):
    """
    Return one row of the table: rates from the medians, and their ratio.

    The ratio is the median of the rounds' ratios, since the two sides of a round ran
    side by side. It is the store's rate divided by that of the plain driver or, with
    the target ``most``, the store's time divided by that of the plain driver. Its
    spread is its middle half.
    """
    ratios = [
        mine / other if most else other / mine
        for mine, other in zip(seconds[store], seconds[bare], strict=True)
    ]
    ratio = statistics.median(ratios)
    some = len(ratios) > 1
    quarters = statistics.quantiles(ratios, n=4, method="inclusive") if some else ratios
    return {
        "what": what,
        "unit": "/s",
        "store": round(count / statistics.median(seconds[store])),
        "bare": round(count / statistics.median(seconds[bare])),
        "ratio": round(ratio, 3),
        **judged(ratio, least, most),
        "spread": [round(quarters[0], 3), round(quarters[-1], 3)],
    }


def figure(what, value, unit, bare=None, *, most=None):
    """Return a row whose figure is not a ratio, with its own target."""
    return {
        "what": what,
        "unit": unit,
        "store": round(value, 2),
        "bare": None if bare is None else round(bare, 2),
        "ratio": None,
        **judged(value, None, most),
        "spread": None,
    }


def judged(value, least, most):
    """Return the target of a value, and "met" or how far it is from it."""
    if least is None and most is None:
        return {"target": None, "result": None}
    if most is None:
        met, missed = value >= least, f"below target: {value:.2f}"
        return {"target": f"≥ {least:.2f}", "result": "met" if met else missed}
    met, missed = value <= most, f"above target: {value:.2f}"
    return {"target": f"≤ {most:g}", "result": "met" if met else missed}


HEADER = ("", "store", "plain driver", "ratio", "target", "", "spread")


def cells(one):
    """Return the cells of a row as text."""

    def number(value):
        if value is None:
            return ""
        return f"{value:,}{one['unit'] if one['unit'] == '/s' else ' ' + one['unit']}"

    ratio, spread = one["ratio"], one["spread"]
    return (
        one["what"],
        number(one["store"]),
        number(one["bare"]),
        "" if ratio is None else f"{ratio:.2f}",
        one["target"] or "",
        one["result"] or "",
        f"{spread[0]:.2f} to {spread[1]:.2f}" if spread else "",
    )


def text_of(rows):
    lines = [HEADER, *map(cells, rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        first, *rest = (c.rjust(w) for c, w in zip(line, widths, strict=True))
        yield "  ".join([first.strip().ljust(widths[0]), *rest]).rstrip()


def markdown_of(rows):
    yield "| " + " | ".join(HEADER) + " |"
    yield "| --- |" + " ---: |" * (len(HEADER) - 1)
    for one in rows:
        yield "| " + " | ".join(cells(one)) + " |"


def about():
    return ", ".join(f"{key} {value}" for key, value in machine().items())


def print_rows(rows, notes, as_json):
    print(about())
    for line in [*text_of(rows), *notes]:
        print(line)
    if as_json:
        print(json.dumps({"machine": machine(), "rows": rows, "notes": notes}))
