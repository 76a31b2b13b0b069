"""An export writes every event as a line, in order, and an import reads it back."""

import datetime as dt
import json

import pytest
from bson import Binary, Code, DatetimeMS, Decimal128, Int64, ObjectId

from ossy_event_store import EventStore
from ossy_event_store.mongodb.ports import drive_each
from ossy_event_store.streams.export_events import export_events
from ossy_event_store.streams.import_events import ImportLimits
from tests.support.event_lines import STREAM, bring, exported, line, stored, stream

THREES = ImportLimits(lines=3)


# Exported


def test_an_event_is_one_line_with_its_fields_in_order(store):
    bring(store, [line(_id="mine")])
    (text,) = exported(store)
    assert text == (
        '{"_id":"mine","aggregateId":"b","aggregateType":"Book","aggregateVersion":1,'
        '"type":"BookLent","payload":{"to":"ann"},"created":"2024-02-29T12:30:15.123Z",'
        '"createdBy":null}'
    )


def test_a_derived_id_is_omitted(store):
    bring(store, stream("b", 1))
    assert "_id" not in json.loads(exported(store)[0])


def test_an_export_is_in_order_of_stream_and_version(store, lend):
    for name in "ba":
        lend(name, "BookBought", "BookLent")
    found = [tuple(map(json.loads(text).get, STREAM)) for text in exported(store)]
    assert found == [("a", 1), ("a", 2), ("b", 1), ("b", 2)]


def test_an_export_reports_its_progress(store, lend):
    lend("b", "BookBought", "BookLent")
    seen = []
    list(drive_each(export_events(store, [{}], lambda r: seen.append(r.events))))
    assert seen == [2]


def test_an_export_of_nothing_is_empty(store):
    assert exported(store) == []


def test_what_was_exported_and_imported_is_exported_the_same(store, history, lend):
    lend("b", "BookBought", "BookLent")
    EventStore.append_event(
        {
            "aggregateId": "odd",
            "aggregateType": "Odd",
            "type": "T",
            "payload": {
                "$oid": "x",
                "b": Binary(b"x", 5),
                "c": Code("f", {"a": 1}),
                "d": [DatetimeMS(2**60), Decimal128("1.0"), Int64(1), ObjectId()],
            },
            "metadata": {"a.b": None},
            "createdBy": "ann",
            "created": dt.datetime(1, 1, 1, tzinfo=dt.UTC),
        }
    )
    lines, before = exported(store), stored()
    history.delete_many({})
    bring(store, lines, limits=THREES)
    assert stored() == before
    assert exported(store) == lines


# The Node package


def test_an_event_of_the_node_package_is_exported_with_a_date(store, node_event):
    (text,) = exported(store)
    assert json.loads(text)["created"] == "2024-02-29T12:30:15.123Z"


def test_an_event_without_a_date_does_not_end_an_export(store, node_event, history):
    history.update_one({}, {"$unset": {"created": ""}})
    assert len(exported(store)) == 1


@pytest.mark.parametrize("created", [8.64e15, float("nan"), 2**62])
def test_milliseconds_outside_of_every_date_do_not_end_an_export(
    node_event, created, store, history
):
    history.update_one({}, {"$set": {"created": created}})
    assert len(exported(store)) == 1
