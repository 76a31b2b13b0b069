"""
Past one machine: every unique index is legal under the shard key, and the queries that
run all the time carry it. There is no cluster here; MongoDB's rules stand in for one.
"""

import pytest

from ossy_event_store import (
    Aggregate,
    Condition,
    EventStore,
    InvalidEvent,
    Mongo,
    item,
)
from ossy_event_store.mongodb import connection, indexes
from ossy_event_store.mongodb.indexes import INDEXES, SHARD_KEYS
from ossy_event_store.mongodb.ports import drive
from tests.library.aggregate import Book
from tests.support.sent_commands import Listener

BOUGHT = {"type": "BookBought", "payload": {"title": "Emma"}}


def is_legal(index, shard_key):
    """Whether MongoDB accepts a unique index on a collection with this shard key."""
    return list(index.keys)[: len(shard_key)] == shard_key


@pytest.mark.parametrize(
    "index",
    [
        index
        for index in INDEXES
        if index.unique and index.collection in SHARD_KEYS and index.allows_shards
    ],
    ids=lambda index: f"{index.collection} {index.name}",
)
def test_a_unique_index_begins_with_the_shard_key(index):
    assert is_legal(index, SHARD_KEYS[index.collection])
    assert not is_legal(index, [("created", 1)])
    assert not is_legal(index, [("aggregateVersion", 1)])


@pytest.fixture
def sharded(store, monkeypatch):
    """A store that takes its events for sharded, without the index that needs one."""

    async def is_sharded(store):
        return True

    async def listed(collection):
        found = await every(collection)
        return {key: value for key, value in found.items() if key[0][0] != "places.t"}

    every = indexes._listed
    monkeypatch.setattr(indexes, "is_sharded", is_sharded)
    monkeypatch.setattr(indexes, "_listed", listed)
    store.seen.clear()
    yield store
    store.seen.clear()


def test_sharded_events_cannot_have_tags(sharded, face):
    with pytest.raises(InvalidEvent, match="tags: events cannot have tags"):
        face(EventStore.append_event, {"type": "A", "tags": ["x"]})
    plain = {"type": "A", "aggregateId": "s", "aggregateType": "S"}
    condition = Condition(item(tags=["x"]))
    with pytest.raises(InvalidEvent, match="is sharded"):
        face(EventStore.append_events, [plain], unless=condition)
    face(EventStore.append_event, plain)
    assert EventStore.count() == 1


def test_the_index_of_tags_is_not_missed_where_it_cannot_exist(sharded):
    assert drive(indexes.missing(sharded)) == []


def test_the_events_of_a_replica_set_are_not_sharded(store):
    assert not drive(indexes.is_sharded(store))


def test_a_collection_whose_id_is_not_its_shard_key_stays_unsharded():
    assert SHARD_KEYS.keys() == {connection.EVENTS, connection.SNAPSHOTS}
    # An event's id is one of its kind for its stream; see the docs on the rest.
    assert [name for name, keys in SHARD_KEYS.items() if keys != [("_id", 1)]] == [
        connection.EVENTS
    ]


def test_the_shard_key_has_an_index():
    """``shardCollection`` refuses a collection with documents otherwise."""
    for collection, key in SHARD_KEYS.items():
        keys = [list(i.keys) for i in INDEXES if i.collection == collection]
        assert any(one[: len(key)] == key for one in [*keys, [("_id", 1)]])


# --- what runs all the time -------------------------------------------------


def targeted(command):
    """Whether a command goes to one shard: its filter has the shard key, by value."""
    name = next(iter(command))
    key = [field for field, _ in SHARD_KEYS[command[name]]]
    if name == "insert":
        return all(field in one for one in command["documents"] for field in key)
    filters = {
        "find": lambda: [command["filter"]],
        "update": lambda: [one["q"] for one in command["updates"]],
        "findAndModify": lambda: [command["query"]],
        "aggregate": lambda: [command["pipeline"][0].get("$match", {})],
    }[name]()
    return all(_by_value(one.get(field)) for one in filters for field in key)


def _by_value(wanted):
    if isinstance(wanted, dict):
        return "$eq" in wanted
    return wanted is not None


@pytest.fixture
def sent(store, settings):
    """The commands that the store sends to the collections that may be sharded."""
    if settings.STORE != "url":
        pytest.skip("a connection of Django's has no listener of ours")
    Mongo.close()
    listener = Listener()
    options = {"event_listeners": [listener]}
    settings.OSSY_EVENT_STORE = {**settings.OSSY_EVENT_STORE, "OPTIONS": options}

    def sent():
        """Return the commands since the last time."""
        commands = [c for some in listener.sent.values() for c in some]
        listener.sent.clear()
        return [c for c in commands if next(iter(c.values())) in SHARD_KEYS]

    yield sent
    Mongo.close()


WORK = {
    "append one": lambda: Aggregate(Book, "a", []).add(BOUGHT),
    "append several": lambda: Aggregate(Book, "b", []).add(BOUGHT, BOUGHT),
    "append by the store": lambda: EventStore.append_event(
        {"aggregateId": "c", "aggregateType": "Book", **BOUGHT}
    ),
    "append behind": lambda: EventStore.append_event(
        {"aggregateId": "there", "aggregateType": "Book", **BOUGHT}
    ),
    "load": lambda: Aggregate.of(Book, "there"),
    "load and save": lambda: Aggregate.of(Book, "there").add(BOUGHT).save(),
    "execute": lambda: Aggregate.execute(Book, "there", lambda book: BOUGHT),
    "read a stream": lambda: list(EventStore.get_event_stream("there")),
}


@pytest.mark.parametrize("work", WORK)
def test_frequent_commands_go_to_one_shard(store, sent, work):
    Aggregate(Book, "there", []).add(BOUGHT, BOUGHT)
    assert sent()
    WORK[work]()
    found = sent()
    assert found
    assert [command for command in found if not targeted(command)] == []


def test_a_command_to_every_shard_is_noticed(store, sent):
    Aggregate(Book, "there", []).add(BOUGHT)
    assert sent()
    assert EventStore.find_event({"type": "BookBought"})
    assert [targeted(command) for command in sent()] == [False]
