"""System checks: each id of the catalogue, what it takes, and what it must not say."""

import dataclasses
from collections import defaultdict

import pytest
from django.conf import settings as django_settings
from django.core import checks as django_checks
from django.core.management import call_command
from django.db import connections
from pymongo import MongoClient, monitoring
from pymongo.errors import OperationFailure

from ossy_event_store import Aggregate, EventStore, Mongo, checks
from ossy_event_store.checks import (
    CATALOGUE,
    check_deployment,
    check_server,
    check_settings,
    check_subscriptions,
)
from ossy_event_store.exceptions import (
    EventStoreError,
    OutcomeUnknown,
    StoreUnavailable,
)
from ossy_event_store.mongodb import connection, indexes, schema_validator
from ossy_event_store.mongodb.location import Source
from ossy_event_store.mongodb.ports import drive
from ossy_event_store.positions.sequencer import Sequencer
from ossy_event_store.subscriptions import declaration, snapshot_subscription
from ossy_event_store.subscriptions.checkpoints import RELATIONAL
from tests.library.aggregate import Book
from tests.support import servers

DEFAULT = ["default"]
ONLY_URL = pytest.mark.skipif(
    django_settings.STORE != "url", reason="the store is found in DATABASES"
)


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch):
    monkeypatch.delenv("DB_URL", raising=False)
    monkeypatch.delenv("DB_NAME", raising=False)


@pytest.fixture(autouse=True)
def _any_version(monkeypatch):
    # The server of the run may be an old one, as the embedded one is.
    monkeypatch.setattr(checks, "MENDED", {})


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


# Subscriptions


@pytest.fixture
def subscribe(monkeypatch):
    """Declare subscriptions for the length of a test; before it there is none."""
    monkeypatch.setattr(declaration, "_registered", {})

    def subscribe(name, **options):
        declaration.subscription(name, **options)(lambda event: None)

    return subscribe


def test_e003_a_subscription_that_has_no_table(settings, subscribe):
    without = [name for name in settings.INSTALLED_APPS if name != RELATIONAL]
    settings.INSTALLED_APPS = without
    subscribe("mails")
    subscribe("orders", using="default")
    (message,) = check_subscriptions(None)
    assert ids([message]) == ["E003"]
    assert "'orders' writes to DATABASES['default']" in message.msg
    assert "'ossy_event_store.relational'" in message.hint
    assert "migrate --database default" in message.hint


@ONLY_URL
def test_e003_is_not_said_with_the_table(subscribe):
    subscribe("orders", using="default")
    assert check_subscriptions(None) == []


def test_e003_is_not_said_without_such_subscriptions(settings, subscribe):
    settings.INSTALLED_APPS = ["ossy_event_store"]
    subscribe("mails")
    assert check_subscriptions(None) == []


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
    connection.raw(store.events).database[index.collection].drop_index(index.name)
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
    for name in connection.OPTIONS:
        connection.raw(store.events).database[name].drop()
    found = ids(check_server(None, DEFAULT))
    call_command("ensure_event_store", verbosity=0)
    assert found == ["W004"] * len(indexes.INDEXES)


STANDALONE = {"isWritablePrimary": True}


class Answering:
    """A client that answers ``hello`` as it is told to."""

    def __init__(self, **hello):
        self.answers = {"hello": hello, "buildInfo": build("8.0.12")}

    async def command(self, name, **options):
        return self.answers[name]


def build(version):
    return {"version": version, "versionArray": [*map(int, version.split(".")), 0]}


@pytest.mark.parametrize(
    ("hello", "found"),
    [
        (STANDALONE, ["W005"]),
        ({"setName": "rs0"}, []),
        ({"msg": "isdbgrid"}, []),
    ],
    ids=["standalone", "replica set", "mongos"],
)
def test_w005_a_standalone_server(store, monkeypatch, subscribe, hello, found):
    stub = dataclasses.replace(store, client=Answering(**hello))
    monkeypatch.setattr(checks.connection, "blocking", lambda: stub)
    assert ids(checks._shortcomings()) == found


@pytest.mark.parametrize(
    ("hello", "found"),
    [
        (STANDALONE, ["W005", "W014"]),
        ({"setName": "rs0"}, []),
        ({"msg": "isdbgrid"}, []),
    ],
    ids=["standalone", "replica set", "mongos"],
)
@pytest.mark.parametrize("used", ["registered", "positions"])
def test_w014_subscriptions_on_a_standalone_server(
    store, monkeypatch, subscribe, hello, found, used
):
    if used == "registered":
        subscribe("mails")
    else:
        connection.raw(store.positions).insert_one({"_id": 1})
    stub = dataclasses.replace(store, client=Answering(**hello))
    monkeypatch.setattr(checks.connection, "blocking", lambda: stub)
    assert ids(checks._shortcomings()) == found


def test_w014_is_not_said_of_the_snapshots_alone(store, subscribe):
    snapshot_subscription.register()
    assert declaration.registered_subscriptions()
    assert ids(checks._of_subscriptions(store, STANDALONE)) == []


