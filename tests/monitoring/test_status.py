"""The status of each subscription."""

import datetime as dt
import threading

import pytest

from ossy_event_store.conf import HealthLimits
from ossy_event_store.mongodb import connection
from ossy_event_store.mongodb.ports import drive
from ossy_event_store.monitoring.health import problems
from ossy_event_store.monitoring.status import (
    RATE_VALID_SECONDS,
    is_held,
    status,
    statuses,
)
from ossy_event_store.subscriptions.declaration import subscription
from ossy_event_store.subscriptions.runner import assign_positions
from tests.support.subscriptions import said

pytestmark = pytest.mark.usefixtures("quick")

NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
SECOND = dt.timedelta(seconds=1)


@pytest.mark.parametrize(
    ("lease", "held"),
    [
        (None, False),
        ({}, False),
        ({"until": NOW}, False),
        ({"until": NOW + SECOND}, True),
    ],
    ids=["none", "released", "expired", "held"],
)
def test_a_lease_is_held_until_it_expires(lease, held):
    assert is_held(lease, NOW) is held


def test_a_subscription_that_has_never_run_is_new(store):
    subscription("reader")(lambda event: None)
    (one,) = drive(statuses(store))
    assert (one.name, one.state, one.kind) == ("reader", "new", "subscription")
    assert one.declared
    assert (one.position, one.lag, one.owner) == (0, 0, None)


def test_a_subscription_that_exists_nowhere_has_no_status(store):
    assert drive(status(store, "nobody")) is None


@pytest.mark.parametrize(
    ("age", "rate"),
    [(0, 5.0), (RATE_VALID_SECONDS + 5, 0.0), (None, 0.0)],
    ids=["recent", "outdated", "never written"],
)
def test_a_rate_is_valid_for_a_while(store, age, rate):
    document = {"_id": "reader", "position": 0, "rate": 5.0}
    if age is not None:
        document["updated"] = dt.datetime.now(dt.UTC) - age * SECOND
    connection.raw(store.subscriptions).insert_one(document)
    one = drive(status(store, "reader"))
    assert one.rate == rate
    assert (one.state, one.declared) == ("not running", False)


def test_a_checkpoint_after_the_last_event_is_ahead_and_no_lag(store, lend):
    lend("a", "BookBought")
    assign_positions(threading.Event())
    document = {"_id": "reader", "position": 5}
    connection.raw(store.subscriptions).insert_one(document)
    subscription("reader")(print)
    one = drive(status(store, "reader"))
    assert (one.lag, one.ahead) == (0, 4)
    (problem,) = problems(one, HealthLimits(RUNNING=False))
    assert problem.startswith("reader is at position 5, but no event has that position")
    assert "reader is 4 positions after the last event" in said("subscriptions")
