"""The feed of a projection: events are sent once they are applied."""

import pytest

from ossy_event_store import EventStore
from ossy_event_store.push import applied_events
from ossy_event_store.subscriptions import operator_actions
from tests.support.processes import ON_URL
from tests.support.push import BOOK, ids_of, listeners, positions_of
from tests.support.servers import until
from tests.support.subscriptions import parked

pytestmark = ON_URL


def test_an_event_is_sent_once_the_projection_has_applied_it(connect, lend, apply):
    apply(0)
    source = connect("all/?projection=readers&key=ann").begin()
    every = connect("all/").begin()
    lend("a", "BookLent")
    EventStore.append_event({**BOOK, "payload": {"to": "bob"}})
    EventStore.append_event({**BOOK, "payload": {}})
    lend("a", "BookLent")
    assert len(every.take(4)) == 4
    apply(1)
    message = source.message()
    assert message.id == "1"
    assert (message.data["projection"], message.data["key"]) == ("readers", "ann")
    apply(4)
    assert source.message().id == "4"


def test_an_event_of_several_keys_is_sent_to_the_listeners_of_each(connect, apply):
    apply(0)
    feeds = ["key=ann", "key=bob", "type=BookLent"]
    sources = [connect(f"all/?projection=readers&{one}").begin() for one in feeds]
    EventStore.append_event({**BOOK, "payload": {"to": ["ann", "bob"]}})
    EventStore.append_event({**BOOK, "payload": {"to": ["bob"]}})
    until(lambda: EventStore.head_position() == 2)
    apply(2)
    assert [positions_of(sources[n].take(n or 1)) for n in range(3)] == [
        [1],
        [1],
        [1, 2],
    ]
    again = connect("all/?projection=readers&key=bob", last=0)
    assert positions_of(again.take(2)) == [1, 2]


def test_a_client_that_reconnects_receives_what_the_projection_applied(
    connect, lend, apply
):
    lend("a", "BookLent")
    EventStore.append_event({**BOOK, "payload": {"to": "bob"}})
    lend("a", "BookLent", "BookRead")
    until(lambda: EventStore.head_position() == 4)
    apply(3)
    source = connect("all/?projection=readers&key=ann", last=1)
    assert source.message().id == "3"
    apply(4)
    assert source.message().id == "4"
    source = connect("all/?projection=readers&type=BookRead", last=1)
    assert source.message().id == "4"


def test_a_client_that_missed_too_much_of_a_projection_gets_a_reset(
    connect, lend, apply, limit_feeds
):
    limit_feeds(replayed_positions=2)
    lend("a", "BookLent", "BookLent", "BookLent", "BookLent")
    until(lambda: EventStore.head_position() == 4)
    apply(4)
    message = connect("all/?projection=readers&key=ann", last=1).message()
    assert (message.name, message.id) == ("reset", "4")


def test_an_event_whose_key_cannot_be_computed_is_skipped(connect, apply, caplog):
    apply(0)
    source = connect("all/?projection=readers").begin()
    EventStore.append_event({**BOOK, "payload": {"to": {"no": "key"}}})
    EventStore.append_event({**BOOK, "payload": {"to": "ann"}})
    until(lambda: EventStore.head_position() == 2)
    apply(2)
    assert source.message().id == "2"
    assert "Event feed skipped position 1, projection readers failed" in caplog.text


# --- parked streams ----------------------------------------------------------


def test_an_event_of_a_parked_stream_is_sent_once_a_retry_has_applied_it(
    connect, lend_to, titles
):
    source = connect("all/?projection=titles").begin()
    for stream in "abab":  # the third arrives while its stream is parked
        lend_to("ann", stream, "titles")
    assert positions_of(source.take(2)) == [2, 4]
    titles.broken.clear()
    assert operator_actions.retry("titles", "a") == 1
    for position in (1, 3):
        message = source.message()
        assert message.data["position"] == position
        assert message.id == "4"
        assert position in titles.get("ann")["positions"]
    lend_to("ann", "a")
    (message,) = source.take(1)
    assert (message.data["position"], message.id) == (5, "5")


def test_a_skipped_event_is_never_sent(connect, lend_to, titles, store):
    source = connect("all/?projection=titles").begin()
    for stream in "abab":
        lend_to("ann", stream, "titles")
    assert positions_of(source.take(2)) == [2, 4]
    titles.broken.clear()
    assert operator_actions.skip("titles", "a", "a test order")
    assert positions_of(source.take(1)) == [3]
    lend_to("ann", "c")
    assert positions_of(source.take(1)) == [5]


