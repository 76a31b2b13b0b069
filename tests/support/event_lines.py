"""Lines of events, and both ways through the store."""

import json

import bson
import pytest

from ossy_event_store import EventStore
from ossy_event_store.documents.bson_types import CODEC
from ossy_event_store.exceptions import InvalidLine
from ossy_event_store.mongodb.ports import drive, drive_each
from ossy_event_store.streams.export_events import export_events
from ossy_event_store.streams.import_events import import_events

STREAM = ("aggregateId", "aggregateVersion")


def line(aggregate_id="b", version=1, **fields):
    return json.dumps(
        {
            "aggregateId": aggregate_id,
            "aggregateType": "Book",
            "aggregateVersion": version,
            "type": "BookLent",
            "payload": {"to": "ann"},
            "created": "2024-02-29T12:30:15.123Z",
            **fields,
        }
    )


def stream(aggregate_id, last, first=1):
    return [line(aggregate_id, version) for version in range(first, last + 1)]


def bring(store, lines, **options):
    return drive(import_events(store, list(enumerate(lines, 1)), **options))


def refusal(store, lines, **options):
    with pytest.raises(InvalidLine) as caught:
        bring(store, lines, **options)
    return caught.value


def exported(store, *queries):
    return "".join(drive_each(export_events(store, queries or [{}]))).splitlines()


def stored():
    """Every event as bytes, in order of stream and version."""
    found = EventStore.collection.find(sort=dict.fromkeys(STREAM, 1))
    return [bson.encode(event, codec_options=CODEC) for event in found]


def counts(report):
    return report.events, report.stored, report.present
