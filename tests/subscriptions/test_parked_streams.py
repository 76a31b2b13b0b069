"""The documents of parked streams."""

import pytest

from ossy_event_store.mongodb import connection
from ossy_event_store.mongodb.ports import drive
from ossy_event_store.subscriptions import checkpoints, parked_streams
from ossy_event_store.subscriptions.parked_streams import Failed


def test_only_parked_streams_marked_for_retry_are_read(store):
    waiting = connection.raw(store.parked)
    waiting.insert_many(
        [
            {
                "_id": parked_streams.parked_id("reader", str(number)),
                "subscription": "reader",
                "position": number,
                "retry": number == 7,
            }
            for number in range(50)
        ]
    )
    query = {"subscription": {"$eq": "reader"}, "retry": True}
    plan = waiting.find(query, sort=[("position", 1)], limit=10).explain()
    assert plan["executionStats"]["totalDocsExamined"] == 1
    (found,) = drive(parked_streams.find_parked(store, "reader", retry=True))
    assert found["position"] == 7


def failed(stream, position):
    event = {
        "_id": f"event-{position}",
        "aggregateId": stream,
        "aggregateType": "Book",
        "aggregateVersion": position,
        "type": "BookLent",
        "position": position,
    }
    return Failed(event, KeyError("title"))


@pytest.fixture
def park(store):
    """Park streams in a transaction, under the fence of a claim."""
    drive(checkpoints.find_or_create(store, "reader", 0, "subscription"))
    claimed = drive(checkpoints.claim(store, "reader", "me", None))
    with connection.raw(store.events).database.client.start_session() as session:

        def park(*all_failed):
            for one in all_failed:
                place = store, session, "reader", claimed["fence"], one
                drive(parked_streams.park(*place, {}))
            return drive(parked_streams.positions_parked_at(store, "reader", None))

        yield park


def test_a_stream_stays_parked_at_its_first_failure(park):
    assert park(failed("a", 3), failed("b", 4)) == {"a": 3, "b": 4}
    assert park(failed("a", 5), failed("b", 2)) == {"a": 3, "b": 2}


def test_a_parked_stream_moves_only_from_the_event_where_it_waits(store, park):
    park(failed("a", 3))
    (parked,) = drive(parked_streams.find_parked(store, "reader"))
    assert drive(parked_streams.advance(store, parked, failed("a", 3).event))
    assert not drive(parked_streams.advance(store, parked, failed("a", 3).event))
    assert drive(parked_streams.next_positions(store, "reader", None)) == {"a": 4}
    assert drive(parked_streams.positions_parked_at(store, "reader", None)) == {"a": 3}
