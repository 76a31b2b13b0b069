"""Measure what the app adds to the start of a process, in fresh processes."""

import json
import os
import statistics
import subprocess
import sys
import tempfile

import bench

# Nothing listens at the MongoDB URL, so an attempt to connect would show. Nearly every
# project installs the other apps, so their imports are not counted as this app's.
SCRIPT = """
import json, os, sys, threading, time
from pathlib import Path
app = sys.argv[1] == "app"
driver = sys.argv[1] != "django"
began = time.perf_counter()
import django
from django.conf import settings
apps = ["django.contrib.auth", "django.contrib.contenttypes"]
settings.configure(
    INSTALLED_APPS=[*apps, "ossy_event_store"] if app else apps,
    OSSY_EVENT_STORE={"URL": "mongodb://127.0.0.1:1"},
)
if driver:
    import pymongo
if app:
    import ossy_event_store
django.setup()
spent = time.perf_counter() - began
pages = int(Path("/proc/self/statm").read_text().split()[1])
fds = []
for fd in Path("/proc/self/fd").iterdir():
    try:
        fds.append(os.readlink(fd))
    except OSError:
        pass
print(json.dumps({
    "ms": 1000 * spent,
    "MB": pages * os.sysconf("SC_PAGE_SIZE") / 1e6,
    "threads": threading.active_count(),
    "sockets": sum(name.startswith("socket:") for name in fds),
}))
"""


def app(options):
    """Start Django with two of its own apps, then with PyMongo, then with this app."""
    found = {"django": [], "driver": [], "app": []}
    with tempfile.TemporaryDirectory() as compiled:
        for number in range(3 * options.rounds + 1):
            for what, some in found.items():
                figures = run(what, compiled)
                if number:  # the first compiles, and reads from the disk
                    some.append(figures)
    for one in found["app"]:
        assert (one["threads"], one["sockets"]) == (1, 0), "a connection was opened"

    def added(who, unit):
        return statistics.median(
            one[unit] - base[unit]
            for one, base in zip(found[who], found["django"], strict=True)
        )

    return [
        bench.figure(f"start: {what} more than Django's", *values)
        for what, values in {
            "time": (added("app", "ms"), "ms", added("driver", "ms")),
            "memory": (added("app", "MB"), "MB", added("driver", "MB")),
        }.items()
    ]


def run(what, compiled):
    """Start a process that finds its imports compiled, like those of installed apps."""
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": compiled}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, what],
        cwd=bench.ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        check=True,
    )
    return json.loads(done.stdout)
