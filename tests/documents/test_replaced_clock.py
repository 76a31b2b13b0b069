"""The packages that set the time in tests, with the real driver."""

import asyncio
import datetime as dt
import time

import pytest
from django.core.exceptions import ImproperlyConfigured

from ossy_event_store import EventStore, Mongo
from ossy_event_store.mongodb.deadline import in_time
from ossy_event_store.testing import run_subscriptions

freezegun = pytest.importorskip("freezegun")
time_machine = pytest.importorskip("time_machine")

NEW_YEAR = dt.datetime(2030, 1, 1, tzinfo=dt.UTC)
LEFT_OUT = ["pymongo", "ossy_event_store"]


def lent():
    event = {"aggregateId": "b-1", "aggregateType": "Book", "type": "BookLent"}
    return EventStore.append_event(event)


def works():
    """Whether appends have the new time, and what waits ends."""
    event = lent()
    run_subscriptions()
    return (
        event["created"] == NEW_YEAR
        and EventStore.get_event_stream("b-1")[-1] == event
        and EventStore.wait_for(event)
        and not EventStore.wait_for(10**6, timeout=0.01)
    )


def test_time_machine_only_sets_what_is_stamped(store, quick):
    with time_machine.travel(NEW_YEAR, tick=False):
        assert works()


def test_freezegun_does_so_if_driver_and_store_are_left_out(store, quick):
    with freezegun.freeze_time(NEW_YEAR, ignore=LEFT_OUT):
        assert works()


@pytest.mark.parametrize("ignore", [[], ["pymongo"], ["ossy_event_store"]])
def test_a_clock_that_stands_still_is_refused_before_anything_waits(store, ignore):
    with freezegun.freeze_time(NEW_YEAR, ignore=ignore):
        for call in (lent, Mongo.connect, lambda: EventStore.wait_for(1)):
            with pytest.raises(ImproperlyConfigured, match=r"ignore=\['pymongo', "):
                call()
    lent()


def test_the_awaitable_face_refuses_it_too(store):
    async def append():
        with freezegun.freeze_time(NEW_YEAR, real_asyncio=True):
            await EventStore.aexists("b-1")

    with pytest.raises(ImproperlyConfigured, match="stands still"):
        asyncio.run(append())


def test_a_clock_that_runs_for_all_is_not_refused(store):
    with freezegun.freeze_time(NEW_YEAR, tick=True):
        assert lent()["created"] > NEW_YEAR


def test_a_real_clock_costs_nothing(monkeypatch):
    monkeypatch.setattr("ossy_event_store.mongodb.deadline.check_clock", None)
    with in_time():
        assert time.monotonic()
