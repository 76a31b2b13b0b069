"""The events for the larger rows: generated, or read from a file."""

import datetime as dt
import gzip
import json
import tempfile
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import bench

LENGTH = 10  # events a stream
DAY = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
TYPES = (
    "A_SUBMITTED",
    "A_PARTLYSUBMITTED",
    "A_PREACCEPTED",
    "W_Completeren aanvraag",
    "A_ACCEPTED",
    "O_CREATED",
    "O_SENT",
    "W_Nabellen offertes",
    "O_ACCEPTED",
    "A_APPROVED",
)


def lines(events):
    """Yield events as lines of JSON, ten a stream, stream by stream."""
    for number in range(events):
        stream, at = divmod(number, LENGTH)
        payload = {"lifecycle": "COMPLETE"}
        if at == 0:
            payload |= {"amountRequested": 1000 + stream % 90_000, "note": "x" * 80}
        yield json.dumps(
            {
                "aggregateId": f"loan-{stream:08}",
                "aggregateType": "LoanApplication",
                "aggregateVersion": at + 1,
                "type": TYPES[at],
                "payload": payload,
                "created": (DAY + dt.timedelta(seconds=number)).isoformat(),
                "createdBy": str(stream % 70),
            }
        )


@cache
def file_of(events, given=None):
    """Return a file with the events; ``clean_up()`` removes a generated one."""
    if given:
        return Path(given)
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl", delete=False) as file:
        file.writelines(line + "\n" for line in lines(events))
    return Path(file.name)


@contextmanager
def opened(options):
    path = file_of(options.events, options.file)
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt") as file:
        yield file


def clean_up(options):
    if not options.file and file_of.cache_info().currsize:
        file_of(options.events, None).unlink(missing_ok=True)
        file_of.cache_clear()


def load(options):
    """Import the events into an empty database; return their number."""
    from ossy_event_store.mongodb import connection
    from ossy_event_store.mongodb.ports import drive
    from ossy_event_store.streams.import_events import import_events

    bench.empty()
    with opened(options) as file:
        return drive(import_events(connection.blocking(), enumerate(file, 1))).events
