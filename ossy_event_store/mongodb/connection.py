"""
The connection: one client a process or event loop, and the store's collections.

Nothing connects before the first use. Each process has one ``MongoClient``, each event
loop one ``AsyncMongoClient``. Concerns and codecs are set on the collections, so that
a client borrowed from django-mongodb-backend gives the same guarantees as our own.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
from collections import defaultdict
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, cast

import pymongo
from django.db import connections
from django.utils.asyncio import async_unsafe
from pymongo import AsyncMongoClient, MongoClient
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.collection import Collection
from pymongo.database import Database
from pymongo.read_concern import ReadConcern
from pymongo.read_preferences import ReadPreference
from pymongo.server_api import ServerApi
from pymongo.write_concern import WriteConcern

from ..conf import get_settings
from ..documents.bson_types import CODEC, Document
from ..documents.collections import (
    DAMAGED,
    EVENTS,
    LEASES,
    PARKED,
    POSITIONS,
    SKIPPED,
    SNAPSHOTS,
    SUBSCRIPTIONS,
)
from ..exceptions import StoreUnavailable
from .awaitable_port import AwaitableClient, AwaitableCollection
from .blocking_port import BlockingClient, BlockingCollection
from .deadline import explained, in_transaction_of_caller
from .location import (
    EMBEDDED,
    REFUSED,
    Source,
    check_options,
    refused,
    resolve,
    use,
)
from .ports import Client, Documents, drive
from .topology import driver_info, raise_if_refused
from .writer_queue import Turns, awaitable_turns, blocking_turns

_MAJORITY: dict[str, Any] = {
    "codec_options": CODEC,
    "read_preference": ReadPreference.PRIMARY,
    "write_concern": WriteConcern("majority"),
    "read_concern": ReadConcern("majority"),
}
# A snapshot is a cache: to lose one costs a replay, so it does not wait for a majority.
_CACHE: dict[str, Any] = {
    "codec_options": CODEC,
    "read_preference": ReadPreference.PRIMARY,
    "write_concern": WriteConcern(1),
    "read_concern": ReadConcern("local"),
}
# In the order of the fields of ``Store``.
COLLECTION_OPTIONS = {
    EVENTS: _MAJORITY,
    SNAPSHOTS: _CACHE,
    LEASES: _MAJORITY,
    POSITIONS: _MAJORITY,
    SUBSCRIPTIONS: _MAJORITY,
    PARKED: _MAJORITY,
    SKIPPED: _MAJORITY,
    DAMAGED: _MAJORITY,
}


# A client that is closed tells the server which sessions end. They end without that
# too, so a process does not wait long for a server that is gone.
CLOSE_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Store:
    """The store through one face: its client and its collections."""

    client: Client
    turns: Turns
    events: Documents
    snapshots: Documents
    leases: Documents
    positions: Documents
    subscriptions: Documents
    parked: Documents
    skipped: Documents
    damaged: Documents
    # The same store without the open transaction, if there is one; and what collects
    # the events of one that the store itself has begun.
    outside: Store | None = field(default=None, kw_only=True)
    unit: Any = field(default=None, kw_only=True)
    # The indexes for safety that this process has seen, with their collections.
    seen: set[tuple[str, str]] = field(default_factory=set, kw_only=True)


# --- clients ----------------------------------------------------------------


def _client_arguments(source: Source) -> dict[str, Any]:
    """Return the arguments for a client of our own, blocking or awaitable."""
    milliseconds = round(get_settings().TIMEOUT * 1000)
    arguments: dict[str, Any] = {
        "appname": "ossy_event_store",
        "serverSelectionTimeoutMS": milliseconds,
        "connectTimeoutMS": milliseconds,
        "connect": False,
    }
    if "://" in source.url:
        # An argument overrides the URL, so leave out what the URL sets.
        query = source.url.partition("?")[2].lower()
        arguments = {k: v for k, v in arguments.items() if f"{k.lower()}=" not in query}
    url = source.url
    if url.startswith(EMBEDDED):
        from .. import embedded  # returns at once if the server runs

        url = embedded.start(url.removeprefix(EMBEDDED), get_settings().MONGOD)
    arguments |= source.options
    api = arguments.get("server_api")
    if api is not None and api.strict:
        # The admin's lists, killSessions and buildInfo are outside of every version.
        arguments["server_api"] = ServerApi(
            api.version, deprecation_errors=api.deprecation_errors
        )
    return {**arguments, "host": url, "driver": driver_info()}


def _build(make: Any, source: Source, arguments: Mapping[str, Any]) -> Any:
    try:
        return make(**arguments)
    except REFUSED as error:
        check_options(source)
        raise refused(source, error) from None


class _Awaitable(NamedTuple):
    """The client of one event loop; ``closing`` closes it."""

    source: Source
    client: AsyncMongoClient[Document]
    store: Store
    closing: AsyncGenerator[None, None]


class _Process:
    """The clients of one process; a forked child starts without any."""

    def __init__(self) -> None:
        self.id = os.getpid()
        self.lock = threading.RLock()
        self.blocking: tuple[Source, MongoClient[Document], Store] | None = None
        # A client refers to its loop, so weak keys would not let an ended one go.
        self.awaitable: dict[asyncio.AbstractEventLoop, _Awaitable] = {}
        # By URL or alias, and database; see ``Store.seen``.
        self.seen: defaultdict[tuple[str, str | None, str], set[tuple[str, str]]]
        self.seen = defaultdict(set)


_process = _Process()


def _begin_use() -> None:
    in_transaction_of_caller.set(False)
    # Not by os.register_at_fork(): uWSGI forks without telling Python.
    global _process
    if _process.id != os.getpid():
        _process = _Process()


@atexit.register
def _close_own_client() -> None:
    _begin_use()  # a child must not end the sessions of its parent
    # A thread that still uses the old client has to see that it is no longer current.
    held, _process.blocking = _process.blocking, None
    if held is not None and held[0].url:  # else it is borrowed
        with pymongo.timeout(CLOSE_SECONDS):
            held[1].close()


@async_unsafe(
    "This method would block the event loop. Await the method of the same name with "
    "an 'a' in front, or use sync_to_async."
)
def blocking() -> Store:
    """
    Return the store's blocking face; the first call creates the client.

    Raises:
        SynchronousOnlyOperation: called in a coroutine, as Django's ORM does.
    """
    _begin_use()
    source = resolve()
    if source.borrows:
        return _borrowed(source)
    held = _process.blocking
    if held is not None and (held[0] is source or held[0] == source):
        raise_if_refused(held[1])
        return held[2]
    with _process.lock:
        held = _process.blocking
        if held is None or held[0] != source:
            # Before the old client is closed: if this fails, the old one stays.
            client = _build(MongoClient, source, _client_arguments(source))
            _close_own_client()
            held = (source, client, _blocking_store(client, source, source.name))
            _process.blocking = held
        return held[2]


def _blocking_store(client: MongoClient[Document], source: Source, name: str) -> Store:
    collections = _collections(BlockingCollection, client[name])
    seen = _process.seen[source.url, source.alias, name]
    return Store(BlockingClient(client), blocking_turns(), *collections, seen=seen)


def _collections(port: Any, database: Any) -> list[Documents]:
    return [
        port(database.get_collection(name, **options))
        for name, options in COLLECTION_OPTIONS.items()
    ]


def _borrowed(source: Source) -> Store:
    """Return the store over the client of django-mongodb-backend."""
    alias = cast(str, source.alias)
    connection: Any = connections[alias]
    with explained():
        # Django's own method: pytest-django blocks it where a test may not use the
        # database, and Django guards it against calls in a coroutine.
        _build(connection.ensure_connection, source, {})
    client, name = connection.connection, connection.database.name
    raise_if_refused(client)
    held = _process.blocking
    if held is None or held[1] is not client or held[0].name != name:
        if pymongo.version_tuple >= (4, 14):  # older clients have no such method
            client.append_metadata(driver_info())
        _close_own_client()  # of a URL that was used before
        source = Source("", alias=alias, name=name)
        held = (source, client, _blocking_store(client, source, name))
        _process.blocking = held
    store = held[2]
    if not _is_joined(connection):
        return store
    return replace(
        store,
        events=BlockingCollection(raw(store.events), connection.session),
        snapshots=BlockingCollection(raw(store.snapshots), connection.session),
        outside=store,
    )


def _is_joined(connection: Any) -> bool:
    """
    Whether the caller has a transaction of django-mongodb-backend open.

    Raises:
        StoreUnavailable: the caller is inside ``atomic()``, and there is none.
    """
    session = connection.session
    is_open = session is not None and session.in_transaction
    in_transaction_of_caller.set(is_open)
    if not is_open and session is not None:
        # A commit failed, and the backend kept the session: it begins no transaction
        # as long as it has one.
        session.end_session()
        connection.session = None
    if not is_open and getattr(connection, "in_atomic_block_mongo", False):
        raise StoreUnavailable(
            "this atomic() block is not running in a transaction, so its writes are "
            "not atomic. The commit of an earlier block failed, and "
            "django-mongodb-backend kept its session. That session has been dropped; "
            "run the block again"
        )
    return is_open


def documents(store: Store, name: str) -> Documents:
    """Return another collection of the store's database, with the same guarantees."""
    events: Any = store.events
    database = events.raw.database
    found: Documents = type(events)(database.get_collection(name, **_MAJORITY))
    return found


