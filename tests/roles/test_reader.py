"""The reader reads all, and writes nothing."""

import contextlib

import pytest
from django.core.management import CommandError, call_command

from ossy_event_store import Aggregate, AggregateRebuild, EventStore, checks
from ossy_event_store.admin import overview
from ossy_event_store.event_store.query.following import Following
from ossy_event_store.management.events.mcp import server, tools
from ossy_event_store.mongodb import connection, leases
from ossy_event_store.mongodb.ports import drive
from ossy_event_store.monitoring import health
from ossy_event_store.positions.change_stream import ChangeStream
from ossy_event_store.positions.sequencer import Sequencer
from ossy_event_store.rebuild.tallies import tallies
from tests.library.aggregate import Book
from tests.support import positions
from tests.support.commands import Stops
from tests.support.roles import (
    BOUGHT,
    CHANGED,
    CHANGES,
    COPY,
    FOLLOWED,
    LENT,
    RETURNED,
    everything,
    guarded_marks,
    in_others,
    may_not,
    refused,
    said,
)

pytestmark = [pytest.mark.faults, *guarded_marks]
WRITES = {
    **CHANGES,
    "an event": lambda c: c.insert_one(dict(COPY)),
    "a snapshot": lambda c: c.database.aggregates.insert_one({"_id": "s"}),
    "a snapshot's update": lambda c: c.database.aggregates.update_one({}, CHANGED),
    "a snapshot's end": lambda c: c.database.aggregates.delete_one({}),
    "a lease": lambda c: c.database.eventstore_leases.insert_one({"_id": "l"}),
    **in_others(*FOLLOWED),
}


@pytest.fixture
def reader(become):
    """The store as the reader, with one book of two events and its snapshot."""
    become("shop_site")
    book = Aggregate.of(Book, {**BOUGHT, "aggregateId": "b-1"})
    book.add(LENT).save()
    with contextlib.closing(Sequencer(become("shop_follow"))) as sequencer:
        sequencer.advance(0.1)
    return become("shop_report")


def test_the_reader_reads_all(reader, tmp_path, monkeypatch):
    assert Aggregate.of(Book, "b-1").version == 2
    assert Aggregate.find("b-1")["aggregateVersion"] == 2
    assert len(EventStore.get_event_stream("b-1")) == 2
    assert [stream["aggregateId"] for stream in EventStore.get_event_streams()] == [
        "b-1"
    ]
    assert EventStore.find_event({"type": "BookLent"})["aggregateVersion"] == 2
    assert len(EventStore.find_events({"aggregateId": "b-1"})) == 2
    assert EventStore.aggregate([{"$count": "events"}]) == [{"events": 2}]
    assert [event["position"] for event in EventStore.read_all()] == [1, 2]
    said("export_events", "--output", str(tmp_path / "out.jsonl"))
    assert (tmp_path / "out.jsonl").read_text().count("\n") == 2
    monkeypatch.setattr(checks.server, "FIXED_IN", {})
    assert checks.check_server(None, ["default"]) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["tail"],
        ["show", "b-1@2", "--state"],
        ["stream", "b-1", "--diff", "0..2"],
        ["stream", "b-1", "--state", "--at", "0s"],
        ["search", "--where", "payload.to=ann", "--scan"],
        ["trace", "b-1@1"],
        ["stats", "--by", "day"],
        ["types"],
        ["count", "--type", "BookLent"],
        ["open", "1"],
    ],
    ids=" ".join,
)
def test_the_reader_looks_at_events_on_the_command_line(reader, arguments):
    assert said("events", *arguments)


def test_only_the_reader_may_serve_programs(reader, become):
    server.refuse_writers(allow_unauthenticated=False)
    assert tools.recent()["events"]
    assert tools.subscriptions()["subscriptions"][0]["name"] == "snapshots"
    assert tools.parked("mail") == {"parked": []}
    for user in ("shop_site", "shop_follow", "shop_operate", "shop_deploy"):
        become(user)
        with pytest.raises(CommandError, match=r"may do more than read: \w+ on \w+"):
            server.refuse_writers(allow_unauthenticated=True)


def test_the_reader_follows_events_on_the_command_line(reader, guarded, monkeypatch):
    wait, new = Following.wait, positions.event("b-2", 1)
    entry = {"_id": 3, "eventId": new["_id"], "aggregateId": "b-2"}
    guarded.database.eventstore.insert_one(new)

    def append_and_wait(self, seconds):
        guarded.database.eventstore_positions.insert_one(
            {**entry, "aggregateVersion": 1}
        )
        return wait(self, seconds)

    monkeypatch.setattr(Following, "wait", append_and_wait)
    out = Stops(2)
    with pytest.raises(CommandError) as caught:
        call_command("events", "tail", "--follow", "-n", "1", "--jsonl", stdout=out)
    assert caught.value.returncode == 130
    assert '"position": 3' in out.getvalue()


def test_the_reader_sees_what_the_pages_of_the_admin_show(reader, guarded):
    guarded.database.eventstore_parked.insert_one({"_id": "p"})
    assert [stream["_id"] for stream in drive(reader.parked.find({}))] == ["p"]
    for other in (reader.subscriptions, reader.skipped):
        assert drive(other.find({})) == []
    assert drive(tallies(reader)) == []
    assert drive(overview.health(reader)).missing == []
    with contextlib.closing(
        ChangeStream(connection.raw(reader.positions), fields=())
    ) as new:
        guarded.database.eventstore_positions.insert_one({"_id": 3})
        assert [entry["_id"] for entry, _ in new.fetch(10)] == [3]


def test_the_reader_asks_for_the_health(reader):
    found = health.figures()
    assert found["store"] == {"reachable": True, "error": None}
    assert found["positions"]["events"] == found["positions"]["head"] == 2


def test_the_reader_verifies_the_store(reader):
    assert said("verify_event_store")


def test_the_reader_asks_which_event_types_are_stored(reader):
    assert "BookLent" in said("event_catalog", "--stored")


def test_the_reader_reads_a_stream_whose_snapshot_is_ahead_of_it(reader, guarded):
    guarded.database.eventstore.delete_one({"aggregateVersion": 2})
    assert Aggregate.of(Book, "b-1").version == 1


def test_the_reader_tries_a_rebuild(reader, guarded):
    before = everything(guarded)
    assert AggregateRebuild.dry_run().dry_run["Book"].streams == 1
    assert "nothing was written" in said("rebuild_aggregates", "--diff")
    assert everything(guarded) == before


def test_the_reader_may_not_write(reader, guarded):
    may_not(reader, WRITES, guarded)


def test_the_reader_appends_saves_and_rebuilds_nothing(reader, guarded):
    before = everything(guarded)
    book = Aggregate.of(Book, "b-1")
    for attempt in (
        lambda: book.add(LENT),
        lambda: book.add(LENT, RETURNED),
        book.save,
        AggregateRebuild.build_and_save_all,
        lambda: drive(leases.acquire(reader, "l", "me", 1)),
    ):
        with refused():
            attempt()
    assert everything(guarded) == before
