"""The checks of the connection's options, and that events ignore them."""

import pytest
from pymongo import MongoClient

from ossy_event_store import EventStore, Mongo
from ossy_event_store.checks import check_server, server
from tests.support.checks import DEFAULT, ONLY_URL, ids
from tests.support.sent_commands import Listener

pytestmark = pytest.mark.versions


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("w=1", "w=1"),
        ("w=0", "w=0"),
        ("w=3", "w=3"),
        ("journal=false", "journal=false"),
        ("wtimeoutMS=500", "wtimeoutMS=500"),
        ("readConcernLevel=local", "readConcernLevel=local"),
        ("readPreference=secondary", "readPreference=secondary"),
        ("readPreference=primaryPreferred", "readPreference=primaryPreferred"),
        ("w=1&wtimeoutMS=9&readConcernLevel=local", "w=1, wtimeoutMS=9, readCon"),
    ],
)
def test_w010_options_that_events_ignore(query, found):
    (message,) = checked(query)
    assert ids([message]) == ["W010"]
    assert f"The connection sets {found}" in message.msg


@pytest.mark.parametrize(
    "query",
    [
        "",
        "w=majority",
        "journal=true",
        "w=majority&retryWrites=true&appName=x",
        "readConcernLevel=majority",
        "readPreference=primary",
    ],
)
def test_w010_is_not_reported_for_what_the_store_does_anyway(query):
    assert checked(query) == []


def test_w011_no_retries():
    assert ids(checked("retryWrites=false")) == ["W011"]


def checked(query):
    with MongoClient(f"mongodb://127.0.0.1/?{query}", connect=False) as client:
        return list(server._ignored_options(client))


@ONLY_URL
@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"w": 1}, ["W010"]),
        ({"retryWrites": False}, ["W011"]),
        ({"w": 1, "retryWrites": False}, ["W010", "W011"]),
    ],
    ids=str,
)
def test_w010_w011_respect_the_options(store, settings, options, found):
    settings.OSSY_EVENT_STORE = {**settings.OSSY_EVENT_STORE, "OPTIONS": options}
    assert ids(check_server(None, DEFAULT)) == found
    Mongo.close()


@ONLY_URL
@pytest.mark.parametrize(
    "options",
    [
        {"w": 1, "journal": False, "wtimeoutMS": 1},
        {"w": 0},
        {"readConcernLevel": "local", "readPreference": "secondaryPreferred"},
    ],
    ids=str,
)
def test_w010_events_really_ignore_the_options(store, settings, options):
    listener = Listener()
    options = {**options, "event_listeners": [listener]}
    settings.OSSY_EVENT_STORE = {**settings.OSSY_EVENT_STORE, "OPTIONS": options}
    event = {"aggregateId": "s", "aggregateType": "S", "type": "Tested"}
    EventStore.append_event(event)
    EventStore.append_events([event, event])
    EventStore.get_event_stream("s")
    Mongo.close()
    sent = listener.sent
    concerns = [command.get("writeConcern") for command in sent["insert"]]
    assert concerns == [{"w": "majority"}, None]  # the second in a transaction
    assert [c["writeConcern"] for c in sent["commitTransaction"]] == [{"w": "majority"}]
    assert {c["readConcern"]["level"] for c in sent["find"]} == {"majority"}
    # PyMongo itself adds primaryPreferred on a direct connection.
    modes = {c.get("$readPreference", {}).get("mode") for c in sent["find"]}
    assert modes <= {None, "primary", "primaryPreferred"}


@ONLY_URL
def test_w013_is_not_reported_for_a_set_of_one(store, settings):
    options = {"directConnection": True}
    settings.OSSY_EVENT_STORE = {**settings.OSSY_EVENT_STORE, "OPTIONS": options}
    assert check_server(None, DEFAULT) == []
    Mongo.close()
