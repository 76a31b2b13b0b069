"""When a consumer writes its checkpoint, and how it counts events."""

import pytest

from ossy_event_store.mongodb.ports import drive
from ossy_event_store.subscriptions.claim import DEFAULT_TIMINGS, Timings
from ossy_event_store.subscriptions.progress import Rate, seconds_between_writes
from tests.support.subscriptions import checkpoint

pytestmark = pytest.mark.usefixtures("quick")
TIMINGS = Timings(poll_seconds=3, write_seconds=2, idle_write_seconds=1)


@pytest.mark.parametrize(
    ("idle", "has_delivered", "seconds"),
    [(False, True, 2), (False, False, 2), (True, True, 1), (True, False, 3)],
)
def test_an_idle_consumer_writes_soon_what_it_has_delivered(
    idle, has_delivered, seconds
):
    state = {"idle": idle, "has_delivered": has_delivered}
    assert seconds_between_writes(TIMINGS, **state) == seconds


def test_the_checkpoint_is_written_when_it_is_due(store, clock, consume):
    parts = consume(print)
    parts.progress.move(3, moved=False)
    parts.progress.count(2)

    def write_after(seconds):
        clock.now += seconds
        parts.claim.renewed = clock.now
        drive(parts.progress.write_if_due())
        return checkpoint(store, "reader")

    assert write_after(DEFAULT_TIMINGS.write_seconds)["position"] == 0
    written = write_after(0.01)
    assert (written["position"], written["delivered"]) == (3, 2)
    assert write_after(60) == written  # there is nothing new to write


def test_what_moved_in_a_transaction_is_not_written_again(store, consume):
    parts = consume(print)
    parts.progress.move(3, moved=True)
    parts.progress.count(2, written=True)
    before = checkpoint(store, "reader")
    drive(parts.progress.write())
    assert checkpoint(store, "reader") == before


def test_a_rate_forgets_what_is_long_ago(clock):
    rate = Rate(clock)
    assert rate.value == 0.0
    rate.add(100)
    clock.now += 5
    assert rate.value == 20.0
    clock.now += 6
    rate.add(10)
    clock.now += 9
    assert rate.value == pytest.approx(5.5)
    clock.now += 2
    rate.add(0)
    clock.now += 9
    assert rate.value == 0.5
