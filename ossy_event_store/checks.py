"""
System checks. Ids and hints are listed in the docs, from ``CATALOGUE``.

The static ones read settings only. Whatever reaches MongoDB is tagged
``database`` and runs where Django runs such checks: ``check --database ALIAS`` and
``migrate``. Nothing that ``migrate`` itself mends is an error, or it could never
run.
"""

from __future__ import annotations

import ipaddress
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from django.apps import apps
from django.conf import settings as django_settings
from django.core import checks
from django.core.checks import CheckMessage
from django.core.exceptions import ImproperlyConfigured
from django.db import DEFAULT_DB_ALIAS, connections
from pymongo import MongoClient
from pymongo.errors import OperationFailure, PyMongoError
from pymongo.read_preferences import ReadPreference
from pymongo.uri_parser import parse_uri

from .conf import SETTING, get_settings, problems
from .exceptions import EventStoreError
from .mongodb import connection, indexes, schema_validator
from .mongodb.connection import Store, in_time
from .mongodb.location import EMBEDDED, Source, engine_of, resolve
from .mongodb.ports import drive
from .mongodb.schema_validator import Standing
from .mongodb.write_errors import short_reason
from .subscriptions import declaration
from .subscriptions.checkpoints import RELATIONAL
from .subscriptions.declaration import Subscription
from .subscriptions.snapshot_subscription import KIND as SNAPSHOTS

CATALOGUE: Mapping[str, str] = {
    "E001": f"``{SETTING}`` has an unknown key or a value of the wrong kind.",
    "E002": "Nothing says where MongoDB is, or what does is wrong.",
    "E003": "A subscription writes to an SQL database that has no table for its place.",
    "W001": "More than one setting says where MongoDB is.",
    "W002": "The ``djongo`` alias has a ``HOST``, which djongo ignores.",
    "W003": "The server could not be reached or refused to answer.",
    "W004": "An index is missing; ``migrate`` and ``ensure_event_store`` make it.",
    "W005": "The server is standalone: no transactions, and no second copy.",
    "W006": "``embedded://`` is for development and tests (``check --deploy``).",
    "W007": "A remote server is reached without TLS (``check --deploy``).",
    "W008": "The server's version has a known fault, or gets no more corrections.",
    "W009": "The set has an arbiter: with one data member down, no event is stored.",
    "W010": "The connection asks for concerns or a read preference that events ignore.",
    "W011": "The connection says ``retryWrites=false``.",
    "W012": "The validator is not that of this version; ``ensure_event_store`` helps.",
    "W013": "``directConnection=true`` holds to one member of a set of several.",
    "W014": "There are subscriptions, and the server is standalone.",
    "W015": "A collection is spread over shards by a key that breaks a promise.",
}


def register() -> None:
    """Register the checks with Django; called by ``ready()``."""
    checks.register(check_settings)
    checks.register(check_subscriptions)
    checks.register(check_server, checks.Tags.database)
    checks.register(check_deployment, checks.Tags.security, deploy=True)


def _id(number: str) -> str:
    return f"ossy_event_store.{number}"


def _error(number: str, message: str, hint: str | None = None) -> CheckMessage:
    return checks.Error(message, hint=hint, id=_id(number))


def _warning(number: str, message: str, hint: str | None = None) -> CheckMessage:
    return checks.Warning(message, hint=hint, id=_id(number))


# --- static -----------------------------------------------------------------