def test_w014_is_not_said_where_positions_may_not_be_seen(store, subscribe):
    class Refusing:
        async def find_one(self, *arguments, **options):
            raise OperationFailure("not authorized", 13)

    stub = dataclasses.replace(store, positions=Refusing())
    assert ids(checks._of_subscriptions(stub, STANDALONE)) == []


NOT_MENDED = dict(checks.MENDED)


@pytest.fixture
def mended(monkeypatch):
    """The table of versions as it is."""
    monkeypatch.setattr(checks, "MENDED", NOT_MENDED)


@pytest.mark.parametrize(
    ("version", "hint"),
    [
        ("3.6.23", "MongoDB 8.0"),
        ("4.4.29", "MongoDB 8.0"),
        ("5.0.31", "MongoDB 8.0"),
        ("6.0.5", "MongoDB 6.0.25 or later"),
        ("6.0.24", "MongoDB 6.0.25 or later"),
        ("7.0.21", "MongoDB 7.0.22 or later"),
        ("8.0.11", "MongoDB 8.0.12 or later"),
        ("6.0.25", None),
        ("7.0.22", None),
        ("8.0.12", None),
        ("8.2.0", None),
        ("9.0.0", None),
    ],
)
def test_w008_a_version_with_a_known_fault(mended, version, hint):
    found = list(checks._of_the_version(build(version)))
    assert ids(found) == (["W008"] if hint else [])
    assert not hint or (version in found[0].msg and hint in found[0].hint)


def test_w008_by_what_the_server_says_it_is(store, monkeypatch):
    version = EventStore.collection.database.client.server_info()["versionArray"]
    line, patch = tuple(version[:2]), version[2]
    monkeypatch.setattr(checks, "MENDED", {line: patch})
    assert check_server(None, DEFAULT) == []
    monkeypatch.setattr(checks, "MENDED", {line: patch + 1})
    assert ids(check_server(None, DEFAULT)) == ["W008"]


def test_w008_is_not_said_of_the_embedded_server(store, monkeypatch):
    monkeypatch.setattr(checks, "OLDEST", (99, 0))
    assert ids(checks._shortcomings()) == ["W008"]
    embedded = Source("", url="embedded://", alias=connection.resolve().alias)
    monkeypatch.setattr(checks, "resolve", lambda: embedded)
    assert ids(checks._shortcomings()) == []


@pytest.mark.parametrize(
    ("hosts", "passives", "arbiters", "found"),
    [
        (1, 0, 1, ["W009"]),
        (2, 0, 1, ["W009"]),
        (1, 1, 1, ["W009"]),
        (3, 0, 1, ["W009"]),
        (3, 0, 2, ["W009"]),
        (4, 0, 1, []),
        (3, 1, 1, []),
        (3, 0, 0, []),
        (2, 0, 0, []),
    ],
)
def test_w009_an_arbiter_that_a_majority_needs(hosts, passives, arbiters, found):
    hello = {"setName": "rs", "hosts": ["h"] * hosts}
    if passives:
        hello["passives"] = ["h"] * passives
    if arbiters:
        hello["arbiters"] = ["h"] * arbiters
    assert ids(checks._of_the_set(hello)) == found


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
def test_w010_what_events_ignore(query, found):
    (message,) = of_a_connection(query)
    assert ids([message]) == ["W010"]
    assert f"The connection asks for {found}" in message.msg


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
def test_w010_is_not_said_of_what_events_do_anyway(query):
    assert of_a_connection(query) == []


def test_w011_no_retries():
    assert ids(of_a_connection("retryWrites=false")) == ["W011"]


def of_a_connection(query):
    with MongoClient(f"mongodb://127.0.0.1/?{query}", connect=False) as client:
        return list(checks._of_the_connection(client))


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
def test_w010_w011_heed_the_options(store, settings, options, found):
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
def test_w010_events_ignore_it_indeed(store, settings, options):
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
    # PyMongo adds primaryPreferred for itself on a direct connection.
    modes = {c.get("$readPreference", {}).get("mode") for c in sent["find"]}
    assert modes <= {None, "primary", "primaryPreferred"}


class Listener(monitoring.CommandListener):
    """Keeps what is sent, by the name of the command."""

    def __init__(self):
        self.sent = defaultdict(list)

    def started(self, event):
        self.sent[event.command_name].append(dict(event.command))

    def succeeded(self, event):
        pass

    def failed(self, event):
        pass


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({}, []),
        (schema_validator._OPTIONS, []),
        ({**schema_validator._OPTIONS, "validationLevel": "moderate"}, ["W012"]),
        ({**schema_validator._OPTIONS, "validationAction": "warn"}, ["W012"]),
        ({"validator": {"$jsonSchema": {"title": schema_validator.TITLE}}}, ["W012"]),
        ({"validator": {"a": 1}}, ["W012"]),
    ],
    ids=["none", "ours", "moderate", "warns", "older", "somebody else's"],
)
def test_w012_another_validator(store, options, found):
    drive(store.events.database_command("collMod", "eventstore", **options))
    messages = check_server(None, DEFAULT)
    drive(schema_validator.remove(store))
    assert ids(messages) == found
    assert all("--validator" in message.hint for message in messages)


