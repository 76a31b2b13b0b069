"""System checks: each id of the catalogue, what it takes, and what it must not say."""

import dataclasses

import pytest
from django.conf import settings as django_settings
from django.core import checks as django_checks
from django.core.management import call_command
from django.db import connections
from pymongo.errors import OperationFailure

from ossy_event_store import EventStore, checks, indexes, mongo
from ossy_event_store.checks import (
    CATALOGUE,
    check_deployment,
    check_server,
    check_settings,
)
from ossy_event_store.exceptions import StoreUnavailable

DEFAULT = ["default"]
ONLY_URL = pytest.mark.skipif(
    django_settings.STORE != "url", reason="the store is found in DATABASES"
)


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch):
    monkeypatch.delenv("DB_URL", raising=False)
    monkeypatch.delenv("DB_NAME", raising=False)


@pytest.fixture
def alias(monkeypatch):
    """Add an alias to DATABASES for the length of a test."""

    def alias(engine, **database):
        database = {"ENGINE": engine, "NAME": "test_store", **database}
        monkeypatch.setitem(connections.settings, "events", database)

    return alias


def ids(messages):
    return [message.id.removeprefix("ossy_event_store.") for message in messages]


def static(settings, **value):
    settings.OSSY_EVENT_STORE = value
    return check_settings(None)


def deployed(settings, url, **value):
    settings.OSSY_EVENT_STORE = {"URL": url, **value}
    return check_deployment(None)


# The settings


def test_settings_that_are_right_are_passed(settings):
    assert static(settings, URL="mongodb://127.0.0.1/x") == []


def test_the_settings_of_this_run_are_passed():
    assert check_settings(None) == []


def test_e001_an_unknown_key(settings):
    (message,) = static(settings, URI="mongodb://x")
    assert ids([message]) == ["E001"]
    assert message.msg == "OSSY_EVENT_STORE has no key 'URI'."
    assert message.hint == "Did you mean 'URL'?"


def test_e001_for_each_thing_that_is_wrong(settings):
    assert ids(static(settings, URI=1, TIMEOUT=0, OPTIONS=[])) == ["E001"] * 3


def test_e001_no_dict(settings):
    settings.OSSY_EVENT_STORE = "mongodb://x"
    assert ids(check_settings(None)) == ["E001"]


def test_e002_nothing_says_where(settings):
    (message,) = static(settings)
    assert ids([message]) == ["E002"]
    assert "Mongo.connect(url)" in message.msg
    assert "DB_URL" in message.msg


@pytest.mark.parametrize(
    "url",
    [
        "http://x",
        "127.0.0.1",
        "mongodb:/x",
        "mongodb://",
        "mongodb://a:b@c:d",
        "mongodb://a:p@ss@host/x",
        "mongodb://host:port/x",
        "mongodb://host:99999/x",
        "mongodb://host/x?tls=maybe",
        "mongodb://host/a b",
        "mongodb://host/a\\b",
        "mongodb+srv://",
        "mongodb+srv://a:p@ss@x.example.com/name",
        "mongodb+srv://one.example.com,two.example.com/name",
        "mongodb+srv://x.example.com:27017/name",
        "mongodb+srv://localhost/name",
    ],
)
def test_e002_a_url_that_is_none(settings, url):
    assert ids(static(settings, URL=url)) == ["E002"]


@pytest.mark.parametrize(
    ("name", "engine"),
    [("missing", None), ("events", "django.db.backends.sqlite3")],
)
def test_e002_an_alias_that_is_none(settings, alias, name, engine):
    alias(engine or "djongo")
    assert ids(static(settings, DATABASE=name)) == ["E002"]


def test_w001_two_answers(settings, alias):
    alias("djongo")
    (message,) = static(settings, URL="mongodb://127.0.0.1", DATABASE="events")
    assert ids([message]) == ["W001"]
    assert "URL is used" in message.msg


@pytest.mark.parametrize(
    ("database", "found"),
    [
        ({"HOST": "db.example.com"}, ["W002"]),
        ({"HOST": "x", "CLIENT": {}}, ["W002"]),
        ({"HOST": "x", "CLIENT": {"username": "ann"}}, ["W002"]),
        ({"HOST": "x", "CLIENT": {"host": "mongodb://x"}}, []),
        ({"CLIENT": {"host": "mongodb://x"}}, []),
        ({}, []),
        ({"HOST": ""}, []),
    ],
    ids=str,
)
def test_w002_a_host_that_djongo_ignores(settings, alias, database, found):
    alias("djongo", **database)
    assert ids(static(settings, DATABASE="events")) == found


