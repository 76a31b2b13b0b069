"""Histories that once broke a promise, found by ``tests/test_exactly_once.py``."""

from collections import Counter

import pytest
from django.conf import settings

if settings.STORE != "url" or settings.ADMIN:
    pytest.skip("the harness empties a store of its own", allow_module_level=True)

from tests.exactly_once.kinds import KINDS, Config
from tests.exactly_once.machine import NEVER, Happenings
from tests.exactly_once.run import database, quiet

ALWAYS = 0.0


@pytest.fixture
def history(store, django_db_blocker):
    """Begin the history of one subscription, with (stream, key, fault) an event."""
    histories = []

    def begin(kind, *events, write=NEVER):
        class Own(Happenings):
            kind_of = KINDS[kind]
            counts = Counter()

        history = Own()
        histories.append(history)
        streams = 1 + max(stream for stream, _, _ in events)
        config = Config(page=1000, batch=100, retries=0, look=0.0, write=write)
        history.begin(config, streams, list(events))
        return history

    with django_db_blocker.unblock(), database(), quiet():
        yield begin
        for history in histories:
            history.is_broken = True  # it came to rest, or the test has failed
            history.teardown()


def fixed_and_retried(history):
    history.bad.clear()
    history.retry(None)


def parked(history):
    history.look_at_parked()
    return history.parked


@pytest.mark.parametrize("kind", ["session", "using", "projection"])
def test_a_skipped_event_stays_skipped_after_a_kill(kind, history):
    history = history(kind, (0, "x", 0))
    first = history.start()
    first.run(200, lambda: bool(parked(history)))
    assert parked(history) == {"a": 1}
    first.is_dead = True
    history.skip(0)
    history.come_to_rest()


def test_a_retry_after_a_kill_loses_no_event_of_a_projection(history):
    history = history("projection", (0, "x", 0), (1, "x", None))
    first = history.start()
    history.run_long(first)
    assert parked(history) == {"a": 1}
    first.is_dead = True
    fixed_and_retried(history)
    history.come_to_rest()


def test_an_event_that_is_delivered_again_and_fails_is_applied_once(history):
    history = history("projection", (0, "x", None))
    first = history.start()
    history.run_long(first)
    assert history.kind.effects() == {"x": [1]}
    first.is_dead = True
    history.bad[1] = "key"
    second = history.start()
    history.run_long(second)
    fixed_and_retried(history)
    history.run_long(second)
    history.every_promise_is_kept()
    history.come_to_rest()


def test_a_frozen_process_applies_nothing_that_another_has_parked(history):
    history = history("projection", (0, "x", None), write=ALWAYS)
    frozen = history.start()
    frozen.run(200, lambda: frozen.at.endswith("bulk_write"))
    history.bad[1] = "apply"
    history.run_long(history.start())
    frozen.run(5)
    history.every_promise_is_kept()
    history.come_to_rest()


def test_a_build_that_wakes_up_after_the_switch_applies_nothing(history):
    events = (0, "x", 0), (1, "y", None), (0, "x", None)
    history = history("blue-green", *events, write=ALWAYS)
    frozen = history.start()
    frozen.run(1)
    other = history.start()
    history.run_long(other)
    other.terminate()
    assert parked(history) == {"a": 1}
    history.has_switched = history.kind.switch()
    assert history.has_switched
    history.bad.clear()
    frozen.run(60)
    history.come_to_rest()


@pytest.mark.parametrize("steps", range(8))
def test_a_restart_during_a_release_doubles_nothing(steps, history):
    history = history("using", (0, "x", 0), (0, "x", None), write=ALWAYS)
    history.restart_during_a_release(steps, "retry", is_killed=False)
    history.come_to_rest()


def test_a_stream_is_parked_at_its_first_failure(history):
    events = (0, "x", None), (0, "x", 1), (0, "x", 0)
    history = history("projection", *events, write=ALWAYS)
    history.run_long(history.start())
    assert parked(history) == {"a": 2}
    history.come_to_rest()
