"""The checks of the server: version, topology, validator, shard keys and indexes."""

import dataclasses

import pytest
from django.core.management import call_command
from pymongo.errors import OperationFailure

from ossy_event_store import EventStore
from ossy_event_store.checks import check_server, server
from ossy_event_store.exceptions import StoreUnavailable
from ossy_event_store.mongodb import connection, indexes, schema_validator
from ossy_event_store.mongodb.indexes import Kind
from ossy_event_store.mongodb.location import Source
from ossy_event_store.mongodb.ports import drive
from ossy_event_store.subscriptions import declaration, snapshot_subscription
from tests.support.checks import DEFAULT, ONLY_URL, ids
from tests.support.commands import failure

pytestmark = pytest.mark.versions


def test_a_server_with_all_indexes_passes(store):
    assert check_server(None, DEFAULT) == []


@pytest.mark.parametrize("databases", [None, [], ["other"]])
def test_the_server_is_asked_only_for_its_alias(databases, monkeypatch):
    monkeypatch.setattr(server, "_shortcomings", lambda: pytest.fail("asked"))
    assert check_server(None, databases) == []


def number(index):
    return "E004" if index.kind is Kind.SAFETY else "W004"


@pytest.fixture
def broken(store):
    """A store whose indexes a test may break; afterwards, they all exist."""
    yield store
    database = connection.raw(store.events).database
    for index in drive(indexes.missing(store)):
        if index.name in database[index.collection].index_information():
            database[index.collection].drop_index(index.name)  # it has other options
    call_command("ensure_event_store", verbosity=0)


@pytest.mark.parametrize("index", indexes.INDEXES, ids=lambda index: index.name)
def test_w004_a_missing_index(broken, index):
    connection.raw(broken.events).database[index.collection].drop_index(index.name)
    (message,) = check_server(None, DEFAULT)
    assert ids([message]) == [number(index)]
    assert f"ndex {index.name} on {index.collection} is missing" in message.msg
    assert message.hint.startswith("Run manage.py ensure_event_store.")
    assert ("ADMIN_INDEXES" in message.hint) == (index.kind is Kind.ADMIN)


def test_w004_an_index_with_other_options(broken):
    index = indexes.INDEXES[0]
    EventStore.collection.drop_index(index.name)
    EventStore.collection.create_index(list(index.keys))
    assert ids(check_server(None, DEFAULT)) == ["E004"]


def test_w004_for_every_index_of_an_empty_database(broken):
    for name in connection.COLLECTION_OPTIONS:
        connection.raw(broken.events).database[name].drop()
    found = ids(check_server(None, DEFAULT))
    assert sorted(found) == sorted(map(number, indexes.INDEXES))
    assert found.count("E004") == 3


def test_e004_is_an_error_of_check_and_not_of_migrate(broken, monkeypatch):
    EventStore.collection.drop_index(indexes.STREAM_VERSIONS.name)
    assert "the store refuses to write there" in str(
        failure("check", "--database", "default")
    )
    monkeypatch.setattr(server.sys, "argv", ["manage.py", "migrate"])
    assert check_server(None, DEFAULT) == []


def test_e005_a_collection_of_another_program(store):
    connection.raw(store.positions).insert_one({"_id": 1, "symbol": "X"})
    (message,) = check_server(None, DEFAULT)
    assert ids([message]) == ["E005"]
    assert "eventstore_positions belongs to another program" in message.msg


def test_w017_a_database_of_the_node_package_3(of_node_3):
    found = {message.id: message.msg for message in check_server(None, DEFAULT)}
    assert "import_events --from-node-3" in found["ossy_event_store.W017"]


@pytest.mark.parametrize("sharded", [True, False])
def test_w018_sharded_events_cannot_have_tags(store, monkeypatch, sharded):
    async def is_sharded(store):
        return sharded

    monkeypatch.setattr(indexes, "is_sharded", is_sharded)
    messages = list(server._tags(store))
    assert ids(messages) == (["W018"] if sharded else [])
    assert all("eventstore is sharded" in message.msg for message in messages)


STANDALONE = {"isWritablePrimary": True}


class Answering:
    """A client with a prepared answer to ``hello``."""

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
    monkeypatch.setattr(server.connection, "blocking", lambda: stub)
    assert ids(server._shortcomings()) == found


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
        connection.raw(store.positions).insert_one({"_id": 1, "eventId": 1})
    stub = dataclasses.replace(store, client=Answering(**hello))
    monkeypatch.setattr(server.connection, "blocking", lambda: stub)
    assert ids(server._shortcomings()) == found


def test_w014_is_not_reported_for_the_built_in_subscription_alone(store, subscribe):
    snapshot_subscription.register()
    assert declaration.registered_subscriptions()
    assert ids(server._subscriptions(store, STANDALONE)) == []


def test_w014_is_not_reported_if_the_user_may_not_read_positions(store, subscribe):
    class Refusing:
        async def find_one(self, *arguments, **options):
            raise OperationFailure("not authorized", 13)

    stub = dataclasses.replace(store, positions=Refusing())
    assert ids(server._subscriptions(stub, STANDALONE)) == []


