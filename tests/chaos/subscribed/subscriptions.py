"""
What is subscribed, of each kind. Nothing here hides that an event came twice.

All of them fail at events that are bad for a while, most of them after the effect:
what was written is to be gone with the failure.
"""

import os
from functools import cache
from pathlib import Path

from django.conf import settings
from django.db import connection

from ossy_event_store import subscription
from ossy_event_store.mongodb import connection as mongodb_connection

from .effects import DIARIES, DIARY, EFFECTS, ROWS, STRICT, STRICT_ROWS, TOTALS
from .failing import Failing

ROW = "INSERT INTO {} (event, stream, version, position) VALUES (%s, %s, %s, %s)"
# Streams park at once: an outage in which a retry helps is the business of the servers.
QUICK = {"retries": 1, "backoff": (0.01, 0.02)}
STOPPING = {**QUICK, "on_error": "stop"}

fail_if_bad = Failing(settings.FOLDER)


def place(event):
    return (
        str(event["_id"]),
        event["aggregateId"],
        event["aggregateVersion"],
        event["position"],
    )


@subscription(EFFECTS, session=True, **QUICK)
def effects(event, session):
    database = write(EFFECTS, event, session)
    change = {"$inc": {"count": 1}, "$push": {"versions": event["aggregateVersion"]}}
    stream = {"_id": event["aggregateId"]}
    database[TOTALS].update_one(stream, change, upsert=True, session=session)
    fail_if_bad(EFFECTS, event)


@subscription(STRICT, session=True, **STOPPING)
def strict(event, session):
    write(STRICT, event, session)
    fail_if_bad(STRICT, event)


def write(name, event, session):
    database = mongodb_connection.raw(mongodb_connection.blocking().events).database
    database[name].insert_one({"of": list(place(event))}, session=session)
    return database


@subscription(ROWS, using="default", **QUICK)
def rows(event):
    insert(ROWS, event)


@subscription(STRICT_ROWS, using="default", **STOPPING)
def strict_rows(event):
    insert(STRICT_ROWS, event)


def insert(name, event):
    with connection.cursor() as cursor:
        cursor.execute(ROW.format(name), place(event))
    fail_if_bad(name, event)


@subscription(DIARY, **QUICK)
def diary(event):
    fail_if_bad(DIARY, event)
    note(DIARY, event)


@subscription(DIARIES, concurrency=4, **QUICK)
async def diaries(event):
    note(DIARIES, event)
    fail_if_bad(DIARIES, event)


def note(name, event):
    """Write a line that outlives this process, after those of all processes."""
    os.write(_file(name), ("\t".join(map(str, place(event))) + "\n").encode())


@cache
def _file(name):
    path = Path(settings.FOLDER) / f"{name}.deliveries"
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
