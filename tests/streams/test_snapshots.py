"""A newer snapshot is never replaced, in whatever order they are saved."""

import random
from concurrent.futures import ThreadPoolExecutor

import pytest

from ossy_event_store import Aggregate, AggregateRebuild, InvalidState
from ossy_event_store.mongodb.ports import drive
from ossy_event_store.streams import snapshots
from ossy_event_store.streams.snapshots import build_snapshot, save_snapshot
from tests.library.aggregate import Book


def snapshot(version):
    return build_snapshot(Book, "b-1", version, {"version": version})


def test_saving_returns_whether_the_snapshot_was_stored(store):
    assert drive(save_snapshot(store, snapshot(2)))
    assert not drive(save_snapshot(store, snapshot(1)))
    assert not drive(save_snapshot(store, snapshot(2)))
    assert drive(save_snapshot(store, snapshot(3)))
    assert Aggregate.find("b-1")["state"] == {"version": 3}


@pytest.mark.parametrize("seed", range(5))
def test_the_newest_of_many_concurrent_first_saves_wins(store, seed):
    for _ in range(10):
        Aggregate.collection.delete_many({})
        order = random.Random(seed).sample(range(1, 9), 8)
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda v: drive(save_snapshot(store, snapshot(v))), order))
        assert Aggregate.find("b-1")["aggregateVersion"] == 8


def test_a_document_of_another_program_is_replaced(store):
    Aggregate.collection.insert_one({"_id": "b-1", "version": 7, "state": {}})
    assert drive(save_snapshot(store, snapshot(1)))
    assert Aggregate.find("b-1")["aggregateVersion"] == 1


# --- two revisions side by side -----------------------------------------------


def of_revision(revision):
    return type("Book", (Book,), {"revision": revision})


def test_two_processes_with_different_revisions_do_not_fight(store, face, monkeypatch):
    book("b", "Emma")
    old, new = of_revision("old"), of_revision("new")
    for Root in (old, new):  # both are in use
        face(Aggregate.of, Root, "b")
    face(face(Aggregate.of, old, "b").save)
    for _ in range(2):
        rival = face(Aggregate.of, new, "b")
        face(face(rival.add, {"type": "BookReturned"}).save)
        assert Aggregate.find("b")["revision"] == "old"
    face(face(Aggregate.of, old, "b").save)
    assert Aggregate.find("b")["aggregateVersion"] == 3
    monkeypatch.setattr(snapshots, "RIVAL_SECONDS", -1)
    face(face(Aggregate.of, new, "b").save)
    assert Aggregate.find("b")["revision"] == "new"


def test_a_process_that_starts_later_replaces_snapshots_at_once(store, face):
    book("b", "Emma")
    for revision in ("old", "new"):
        face(face(Aggregate.of, of_revision(revision), "b").save)
        assert Aggregate.find("b")["revision"] == revision


# --- a unique index of the project -------------------------------------------


@pytest.fixture
def one_of_each_title(store, _unbound):
    """A unique index on the titles in the states of books."""
    collection = _unbound(store.snapshots)
    name = collection.create_index("state.title", unique=True, sparse=True)
    yield
    collection.drop_index(name)


def book(aggregate_id, title):
    event = {"type": "BookBought", "aggregateId": aggregate_id}
    return Aggregate.of(Book, {**event, "payload": {"title": title}})


@pytest.mark.parametrize("has_older", [False, True], ids=["first", "later"])
def test_a_snapshot_that_an_index_of_the_project_refuses(
    one_of_each_title, face, has_older
):
    book("a", "Emma").save()
    other = book("b", "Persuasion" if has_older else "Emma")
    if has_older:
        other.save()
        other.add({"type": "BookBought", "payload": {"title": "Emma"}})
    with pytest.raises(InvalidState, match="not the event store's") as error:
        face(other.save)
    assert error.value.path == "state.title"
    report = face(AggregateRebuild.build_and_save_all)
    (failure,) = report.failures
    assert (failure.aggregate_id, report.saved, report.newer) == ("b", 1, 0)