def test_a_client_that_reconnects_receives_no_skipped_event(
    connect, lend_to, titles, store
):
    for stream in "ab":
        lend_to("ann", stream, "titles")
    until(lambda: parked(store))
    source = connect("all/?projection=titles", last=0)
    assert positions_of(source.take(1)) == [2]
    source.close()
    until(lambda: not listeners())
    operator_actions.skip("titles", "a", "a test order")
    until(lambda: not parked(store))
    assert positions_of(connect("all/?projection=titles", last=0).take(1)) == [2]


def test_a_late_event_is_sent_to_listeners_for_its_key(connect, lend_to, titles):
    bob = connect("all/?projection=titles&key=bob").begin()
    typed = connect("all/?projection=titles&type=BookRead").begin()
    for reader, stream in [("ann", "a"), ("bob", "a"), ("bob", "b")]:
        lend_to(reader, stream, "titles")
    assert positions_of(bob.take(1)) == [3]
    titles.broken.clear()
    operator_actions.retry("titles")
    assert positions_of(bob.take(1)) == [2]
    EventStore.append_event({**BOOK, "type": "BookRead", "payload": {"to": "bob"}})
    assert positions_of(typed.take(1)) == positions_of(bob.take(1)) == [4]


def test_late_events_are_sent_as_far_as_a_retry_has_applied_them(
    connect, lend, lend_to, apply, park
):
    apply(0)
    source = connect("all/?projection=readers").begin()
    lend("a", "BookLent", "BookRead", "BookLent", "BookRead")
    until(lambda: EventStore.head_position() == 4)
    park("a", 2, 2)
    apply(4)
    assert positions_of(source.take(1)) == [1]
    park("a", 4, 4)
    late = source.take(2)
    assert positions_of(late) == [2, 3]
    assert ids_of(late) == [4, 4]
    for stream in "bab":
        lend_to("ann", stream)
    apply(5)
    assert positions_of(source.take(1)) == [5]
    park("a", None)
    apply(6)
    assert positions_of(source.take(2)) == [4, 6]
    apply(7)
    assert positions_of(source.take(1)) == [7]


def test_a_late_event_without_a_key_is_sent_to_no_listener(connect, lend, apply, park):
    apply(0)
    source = connect("all/?projection=readers").begin()
    EventStore.append_event({**BOOK, "payload": {}})
    lend("a", "BookLent")
    until(lambda: EventStore.head_position() == 2)
    park("a", 1)
    apply(2)
    park("a", None)
    assert positions_of(source.take(1)) == [2]


def test_ids_never_go_back_for_a_listener_ahead_of_the_projection(
    connect, lend, apply, park, limit_feeds
):
    limit_feeds(position_wait_seconds=0.1)
    lend("a", "BookLent", "BookLent", "BookLent")
    until(lambda: EventStore.head_position() == 3)
    park("a", 1)
    apply(1)
    source = connect("all/?projection=readers", last=3).begin()
    park("a", 2, 2)
    message = source.message()
    assert (message.data["position"], message.id) == (1, "3")


@pytest.mark.parametrize("last", [1, 2])
def test_a_client_that_left_before_a_late_event_gets_a_reset(
    connect, lend, apply, last
):
    lend("a", "BookLent", "BookLent", "BookLent", "BookLent")
    until(lambda: EventStore.head_position() == 4)
    apply(3, lateAt=2)
    source = connect("all/?projection=readers", last=last)
    message = source.message()
    assert (message.name, message.id, message.data) == ("reset", "3", {"position": 3})
    apply(4)
    message = source.message()
    assert (message.name, message.id) == ("message", "4")


def test_a_page_that_was_loaded_after_a_late_event_is_not_reset(connect, lend, apply):
    lend("a", "BookLent", "BookLent", "BookLent")
    until(lambda: EventStore.head_position() == 3)
    apply(2, lateAt=2)
    source = connect("all/?projection=readers&after=2").begin()
    apply(3, lateAt=2)
    message = source.message()
    assert (message.name, message.id) == ("message", "3")
    message = connect("all/?projection=readers&after=1").message()
    assert (message.name, message.id) == ("reset", "3")


