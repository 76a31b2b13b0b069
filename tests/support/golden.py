"""Fixed events, and what ``manage.py events`` prints about them."""

import datetime as dt
import io
import shlex
import threading

from bson import ObjectId
from django.core.management import CommandError, call_command

from ossy_event_store.subscriptions.runner import assign_positions

# Around the nights in which the clocks of Paris and St. John's change.
FIRST = dt.datetime(2026, 3, 28, 22, 30, tzinfo=dt.UTC)
STEP = dt.timedelta(hours=7, minutes=13, seconds=5, milliseconds=123)


def event(number, stream, kind, payload=None, **fields):
    aggregate_id, version = stream.split("@")
    return {
        "_id": ObjectId(f"{number:024x}"),
        "aggregateId": aggregate_id,
        "aggregateType": "Reader" if kind == "Joined" else "Book",
        "aggregateVersion": int(version),
        "type": kind,
        "payload": payload or {},
        "created": FIRST + (number - 1) * STEP,
        "createdBy": "jane",
        "metadata": {},
        **fields,
    }


def caused(number, correlation="order-7"):
    return {"correlationId": correlation, "causationId": f"{number:024x}"}


# What a terminal obeys, what hides, and what turns the text around.
NASTY = "\x1b[2J\x1b]0;owned\x07 \u202eevil\u2066 \x9b31m é 日 \U000e0041"
EVENTS = [
    event(1, "emma-1@1", "BookBought", {"title": "Emma"}),
    event(2, "ann@1", "Joined", {"name": "Ann", "code": "5"}, createdBy=None),
    event(
        3,
        "emma-1@2",
        "BookLent",
        {"to": "ann", "fee": 2.5},
        metadata={"correlationId": "order-7"},
        tags=["reader:ann", "season:spring"],
    ),
    event(4, "emma-1@3", "BookReturned", createdBy="bob", metadata=caused(3)),
    event(
        5,
        "emma-1@4",
        "BookLent",
        {"to": "bob", "code": 5, "items": [{"sku": "x"}, {"sku": "y"}]},
        metadata=caused(4),
        tags=["reader:bob", "season:spring"],
    ),
    event(6, "pip-1@1", "BookBought", {"title": NASTY}, createdBy=NASTY[:40]),
    event(7, "pip-1@2", "BookLent", {"to": "ann", "due": FIRST}, createdBy="bob"),
    # By the Node package, and by a clock that was behind.
    event(8, "pip-1@3", "BookReturned", created=1774800000000, metadata=None),
    event(9, "-v1@1", "BookBought", {"title": "-"}, _id="bought@1"),
    event(10, "emma-1@5", "BookReturned", metadata=caused(99, "order-8")),
]
COMMANDS = """
events tail
events tail -n 2
events tail -n 2 --utc
events tail -n 2 --tz Asia/Tokyo --json
events tail --after 7 --jsonl
events tail --after 2 --until-position 5
events tail --type BookLent --format '{position} {type} {payload.to} {created}'
events tail --since 2026-03-30T12:00 --until 2026-03-31
events tail --user bob
events tail --order created -n 3
events tail --format '{payload.title}|{createdBy}|{{}}|{id}|{payload}'
events tail --format '{payload.items.1.sku} {tags} {metadata.correlationId}' -n 6
events tail --format '{nothing}'
events tail --json --jsonl
events tail --tz Mars/Olympus
events show 1
events show emma-1@3 --state
events show 000000000000000000000006
events show bought@1 --json
events show emma-1@5 --state --json
events show 3 --as-test
events show emma-1@99
events stream emma-1
events stream emma-1 --after-version 3 --reverse
events stream emma-1 --at 2026-03-29T20:00
events stream pip-1 --at 2026-03-30T20:00 --state
events stream emma-1 --state --json
events stream emma-1 --diff 1..5
events stream emma-1 --diff 0..2 --json
events stream emma-1 --diff 9
events stream nothing
events search --tag season:spring
events search --text ANN
events search --text ANN --scan
events search --where payload.to=ann
events search --where payload.code=5 --scan --jsonl
events search --type BookLent --where payload.code="5"
events search --where 'payload.$where=1' --scan
events trace order-7
events trace emma-1@2 --json
events trace 10
events trace nothing
events stats
events stats --by day
events stats --by user --top 2 --json
events stats --by aggregate-type --type BookLent --type Joined
events types
events types --json
events count
events count --stream emma-1 --type BookLent
events count --where metadata.correlationId=order-7
events open -- -v1@1
events open 3 --base-url https://shop.example/
"""


def insert(history):
    """Store the events, and give them positions."""
    history.insert_many(EVENTS)
    assign_positions(threading.Event())


def transcript():
    """Return what each command prints, below its line."""
    return "\n".join(map(_said, COMMANDS.strip().splitlines()))


def _said(line):
    out, err = io.StringIO(), io.StringIO()
    code = 0
    try:
        call_command(*shlex.split(line), stdout=out, stderr=err, no_color=True)
    except CommandError as error:
        code = error.returncode
        err.write(f"{error}\n")
    notes = "".join(f"! {one}\n" for one in err.getvalue().splitlines())
    return f"$ {line}\n{out.getvalue()}{notes}" + (f"exit {code}\n" if code else "")
