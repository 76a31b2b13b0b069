"""Open streams end when the server is told to stop."""

import asyncio
import signal

import pytest

from ossy_event_store.push.event_filter import EventFilter
from ossy_event_store.push.running_feeds import listening
from ossy_event_store.push.shutdown import server_is_stopping
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


def test_a_server_says_by_its_own_handler_that_it_stops():
    class Server:
        should_exit = False

        def handle_exit(self, number, frame):
            self.should_exit = True

    assert not server_is_stopping()  # another handler, which knows nothing
    server = Server()
    before = signal.signal(signal.SIGTERM, server.handle_exit)
    try:
        assert not server_is_stopping()
        signal.raise_signal(signal.SIGTERM)
        assert server_is_stopping()
    finally:
        signal.signal(signal.SIGTERM, before)


def test_to_listen_leaves_the_signals_of_the_process_alone(store):
    def handlers():
        return [signal.getsignal(number) for number in signal.valid_signals()]

    async def with_a_listener():
        before = handlers()  # asyncio.run() sets one of its own
        async with listening(EventFilter(stream="a"), None):
            assert handlers() == before

    asyncio.run(with_a_listener())
