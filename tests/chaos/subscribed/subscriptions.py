"""
What is subscribed, one of each kind. Nothing here hides that an event came twice.

No handler fails by itself, so a stream that is parked was parked by mistake.
"""

import os
from functools import cache
from pathlib import Path

from django.conf import settings
from django.db import connection

from ossy_event_store import mongo, subscription

from .effects import DIARIES, DIARY, EFFECTS, ROWS, TOTALS

ROW = "INSERT INTO effects (event, stream, version, position) VALUES (%s, %s, %s, %s)"


def place(event):
    return (
        str(event["_id"]),
        event["aggregateId"],
        event["aggregateVersion"],
        event["position"],
    )


@subscription(EFFECTS, session=True)
def effects(event, session):
    database = mongo.raw(mongo.blocking().events).database
    database[EFFECTS].insert_one({"of": list(place(event))}, session=session)
    change = {"$inc": {"count": 1}, "$push": {"versions": event["aggregateVersion"]}}
    stream = {"_id": event["aggregateId"]}
    database[TOTALS].update_one(stream, change, upsert=True, session=session)


@subscription(ROWS, using="default")
def rows(event):
    with connection.cursor() as cursor:
        cursor.execute(ROW, place(event))


@subscription(DIARY)
def diary(event):
    note(DIARY, event)


@subscription(DIARIES, concurrency=4)
async def diaries(event):
    note(DIARIES, event)


def note(name, event):
    """Write a line that outlives this process, behind those of all processes."""
    os.write(_file(name), ("\t".join(map(str, place(event))) + "\n").encode())


@cache
def _file(name):
    path = Path(settings.FOLDER) / f"{name}.deliveries"
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
