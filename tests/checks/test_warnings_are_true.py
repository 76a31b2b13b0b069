"""What the checks warn of happens: on a set with an arbiter, on a standalone server."""

import pytest
from pymongo.errors import OperationFailure

from ossy_event_store import Aggregate, Mongo
from ossy_event_store.checks import check_server
from ossy_event_store.exceptions import (
    EventStoreError,
    OutcomeUnknown,
    StoreUnavailable,
)
from ossy_event_store.mongodb import connection, indexes
from ossy_event_store.mongodb.ports import drive
from ossy_event_store.positions.sequencer import Sequencer
from tests.library.aggregate import Book
from tests.support import servers
from tests.support.checks import DEFAULT, ONLY_URL, ids

pytestmark = [ONLY_URL, pytest.mark.faults]


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pair")
    with servers.running(folder / "set", members=2, arbiters=1) as started:
        yield started


@pytest.fixture
def on_the_pair(pair, settings):
    """Return a function that connects the store to the pair."""
    given = settings.OSSY_EVENT_STORE

    def reach(url=None, timeout=3, **options):
        url = url or pair.url(**options)
        settings.OSSY_EVENT_STORE = {**given, "URL": url, "TIMEOUT": timeout}
        return connection.blocking()

    drive(indexes.ensure(reach()))
    yield reach
    Mongo.close()


def test_w009_on_a_set_with_an_arbiter(on_the_pair):
    on_the_pair()
    (message,) = check_server(None, DEFAULT)
    assert ids([message]) == ["W009"]
    assert "2 members with data and an arbiter" in message.msg


@pytest.mark.parametrize("direct", ["true", "false"])
def test_w013_a_direct_connection_to_a_set_of_several(on_the_pair, pair, direct):
    url = f"mongodb://{pair.primary.host}/?directConnection={direct}"
    on_the_pair(url)
    messages = check_server(None, DEFAULT)
    assert ids(messages) == ["W009"] + ["W013"] * (direct == "true")
    assert direct == "false" or "replicaSet=ossy" in messages[-1].hint


BOUGHT = {"type": "BookBought", "payload": {"title": "Emma"}}


def test_w011_costs_snapshots_a_retry_and_appends_none(on_the_pair, pair):
    on_the_pair(retryWrites="false", appName="w011")
    cut = {"closeConnection": True, "appName": "w011"}
    with pair.primary.fail_point(
        "failCommand", {"times": 1}, failCommands=["insert"], **cut
    ):
        book = Aggregate.of(Book, BOUGHT)
    with (
        pair.primary.fail_point(
            "failCommand", {"times": 1}, failCommands=["update"], **cut
        ),
        pytest.raises(StoreUnavailable),
    ):
        book.save()


def test_w013_and_w009_are_true(on_the_pair, pair):
    url = f"mongodb://{pair.secondaries[0].host}/?directConnection=true"
    on_the_pair(url)
    with pytest.raises(EventStoreError):
        Aggregate.of(Book, BOUGHT)
    on_the_pair()
    pair.secondaries[0].kill()
    try:
        with pytest.raises(OutcomeUnknown):
            Aggregate.of(Book, BOUGHT)
    finally:
        servers.heal(pair)


def test_w014_is_true(tmp_path, settings):
    with servers.running(tmp_path / "alone", name=None) as alone:
        given = settings.OSSY_EVENT_STORE
        settings.OSSY_EVENT_STORE = {**given, "URL": alone.url()}
        store = connection.blocking()
        drive(indexes.ensure(store))
        connection.raw(store.positions).insert_one({"_id": 1, "eventId": 1})
        assert ids(check_server(None, DEFAULT)) == ["W005", "W014"]
        sequencer = Sequencer(store)
        with pytest.raises(OperationFailure, match="replica set"):
            sequencer.advance()
        sequencer.close()
    Mongo.close()
