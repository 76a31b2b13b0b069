"""Open streams end when the server is told to stop."""

import signal
import threading

import pytest

from ossy_event_store.push.shutdown import ShutdownSignals
from tests.support.event_source import Source
from tests.support.processes import ON_URL
from tests.support.push import serving_alone


@ON_URL
@pytest.mark.faults
def test_open_streams_do_not_hold_up_a_server_that_stops(
    positions, store, lend, tmp_path
):
    with serving_alone(store, tmp_path) as (port, log):
        sources = [Source(port, f"/push/{path}").begin() for path in ("all/", "lent/")]
        lend("a", "BookLent")
        assert [source.message().id for source in sources] == ["1", "1"]
    # The process ended by itself, as SIGTERM asks.
    for source in sources:
        assert source.message() is None
        source.close()
    assert "Finished server process" in log()
    assert "Traceback" not in log()


@pytest.fixture
def handled():
    """The signals that the server's own handlers got."""
    numbers = []
    before = {
        number: signal.signal(number, lambda n, frame: numbers.append(n))
        for number in (signal.SIGTERM, signal.SIGINT)
    }
    yield numbers
    for number, handler in before.items():
        signal.signal(number, handler)


def test_the_action_runs_before_the_handler_that_was_set(handled):
    order = []
    signals = ShutdownSignals(lambda: order.append(list(handled)))
    signals.watch()
    signals.watch()  # as each feed does
    signal.raise_signal(signal.SIGTERM)
    signal.raise_signal(signal.SIGINT)
    assert order == [[], [signal.SIGTERM]]
    assert handled == [signal.SIGTERM, signal.SIGINT]


def test_signals_that_are_ignored_again_reach_the_handler_alone(handled):
    order = []
    signals = ShutdownSignals(lambda: order.append(True))
    signals.watch()
    signals.ignore()
    signal.raise_signal(signal.SIGTERM)
    assert order == []
    assert handled == [signal.SIGTERM]


def test_a_handler_that_replaced_ours_is_left_alone(handled):
    signals = ShutdownSignals(lambda: None)
    signals.watch()
    later = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    assert later == signals._on_signal
    signals.ignore()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN


def test_outside_of_the_main_thread_no_signal_is_watched(handled):
    before = signal.getsignal(signal.SIGTERM)
    signals = ShutdownSignals(lambda: None)
    thread = threading.Thread(target=lambda: (signals.watch(), signals.ignore()))
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGTERM) is before
