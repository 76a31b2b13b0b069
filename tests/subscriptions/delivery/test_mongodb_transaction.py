"""Effects and checkpoint in one MongoDB transaction, and two processes."""

import pytest

from ossy_event_store.exceptions import StoreUnavailable
from ossy_event_store.mongodb import connection
from ossy_event_store.mongodb.ports import drive
from ossy_event_store.subscriptions import checkpoints
from ossy_event_store.subscriptions.checkpoints import ClaimLost
from ossy_event_store.subscriptions.declaration import Subscription
from ossy_event_store.subscriptions.delivery.mongodb_transaction import (
    InMongoDBTransaction,
)
from tests.support.subscriptions import checkpoint

pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture
def deliver(store, lend):
    """Hand an event on within a transaction, under the fence of the first claim."""
    drive(checkpoints.find_or_create(store, "pages", 0, "subscription"))
    claimed = drive(checkpoints.claim(store, "pages", "first", None))
    event = {**lend("a", "BookBought")[0], "position": 1}
    with connection.raw(store.events).database.client.start_session() as session:

        def deliver(handler):
            declared = Subscription("pages", handler, session=True)
            effect = InMongoDBTransaction(store, session, declared)
            drive(effect.begin(claimed))
            drive(effect.deliver([event], 1))

        yield deliver


def test_a_process_that_lost_its_claim_does_not_call_the_handler(store, deliver):
    drive(checkpoints.claim(store, "pages", "second", None))
    called = []
    with pytest.raises(ClaimLost):
        deliver(lambda event, session: called.append(event))
    assert not called


def test_no_process_takes_over_before_the_open_transaction_has_ended(
    store, deliver, settings
):
    # Else it would hold what the next one writes, until it expires after a minute.
    settings.OSSY_EVENT_STORE = {**settings.OSSY_EVENT_STORE, "TIMEOUT": 1.0}

    def handler(event, session):
        with pytest.raises(StoreUnavailable):
            drive(checkpoints.claim(store, "pages", "second", None))

    deliver(handler)
    assert checkpoint(store, "pages")["owner"] == "first"
    assert drive(checkpoints.claim(store, "pages", "second", None))["position"] == 1
