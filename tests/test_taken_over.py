"""What a process leaves to the next one that runs its subscription, dead or frozen."""

import pytest

from ossy_event_store import mongo, operating, parking
from ossy_event_store.checkpoints import Lost
from ossy_event_store.faces import drive
from ossy_event_store.projections import Writer
from tests.servers import until
from tests.test_projections import Loans
from tests.test_projections import events as events
from tests.test_projections import loans as loans
from tests.test_subscriptions import parked, reached, running

pytestmark = pytest.mark.usefixtures("quick")


# --- dead in between --------------------------------------------------------


def test_what_came_before_a_parked_event_is_applied_after_a_crash(
    loans, store, lend, monkeypatch
):
    write, died = Writer._write, []

    async def die_once(self, requests):
        if not died:
            died.append(parked(store))
            raise ConnectionError("the process dies here")
        await write(self, requests)

    monkeypatch.setattr(Writer, "_write", die_once)
    lend("a", "BookLent", "NoKey", "BookLent")
    lend("b", "BookLent")
    with running():
        reached(store, "loans", 4)
    ((waits,),) = died
    assert waits["aggregateVersion"] == 2
    assert Loans.get("ann") == {"lent": 2, "books": ["a", "b"]}
    assert operating.skip("loans", "a", "there is no such reader")
    with running():
        until(lambda: not parked(store))
    assert Loans.get("ann") == {"lent": 3, "books": ["a", "b", "a"]}


# --- frozen, and back when another has gone on ------------------------------


def test_one_that_was_frozen_takes_nothing_back_of_a_retry(loans, store, events):
    parked_one, first, last = events("b", "a", "c")
    key = parking.key("loans", "b")
    waits = {"_id": key, "position": 1, "aggregateVersion": 1}
    mongo.raw(store.parked).insert_one(waits)

    async def park(event, error):
        raise AssertionError(error)

    with mongo.raw(store.events).database.client.start_session() as session:
        frozen, other = (Writer(store, session, Loans, 1) for _ in range(2))
        drive(other.deliver([first], 2, 0, park))
        write = frozen._write

        async def thaw_too_late(requests):
            await other.redeliver(waits, parked_one)
            await write(requests)

        frozen._write = thaw_too_late
        with pytest.raises(Lost):
            drive(frozen.deliver([last], 3, 0, park))
        drive(other.deliver([last], 3, 0, park))
    assert Loans.get("ann") == {"lent": 3, "books": ["a", "b", "c"]}