def database_name(store: Store) -> str:
    """Return the name of the store's database, through either face."""
    return str(cast(Any, store.events).raw.database.name)


def raw(documents: Documents) -> Collection[Document]:
    """Return the PyMongo collection behind a blocking face."""
    return cast(BlockingCollection, documents).raw


def async_raw(documents: Documents) -> AsyncCollection[Document]:
    """Return the PyMongo collection behind an awaitable face."""
    return cast(AwaitableCollection, documents).raw


async def awaitable() -> Store:
    """Return the store's awaitable face for the running loop."""
    _begin_use()
    source = resolve()
    loop = asyncio.get_running_loop()
    held = _process.awaitable.get(loop)
    if held is not None and _is_of(held, source):
        raise_if_refused(held.client)
        return held.store
    if source.url.startswith(EMBEDDED):
        # It may start a server, which takes a second.
        arguments = await asyncio.to_thread(_client_arguments, source)
        held = _process.awaitable.get(loop)
        if held is not None and _is_of(held, source):  # another task was faster
            return held.store
    elif source.borrows:
        connection: Any = connections[cast(str, source.alias)]
        arguments = {**connection.get_connection_params(), "driver": driver_info()}
    else:
        arguments = _client_arguments(source)
    # Nothing suspends up to the assignment, so no other task makes a second client.
    client = _build(AsyncMongoClient, source, arguments)
    closing = _closed_with_the_loop(loop, client)
    await closing.__anext__()
    store = _awaitable_store(client, source, _name_of(source))
    for closed in [one for one in list(_process.awaitable) if one.is_closed()]:
        _process.awaitable.pop(closed, None)  # without closing its generators
    _process.awaitable[loop] = _Awaitable(source, client, store, closing)
    if held is not None:
        await held.closing.aclose()
    return store


