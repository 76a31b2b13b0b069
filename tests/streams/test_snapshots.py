"""A newer snapshot is never replaced, in whatever order they are saved."""

import random
from concurrent.futures import ThreadPoolExecutor

import pytest

from ossy_event_store import Aggregate
from ossy_event_store.mongodb.ports import drive
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
