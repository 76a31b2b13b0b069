"""A choice of streams, by type, id or time."""

import datetime as dt

from bson import Int64

from ossy_event_store import Aggregate
from ossy_event_store.mongodb.ports import MAJORITY
from ossy_event_store.verification.options import VerifyOptions
from tests.support.verification import (
    LATELY,
    LONG_AGO,
    NODE,
    SMALL,
    break_stream,
    event,
    found,
    look,
)

#: Options, and how many streams, events and snapshots they choose.
CHOICES = [
    ({"types": ["Reader"]}, 4, 15, 4),
    ({"types": ["Reader", "Reader"]}, 4, 15, 4),
    ({"types": ["Cook"]}, 0, 0, 0),
    ({"ids": ["b-10"]}, 1, 7, 1),
    ({"ids": ["b-10", "b-10", "b-00"]}, 2, 8, 2),
    ({"ids": ["nowhere"]}, 0, 0, 0),
    ({"ids": []}, 0, 0, 0),
    ({"since": LONG_AGO}, 21, 60, 21),
    ({"since": LONG_AGO, "types": ["Reader"]}, 4, 15, 4),
    ({"since": LONG_AGO, "ids": ["b-10"]}, 1, 7, 1),
    ({"since": LATELY}, 21, 60, 21),
    ({"since": LATELY + dt.timedelta(milliseconds=1)}, 0, 0, 0),
]


def test_only_chosen_streams_are_verified(library, face):
    for options, *counts in CHOICES:
        report = look(face, sizes=SMALL, **options)
        assert [report.streams, report.events, report.snapshots] == counts, options
        assert report.compared == report.snapshots, options


def test_what_is_broken_elsewhere_is_not_reported(library):
    break_stream(library, "a hole in the middle")
    break_stream(library, "payload [1]")
    assert look(types=["Reader"]).ok
    assert look(ids=["b-11"]).ok


def test_since_chooses_whole_streams_that_got_an_event(library, face):
    at = LATELY + dt.timedelta(days=1)
    library.insert_one(event("b-10", 8, created=at))
    milliseconds = at.timestamp() * 1000
    library.insert_one(event("b-03", 5, **{**NODE, "created": milliseconds}))
    library.insert_one(event("b-02", 4, **{**NODE, "created": Int64(milliseconds)}))
    break_stream(library, "a hole in the middle", "b-10")
    break_stream(library, "a hole in the middle", "b-09")
    report = look(face, since=at)
    assert (report.streams, report.events) == (3, 7 + 5 + 4)
    assert found(report) == [("hole", "b-10", (3, 3))]


def test_since_is_a_range_of_an_index(library):
    query = VerifyOptions(since=LATELY).event_query
    plan = library.find(query).explain()["queryPlanner"]["winningPlan"]
    assert "created_1__id_1" in str(plan)
    assert "COLLSCAN" not in str(plan)


def test_a_choice_of_a_type_sees_a_snapshot_of_another(library):
    change = {"$set": {"aggregateType": "Reader"}}
    seen = Aggregate.collection.with_options(write_concern=MAJORITY)
    seen.update_one({"_id": "b-10"}, change)
    for kind in ("Book", "Reader"):
        report = look(sizes=SMALL, types=[kind])
        assert found(report) == [("snapshot-type", "b-10", (7, 7))]
