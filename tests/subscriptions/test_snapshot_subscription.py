"""The built-in subscription that keeps snapshots up to date."""

import threading
import time

import pytest
from django.core.exceptions import ImproperlyConfigured

from ossy_event_store import (
    Aggregate,
    AggregateRebuild,
    EventStore,
    StoreUnavailable,
)
from ossy_event_store.aggregate import registry
from ossy_event_store.mongodb import connection, resumable_scan
from ossy_event_store.streams import load
from ossy_event_store.streams.reducers import revision_of
from ossy_event_store.subscriptions import operator_actions, snapshot_subscription
from ossy_event_store.subscriptions.delivery.long_folds import LongFold, LongFolds
from ossy_event_store.subscriptions.operator_requests import OperatorRequests
from ossy_event_store.subscriptions.runner import assign_positions
from ossy_event_store.subscriptions.snapshot_subscription import Snapshots
from tests.library.aggregate import Book
from tests.support.positions import event as stored_event
from tests.support.servers import until
from tests.support.subscriptions import checkpoint, parked, reached, running

pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture
def follow(monkeypatch):
    """Let snapshots of books follow, with the policy given; return the class."""

    def follow(every=1, **attributes):
        body = {"snapshot_every": every, "revision": "1", **attributes}
        Root = type("Book", (Book,), body)
        monkeypatch.setattr(registry, "_registered", {})
        registry.register_aggregate(Root)
        snapshot_subscription.register()
        return Root

    return follow


def snapshot(aggregate_id):
    return Aggregate.find(aggregate_id)


def versions(*ids):
    return [(snapshot(one) or {}).get("aggregateVersion") for one in ids]


def test_a_snapshot_follows_its_stream(follow, store, lend):
    Root = follow()
    lend("a", "BookBought", "BookLent")
    lend("b", "BookBought")
    with running():
        reached(store, "snapshots", 3)
        assert versions("a", "b") == [2, 1]
        lend("a", "BookReturned")
        reached(store, "snapshots", 4)
    assert versions("a", "b") == [3, 1]
    kept = snapshot("a")
    assert kept["state"] == Root.view(EventStore.get_event_stream("a"), {})
    assert kept["revision"] == revision_of(Root)


def test_a_snapshot_follows_events_of_another_program_too(follow, store, history):
    follow()
    # As the Node package writes: no metadata, and a number for the time.
    document = {
        "_id": "n-1",
        "aggregateId": "n",
        "aggregateType": "Book",
        "aggregateVersion": 1,
        "type": "BookBought",
        "payload": {"title": "Emma"},
        "created": 1_700_000_000_000,
        "createdBy": "node",
    }
    with running():
        history.insert_one(document)
        reached(store, "snapshots", 1)
    assert snapshot("n")["state"]["title"] == "Emma"


def test_a_snapshot_is_renewed_as_often_as_its_class_says(follow, store, lend):
    Root = follow(every=3)
    with running():
        lend("a", "BookBought", "BookLent")
        reached(store, "snapshots", 2)
        assert versions("a") == [None]
        lend("a", "BookReturned")
        reached(store, "snapshots", 3)
        assert versions("a") == [3]
        lend("a", "BookLent")
        reached(store, "snapshots", 4)
        assert versions("a") == [3]
        lend("a", "BookReturned", "BookLent", "BookReturned")
        reached(store, "snapshots", 7)
    assert versions("a") == [7]
    assert snapshot("a")["state"] == Root.view(EventStore.get_event_stream("a"), {})


def test_a_class_may_have_no_snapshots(follow, store, lend):
    follow(every=None)
    lend("a", "BookBought")
    with running() as runner:
        assert runner.consumers == []
    assert versions("a") == [None]


def test_a_saved_snapshot_stays(follow, store, lend):
    Root = follow(every=10)
    lend("a", "BookBought", "BookLent")
    Aggregate.of(Root, "a").save()
    with running():
        reached(store, "snapshots", 2)
    assert versions("a") == [2]


def test_a_snapshot_of_another_revision_is_folded_again(follow, store, lend):
    Root = follow()
    lend("a", "BookBought", "BookLent")
    AggregateRebuild.build_and_save_all()
    spoilt = {"revision": "0", "state.title": "Persuasion"}
    connection.raw(store.snapshots).update_one({"_id": "a"}, {"$set": spoilt})
    with running():
        lend("a", "BookReturned")
        reached(store, "snapshots", 3)
    assert snapshot("a")["state"] == Root.view(EventStore.get_event_stream("a"), {})