def test_w012_is_not_said_where_the_validator_may_not_be_seen(store, monkeypatch):
    async def refuse(store):
        raise OperationFailure("not authorized", 13)

    monkeypatch.setattr(checks.schema_validator, "standing", refuse)
    assert check_server(None, DEFAULT) == []


@pytest.mark.parametrize(
    ("name", "kept", "said"),
    [
        (connection.EVENTS, {"key": {"aggregateId": 1}}, None),
        (connection.SNAPSHOTS, {"key": {"_id": 1}}, None),
        (connection.EVENTS, {"key": {"aggregateId": "hashed"}}, "its versions"),
        (
            connection.EVENTS,
            {"key": {"aggregateId": 1, "aggregateVersion": 1}},
            "its versions",
        ),
        (connection.POSITIONS, {"key": {"aggregateId": 1}}, "has to stay whole"),
        (connection.LEASES, {"key": {"owner": 1}}, "has to stay whole"),
        (connection.POSITIONS, {"key": {"_id": 1}, "unsplittable": True}, None),
        (connection.POSITIONS, {"key": {"aggregateId": 1}, "dropped": True}, None),
    ],
)
def test_w015_another_shard_key(store, history, name, kept, said):
    """A router keeps them so; the same documents stand in a set's own ``config``."""
    database = history.database
    config = database.client["config"]["collections"]
    try:
        config.insert_one({"_id": f"{database.name}.{name}", **kept})
        config.insert_one({"_id": f"{database.name}x.{name}", "key": {"other": 1}})
        messages = list(checks._of_the_shards(store))
    finally:
        config.delete_many({})
    assert ids(messages) == (["W015"] if said else [])
    assert all(f"{name} is spread" in m.msg and said in m.msg for m in messages)


# A set of two members and an arbiter


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pair")
    with servers.running(folder / "set", members=2, arbiters=1) as started:
        yield started


@pytest.fixture
def on_the_pair(pair, settings):
    """Reach the store on the pair by a URL with these options."""
    given = settings.OSSY_EVENT_STORE

    def reach(url=None, **options):
        url = url or pair.url(**options)
        settings.OSSY_EVENT_STORE = {**given, "URL": url, "TIMEOUT": 3}
        return connection.blocking()

    drive(indexes.ensure(reach()))
    yield reach
    Mongo.close()


slow = pytest.mark.slow


@ONLY_URL
@slow
def test_w009_on_a_set_with_an_arbiter(on_the_pair):
    on_the_pair()
    (message,) = check_server(None, DEFAULT)
    assert ids([message]) == ["W009"]
    assert "2 members with data and an arbiter" in message.msg


@ONLY_URL
@slow
@pytest.mark.parametrize("direct", ["true", "false"])
def test_w013_a_direct_connection_to_a_set_of_several(on_the_pair, pair, direct):
    url = f"mongodb://{pair.primary.host}/?directConnection={direct}"
    on_the_pair(url)
    messages = check_server(None, DEFAULT)
    assert ids(messages) == ["W009"] + ["W013"] * (direct == "true")
    assert direct == "false" or "replicaSet=ossy" in messages[-1].hint


@ONLY_URL
def test_w013_is_not_said_of_a_set_of_one(store, settings):
    options = {"directConnection": True}
    settings.OSSY_EVENT_STORE = {**settings.OSSY_EVENT_STORE, "OPTIONS": options}
    assert check_server(None, DEFAULT) == []
    Mongo.close()


BOUGHT = {"type": "BookBought", "payload": {"title": "Emma"}}


@ONLY_URL
@slow
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


@ONLY_URL
@slow
def test_w013_and_w009_are_true(on_the_pair, pair):
    url = f"mongodb://{pair.secondaries[0].host}/?directConnection=true"
    on_the_pair(url)
    with pytest.raises(EventStoreError):
        Aggregate.of(Book, BOUGHT)
    on_the_pair()
    pair.secondaries[0].kill()
    with pytest.raises(OutcomeUnknown):
        Aggregate.of(Book, BOUGHT)


@ONLY_URL
@slow
def test_w014_is_true(tmp_path, settings):
    with servers.running(tmp_path / "alone", name=None) as alone:
        given = settings.OSSY_EVENT_STORE
        settings.OSSY_EVENT_STORE = {**given, "URL": alone.url()}
        store = connection.blocking()
        drive(indexes.ensure(store))
        connection.raw(store.positions).insert_one({"_id": 1})
        assert ids(check_server(None, DEFAULT)) == ["W005", "W014"]
        sequencer = Sequencer(store)
        with pytest.raises(OperationFailure, match="replica set"):
            sequencer.advance()
        sequencer.close()
    Mongo.close()


# The server that is not there


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

    monkeypatch.setattr(checks.connection, "blocking", refuse)
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
    errors = {key for key in CATALOGUE if key.startswith("E")}
    assert errors == {"E001", "E002", "E003"}  # all of them are about the settings


def test_every_id_of_the_catalogue_is_tested_here():
    tests = [name for name in globals() if name.startswith("test_")]
    for key in CATALOGUE:
        assert any(name.startswith(f"test_{key.lower()}_") for name in tests)
