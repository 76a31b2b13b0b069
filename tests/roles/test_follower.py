"""The follower runs subscriptions, and neither appends nor changes events."""

import contextlib

import pytest

from ossy_event_store import Aggregate, AggregateRebuild, EventStore, checks
from ossy_event_store.mongodb import connection, leases
from ossy_event_store.mongodb.ports import drive
from ossy_event_store.positions import reader as positions_reader
from ossy_event_store.positions.sequencer import Sequencer
from ossy_event_store.subscriptions import declaration, operator_actions
from ossy_event_store.subscriptions.declaration import subscription
from tests.library.aggregate import Book
from tests.support import servers
from tests.support.roles import (
    BOUGHT,
    CHANGES,
    FOLLOWED,
    LENT,
    PROJECTION,
    RETURNED,
    WAYS,
    code_of,
    everything,
    guarded_marks,
    in_others,
    may_not,
    refused,
)
from tests.support.subscriptions import running

pytestmark = [pytest.mark.faults, *guarded_marks]


@pytest.fixture
def follower(become):
    """The store as the follower, with one book of two events."""
    become("shop_site")
    Aggregate.of(Book, {**BOUGHT, "aggregateId": "b-1"}).add(LENT)
    return become("shop_follow")


def test_the_follower_gives_positions_to_what_there_is_and_to_what_comes(
    follower, guarded
):
    with contextlib.closing(Sequencer(follower)) as sequencer:
        assert sequencer.advance(0.1) == 2
        guarded.database.eventstore.insert_one(
            {
                **BOUGHT,
                "_id": "new",
                "aggregateId": "b-2",
                "aggregateVersion": 1,
                "aggregateType": "Book",
            }
        )
        servers.until(lambda: sequencer.advance(0.1))
    assert [event["position"] for event in EventStore.read_all(limit=2)] == [1, 2]
    assert drive(positions_reader.head_position(follower)) == 3


def test_the_follower_takes_leases_and_saves_snapshots(follower):
    assert drive(leases.acquire(follower, "l", "me", 1)) == 1
    drive(leases.release(follower, "l", "me"))
    assert Aggregate.of(Book, "b-1").save().version == 2
    AggregateRebuild.build_and_save_all()


def test_the_follower_writes(follower):
    for name, change in in_others(*FOLLOWED, ways=("insert", "update")).items():
        assert code_of(change, connection.raw(follower.events)) is None, name


def test_the_follower_may_not_drop_or_index(follower, guarded):
    changes = in_others(*FOLLOWED, ways=("drop", "createIndex"))
    may_not(follower, changes, guarded)


def test_the_follower_may_not_change_events(follower, guarded):
    may_not(follower, CHANGES, guarded)


def test_the_follower_may_not_append(follower, guarded):
    before = everything(guarded)
    book = Aggregate.of(Book, "b-1")
    for several in ([LENT], [LENT, RETURNED]):
        with refused():
            book.add(*several)
    assert everything(guarded) == before


def test_the_checks_have_nothing_to_say_to_the_follower(follower, monkeypatch):
    monkeypatch.setattr(checks.server, "FIXED_IN", {})
    assert checks.check_server(None, ["default"]) == []


def test_the_follower_parks_a_stream_and_the_operator_has_its_event_skipped(
    follower, become, guarded, monkeypatch
):
    monkeypatch.setattr(declaration, "_registered", {})
    got = []

    @subscription("reader", retries=0)
    def read(event):
        got.append(event["aggregateVersion"])
        if event["aggregateVersion"] == 1:
            raise ValueError("an old one")

    with running("reader"):
        servers.until(lambda: guarded.database.eventstore_parked.count_documents({}))
    become("shop_operate")
    assert operator_actions.skip("reader", "b-1", "known")["type"] == "BookBought"
    become("shop_follow")
    with running("reader"):
        servers.until(
            lambda: not guarded.database.eventstore_parked.count_documents({})
        )
        # The first run may have ended before it read the second event.
        servers.until(lambda: len(got) > 1)
    assert got == [1, 2]
    skipped = guarded.database.eventstore_skipped.find()
    assert [one["reason"] for one in skipped] == ["known"]


@pytest.mark.parametrize("name", [PROJECTION, f"{PROJECTION}_2"])
def test_the_follower_builds_and_drops_a_projection_that_is_named(
    name, follower, become
):
    rows = connection.raw(follower.events).database[name]
    rows.drop()
    rows.create_index("customer")
    rows.insert_one({"_id": 1, "customer": "ann", "total": 0})
    rows.update_one({"_id": 1}, {"$inc": {"total": 5}})
    rows.delete_many({"total": 0})
    site = connection.raw(become("shop_site").events).database[name]
    assert [row["total"] for row in site.find()] == [5]
    with refused():
        site.update_one({"_id": 1}, {"$set": {"total": 0}})
    follower = become("shop_follow")
    connection.raw(follower.events).database[name].drop()


def test_the_follower_may_not_touch_a_projection_that_is_not_named(follower):
    rows = connection.raw(follower.events).database["projection_loans"]
    for change in WAYS.values():
        with refused():
            change(rows)