def test_a_current_snapshot_is_not_written_again(follow, store, lend):
    follow()
    lend("a", "BookBought", "BookLent")
    AggregateRebuild.build_and_save_all()
    saved = snapshot("a")["saved"]
    with running():
        reached(store, "snapshots", 2)
    assert snapshot("a")["saved"] == saved


def test_a_reducer_that_raises_parks_its_stream_alone(follow, store, lend):
    broken = {"a"}

    def view(events, saved_state):
        for event in events:
            if event["aggregateId"] in broken and event["type"] == "BookLent":
                raise KeyError("to")
        return Book.view(events, saved_state)

    follow(view=staticmethod(view))
    lend("a", "BookBought", "BookLent", "BookReturned")
    lend("b", "BookBought", "BookLent")
    with running():
        reached(store, "snapshots", 5)
        assert versions("b") == [2]
        (waits,) = parked(store)
        assert (waits["aggregateId"], waits["aggregateVersion"]) == ("a", 2)
        assert "KeyError" in waits["error"]
        broken.clear()
        operator_actions.retry("snapshots")
        until(lambda: not parked(store))
    assert versions("a", "b") == [3, 2]


@pytest.mark.parametrize("wrong", [0, -1, True, "1", 1.5])
def test_a_wrong_snapshot_every_is_refused(follow, wrong):
    with pytest.raises(ImproperlyConfigured, match="snapshot_every must be a number"):
        follow(every=wrong)


def test_a_class_that_is_registered_later_is_followed_by_a_running_process(
    follow, store, lend, monkeypatch
):
    follow()
    monkeypatch.setattr(registry, "_listeners", [snapshot_subscription.register])
    declared = snapshot_subscription.declaration.registered_subscriptions
    with running():
        lend("a", "BookBought")
        reached(store, "snapshots", 1)
        Late = type("Late", (Book,), {"aggregate_type": "Late", "revision": "1"})
        registry.register_aggregate(Late)
        late = Aggregate.of(Late, {"aggregateId": "l", "type": "BookBought"})
        assert EventStore.wait_for(late, subscription="snapshots")
    assert versions("a", "l") == [1, 1]
    assert declared()["snapshots"].aggregate_types == ("Book", "Late")


def test_the_first_class_that_is_registered_later_is_followed(store, lend, monkeypatch):
    monkeypatch.setattr(registry, "_registered", {})
    monkeypatch.setattr(registry, "_listeners", [])
    snapshot_subscription.register()
    assert not snapshot_subscription.declaration.registered_subscriptions()
    registry.after_each(snapshot_subscription.register)
    registry.register_aggregate(Book)
    lend("a", "BookBought")
    with running():
        reached(store, "snapshots", 1)
    assert versions("a") == [1]


def test_a_snapshot_that_an_index_of_the_project_refuses_parks_its_stream_alone(
    follow,
    store,
    lend,
    _unbound,  # noqa: PT019 - its value is used
):
    follow()
    collection = _unbound(store.snapshots)
    name = collection.create_index("state.title", unique=True, sparse=True)
    try:
        lend("a", "BookBought")
        lend("b", "BookBought")
        lend("c", "BookReturned")
        with running():
            reached(store, "snapshots", 3)
    finally:
        collection.drop_index(name)
    assert versions("a", "b", "c") == [1, None, 1]
    (failure,) = parked(store)
    assert failure["aggregateId"] == "b"
    assert "state.title" in failure["error"]


# --- long streams -----------------------------------------------------------


def test_a_long_stream_is_folded_in_pieces_and_longer_than_the_time_out(
    follow, store, history, settings
):
    settings.OSSY_EVENT_STORE = {**settings.OSSY_EVENT_STORE, "TIMEOUT": 0.5}
    folded = []

    def view(events, state):
        folded.append(len(events))
        time.sleep(0.1)  # the reducer is slow
        return {"events": state.get("events", 0) + len(events)}

    follow(view=staticmethod(view))
    history.insert_many([stored_event("long", n) for n in range(1, 12_001)])
    assign_positions(threading.Event())
    connection.raw(store.subscriptions).insert_one(
        {"_id": "snapshots", "kind": "snapshots", "position": 11_999, "fence": 0}
        | {"delivered": 0}
    )
    with running():
        reached(store, "snapshots", 12_000)
    assert snapshot("long")["state"] == {"events": 12_000}
    assert max(folded) <= 1000
    assert sum(folded) == 12_000


