"""The operator retries, skips and resets subscriptions, and changes nothing else."""

import pytest
from bson import ObjectId

from ossy_event_store.documents.collections import EVENTS, LEASES, POSITIONS, SNAPSHOTS
from ossy_event_store.subscriptions import operator_actions, parked_streams
from ossy_event_store.subscriptions.checkpoints import new_document
from ossy_event_store.subscriptions.parked_streams import Failed
from tests.support.roles import CHANGES, guarded_marks, in_others, may_not

pytestmark = [pytest.mark.faults, *guarded_marks]
EVENT = {"type": "BookLent", "aggregateType": "Book", "aggregateVersion": 1}
OTHERS = (POSITIONS, SNAPSHOTS, LEASES)


@pytest.fixture
def operator(become, guarded):
    """The store as the operator; a subscription has parked the streams a and b."""
    database = guarded.database
    database.eventstore_subscriptions.insert_one(
        {"_id": "mails"} | new_document(2, "handler")
    )
    for position, name in enumerate("ab", 1):
        event = {**EVENT, "_id": ObjectId(), "aggregateId": name, "position": position}
        failed = Failed(event, ValueError("no such reader"), 1)
        document = parked_streams.document_of("mails", failed)
        database.eventstore_parked.insert_one(document)
    return become("shop_operate")


def test_the_operator_retries_and_skips_what_is_parked(operator, guarded):
    assert operator_actions.retry("mails", "a") == 1
    record = operator_actions.skip("mails", "b", "there is no such reader")
    assert guarded.database.eventstore_skipped.find_one()["token"] == record["token"]
    assert guarded.database.eventstore_parked.count_documents({"retry": True}) == 2


def test_the_operator_resets_a_subscription(operator, guarded):
    guarded.database.eventstore_positions.insert_one({"_id": 1})
    operator_actions.reset("mails", 1)
    assert guarded.database.eventstore_subscriptions.find_one()["position"] == 1
    assert guarded.database.eventstore_parked.count_documents({}) == 0


def test_the_operator_may_not_change_events_positions_snapshots_or_leases(
    operator, guarded
):
    for name in (EVENTS, *OTHERS):
        guarded.database[name].insert_one({"_id": 1})
    may_not(operator, CHANGES | in_others(*OTHERS), guarded)