def check_settings(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """Check ``OSSY_EVENT_STORE`` and where it says MongoDB is; no I/O."""
    found = list(problems(getattr(django_settings, SETTING, {})))
    if found:
        return [_error("E001", problem.message, problem.hint) for problem in found]
    try:
        source = resolve()
    except ImproperlyConfigured as error:
        return [_error("E002", str(error))]
    return list(_doubts(source))


def _doubts(source: Source) -> Iterator[CheckMessage]:
    settings = get_settings()
    if settings.URL and settings.DATABASE:
        yield _warning(
            "W001",
            f"{SETTING} has both URL and DATABASE; URL is used.",
            "Remove one of them.",
        )
    if source.alias and engine_of(source.alias) == "djongo":
        database = connections.settings[source.alias]
        if database.get("HOST") and not (database.get("CLIENT") or {}).get("host"):
            yield _warning(
                "W002",
                f"DATABASES[{source.alias!r}] has a HOST, which djongo ignores: it "
                "and the event store connect to localhost.",
                "Write 'CLIENT': {'host': …} instead.",
            )


def check_subscriptions(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """Check that what is subscribed has what it needs; no I/O."""
    return list(_without_a_table(declaration.registered_subscriptions().values()))


def _without_a_table(declared: Iterable[Subscription]) -> Iterator[CheckMessage]:
    if apps.is_installed(RELATIONAL):
        return
    for one in declared:
        if one.using is not None:
            yield _error(
                "E003",
                f"The subscription {one.name!r} writes to DATABASES[{one.using!r}], "
                "where there is no table for how far it came.",
                f"Add {RELATIONAL!r} to INSTALLED_APPS, and run manage.py migrate "
                f"--database {one.using}.",
            )


# --- deployment -------------------------------------------------------------


def check_deployment(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """Check what a development set-up may have and a deployed one may not."""
    try:
        source = resolve()
    except ImproperlyConfigured:
        return []  # E002 says so
    if source.url.startswith(EMBEDDED):
        return [
            _warning(
                "W006",
                "The event store runs on embedded://, a single server without "
                "authentication that ends with its last user.",
                "Give the URL of a replica set.",
            )
        ]
    remote = [host for host in _hosts_without_tls(source) if not _is_loopback(host)]
    if remote:
        return [
            _warning(
                "W007",
                f"Events travel to {', '.join(remote)} without encryption.",
                "Add tls=true to the URL.",
            )
        ]
    return []


def _hosts_without_tls(source: Source) -> list[str]:
    """Return the hosts that the source names, unless it asks for TLS."""
    url, options = source.url, {k.lower(): v for k, v in source.options.items()}
    if source.alias and source.borrows:
        database = connections.settings[source.alias]
        url = str(database.get("HOST") or "localhost")
        options = {k.lower(): v for k, v in (database.get("OPTIONS") or {}).items()}
    given = options.get("tls", options.get("ssl"))  # beats what the URL says
    if given:
        return []
    if url.startswith("mongodb+srv://"):
        # TLS unless it is switched off; the hosts are only in the DNS.
        off = given is False or re.search(r"[?&](tls|ssl)=false", url, re.IGNORECASE)
        return [url.partition("://")[2].rpartition("@")[2].split("/")[0]] if off else []
    try:
        parsed = parse_uri(url if "://" in url else f"mongodb://{url}")
    except (PyMongoError, ValueError):
        return []
    if given is None and parsed["options"].get("tls"):
        return []
    return [host for host, _ in parsed["nodelist"]]


def _is_loopback(host: str) -> bool:
    if host == "localhost" or host.startswith("/"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


# --- the server -------------------------------------------------------------


def check_server(
    app_configs: Any, databases: Sequence[str] | None = None, **kwargs: Any
) -> list[CheckMessage]:
    """Ask the server what it is, how it is reached, and what it has of the store."""
    try:
        source = resolve()
    except ImproperlyConfigured:
        return []  # E002 says so
    if (source.alias or DEFAULT_DB_ALIAS) not in (databases or ()):
        return []
    try:
        return list(_shortcomings())
    except (EventStoreError, PyMongoError, ImproperlyConfigured) as error:
        return [
            _warning(
                "W003",
                f"The event store's server did not answer: {short_reason(error)}",
                f"It is given by {source.origin}.",
            )
        ]


def _shortcomings() -> Iterator[CheckMessage]:
    store = connection.blocking()
    client = connection.raw(store.events).database.client
    with in_time():
        hello = drive(store.client.command("hello"))
        build = drive(store.client.command("buildInfo"))
    yield from _of_the_set(hello)
    yield from _of_the_shards(store)
    yield from _of_subscriptions(store, hello)
    if not resolve().url.startswith(EMBEDDED):  # W006 says that it is no server to keep
        yield from _of_the_version(build)
    yield from _of_the_connection(client)
    yield from _of_the_line(client, hello)
    yield from _of_the_validator(store)
    yield from _of_the_indexes(store)


_TO_A_SET = "Run it as a replica set, if only of one: mongod --replSet NAME."


def _is_standalone(hello: Mapping[str, Any]) -> bool:
    return "setName" not in hello and hello.get("msg") != "isdbgrid"


def _of_the_set(hello: Mapping[str, Any]) -> Iterator[CheckMessage]:
    if _is_standalone(hello):
        yield _warning(
            "W005",
            "The event store's server is standalone: several events at once are "
            "refused, and there is no second copy of any event.",
            _TO_A_SET,
        )
    data = len(hello.get("hosts", ())) + len(hello.get("passives", ()))
    arbiters = len(hello.get("arbiters", ()))
    if arbiters and data <= (data + arbiters) // 2 + 1:
        yield _warning(
            "W009",
            f"The set has {data} members with data and {_counted(arbiters)}. An "
            "arbiter stores nothing: while one of the others is down, no majority can "
            "acknowledge an event, and appends fail with OutcomeUnknown. Other data of "
            "this server is by default acknowledged by one member alone.",
            "Give the set another member with data in place of the arbiter.",
        )


def _of_the_shards(store: Store) -> Iterator[CheckMessage]:
    """Compare the keys by which collections are spread; a set has none."""
    database = connection.raw(store.events).database
    kept = database.client["config"]["collections"]
    names = [f"{database.name}.{name}" for name in connection.OPTIONS]
    query = {"_id": {"$in": names}, "unsplittable": {"$ne": True}, "key": {"$ne": None}}
    try:
        with in_time():
            found = list(kept.find(query, ["key", "dropped"]).sort("_id", 1))
    except OperationFailure:
        return  # it may not be looked at
    for one in found:
        name = one["_id"].removeprefix(f"{database.name}.")
        wanted = indexes.SHARD_KEYS.get(name)
        if list(one["key"].items()) == wanted or one.get("dropped"):
            continue
        yield _warning(
            "W015",
            f"{name} is spread over shards by {one['key']!r}. "
            + (
                f"Its key is {dict(wanted)!r}: by another, a stream or its versions "
                "may lie on several shards."
                if wanted
                else "It has to stay whole: each shard by itself would take a document "
                "of the same _id."
            ),
            "See the page on shards in the documentation.",
        )


def _counted(arbiters: int) -> str:
    return "an arbiter" if arbiters == 1 else f"{arbiters} arbiters"


def _of_subscriptions(store: Store, hello: Mapping[str, Any]) -> Iterator[CheckMessage]:
    if _is_standalone(hello) and (_has_subscriptions() or _has_positions(store)):
        yield _warning(
            "W014",
            "Subscriptions need a replica set, and the event store's server is "
            "standalone: no event gets a position, so that no subscription and no "
            "projection hears of it.",
            _TO_A_SET,
        )


def _has_subscriptions() -> bool:
    """Whether the project declares any: that of the snapshots is the store's own."""
    return any(
        one.kind != SNAPSHOTS for one in declaration.registered_subscriptions().values()
    )


def _has_positions(store: Store) -> bool:
    try:
        with in_time():
            found = drive(store.positions.find_one({}, projection={"_id": 1}))
    except OperationFailure:
        return False  # who may not look, as the migrator, does not follow either
    return found is not None


# The release of each line that mends SERVER-95524.
MENDED = {(6, 0): 25, (7, 0): 22, (8, 0): 12}
OLDEST = (6, 0)  # lines before it get no more corrections


def _of_the_version(build: Mapping[str, Any]) -> Iterator[CheckMessage]:
    major, minor, patch = build["versionArray"][:3]
    mended = MENDED.get((major, minor))
    if (major, minor) < OLDEST:
        yield _warning(
            "W008",
            f"MongoDB {build['version']} gets no more corrections, and has faults that "
            "were mended in later versions (CVE-2025-10060 is one).",
            "Upgrade to MongoDB 8.0, one major version at a time.",
        )
    elif mended is not None and patch < mended:
        yield _warning(
            "W008",
            f"MongoDB {build['version']} has a known fault: an upsert that is tried "
            "again in a transaction may break a unique index or stop the server "
            "(CVE-2025-10060). The event store does no such upsert, but another user "
            "of the server may.",
            f"Upgrade to MongoDB {major}.{minor}.{mended} or later.",
        )


def _of_the_connection(client: MongoClient[Any]) -> Iterator[CheckMessage]:
    if asked := list(_ignored(client)):
        yield _warning(
            "W010",
            f"The connection asks for {', '.join(asked)}. The event store does not: it "
            "writes events with w=majority and reads them with readConcernLevel="
            "majority from the primary, whatever the connection says.",
            "Events are safe. What else uses this connection, as the other data of a "
            "django_mongodb_backend alias, gets what it asks for. Take it out of the "
            "URL or OPTIONS, unless that is what you want.",
        )
    if not client.options.retry_writes:
        yield _warning(
            "W011",
            "The connection says retryWrites=false. When it breaks, as in a failover, "
            "an append is tried again all the same, at the cost of a look at what is "
            "stored; but saving a snapshot or importing events fails.",
            "Take retryWrites=false out of the URL or OPTIONS.",
        )


def _ignored(client: MongoClient[Any]) -> Iterator[str]:
    """Yield the options of a connection that our collections do not follow."""
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


def _of_the_line(
    client: MongoClient[Any], hello: Mapping[str, Any]
) -> Iterator[CheckMessage]:
    direct = client.topology_description.topology_type_name == "Single"
    if direct and len(hello.get("hosts", ())) > 1:
        yield _warning(
            "W013",
            "The connection says directConnection=true, but the server is one of a set "
            "of several. Once another member becomes the primary, every append fails.",
            "Take directConnection=true out, and add replicaSet="
            f"{hello['setName']}; the driver then finds the primary.",
        )


def _of_the_validator(store: Store) -> Iterator[CheckMessage]:
    try:
        standing = drive(schema_validator.standing(store))
    except OperationFailure:
        return  # it may not be looked at, and most stores have none
    if standing is Standing.OTHER_VERSION:
        yield _warning(
            "W012",
            "The validator of eventstore is of another version of the event store, or "
            "was relaxed: it may refuse good events, or let pass what is none.",
            "Run manage.py ensure_event_store --validator.",
        )
    elif standing is Standing.FOREIGN:
        yield _warning(
            "W012",
            "eventstore has a validator that is not of the event store. It may refuse "
            "events that the event store appends.",
            "Run manage.py ensure_event_store with --no-validator and then with "
            "--validator, or silence this.",
        )


def _of_the_indexes(store: Store) -> Iterator[CheckMessage]:
    try:
        missing = drive(indexes.missing(store))
    except OperationFailure as error:
        yield _warning("W003", f"The indexes cannot be listed: {short_reason(error)}")
        return
    if sys.argv[1:2] == ["migrate"]:
        return  # it is about to make them
    for index in missing:
        yield _warning(
            "W004",
            f"Index {index.name} on {index.collection} is missing. {index.reason}",
            "Run manage.py ensure_event_store.",
        )
