"""Checks of single events: their fields and their ids."""

from dataclasses import replace

import pytest
from bson import ObjectId

from ossy_event_store import Aggregate
from ossy_event_store.mongodb.ports import drive
from ossy_event_store.verification.options import VerifyOptions
from ossy_event_store.verification.verify import verify
from tests.library.aggregate import Book
from tests.support.verification import SMALL, event, look

SCALARS = [5, None, "", "x" * 256, ObjectId("0" * 24), {"a": 1}, ...]
LISTS = [["b-10"], ["b-10", "b-11"], []]


def is_found(events, name, value):
    """Insert an event with a bad name, look for it, and delete it."""
    # A list of ids has an entry in the index for each of them.
    version = 9 if isinstance(value, list) else 1
    strange = event(..., version, **{"aggregateId": "new", name: value})
    events.insert_one(strange)
    (finding,) = look(sizes=SMALL).findings
    events.delete_one({"_id": strange["_id"]})
    assert finding.kind == "event"
    assert finding.subject == f"{name} of event {strange['_id']}"
    of = strange.get("aggregateId")
    assert finding.aggregate_id == (of if isinstance(of, str) else None)


@pytest.mark.parametrize("name", ["aggregateId", "aggregateType"])
def test_a_stream_or_type_without_a_valid_name_is_found(library, name):
    for value in SCALARS:
        is_found(library, name, value)


@pytest.mark.parametrize("name", ["aggregateId", "aggregateType"])
def test_a_list_as_the_name_of_a_stream_or_type_is_found(with_lists, name):
    for value in LISTS:
        is_found(with_lists, name, value)


def test_a_finding_names_the_field_that_is_wrong(library):
    library.update_one({"_id": library.find_one()["_id"]}, {"$set": {"payload": []}})
    (finding,) = look(sample=0).findings
    assert str(finding).startswith("event: stream 'b-00', version 1, payload of event ")
    assert str(finding).endswith(": expected object, found array")


def test_events_after_the_end_of_a_stream_are_found(store, history):
    for name in ("a", "b"):
        first = {"type": "BookBought", "payload": {"title": "x"}, "aggregateId": name}
        Aggregate.of(Book, first).close()
    assert look().findings == []
    closing = history.find_one({"aggregateId": "a", "aggregateVersion": 2})
    for version in (3, 4):
        after = {"type": "BookLent", "payload": {"to": "ann"}, "_id": ObjectId()}
        history.insert_one({**closing, **after, "aggregateVersion": version})
    (finding,) = look().findings
    assert (finding.kind, finding.aggregate_id) == ("after-end", "a")
    assert finding.versions == (3, 4)
    assert drive(verify(store, VerifyOptions(ids=["a"]))).findings == [finding]
    assert drive(verify(store, VerifyOptions(ids=["b"]))).findings == []


# --- on a sharded cluster ---------------------------------------------------


class Sharded:
    """A client that claims to speak to a sharded cluster."""

    def __init__(self, client):
        self.client = client

    def __getattr__(self, name):
        return getattr(self.client, name)

    async def command(self, name, **options):
        return {"msg": "isdbgrid", "ok": 1}


class TwoShards:
    """Events of which some are on both shards, with one id."""

    def __init__(self, events, twice):
        self.events = events
        self.twice = twice

    def __getattr__(self, name):
        return getattr(self.events, name)

    async def batches(self, query, size, **options):
        async for batch in self.events.batches(query, size, **options):
            if query == {}:
                batch = [
                    one for one in batch for _ in range(1 + (one["_id"] in self.twice))
                ]
            yield batch


def test_an_id_on_two_shards_is_found(store, library):
    ids = [one["_id"] for one in library.find().sort("_id", 1)]
    for twice in ([], [0], [59], [3, 4, 30]):
        cluster = replace(
            store,
            client=Sharded(store.client),
            events=TwoShards(store.events, [ids[n] for n in twice]),
        )
        report = drive(verify(cluster, VerifyOptions()))
        assert [finding.subject for finding in report.findings] == [
            f"event {ids[n]}" for n in twice
        ]
        assert report.found == ({"event-id": len(twice)} if twice else {})