@pytest.fixture
def during(follow, store, history, monkeypatch):
    """Store a stream to fold in 20 pieces; return what calls functions between them."""
    monkeypatch.setattr(Snapshots, "folded_at_once", 100)
    monkeypatch.setattr(resumable_scan, "BATCH", 10)
    monkeypatch.setattr(LongFolds, "piece_seconds", 0.0)
    history.insert_many([stored_event("long", n) for n in range(1, 201)])
    assign_positions(threading.Event())
    connection.raw(store.subscriptions).insert_one(
        {"_id": "snapshots", "kind": "snapshots", "position": 199, "fence": 0}
        | {"delivered": 0}
    )
    piece = LongFold.advance

    def during(**functions):
        left = {int(name.removeprefix("at_")): do for name, do in functions.items()}

        async def advance(fold, *arguments):
            if do := left.pop(fold.version, None):
                do()
            return await piece(fold, *arguments)

        monkeypatch.setattr(LongFold, "advance", advance)

    return during


def counting(events, state):
    if events[-1]["type"] == "Broken":
        raise ValueError("broken")
    return {"events": state.get("events", 0) + len(events)}


def test_other_streams_go_on_while_a_long_one_is_folded(
    during, follow, store, lend, history
):
    follow(view=staticmethod(counting))
    seen = []

    def append():
        lend("b", "BookBought")
        history.insert_one(stored_event("long", 201))
        assign_positions(threading.Event())

    def look():
        seen.append(versions("b", "long"))
        seen.append(checkpoint(store, "snapshots")["position"])

    during(at_50=append, at_100=look)
    with running():
        reached(store, "snapshots", 202)
    # The checkpoint stayed before the long stream.
    assert seen == [[1, None], 199]
    assert versions("b", "long") == [1, 201]
    assert snapshot("long")["state"] == {"events": 201}


def test_a_long_fold_that_is_interrupted_begins_again(during, follow, store):
    follow(view=staticmethod(counting))
    with running() as runner:
        during(at_50=runner.stop.set)
    assert versions("long") == [None]
    assert checkpoint(store, "snapshots")["position"] == 199
    with running():
        reached(store, "snapshots", 200)
    assert snapshot("long")["state"] == {"events": 200}


def test_a_long_stream_that_cannot_be_folded_is_parked_and_retried_in_pieces(
    during, follow, store, lend, history, monkeypatch
):
    monkeypatch.setattr(OperatorRequests, "_is_late", lambda self, end: True)
    history.update_one({"aggregateVersion": 70}, {"$set": {"type": "Broken"}})
    follow(view=staticmethod(counting))
    seen = []
    with running():
        reached(store, "snapshots", 200)
        (waits,) = parked(store)
        assert (waits["aggregateId"], waits["aggregateVersion"]) == ("long", 200)
        assert "broken" in waits["error"]
        history.update_one({"aggregateVersion": 70}, {"$set": {"type": "BookLent"}})

        def append():
            lend("b", "BookBought")
            assign_positions(threading.Event())

        during(at_0=append, at_100=lambda: seen.append(versions("long")))
        operator_actions.retry("snapshots")
        until(lambda: not parked(store))
        reached(store, "snapshots", 201)
    assert snapshot("long")["state"] == {"events": 200}
    assert versions("b") == [1]
    assert seen == [[None]]


def test_as_many_long_streams_as_fit_wait_and_others_are_folded_at_once(
    during, follow, store, history, monkeypatch
):
    monkeypatch.setattr(LongFolds, "most", 1)
    follow(view=staticmethod(counting))
    history.insert_many([stored_event("other", n) for n in range(1, 201)])
    assign_positions(threading.Event())
    with running():
        reached(store, "snapshots", 400)
    for name in ("long", "other"):
        assert snapshot(name)["state"] == {"events": 200}


def test_a_load_that_takes_too_long_says_why_and_what_helps(
    face, store, history, settings, monkeypatch
):
    monkeypatch.setattr(load, "PAGE_SIZE", 1)
    # Long enough for the first of 3,000 round trips, and too short for all of them.
    settings.OSSY_EVENT_STORE = {**settings.OSSY_EVENT_STORE, "TIMEOUT": 0.5}
    history.insert_many([stored_event("long", n) for n in range(1, 3001)])
    with pytest.raises(StoreUnavailable) as caught:
        face(EventStore.get_event_stream, "long")
    assert "stream 'long' is too long to be loaded" in str(caught.value)
    assert "rebuild_aggregates --id=long" in str(caught.value)
