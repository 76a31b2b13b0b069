"""What a process leaves to the next one that runs its subscription, dead or frozen."""

import pytest

from ossy_event_store import consumer, mongo, operating
from ossy_event_store.projections import Writer
from tests.servers import until
from tests.test_projections import Loans
from tests.test_projections import events as events
from tests.test_projections import loans as loans
from tests.test_subscriptions import checkpoint, parked, reached, running

pytestmark = pytest.mark.usefixtures("quick")


class Died(BaseException):
    """The process is gone: nothing of what it would have done comes to pass."""


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