def test_a_client_that_left_after_a_late_event_receives_what_it_missed(
    connect, lend, apply
):
    lend("a", "BookLent", "BookLent", "BookLent", "BookLent")
    until(lambda: EventStore.head_position() == 4)
    apply(4, lateAt=2)
    source = connect("all/?projection=readers", last=3)
    message = source.message()
    assert (message.name, message.id) == ("message", "4")


@pytest.fixture
def reads(monkeypatch):
    """The checkpoints that feeds have read."""
    checkpoints = []
    original = applied_events.read_checkpoint

    async def read(*arguments):
        checkpoints.append(await original(*arguments))
        return checkpoints[-1]

    monkeypatch.setattr(applied_events, "read_checkpoint", read)
    return checkpoints


def test_a_stream_that_a_rebuild_released_is_sent_once_the_rebuild_reaches_it(
    connect, lend_to, apply, park, reads
):
    apply(0)
    source = connect("all/?projection=readers").begin()
    for stream in "ab":
        lend_to("ann", stream)
    park("a", 1)
    apply(2)
    assert positions_of(source.take(1)) == [2]
    apply(0)
    park("a", None)
    (listener,) = listeners()
    before = len(reads)
    until(lambda: len(reads) > before + 5)
    assert listener._feed.late_count == 0
    apply(2)
    assert positions_of(source.take(1)) == [1]


# --- between two reads of the feed -------------------------------------------


def test_an_event_parked_between_two_reads_of_the_feed_is_not_sent(
    connect, lend_to, apply, park, meanwhile
):
    apply(0)
    source = connect("all/?projection=readers").begin()
    for stream in "ab":
        lend_to("ann", stream)
    meanwhile(lambda: (park("a", 1), apply(2)))
    assert positions_of(source.take(1)) == [2]
    park("a", None)
    assert positions_of(source.take(1)) == [1]


def test_the_first_listener_learns_of_late_events_while_the_feed_starts(
    connect, lend_to, apply, park, meanwhile
):
    for stream in "ab":
        lend_to("ann", stream)
    park("a", 1)
    apply(2)
    meanwhile(lambda: (park("a", None), apply(2, lateAt=2)))
    assert connect("all/?projection=readers", last=2).message().name == "reset"


def test_a_client_that_reconnects_learns_of_late_events_during_a_read(
    connect, lend_to, apply, park, meanwhile, limit_feeds
):
    limit_feeds(poll_seconds=60)
    for stream in "abcd":
        lend_to("ann", stream)
    park("a", 1)
    apply(2)
    source = connect("all/?projection=readers").begin()

    def moves():
        apply(3)
        meanwhile(retries)  # after the read that sees it

    def retries():
        park("a", None)
        apply(3, lateAt=3)

    meanwhile(moves)
    assert positions_of(source.take(2)) == [1, 3]
    assert connect("all/?projection=readers", last=3).message().name == "reset"


# --- limits ------------------------------------------------------------------


def test_more_late_events_than_the_limit_cause_a_reset(
    connect, lend, apply, park, limit_feeds
):
    limit_feeds(late_events=1)
    apply(0)
    source = connect("all/?projection=readers").begin()
    lend("a", "BookLent", "BookLent", "BookLent")
    until(lambda: EventStore.head_position() == 3)
    park("a", 2, 2)
    apply(3)
    assert positions_of(source.take(1)) == [1]
    park("a", None)
    message = source.message()
    assert (message.name, message.id) == ("reset", "3")


def test_late_events_cause_a_reset_if_too_many_streams_are_parked(
    connect, lend_to, apply, park, limit_feeds
):
    limit_feeds(parked_streams=1)
    apply(0)
    source = connect("all/?projection=readers").begin()
    for stream in "abc":
        lend_to("ann", stream)
    park("a", 1)
    park("b", 2)
    apply(3)
    assert positions_of(source.take(1)) == [3]
    park("b", None)
    park("d", 7)
    apply(3, lateAt=3)
    message = source.message()
    assert (message.name, message.id) == ("reset", "3")
    park("a", None)  # at the same checkpoint: it is notificationd when that moves on
    park("e", 8)
    lend_to("ann", "c")
    apply(4, lateAt=3)
    message = source.message()
    assert (message.name, message.id) == ("reset", "3")
    assert positions_of(source.take(1)) == [4]
