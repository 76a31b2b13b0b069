"""The lease of a claim is renewed, given back and checked."""

import threading
from dataclasses import replace

import pytest

from ossy_event_store.exceptions import StoreUnavailable, UnexpectedState
from ossy_event_store.mongodb import leases
from ossy_event_store.mongodb.ports import drive
from ossy_event_store.subscriptions import checkpoints
from ossy_event_store.subscriptions.checkpoints import ClaimLost
from ossy_event_store.subscriptions.claim import DEFAULT_TIMINGS, Claim
from ossy_event_store.subscriptions.declaration import subscription
from ossy_event_store.subscriptions.runner import Runner
from tests.support.servers import until
from tests.support.subscriptions import checkpoint, running

pytestmark = [pytest.mark.versions, pytest.mark.usefixtures("quick")]


class Kept(int):
    """The answer to a renewal, at which the consumer gives its lease back."""

    def __new__(cls, value, meanwhile):
        made = super().__new__(cls, value)
        made.meanwhile = meanwhile
        return made

    def __bool__(self):
        self.meanwhile()
        return int(self) > 0


@pytest.mark.parametrize("kept", [0, 1])
def test_a_late_renewal_leaves_no_lease(store, lend, monkeypatch, kept):
    subscription("reader")(lambda event: None)
    runner = Runner()
    (consumer,) = runner.consumers
    consumer.claim.renewed = 1.0

    async def acquire(*arguments):
        return Kept(kept, consumer.claim.give_back)

    monkeypatch.setattr(leases, "acquire", acquire)
    drive(consumer.claim.renew_lease(store))
    assert consumer.claim.renewed == 0.0


def test_a_consumer_that_lost_its_lease_acquires_it_again(store, lend):
    got = []
    subscription("reader")(got.append)
    lend("a", "BookBought")
    runner = Runner()
    (consumer,) = runner.consumers
    once = consumer._once

    async def late(store):
        consumer._once = once
        consumer.claim.renewed = -1.0  # as after a renewal that came too late
        raise StoreUnavailable("away")

    consumer._once = late
    thread = threading.Thread(target=runner.run)
    thread.start()
    try:
        until(lambda: got)
    finally:
        runner.stop.set()
        thread.join(30)


# --- alone ------------------------------------------------------------------


@pytest.fixture
def claim(store, clock):
    drive(checkpoints.find_or_create(store, "reader", 0, "subscription"))
    return Claim("reader", "me", threading.Event(), clock=clock)


def test_a_lease_that_is_not_renewed_ends_by_our_own_clock(store, claim, clock):
    with pytest.raises(ClaimLost):
        claim.check()
    assert drive(claim.acquire_lease(store))
    clock.now += DEFAULT_TIMINGS.lease_seconds
    claim.check()
    drive(claim.renew_lease(store))
    clock.now += DEFAULT_TIMINGS.lease_seconds
    claim.check()
    clock.now += 0.1
    with pytest.raises(ClaimLost):
        claim.check()


def test_a_lease_counts_from_before_it_was_acquired(store, claim, clock, monkeypatch):
    acquire = leases.acquire

    async def slowly(*arguments):
        fence = await acquire(*arguments)
        clock.now += DEFAULT_TIMINGS.lease_seconds + 0.1
        return fence

    monkeypatch.setattr(leases, "acquire", slowly)
    assert drive(claim.acquire_lease(store))
    with pytest.raises(ClaimLost):
        claim.check()


def test_a_renewal_that_fails_unexpectedly_is_logged_and_tried_again(
    store, lend, monkeypatch, caplog
):
    renewals = iter([ValueError("unexpected")])
    renew, renewed, got = Claim.renew_lease, threading.Event(), []

    async def failing(claim, store):
        if error := next(renewals, None):
            raise error
        await renew(claim, store)
        renewed.set()

    monkeypatch.setattr(Claim, "renew_lease", failing)
    monkeypatch.setattr(Runner, "timings", replace(Runner.timings, lease_seconds=0.5))
    subscription("reader")(got.append)
    with running():
        assert renewed.wait(30)
    assert "Cannot renew the lease of subscription reader" in caplog.text


def test_a_process_without_its_renewal_thread_ends(store, lend, monkeypatch):
    monkeypatch.setattr(Runner, "_renew", lambda runner: None)
    subscription("reader")(lambda event: None)
    with pytest.raises(UnexpectedState, match="ended unexpectedly"):
        Runner().run()


def test_threads_that_end_since_they_are_told_to_are_no_failure(store):
    subscription("reader")(lambda event: None)
    runner = Runner()

    def stopped_between_two_looks():
        runner.stop.set()
        until(lambda: "ossy_event_store.reader" not in names_of_threads())
        return False

    runner.run(stopped_between_two_looks)


def names_of_threads():
    return {thread.name for thread in threading.enumerate()}


def test_a_lease_that_another_process_has_is_not_acquired(store, claim):
    other = Claim("reader", "another", threading.Event())
    assert drive(other.acquire_lease(store))
    assert not drive(claim.acquire_lease(store))
    claim.renewed = claim.clock()  # as if it had lost it since
    drive(claim.renew_lease(store))
    with pytest.raises(ClaimLost):
        claim.check()
    drive(other.release_lease(store))
    assert drive(claim.acquire_lease(store))


def test_a_claim_that_was_taken_over_moves_nothing(store, claim):
    other = Claim("reader", "another", threading.Event())

    async def take_over(claim):
        async with store.client.session() as session:
            return (await claim.take_over(store, session))["fence"]

    assert drive(take_over(claim)) == 1
    drive(claim.move(store, {"position": 5}, 2))
    assert drive(take_over(other)) == 2
    with pytest.raises(ClaimLost):
        drive(claim.move(store, {"position": 9}))
    with pytest.raises(ClaimLost):
        drive(other.move(store, {"position": 4}))  # never back by itself
    drive(other.move(store, {"position": 4}, back=True))
    assert checkpoint(store, "reader")["position"] == 4


def test_a_pause_notices_that_the_process_is_to_stop(store, claim, clock):
    drive(claim.pause(store, 0.25))
    assert clock.pauses == pytest.approx([0.1, 0.1, 0.05])
    claim.stop.set()
    drive(claim.pause(store, 60))
    assert len(clock.pauses) == 3


def test_a_pause_notices_that_the_lease_has_ended(store, claim, clock):
    drive(claim.acquire_lease(store))
    with pytest.raises(ClaimLost):
        drive(claim.pause(store, 60, leased=True))
    assert sum(clock.pauses) == pytest.approx(DEFAULT_TIMINGS.lease_seconds, abs=0.11)
