"""Checks of the server: its version and topology, the connection, and the indexes."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from django.core.checks import CheckMessage
from django.core.exceptions import ImproperlyConfigured
from pymongo import MongoClient
from pymongo.errors import OperationFailure, PyMongoError
from pymongo.read_preferences import ReadPreference

from ..conf import SETTING
from ..exceptions import EventStoreError, ForeignCollection
from ..mongodb import connection, indexes, schema_validator
from ..mongodb.connection import Store
from ..mongodb.deadline import in_time
from ..mongodb.indexes import Kind
from ..mongodb.location import EMBEDDED, is_migrated_with, resolve
from ..mongodb.ports import drive
from ..mongodb.schema_validator import Standing
from ..mongodb.topology import is_standalone
from ..mongodb.write_errors import short_reason
from ..subscriptions import declaration
from ..subscriptions.snapshot_subscription import KIND as SNAPSHOTS
from .messages import error, warning

# The release of each series that fixes SERVER-95524.
FIXED_IN = {(6, 0): 25, (7, 0): 22, (8, 0): 12}
OLDEST = (6, 0)  # earlier series get no more fixes
API_STRICT_ERROR = 323
# Of a process that runs subscriptions: to assign positions, to watch the last one, and
# to renew the leases.
OTHER_CONNECTIONS = 3

_AS_A_SET = "Run it as a replica set, even of one member: mongod --replSet NAME."


def check_server(
    app_configs: Any, databases: Sequence[str] | None = None, **kwargs: Any
) -> list[CheckMessage]:
    """Ask the server about its version, topology, connection, validator and indexes."""
    try:
        source = resolve()
    except ImproperlyConfigured:
        return []  # E002 says so
    if not any(is_migrated_with(source, alias) for alias in databases or ()):
        return []
    try:
        return list(_shortcomings())
    except (EventStoreError, PyMongoError, ImproperlyConfigured) as silent:
        return [
            warning(
                "W003",
                f"The event store's server did not answer: {short_reason(silent)}",
                f"Its address comes from {source.origin}.",
            )
        ]


def _shortcomings() -> Iterator[CheckMessage]:
    store = connection.blocking()
    client = connection.raw(store.events).database.client
    with in_time():
        hello = drive(store.client.command("hello"))
        build = _build_info(store)
    yield from _replica_set(hello)
    yield from _shard_keys(store)
    yield from _subscriptions(store, hello)
    if build and not resolve().url.startswith(EMBEDDED):  # which W006 covers
        yield from _version(build)
    yield from _ignored_options(client)
    yield from _hindering_options(client)
    yield from _direct_connection(client, hello)
    yield from _validator(store)
    yield from _other_shape(store)
    yield from _owners(store)
    yield from _tags(store)
    yield from _indexes(store)


def _build_info(store: Store) -> Mapping[str, Any]:
    try:
        return drive(store.client.command("buildInfo"))
    except OperationFailure as error:
        if error.code != API_STRICT_ERROR:
            raise
        return {}  # a strict Stable API has no such command; W016 says so


def _replica_set(hello: Mapping[str, Any]) -> Iterator[CheckMessage]:
    if is_standalone(hello):
        yield warning(
            "W005",
            "The event store's server is standalone: it refuses to append several "
            "events at once, and keeps no second copy of any event.",
            _AS_A_SET,
        )
    data = len(hello.get("hosts", ())) + len(hello.get("passives", ()))
    arbiters = len(hello.get("arbiters", ()))
    if arbiters and data <= (data + arbiters) // 2 + 1:
        yield warning(
            "W009",
            f"The set has {data} members with data and {_arbiters(arbiters)}. An "
            "arbiter stores no data: while a member with data is down, no majority can "
            "acknowledge an event, and appends fail with OutcomeUnknown. By default, "
            "other data on this server is acknowledged by one member alone.",
            "Replace the arbiter with another member that stores data.",
        )


def _shard_keys(store: Store) -> Iterator[CheckMessage]:
    """Compare the shard keys of the collections; a replica set has none."""
    database = connection.raw(store.events).database
    sharded = database.client.get_database(
        "config", read_preference=ReadPreference.PRIMARY
    )["collections"]
    names = [f"{database.name}.{name}" for name in connection.COLLECTION_OPTIONS]
    query = {"_id": {"$in": names}, "unsplittable": {"$ne": True}, "key": {"$ne": None}}
    try:
        with in_time():
            found = list(sharded.find(query, ["key", "dropped"]).sort("_id", 1))
    except OperationFailure:
        return  # this user may not read it
    for one in found:
        name = one["_id"].removeprefix(f"{database.name}.")
        wanted = indexes.SHARD_KEYS.get(name)
        if list(one["key"].items()) == wanted or one.get("dropped"):
            continue
        yield warning(
            "W015",
            f"The collection {name} is sharded by {one['key']!r}. "
            + (
                f"Its shard key must be {dict(wanted)!r}: with any other key, a stream "
                "or its versions can be spread over several shards."
                if wanted
                else "It must not be sharded: each shard would accept its own document "
                "with the same _id."
            ),
            "See the documentation about sharding.",
        )


def _arbiters(count: int) -> str:
    return "an arbiter" if count == 1 else f"{count} arbiters"


def _subscriptions(store: Store, hello: Mapping[str, Any]) -> Iterator[CheckMessage]:
    if is_standalone(hello) and (_has_subscriptions() or _has_positions(store)):
        yield warning(
            "W014",
            "Subscriptions need a replica set, but the event store's server is "
            "standalone: no event gets a position, so no event is delivered to any "
            "subscription or projection.",
            _AS_A_SET,
        )


def _has_subscriptions() -> bool:
    """Whether the project declares any besides the built-in one for snapshots."""
    return any(
        one.kind != SNAPSHOTS for one in declaration.registered_subscriptions().values()
    )


def _has_positions(store: Store) -> bool:
    try:
        with in_time():
            found = drive(store.positions.find_one({}, projection={"_id": 1}))
    except OperationFailure:
        return False  # a user who may not read positions runs no subscriptions
    return found is not None


def _version(build: Mapping[str, Any]) -> Iterator[CheckMessage]:
    major, minor, patch = build["versionArray"][:3]
    fixed = FIXED_IN.get((major, minor))
    if (major, minor) < OLDEST:
        yield warning(
            "W008",
            f"MongoDB {build['version']} gets no more fixes, and has faults that are "
            "fixed in later versions (for example CVE-2025-10060).",
            "Upgrade to MongoDB 8.0, one major version at a time.",
        )
    elif fixed is not None and patch < fixed:
        yield warning(
            "W008",
            f"MongoDB {build['version']} has a known fault: an upsert that is retried "
            "in a transaction can corrupt a unique index or crash the server "
            "(CVE-2025-10060). The event store makes no such upsert, but other "
            "programs that use the server may.",
            f"Upgrade to MongoDB {major}.{minor}.{fixed} or later.",
        )


def _ignored_options(client: MongoClient[Any]) -> Iterator[CheckMessage]:
    if ignored := list(_ignored(client)):
        yield warning(
            "W010",
            f"The connection sets {', '.join(ignored)}, which the event store ignores: "
            "it writes events with w=majority, and reads them with readConcernLevel="
            "majority from the primary.",
            "Events are safe. Other users of this connection, such as the models of a "
            "django_mongodb_backend alias, follow the option. Remove it from the URL "
            "or OPTIONS unless you want that.",
        )
    if not client.options.retry_writes:
        yield warning(
            "W011",
            "The connection sets retryWrites=false. When it breaks, as in a failover, "
            "an append is still retried, at the cost of reading what is stored; but "
            "saving a snapshot or importing events fails.",
            "Remove retryWrites=false from the URL or OPTIONS.",
        )


def _hindering_options(client: MongoClient[Any]) -> Iterator[CheckMessage]:
    pool = client.options.pool_options
    if pool.socket_timeout:
        yield warning(
            "W016",
            f"The connection sets socketTimeoutMS={pool.socket_timeout * 1000:.0f}, "
            "which also ends what may take longer: the creation of an index, a "
            "rebuild, a verification.",
            "Remove socketTimeoutMS. The setting TIMEOUT bounds each operation.",
        )
    needed = sum(
        one.concurrency for one in declaration.registered_subscriptions().values()
    )
    needed += OTHER_CONNECTIONS if needed else 0
    if pool.max_pool_size and pool.max_pool_size < needed:
        yield warning(
            "W016",
            f"The connection sets maxPoolSize={pool.max_pool_size}. A process that "
            f"runs all subscriptions uses {needed} connections at once. With fewer, "
            "its threads wait for each other until the time is up and lose their "
            "leases, so events are delivered late or not at all.",
            f"Set maxPoolSize to {needed} or more, or remove it.",
        )
    if pool.server_api is not None and pool.server_api.strict:
        yield warning(
            "W016",
            "The alias declares a strict Stable API, which lacks what the event store "
            "uses: the lists of the admin fail, no check looks for faults of this "
            "MongoDB version, and a transaction whose connection broke blocks its "
            "stream for up to a minute.",
            "Declare the Stable API without strict=True.",
        )


def _ignored(client: MongoClient[Any]) -> Iterator[str]:
    """Yield the options of the connection that the store's collections override."""
    write = client.write_concern.document
    if (w := write.get("w", "majority")) != "majority":
        yield f"w={w}"
    if write.get("j") is False:
        yield "journal=false"
    if "wtimeout" in write:
        yield f"wtimeoutMS={write['wtimeout']}"
    if (level := client.read_concern.level) not in (None, "majority"):
        yield f"readConcernLevel={level}"
    if client.read_preference != ReadPreference.PRIMARY:
        yield f"readPreference={client.read_preference.mongos_mode}"


