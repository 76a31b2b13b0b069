"""The checks of the connection's options, and that events ignore them."""

import re

import pytest
from pymongo import MongoClient
from pymongo.server_api import ServerApi

from ossy_event_store import EventStore, Mongo
from ossy_event_store.admin import event_lookups
from ossy_event_store.admin.paging import Search
from ossy_event_store.checks import check_server, server
from ossy_event_store.mongodb import connection
from ossy_event_store.mongodb.ports import drive
from ossy_event_store.subscriptions import declaration
from ossy_event_store.subscriptions.declaration import subscription
from tests.support.checks import DEFAULT, ONLY_URL, ids
from tests.support.sent_commands import Listener
from tests.support.servers import until
from tests.support.subscriptions import running

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


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"socketTimeoutMS": 400}, "socketTimeoutMS=400"),
        ({"maxPoolSize": 1}, "maxPoolSize=1. .* uses 6 connections"),
        ({"server_api": ServerApi("1", strict=True)}, "strict Stable API"),
    ],
    ids=["time-out", "pool of one", "strict"],
)
def test_w016_options_that_hinder_the_store(options, named, monkeypatch):
    monkeypatch.setattr(declaration, "_registered", {})
    subscription("one")(lambda event: None)
    subscription("two", concurrency=2)(lambda event: None)
    (message,) = hindered(**options)
    assert ids([message]) == ["W016"]
    assert re.search(named, message.msg)


@pytest.mark.parametrize(
    "options",
    [{}, {"maxPoolSize": 4}, {"maxPoolSize": 0}, {"server_api": ServerApi("1")}],
    ids=["nothing", "pool of four", "pool without limit", "not strict"],
)
def test_w016_is_not_reported_for_what_does_no_harm(options, monkeypatch):
    monkeypatch.setattr(declaration, "_registered", {})
    subscription("one")(lambda event: None)
    assert hindered(**options) == []


def hindered(**options):
    with MongoClient("127.0.0.1", connect=False, **options) as client:
        return list(server._hindering_options(client))


@ONLY_URL
@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"server_api": ServerApi("1", strict=True)}, []),
        ({"readPreference": "secondary"}, ["W010"]),
        ({"socketTimeoutMS": 400}, ["W016"]),
    ],
    ids=["strict", "secondary", "time-out"],
)
def test_the_store_works_with_options_that_guides_advise(
    store, settings, quick, options, found
):
    """A change stream waits for longer than the time limit of the socket."""
    settings.OSSY_EVENT_STORE = {**settings.OSSY_EVENT_STORE, "OPTIONS": options}
    assert ids(check_server(None, DEFAULT)) == found
    event = {"aggregateId": "s", "aggregateType": "S", "type": "Tested"}
    EventStore.append_events([event, event])
    got = []
    subscription("reader")(got.append)
    with running():
        until(lambda: len(got) == 2)
    assert len(drive(event_lookups.events(connection.blocking(), Search())).items) == 2
    Mongo.close()


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
    ids=lambda options: (
        next(iter(options), "none") if isinstance(options, dict) else None
    ),
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
    ids=lambda options: (
        next(iter(options), "none") if isinstance(options, dict) else None
    ),
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
