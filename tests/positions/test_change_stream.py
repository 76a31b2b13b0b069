"""The change stream of a collection: what has arrived, as one batch."""

from contextlib import closing

import pytest

from ossy_event_store.mongodb import connection
from ossy_event_store.positions.change_stream import ChangeStream, HistoryLost
from ossy_event_store.positions.sequencer import Sequencer
from tests.support.positions import lose_history


def test_inserts_are_returned_with_the_chosen_fields(store, lend):
    with closing(ChangeStream(connection.raw(store.events), fields=["type"])) as own:
        assert own.fetch(0.01) == []
        events = lend("a", "BookBought", "BookLent")
        found = [document for document, _ in own.fetch(5)]
    assert found == [{"_id": e["_id"], "type": e["type"]} for e in events]


def test_it_resumes_after_a_token(store, lend):
    events = connection.raw(store.events)
    with closing(ChangeStream(events)) as first:
        lend("a", "BookBought", "BookLent", "BookRead")
        _, token = first.fetch(5)[0]
    with closing(ChangeStream(events, token, ["aggregateVersion"])) as second:
        found = second.fetch(5)
    assert [document["aggregateVersion"] for document, _ in found] == [2, 3]


def test_a_batch_is_bounded(store, lend):
    with closing(ChangeStream(connection.raw(store.events), batch_size=2)) as own:
        lend("a", "BookBought", "BookLent", "BookRead")
        assert [len(own.fetch(5)) for _ in range(2)] == [2, 1]


def test_a_token_that_the_server_no_longer_knows_is_an_error(store, lend, entries):
    lend("a", "BookBought")
    with closing(Sequencer(store)) as sequencer:
        while not sequencer.is_caught_up:
            sequencer.advance(0.02)
    lose_history(entries)
    token = entries.find_one(sort=[("_id", -1)])["token"]
    with pytest.raises(HistoryLost):
        ChangeStream(connection.raw(store.events), token).fetch(1)


def test_a_collection_that_is_dropped_ends_it(entries):
    scratch = entries.database["scratch"]
    scratch.insert_one({})
    with closing(ChangeStream(scratch)) as own:
        scratch.drop()
        with pytest.raises(HistoryLost):
            for _ in range(50):
                own.fetch(0.1)