def _direct_connection(
    client: MongoClient[Any], hello: Mapping[str, Any]
) -> Iterator[CheckMessage]:
    direct = client.topology_description.topology_type_name == "Single"
    if direct and len(hello.get("hosts", ())) > 1:
        yield warning(
            "W013",
            "The connection sets directConnection=true, but its server belongs to a "
            "larger set. Once another member becomes primary, every append fails.",
            "Replace directConnection=true with replicaSet="
            f"{hello['setName']}, so that the driver finds the primary.",
        )


def _validator(store: Store) -> Iterator[CheckMessage]:
    try:
        standing = drive(schema_validator.standing(store))
    except OperationFailure:
        return  # this user may not see it, and most stores have none
    if standing is Standing.OTHER_VERSION:
        yield warning(
            "W012",
            "The validator of eventstore is that of another version of this app, or "
            "was relaxed: it may refuse valid events or accept invalid ones.",
            "Run manage.py ensure_event_store --validator.",
        )
    elif standing is Standing.FOREIGN:
        yield warning(
            "W012",
            "The collection eventstore has a validator that this app did not install. "
            "It may refuse events that the event store appends.",
            "Run manage.py ensure_event_store with --no-validator and then with "
            "--validator, or silence this check.",
        )


def _other_shape(store: Store) -> Iterator[CheckMessage]:
    try:
        reason = drive(schema_validator.other_shape(store))
    except OperationFailure:
        return  # the migrator of a stricter role may not read
    if reason is not None:
        yield warning("W017", reason)


