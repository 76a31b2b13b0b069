"""The counts of the last rebuild, which the overview shows."""

import datetime as dt

from ossy_event_store import AggregateRebuild, ReducerError
from ossy_event_store.mongodb.ports import drive
from ossy_event_store.rebuild.tallies import (
    NAMED_FAILURES,
    Tally,
    save_tally,
    tallies,
)


def test_a_tally_replaces_the_one_before_and_types_are_in_order(store):
    for streams in 1, 2:
        for name in "Reader", "Book":
            drive(save_tally(store, Tally(name, streams, 10 * streams)))
    found = drive(tallies(store))
    assert [(t.aggregate_type, t.streams, t.events) for t in found] == [
        ("Book", 2, 20),
        ("Reader", 2, 20),
    ]
    assert all(dt.datetime.now(dt.UTC) - t.at < dt.timedelta(minutes=1) for t in found)


def test_all_failures_are_counted_and_the_first_are_named(store):
    failures = [ReducerError("Book", f"b-{n}", n, "torn") for n in range(30)]
    tally = Tally("Book", 40, 80)
    tally.count_failures(failures, 35)
    drive(save_tally(store, tally))
    (found,) = drive(tallies(store))
    assert found.failed == 35
    assert found.failures == {f"b-{n}": n for n in range(NAMED_FAILURES)}


def test_a_rebuild_counts_every_type(store, books):
    AggregateRebuild.build_and_save_all()
    found = {t.aggregate_type: (t.streams, t.events) for t in drive(tallies(store))}
    assert found == {"Book": (20, 39), "Reader": (1, 1)}


def test_a_share_saves_no_tally(store, books):
    AggregateRebuild.build_and_save_all(partition=(0, 2))
    assert drive(tallies(store)) == []
