"""Servers of these tests alone, each set started once a process, and lines to them."""

import pytest

from ossy_event_store import Mongo
from ossy_event_store.mongodb import location
from tests.support import servers
from tests.support.faults import FAST, LINES, indexed, wired
from tests.support.servers import heal


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    """Let the driver look at a lost server again at once, not after half a second."""
    monkeypatch.setattr("pymongo.common.MIN_HEARTBEAT_INTERVAL", 0.02)


@pytest.fixture(scope="session")
def single(tmp_path_factory):
    """A replica set of one."""
    with indexed(tmp_path_factory.mktemp("single")) as running:
        yield running


@pytest.fixture(scope="session")
def alone(tmp_path_factory):
    """A server of no set: without transactions, and without the driver's retries."""
    with indexed(tmp_path_factory.mktemp("alone"), name=None) as running:
        yield running


@pytest.fixture(scope="session")
def _three(tmp_path_factory):
    folder = tmp_path_factory.mktemp("three")
    with indexed(folder, 3, settings=servers.QUICK) as running:
        yield running


@pytest.fixture
def three(_three):
    """A replica set of three, all of them well before and after the test."""
    heal(_three)
    yield _three
    Mongo.close()
    heal(_three)


@pytest.fixture
def limit(settings):
    """A function that sets the time-out of an operation."""

    def limit(seconds):
        given = settings.OSSY_EVENT_STORE
        settings.OSSY_EVENT_STORE = {**given, "TIMEOUT": seconds}

    return limit


@pytest.fixture
def connect(limit):
    def connect(url, timeout=10):
        limit(timeout)
        location.use(url)

    yield connect
    Mongo.close()


@pytest.fixture(params=LINES)
def line(request, connect):
    """A line to a server, by who tries again when it breaks."""
    name = "alone" if request.param == "standalone" else "single"
    running = request.getfixturevalue(name)
    with wired(connect, running, **LINES[request.param]) as wire:
        yield wire


@pytest.fixture(params=["driver retries", "store retries"])
def set_line(request, connect, single):
    """A line to a server that has transactions."""
    with wired(connect, single, **LINES[request.param]) as wire:
        yield wire


@pytest.fixture
def own_line(connect, single):
    """A line on which only the store tries again."""
    with wired(connect, single, **LINES["store retries"]) as wire:
        yield wire


@pytest.fixture
def member(connect, single):
    """The server itself; the driver's own retries are on, as they are by default."""
    connect(single.url(**FAST))
    yield single.members[0]
    Mongo.close()


@pytest.fixture
def replicated(connect, three):
    connect(three.url(heartbeatFrequencyMS=500))
    return three