def test_the_static_checks_do_not_connect(settings):
    # Nothing listens there; a connection would wait for the time-out.
    url = "mongodb://127.0.0.1:1/x"
    assert static(settings, URL=url, TIMEOUT=3600) == []


# Deployment


@pytest.mark.parametrize("url", ["embedded://", "embedded://some/folder"])
def test_w006_the_embedded_server(settings, url):
    assert ids(deployed(settings, url)) == ["W006"]


def test_w007_names_the_hosts_without_tls(settings):
    (message,) = deployed(settings, "mongodb://ann:pw@one.example,two.example/x")
    assert ids([message]) == ["W007"]
    assert "Events travel to one.example, two.example without" in message.msg


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("mongodb://10.0.0.1/x", ["W007"]),
        ("mongodb://[2001:db8::1]:27017/x", ["W007"]),
        ("mongodb://localhost,10.0.0.1/x", ["W007"]),
        ("mongodb://10.0.0.1/x?tls=false", ["W007"]),
        ("mongodb+srv://db.example.com/x?tls=false", ["W007"]),
        ("mongodb+srv://db.example.com/x?ssl=false", ["W007"]),
        ("mongodb://localhost.example.com/x", ["W007"]),
        ("mongodb://10.0.0.1/x?tls=true", []),
        ("mongodb://10.0.0.1/x?ssl=true", []),
        ("mongodb://10.0.0.1/x?TLS=TRUE", []),
        ("mongodb+srv://db.example.com/x", []),
        ("mongodb://localhost/x", []),
        ("mongodb://LOCALHOST/x", []),
        ("mongodb://127.0.0.1,127.8.8.8/x", []),
        ("mongodb://[::1]:27017/x", []),
        ("mongodb://%2Ftmp%2Fmongodb-27017.sock/x", []),
    ],
)
def test_w007_a_remote_server_without_tls(settings, url, found):
    assert ids(deployed(settings, url)) == found


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"tls": True}, []),
        ({"ssl": True}, []),
        ({"TLS": True}, []),
        ({"tls": False}, ["W007"]),
    ],
    ids=str,
)
def test_w007_heeds_the_options(settings, options, found):
    assert ids(deployed(settings, "mongodb://10.0.0.1/x", OPTIONS=options)) == found


@pytest.mark.parametrize(
    "url", ["mongodb://10.0.0.1/x?tls=true", "mongodb+srv://db.example.com/x"]
)
def test_w007_heeds_the_options_before_the_url(settings, url):
    assert ids(deployed(settings, url, OPTIONS={"tls": False})) == ["W007"]


@pytest.mark.parametrize(
    ("database", "found"),
    [
        ({"HOST": "mongodb://10.0.0.1"}, ["W007"]),
        ({"HOST": "10.0.0.1"}, ["W007"]),
        ({"HOST": "mongodb://10.0.0.1/?tls=true"}, []),
        ({"HOST": "mongodb://10.0.0.1", "OPTIONS": {"tls": True}}, []),
        ({"HOST": "mongodb+srv://db.example.com"}, []),
        ({"HOST": "127.0.0.1"}, []),
        ({}, []),
    ],
    ids=str,
)
def test_w007_heeds_an_alias(settings, alias, database, found):
    alias("django_mongodb_backend", **database)
    settings.OSSY_EVENT_STORE = {"DATABASE": "events"}
    assert ids(check_deployment(None)) == found


def test_w007_heeds_the_client_of_djongo(settings, alias):
    alias("djongo", CLIENT={"host": "mongodb://10.0.0.1"})
    settings.OSSY_EVENT_STORE = {"DATABASE": "events"}
    assert ids(check_deployment(None)) == ["W007"]


@pytest.mark.parametrize("value", [{}, {"URI": 1}, {"URL": "x"}, None])
@pytest.mark.parametrize("check", [check_deployment, check_server])
def test_what_is_wrong_with_the_settings_is_told_once(settings, value, check):
    settings.OSSY_EVENT_STORE = value
    assert check(None, databases=DEFAULT) == []


# The server


def test_a_server_with_all_indexes_is_passed(store):
    assert check_server(None, DEFAULT) == []


