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
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field, replace
from importlib import metadata
from typing import Any, cast
from weakref import WeakKeyDictionary

import pymongo
from django.core.exceptions import ImproperlyConfigured
from django.db import connections
from django.utils.asyncio import async_unsafe
from pymongo import AsyncMongoClient, MongoClient
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.collection import Collection
from pymongo.database import Database
from pymongo.driver_info import DriverInfo
from pymongo.errors import PyMongoError
from pymongo.read_concern import ReadConcern
from pymongo.read_preferences import ReadPreference
from pymongo.write_concern import WriteConcern

from ..conf import SETTING, get_settings
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
from .awaitable_port import AwaitableClient, AwaitableCollection
from .blocking_port import BlockingClient, BlockingCollection
from .deadline import explained
from .location import EMBEDDED, Source, resolve, use
from .ports import Client, Documents, drive
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
    # The same store without the caller's open transaction, if there is one.
    outside: Store | None = field(default=None, kw_only=True)


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
    return {**arguments, **source.options, "host": url, "driver": _driver()}


def _driver() -> DriverInfo:
    try:
        version = metadata.version("ossy-event-store")
    except metadata.PackageNotFoundError:  # a copy inside a project, not installed
        version = None
    return DriverInfo("ossy-event-store", version)


def _build(make: Any, source: Source, arguments: Mapping[str, Any]) -> Any:
    try:
        return make(**arguments)
    except (PyMongoError, ValueError, TypeError, OSError) as error:
        if isinstance(error, TypeError) or not source.url:
            raise
        # The driver's message may contain a part of the password.
        raise ImproperlyConfigured(
            f"MongoClient does not accept {source.origin} or {SETTING}['OPTIONS'] "
            f"({type(error).__name__})."
        ) from None


class _Process:
    """The clients of one process; a forked child starts without any."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.blocking: tuple[Source, MongoClient[Document], Store] | None = None
        self.awaitable: WeakKeyDictionary[
            asyncio.AbstractEventLoop,
            tuple[Source, AsyncMongoClient[Document], Store, Any],
        ] = WeakKeyDictionary()


_process = _Process()


def _after_fork() -> None:
    global _process
    _process = _Process()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


@atexit.register
def _close_own_client() -> None:
    held = _process.blocking
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
    source = resolve()
    if source.borrows:
        return _borrowed(cast(str, source.alias))
    held = _process.blocking
    if held is not None and (held[0] is source or held[0] == source):
        return held[2]
    with _process.lock:
        held = _process.blocking
        if held is None or held[0] != source:
            # Before the old client is closed: if this fails, the old one stays.
            client = _build(MongoClient, source, _client_arguments(source))
            _close_own_client()
            held = (source, client, _blocking_store(client, source.name))
            _process.blocking = held
        return held[2]


def _blocking_store(client: MongoClient[Document], name: str) -> Store:
    collections = _collections(BlockingCollection, client[name])
    return Store(BlockingClient(client), blocking_turns(), *collections)


def _collections(port: Any, database: Any) -> list[Documents]:
    return [
        port(database.get_collection(name, **options))
        for name, options in COLLECTION_OPTIONS.items()
    ]


def _borrowed(alias: str) -> Store:
    """Return the store over the client of django-mongodb-backend."""
    connection: Any = connections[alias]
    with explained():
        # Django's own method: pytest-django blocks it where a test may not use the
        # database, and Django guards it against calls in a coroutine.
        connection.ensure_connection()
    client, name = connection.connection, connection.database.name
    held = _process.blocking
    if held is None or held[1] is not client or held[0].name != name:
        if pymongo.version_tuple >= (4, 14):  # older clients have no such method
            client.append_metadata(_driver())
        held = (Source(alias, name=name), client, _blocking_store(client, name))
        _process.blocking = held
    store = held[2]
    if connection.session is None:
        return store
    return replace(
        store,
        events=BlockingCollection(raw(store.events), connection.session),
        snapshots=BlockingCollection(raw(store.snapshots), connection.session),
        outside=store,
    )


def documents(store: Store, name: str) -> Documents:
    """Return another collection of the store's database, with the same guarantees."""
    events: Any = store.events
    database = events.raw.database
    found: Documents = type(events)(database.get_collection(name, **_MAJORITY))
    return found


def raw(documents: Documents) -> Collection[Document]:
    """Return the PyMongo collection behind a blocking face."""
    return cast(BlockingCollection, documents).raw


def async_raw(documents: Documents) -> AsyncCollection[Document]:
    """Return the PyMongo collection behind an awaitable face."""
    return cast(AwaitableCollection, documents).raw


async def awaitable() -> Store:
    """Return the store's awaitable face for the running loop."""
    source = resolve()
    loop = asyncio.get_running_loop()
    held = _process.awaitable.get(loop)
    if held is not None and held[0] == source and _same_name(held[2], source):
        return held[2]
    with _process.lock:
        if source.borrows:
            connection: Any = connections[cast(str, source.alias)]
            arguments = {**connection.get_connection_params(), "driver": _driver()}
            name = connection.settings_dict["NAME"]
        else:
            arguments, name = _client_arguments(source), source.name
        client = _build(AsyncMongoClient, source, arguments)
    if held is not None:
        await held[3].aclose()
    closing = _closed_with_the_loop(client)
    await closing.__anext__()
    store = _awaitable_store(client, name)
    _process.awaitable[loop] = (source, client, store, closing)
    return store


def _same_name(store: Store, source: Source) -> bool:
    if not source.borrows:
        return True
    name = connections[cast(str, source.alias)].settings_dict["NAME"]
    return bool(async_raw(store.events).database.name == name)


async def _closed_with_the_loop(
    client: AsyncMongoClient[Document],
) -> AsyncGenerator[None, None]:
    # An event loop closes its asynchronous generators when it ends, and with this one
    # the client. Else each asyncio.run() would leave a client behind.
    try:
        yield
    finally:
        with pymongo.timeout(CLOSE_SECONDS):
            await client.close()


def _awaitable_store(client: AsyncMongoClient[Document], name: str) -> Store:
    collections = _collections(AwaitableCollection, client[name])
    return Store(AwaitableClient(client), awaitable_turns(), *collections)


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
        _process.blocking = None

    @classmethod
    async def aclose(cls) -> None:
        """Close the client of the running event loop; the end of the loop also does."""
        held = _process.awaitable.pop(asyncio.get_running_loop(), None)
        if held is not None:
            await held[3].aclose()