def _tags(store: Store) -> Iterator[CheckMessage]:
    try:
        sharded = drive(indexes.is_sharded(store))
    except OperationFailure:
        return
    if sharded:
        yield warning(
            "W018",
            f"The collection eventstore is sharded: {indexes.NO_TAGS}.",
            "If this project uses no tags, silence this check. Streams keep all of "
            "their promises.",
        )


def _owners(store: Store) -> Iterator[CheckMessage]:
    try:
        drive(indexes.check_owner(store))
    except ForeignCollection as foreign:
        yield error("E005", str(foreign))


def _indexes(store: Store) -> Iterator[CheckMessage]:
    try:
        missing = drive(indexes.missing(store))
    except OperationFailure as refused:
        yield warning(
            "W003",
            f"Could not list the indexes: {short_reason(refused)}",
            "Grant listIndexes on the collections of the store: without it, a process "
            "appends without knowing that its unique index exists.",
        )
        return
    if sys.argv[1:2] == ["migrate"]:
        return  # migrate is about to create them
    for index in missing:
        if index.kind is Kind.SAFETY:
            yield error(
                "E004",
                f"The unique index {index.name} on {index.collection} is missing: the "
                f"store refuses to write {'there' if index.allows_shards else 'tags'}. "
                + index.reason,
                "Run manage.py ensure_event_store.",
            )
        else:
            yield warning(
                "W004",
                f"Index {index.name} on {index.collection} is missing. {index.reason}",
                "Run manage.py ensure_event_store."
                + (
                    f" Or set {SETTING}['ADMIN_INDEXES'] = False."
                    if index.kind is Kind.ADMIN
                    else ""
                ),
            )
