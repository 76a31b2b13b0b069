"""Effects and checkpoint in one MongoDB transaction, and two processes."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from ossy_event_store import Aggregate, EventStore, subscription
from ossy_event_store.exceptions import StoreUnavailable
from ossy_event_store.mongodb import connection
from ossy_event_store.mongodb.ports import drive
from ossy_event_store.subscriptions import checkpoints
from ossy_event_store.subscriptions.checkpoints import ClaimLost
from ossy_event_store.subscriptions.declaration import Subscription
from ossy_event_store.subscriptions.delivery.mongodb_transaction import (
    InMongoDBTransaction,
)
from tests.library.aggregate import Book
from tests.support.servers import until
from tests.support.subscriptions import checkpoint, parked, running

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
    # Its first attempt may still be waiting on the server, and succeed now.
    assert drive(checkpoints.claim(store, "pages", "second", None))["position"] == 1


# --- events of the handler itself -------------------------------------------

INSPECTED = {"type": "BookInspected"}


def inspect(event, session):
    Aggregate.of(Book, event["aggregateId"], session=session).add(INSPECTED)


async def ainspect(event, session):
    book = await Aggregate.aof(Book, event["aggregateId"], session=session)
    await book.aadd(INSPECTED)


def types(aggregate_id):
    return [event["type"] for event in EventStore.get_event_stream(aggregate_id)]


@pytest.mark.parametrize("handler", [inspect, ainspect])
def test_events_that_a_handler_appends_are_stored_with_the_checkpoint(
    store, lend, handler
):
    subscription("inspect", types=["BookReturned"], session=True)(handler)
    for name in ("a", "b"):
        lend(name, "BookBought", "BookReturned")
    with running("inspect"):
        until(lambda: EventStore.count("a") + EventStore.count("b") == 6)
        until(lambda: checkpoint(store, "inspect")["position"] >= 4)
    assert types("a") == types("b") == ["BookBought", "BookReturned", "BookInspected"]


def test_a_handler_that_loses_a_race_is_called_again_with_the_new_events(store, lend):
    seen = []

    @subscription("inspect", types=["BookReturned"], session=True)
    def handler(event, session):
        book = Aggregate.of(Book, "a", session=session)
        seen.append(book.version)
        if len(seen) == 1:
            with ThreadPoolExecutor(1) as thread:
                thread.submit(lend, "a", "BookLent").result(30)
        book.add(INSPECTED)

    lend("a", "BookBought", "BookReturned")
    with running("inspect"):
        until(lambda: EventStore.count("a") == 4)
    assert seen == [2, 3]
    assert types("a")[2:] == ["BookLent", "BookInspected"]
    assert parked(store) == []


def test_what_a_handler_appends_is_rolled_back_with_its_failure(store, lend):
    @subscription("inspect", types=["BookReturned"], session=True, retries=0)
    def handler(event, session):
        inspect(event, session)
        raise ZeroDivisionError

    lend("a", "BookBought", "BookReturned")
    with running("inspect"):
        until(lambda: parked(store))
    assert types("a") == ["BookBought", "BookReturned"]
