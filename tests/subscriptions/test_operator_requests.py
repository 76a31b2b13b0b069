"""The owner of a subscription retries what operators marked."""

from dataclasses import replace

import pytest

from ossy_event_store import EventStore
from ossy_event_store.mongodb.ports import drive
from ossy_event_store.subscriptions import (
    checkpoints,
    operator_actions,
    parked_streams,
)
from ossy_event_store.subscriptions.checkpoints import ClaimLost
from ossy_event_store.subscriptions.claim import DEFAULT_TIMINGS
from ossy_event_store.subscriptions.declaration import subscription
from ossy_event_store.subscriptions.parked_streams import Failed
from tests.support.servers import until
from tests.support.subscriptions import parked, reached, running

pytestmark = [pytest.mark.versions, pytest.mark.usefixtures("quick")]


def test_a_long_retry_does_not_hold_up_other_streams(store, lend):
    bad, got = {1}, []

    @subscription("reader", retries=0)
    def reader(event):
        if event["position"] in bad:
            raise KeyError("title")
        if event["position"] == 1:
            lend("b", "BookBought")
            until(lambda: EventStore.head_position() == 7)
        got.append(event["position"])

    lend("a", *["BookLent"] * 6)
    with running() as runner:
        reached(store, "reader", 6)
        bad.clear()
        claim = runner.consumers[0].claim
        claim.timings = replace(claim.timings, poll_seconds=0.0)
        operator_actions.retry("reader")
        until(lambda: not parked(store))
        until(lambda: len(got) == 7)
    assert got.index(7) < got.index(6)
    assert [one for one in got if one < 7] == [1, 2, 3, 4, 5, 6]


# --- alone ------------------------------------------------------------------


def test_requests_are_looked_for_now_and_then(store, consume, positioned, clock):
    got = []
    (event,) = positioned("a")
    parts = consume(got.append, retries=0)
    drive(parts.attempts.park(Failed(event, KeyError("title")), 1))
    drive(parts.requests.look())
    operator_actions.retry("reader")
    clock.now += DEFAULT_TIMINGS.poll_seconds - 0.01
    drive(parts.requests.look())
    assert got == []
    clock.now += 0.01
    drive(parts.requests.look())
    assert got == [event]
    assert not parked(store)
    assert not parts.attempts.is_parked(event)


def test_a_look_notices_that_the_claim_is_lost(store, consume):
    parts = consume(print)
    drive(checkpoints.revoke(store, "reader"))
    with pytest.raises(ClaimLost):
        drive(parts.requests.look())


def test_a_retry_that_fails_again_leaves_the_stream_parked(store, consume, positioned):
    def handler(event):
        raise KeyError("still no title")

    (event,) = positioned("a")
    parts = consume(handler, retries=0)
    drive(parts.attempts.park(Failed(event, KeyError("title")), 1))
    operator_actions.retry("reader")
    drive(parts.requests.look())
    (parked_one,) = parked(store)
    assert parked_one["tries"] == 2
    assert not parked_one["retry"]
    assert "still no title" in parked_one["error"]
    assert parts.attempts.is_parked(event)


@pytest.mark.parametrize("options", [{}, {"session": True}], ids=["plain", "session"])
def test_a_parked_stream_is_retried_several_events_at_a_time(
    store, consume, positioned, monkeypatch, options
):
    got, moves, advance = [], [], parked_streams.advance

    async def counted(store, parked, event, *session):
        moves.append(event["position"])
        return await advance(store, parked, event, *session)

    def handler(event, *session):
        got.append(event["position"])
        if event["position"] == 6:
            raise KeyError("title")

    monkeypatch.setattr(parked_streams, "advance", counted)
    events = positioned(*"aaaaaaaa")
    parts = consume(handler, retries=0, **options)
    drive(parts.attempts.park(Failed(events[0], KeyError("title")), 8))
    operator_actions.retry("reader")
    drive(parts.requests.look())
    (waits,) = parked(store)
    assert (waits["position"], waits["tries"], waits["retry"]) == (6, 2, False)
    assert len(moves) <= 3  # the first five of eight
    if not options:
        assert got == [1, 2, 3, 4, 5, 6]


def test_a_plain_handler_gives_new_events_their_turn(store, consume, positioned, clock):
    got = []

    def handler(event):
        got.append(event["position"])
        clock.now += DEFAULT_TIMINGS.poll_seconds

    events = positioned(*"aaa")
    parts = consume(handler, retries=0)
    drive(parts.attempts.park(Failed(events[0], KeyError("title")), 3))
    operator_actions.retry("reader")
    drive(parts.requests.look())
    assert got == [1]
    assert parked(store)[0]["position"] == 2
