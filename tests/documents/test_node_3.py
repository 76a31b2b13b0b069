"""Events of the Node package 3.x become lines; their versions are counted again."""

import json

import pytest

from ossy_event_store.documents.node_3 import Conversion, converted
from ossy_event_store.exceptions import InvalidLine
from ossy_event_store.streams.event_lines import read_line
from tests.support.event_documents import NOW

MOMENT = 1709209815123


def event(resource_id="r", version=1, **fields):
    return {
        "_id": {"$oid": "65e0a1b2c3d4e5f601234567"},
        "event": "Placed",
        "type": "@shop/schema/order",
        "payload": {"at": {"$date": MOMENT}},
        "createdBy": "u1",
        "id": f"{resource_id}-{version}",
        "created": MOMENT,
        "resourceId": resource_id,
        "version": version,
        **fields,
    }


def convert(*documents):
    conversion = Conversion()
    lines = list(converted(enumerate(documents, 1), conversion))
    return [read_line(text) for _, text in lines], conversion


def test_an_event_gets_the_fields_of_this_store():
    (found,), _ = convert(event(ip="::1", belongsTo="w"))
    assert found == {
        "_id": "r-1",
        "aggregateId": "r",
        "aggregateType": "@shop/schema/order",
        "aggregateVersion": 1,
        "type": "Placed",
        "payload": {"at": NOW},
        "created": NOW,
        "createdBy": "u1",
        "metadata": {"ip": "::1", "belongsTo": "w"},
    }


def test_an_event_without_id_or_payload_keeps_its_object_id_and_gets_a_payload():
    document = event(payload=None)
    del document["id"]
    (found,), _ = convert(document)
    assert (str(found["_id"]), found["payload"]) == ("65e0a1b2c3d4e5f601234567", {})


def test_doubled_and_missing_versions_are_counted_in_order_of_time():
    found, conversion = convert(
        event(version=1),
        event(version=2, id="later", created={"$numberDouble": f"{MOMENT + 1}.0"}),
        event(version=2, id="b"),
        event(version=2, id="a"),
        event(version={"$numberInt": "7"}),
        event("s", version=1.0),
    )
    assert [(one["_id"], one["aggregateVersion"]) for one in found] == [
        ("r-1", 1),
        ("a", 2),
        ("b", 3),
        ("later", 4),
        ("r-{'$numberInt': '7'}", 5),
        ("s-1.0", 1),
    ]
    kept = [one["metadata"].get("version") for one in found]
    assert kept == [None, None, 2, 2, 7, None]
    assert conversion.renumbered == 3


@pytest.mark.parametrize(
    "documents",
    [[event("b"), event("a")], [event(version=2), event(version=1)]],
    ids=["streams", "versions"],
)
def test_documents_in_another_order_are_refused_with_the_option_that_helps(documents):
    with pytest.raises(InvalidLine, match="mongoexport --sort") as caught:
        convert(*documents)
    assert caught.value.line == 2


def test_documents_that_are_not_events_are_passed_over_and_named():
    older = {"_id": "old", "aggregateId": "a", "aggregateVersion": 1, "type": "T"}
    found, conversion = convert(
        older, [], *(event(version=None, _id=n) for n in range(5)), event()
    )
    assert [json.dumps(one["_id"]) for one in found] == ['"r-1"']
    assert conversion.passed_over.count == 7
    named = [text.partition(":")[0] for text in conversion.passed_over.named]
    assert named == ["'old'", "[]", "0", "1", "2"]