def _is_of(held: _Awaitable, source: Source) -> bool:
    if held.source is not source and held.source != source:
        return False
    # Django renames that of an alias for a test run.
    return not source.borrows or database_name(held.store) == _name_of(source)


def _name_of(source: Source) -> str:
    if not source.borrows:
        return source.name
    name: str = connections[cast(str, source.alias)].settings_dict["NAME"]
    return name


async def _closed_with_the_loop(
    loop: asyncio.AbstractEventLoop, client: AsyncMongoClient[Document]
) -> AsyncGenerator[None, None]:
    # An event loop closes its asynchronous generators when it ends, and with this one
    # the client. Else each asyncio.run() would leave a client behind.
    try:
        yield
    finally:
        held = _process.awaitable.get(loop)
        if held is not None and held.client is client:
            del _process.awaitable[loop]
        with pymongo.timeout(CLOSE_SECONDS):
            await client.close()


def _awaitable_store(
    client: AsyncMongoClient[Document], source: Source, name: str
) -> Store:
    collections = _collections(AwaitableCollection, client[name])
    seen = _process.seen[source.url, source.alias, name]
    return Store(AwaitableClient(client), awaitable_turns(), *collections, seen=seen)


# --- public -----------------------------------------------------------------


class Mongo:
    """
    Connect and close explicitly.

    A project that sets ``OSSY_EVENT_STORE`` or ``DB_URL`` does not need this: the first
    use connects.
    """

    @classmethod
    def connect(cls, url: str | None = None) -> Database[Document]:
        """
        Connect, wait for an answer of the server, and return the database.

        Args:
            url: ``mongodb://``, ``mongodb+srv://`` or ``embedded://``; the whole
                process uses it from now on. Without it the settings decide.

        Raises:
            StoreUnavailable: no server answered within the setting ``TIMEOUT``.
            ImproperlyConfigured: MongoDB is not configured, or the URL is malformed.
        """
        if url is not None:
            use(url)
        store = blocking()
        with explained():
            drive(store.client.command("ping"))
        return raw(store.events).database

    @classmethod
    async def aconnect(cls, url: str | None = None) -> AsyncDatabase[Document]:
        """Connect the running event loop; see ``connect()``."""
        if url is not None:
            use(url)
        store = await awaitable()
        with explained():
            await store.client.command("ping")
        return async_raw(store.events).database

    @classmethod
    def close(cls) -> None:
        """Close this process's blocking client and forget ``connect(url)``."""
        use(None)
        _close_own_client()

    @classmethod
    async def aclose(cls) -> None:
        """Close the client of the running event loop; the end of the loop also does."""
        held = _process.awaitable.pop(asyncio.get_running_loop(), None)
        if held is not None:
            await held.closing.aclose()
