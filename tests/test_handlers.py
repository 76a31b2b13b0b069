"""What handlers do that nobody would: how they end, what they return and raise."""

import threading

import pytest

from ossy_event_store import operating
from ossy_event_store.exceptions import StoreUnavailable
from ossy_event_store.subscriptions import subscription
from tests.servers import until
from tests.test_subscriptions import checkpoint, reached, running
from tests.test_subscriptions import subscribe as subscribe

pytestmark = pytest.mark.usefixtures("quick")


def stopped(store):
    return until(lambda: (checkpoint(store, "reader") or {}).get("stopped"))


def test_of_streams_that_stop_it_side_by_side_the_first_event_counts(store, lend):
    together, got = threading.Barrier(2), []

    @subscription("reader", concurrency=2, retries=0, on_error="stop")
    def reader(event):
        if event["position"] in bad:
            together.wait(30)
            raise KeyError("title")
        got.append(event["position"])

    lend("a", "BookBought")
    lend("b", "BookBought")
    lend("a", "BookLent")
    bad = {2, 3}
    with running():
        assert stopped(store)["position"] == 2
        bad.clear()
        operating.skip("reader", None, "never mind")
        reached(store, "reader", 3)
    assert got == [1, 3]


def test_what_another_stream_waits_for_is_not_skipped(store, lend):
    together, got, away = threading.Barrier(2), [], [StoreUnavailable("away")]

    @subscription("reader", concurrency=2, retries=0, on_error="stop")
    def reader(event):
        if away and event["position"] > 1:
            together.wait(30)
            if event["position"] == 2:
                raise away.pop()
        if event["position"] == 3:
            raise KeyError("title")
        got.append(event["position"])

    lend("a", "BookBought")
    lend("b", "BookBought")
    lend("a", "BookLent")
    with running():
        assert stopped(store)["position"] == 3
        operating.skip("reader", None, "never mind")
        reached(store, "reader", 3)
    assert got == [1, 2]