FIXED_IN = dict(server.FIXED_IN)


@pytest.fixture
def real_versions(monkeypatch):
    """Check against the real table of versions."""
    monkeypatch.setattr(server, "FIXED_IN", FIXED_IN)


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
def test_w008_a_version_with_a_known_fault(real_versions, version, hint):
    found = list(server._version(build(version)))
    assert ids(found) == (["W008"] if hint else [])
    assert not hint or (version in found[0].msg and hint in found[0].hint)


def test_w008_uses_the_version_that_the_server_reports(store, monkeypatch):
    version = EventStore.collection.database.client.server_info()["versionArray"]
    line, patch = tuple(version[:2]), version[2]
    monkeypatch.setattr(server, "FIXED_IN", {line: patch})
    assert check_server(None, DEFAULT) == []
    monkeypatch.setattr(server, "FIXED_IN", {line: patch + 1})
    assert ids(check_server(None, DEFAULT)) == ["W008"]


def test_w008_is_not_reported_for_the_embedded_server(store, monkeypatch):
    monkeypatch.setattr(server, "OLDEST", (99, 0))
    assert ids(server._shortcomings()) == ["W008"]
    embedded = Source("", url="embedded://", alias=connection.resolve().alias)
    monkeypatch.setattr(server, "resolve", lambda: embedded)
    assert ids(server._shortcomings()) == []


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
    assert ids(server._replica_set(hello)) == found


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
    ids=["none", "ours", "moderate", "warns", "older", "foreign"],
)
def test_w012_another_validator(store, options, found):
    drive(store.events.database_command("collMod", "eventstore", **options))
    messages = check_server(None, DEFAULT)
    drive(schema_validator.remove(store))
    assert ids(messages) == found
    assert all("--validator" in message.hint for message in messages)


def test_w012_is_not_reported_if_the_user_may_not_see_the_validator(store, monkeypatch):
    async def refuse(store):
        raise OperationFailure("not authorized", 13)

    monkeypatch.setattr(server.schema_validator, "standing", refuse)
    assert check_server(None, DEFAULT) == []


@pytest.mark.parametrize(
    ("name", "entry", "reason"),
    [
        (connection.EVENTS, {"key": {"aggregateId": 1}}, None),
        (connection.SNAPSHOTS, {"key": {"_id": 1}}, None),
        (connection.EVENTS, {"key": {"aggregateId": "hashed"}}, "its versions"),
        (
            connection.EVENTS,
            {"key": {"aggregateId": 1, "aggregateVersion": 1}},
            "its versions",
        ),
        (connection.POSITIONS, {"key": {"aggregateId": 1}}, "must not be sharded"),
        (connection.LEASES, {"key": {"owner": 1}}, "must not be sharded"),
        (connection.POSITIONS, {"key": {"_id": 1}, "unsplittable": True}, None),
        (connection.POSITIONS, {"key": {"aggregateId": 1}, "dropped": True}, None),
    ],
)
def test_w015_another_shard_key(store, history, name, entry, reason):
    """A router has such documents; here they are put into a set's own ``config``."""
    database = history.database
    config = database.client["config"]["collections"]
    own, other = f"{database.name}.{name}", f"{database.name}x.{name}"
    try:
        config.insert_one({"_id": own, **entry})
        config.insert_one({"_id": other, "key": {"other": 1}})
        messages = list(server._shard_keys(store))
    finally:
        config.delete_many({"_id": {"$in": [own, other]}})
    assert ids(messages) == (["W015"] if reason else [])
    assert all(f"{name} is sharded" in m.msg for m in messages)
    assert all(reason in m.msg for m in messages)


# --- a server that does not answer ------------------------------------------


@ONLY_URL
def test_w003_an_unavailable_server(settings):
    url = "mongodb://ann:s3cret@127.0.0.1:1/x"
    settings.OSSY_EVENT_STORE = {"URL": url, "TIMEOUT": 0.05}
    (message,) = check_server(None, DEFAULT)
    assert ids([message]) == ["W003"]
    assert message.hint == "Its address comes from OSSY_EVENT_STORE['URL']."
    assert "s3cret" not in str(message)
    assert "\n" not in message.msg


@pytest.mark.parametrize(
    "error", [StoreUnavailable("gone"), OperationFailure("not authorized", 13)]
)
def test_w003_a_server_that_refuses(store, monkeypatch, error):
    def refuse():
        raise error

    monkeypatch.setattr(server.connection, "blocking", refuse)
    assert ids(check_server(None, DEFAULT)) == ["W003"]


def test_w003_indexes_that_the_user_may_not_list(store, monkeypatch):
    async def refuse(store):
        raise OperationFailure("not authorized", 13)

    monkeypatch.setattr(server.indexes, "missing", refuse)
    (message,) = check_server(None, DEFAULT)
    assert ids([message]) == ["W003"]
    assert message.msg == "Could not list the indexes: not authorized"
