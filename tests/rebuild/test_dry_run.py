"""A dry run: which snapshots are stale, what would be altered, and nothing written."""

import pytest
from django.core.management import CommandError

from ossy_event_store import Aggregate, AggregateRebuild
from ossy_event_store.rebuild.report import DryRun
from tests.library.aggregate import Book
from tests.support.rebuild import everything, run


@pytest.fixture
def stale_ones(store, lend):
    """Snapshots of every kind: current, stale in each way, and malformed."""
    for name in ("current", "behind", "ahead", "other", "gone", "odd"):
        lend(name, "BookBought")
    AggregateRebuild.build_and_save_all()
    lend("behind", "BookLent")
    lend("missing", "BookBought")
    change = Aggregate.collection.update_one
    change({"_id": "ahead"}, {"$set": {"aggregateVersion": 4}})
    change({"_id": "other"}, {"$set": {"revision": "older"}})
    change({"_id": "odd"}, {"$set": {"aggregateVersion": "many"}})
    Aggregate.collection.delete_one({"_id": "gone"})


def test_a_dry_run_counts_current_and_stale_snapshots(store, face, stale_ones):
    seen = face(AggregateRebuild.dry_run).dry_run["Book"]
    assert (seen.streams, seen.current, seen.missing) == (7, 1, 3)
    assert (seen.behind, seen.ahead, seen.other_revision) == (1, 1, 1)
    assert (seen.compared, seen.altered, seen.failed) == (3, 0, 0)


def test_a_dry_run_writes_nothing(history, face, stale_ones, shout):
    before = everything(history)
    shout()
    report = face(AggregateRebuild.dry_run)
    face(AggregateRebuild.dry_run, ids=["ahead"])
    face(AggregateRebuild.dry_run, partition=(0, 2))
    run("--diff")
    assert report.saved == 0
    assert everything(history) == before


def test_a_dry_run_reports_types_without_streams(store, face):
    assert face(AggregateRebuild.dry_run).dry_run == {
        "Book": DryRun(),
        "Reader": DryRun(),
    }


def test_an_older_snapshot_is_compared_at_its_own_version(store, lend, shout):
    lend("b-1", "BookBought")
    AggregateRebuild.build_and_save_all()
    lend("b-1", "BookLent", "BookReturned")
    assert AggregateRebuild.dry_run().dry_run["Book"].altered == 0
    shout()
    seen = AggregateRebuild.dry_run().dry_run["Book"]
    (altered,) = seen.alterations
    assert (seen.behind, seen.altered, altered.version) == (1, 1, 1)
    assert altered.changes == [
        ("state.loans", "0", "0.0"),
        ("state.title", '"Emma"', '"EMMA"'),
    ]


def test_a_snapshot_is_compared_across_batches(store, lend, shout, small):
    lend("b-0", "BookBought")
    lend("b-1", "BookBought", *["BookReturned"] * 6)
    AggregateRebuild.build_and_save_all()
    lend("b-1", *["BookReturned"] * 5)
    lend("b-2", "BookBought")
    shout()
    seen = AggregateRebuild.dry_run().dry_run["Book"]
    assert (seen.compared, seen.altered, seen.behind, seen.missing) == (2, 2, 1, 1)
    assert [altered.version for altered in seen.alterations] == [1, 7]


def test_streams_whose_reducer_fails_are_counted_and_not_compared(
    store, face, books, monkeypatch
):
    AggregateRebuild.build_and_save_all()

    def view(events, state):
        raise ValueError("torn")

    monkeypatch.setattr(Book, "view", staticmethod(view))
    report = face(AggregateRebuild.dry_run, types=["Book"])
    seen = report.dry_run["Book"]
    assert (report.failed, seen.failed, seen.compared, seen.altered) == (20, 20, 0, 0)
    with pytest.raises(CommandError, match=r"nothing was written.* 20 FAILED"):
        run("--dry-run")


def test_a_snapshot_is_not_newer_than_an_append_in_between(store, lend, monkeypatch):
    lend("b-1", "BookBought")
    AggregateRebuild.build_and_save_all()
    whole, once = Book.view, []

    def view(events, state):
        if not once:
            once.append(1)
            lend("b-1", "BookLent")
        return whole(events, state)

    Aggregate.collection.update_one({"_id": "b-1"}, {"$set": {"aggregateVersion": 2}})
    monkeypatch.setattr(Book, "view", staticmethod(view))
    monkeypatch.setattr(Book, "revision", Aggregate.find("b-1")["revision"], False)
    seen = AggregateRebuild.dry_run().dry_run["Book"]
    assert (seen.ahead, seen.current) == (0, 1)