@pytest.mark.parametrize("databases", [None, [], ["other"]])
def test_the_server_is_asked_only_with_its_database(databases, monkeypatch):
    monkeypatch.setattr(checks, "_shortcomings", lambda: pytest.fail("asked"))
    assert check_server(None, databases) == []


@pytest.mark.parametrize("index", indexes.INDEXES, ids=lambda index: index.name)
def test_w004_an_index_that_is_missing(store, index):
    collection = mongo.raw(
        store.events if index.collection == mongo.EVENTS else store.snapshots
    )
    collection.drop_index(index.name)
    (message,) = check_server(None, DEFAULT)
    call_command("ensure_event_store", verbosity=0)
    assert ids([message]) == ["W004"]
    assert f"Index {index.name} on {index.collection} is missing." in message.msg
    assert message.hint == "Run manage.py ensure_event_store."


def test_w004_an_index_with_other_options(store):
    index = indexes.INDEXES[0]
    EventStore.collection.drop_index(index.name)
    EventStore.collection.create_index(list(index.keys))
    found = ids(check_server(None, DEFAULT))
    EventStore.collection.drop_index(index.name)
    call_command("ensure_event_store", verbosity=0)
    assert found == ["W004"]


def test_w004_for_every_index_of_a_store_that_is_not_there(store):
    mongo.raw(store.events).drop()
    mongo.raw(store.snapshots).drop()
    found = ids(check_server(None, DEFAULT))
    call_command("ensure_event_store", verbosity=0)
    assert found == ["W004"] * len(indexes.INDEXES)


class Answering:
    """A client that answers ``hello`` as it is told to."""

    def __init__(self, **hello):
        self.hello = hello

    async def command(self, name, **options):
        assert name == "hello"
        return self.hello


@pytest.mark.parametrize(
    ("hello", "found"),
    [
        ({"isWritablePrimary": True}, ["W005"]),
        ({"setName": "rs0"}, []),
        ({"msg": "isdbgrid"}, []),
    ],
    ids=["standalone", "replica set", "mongos"],
)
def test_w005_a_standalone_server(store, monkeypatch, hello, found):
    stub = dataclasses.replace(store, client=Answering(**hello))
    monkeypatch.setattr(checks.mongo, "blocking", lambda: stub)
    assert ids(checks._shortcomings()) == found


@ONLY_URL
def test_w003_a_server_that_is_not_there(settings):
    url = "mongodb://ann:s3cret@127.0.0.1:1/x"
    settings.OSSY_EVENT_STORE = {"URL": url, "TIMEOUT": 0.05}
    (message,) = check_server(None, DEFAULT)
    assert ids([message]) == ["W003"]
    assert message.hint == "It is given by OSSY_EVENT_STORE['URL']."
    assert "s3cret" not in str(message)
    assert "\n" not in message.msg


@pytest.mark.parametrize(
    "error", [StoreUnavailable("gone"), OperationFailure("not authorized", 13)]
)
def test_w003_a_server_that_refuses(store, monkeypatch, error):
    def refuse():
        raise error

    monkeypatch.setattr(checks.mongo, "blocking", refuse)
    assert ids(check_server(None, DEFAULT)) == ["W003"]


def test_w003_indexes_that_may_not_be_listed(store, monkeypatch):
    async def refuse(store):
        raise OperationFailure("not authorized", 13)

    monkeypatch.setattr(checks.indexes, "missing", refuse)
    (message,) = check_server(None, DEFAULT)
    assert ids([message]) == ["W003"]
    assert message.msg == "The indexes cannot be listed: not authorized"


# Django


def test_the_checks_are_registered():
    registered = django_checks.registry.registry
    assert check_settings in registered.registered_checks
    assert check_server in registered.registered_checks
    assert check_deployment in registered.deployment_checks


def test_the_server_is_asked_by_check_with_a_database(store, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(checks, "_shortcomings", lambda: asked.append(1) or [])
    call_command("check", databases=DEFAULT)
    assert asked == [1]


def test_the_server_is_not_asked_by_a_plain_check(monkeypatch, capsys):
    monkeypatch.setattr(checks, "_shortcomings", lambda: pytest.fail("asked"))
    call_command("check")


def test_nothing_that_migrate_mends_is_an_error():
    assert {key for key in CATALOGUE if key.startswith("E")} == {"E001", "E002"}


def test_every_id_of_the_catalogue_is_tested_here():
    tests = [name for name in globals() if name.startswith("test_")]
    for key in CATALOGUE:
        assert any(name.startswith(f"test_{key.lower()}_") for name in tests)
