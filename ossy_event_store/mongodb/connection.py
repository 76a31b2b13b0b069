"""
Clients and collections: the one module that owns a connection.

Nothing connects before the first use. There is one ``MongoClient`` a process and one
``AsyncMongoClient`` an event loop. Concerns and codecs are set on the collections,
so that a client borrowed from django-mongodb-backend gives the same guarantees as
one of our own.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, replace
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
from .deadline import explained, in_time
from .location import EMBEDDED, Source, resolve, use
from .ports import Client, Documents, drive
from .writer_queue import Turns, awaitable_turns, blocking_turns

_MAJORITY: dict[str, Any] = {
    "codec_options": CODEC,
    "read_preference": ReadPreference.PRIMARY,
    "write_concern": WriteConcern("majority"),
    "read_concern": ReadConcern("majority"),
}
# A snapshot is a cache: losing one costs a replay, so it need not wait for a majority.
_CACHE: dict[str, Any] = {
    "codec_options": CODEC,
    "read_preference": ReadPreference.PRIMARY,
    "write_concern": WriteConcern(1),
    "read_concern": ReadConcern("local"),
}
OPTIONS = {
    EVENTS: _MAJORITY,
    SNAPSHOTS: _CACHE,
    LEASES: _MAJORITY,
    POSITIONS: _MAJORITY,
    SUBSCRIPTIONS: _MAJORITY,
    PARKED: _MAJORITY,
    SKIPPED: _MAJORITY,
}


@dataclass(frozen=True, slots=True)
class Store:
    """The store through one face: its client and its collections."""

    client: Client
    events: Documents
    snapshots: Documents
    leases: Documents
    positions: Documents
    subscriptions: Documents
    parked: Documents
    skipped: Documents
    turns: Turns
    # Set when somebody else's transaction is open: the same store outside of it.
    outside: Store | None = None


# --- clients ----------------------------------------------------------------


def _client_arguments(source: Source) -> dict[str, Any]:
    """Return the arguments that build a client of our own, of either face."""
    milliseconds = round(get_settings().TIMEOUT * 1000)
    arguments: dict[str, Any] = {
        "appname": "ossy_event_store",
        "serverSelectionTimeoutMS": milliseconds,
        "connectTimeoutMS": milliseconds,
        "connect": False,
    }
    if "://" in source.url:
        # An argument beats what the URL says, so leave out what it says itself.
        query = source.url.partition("?")[2].lower()
        arguments = {k: v for k, v in arguments.items() if f"{k.lower()}=" not in query}
    url = source.url
    if url.startswith(EMBEDDED):
        from .. import embedded  # costs nothing where a server runs already

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
        # The driver's own text may hold a piece of the password.
        raise ImproperlyConfigured(
            f"{source.origin} or {SETTING}['OPTIONS'] is not what MongoClient takes "
            f"({type(error).__name__})."
        ) from None


class _Process:
    """What one process holds; a forked child starts with a new, empty one."""

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
        held[1].close()


@async_unsafe(
    "This method blocks, and would hold up every other task of this event loop. "
    "Await its twin with an 'a' in front, or use sync_to_async."
)
def blocking() -> Store:
    """
    Return the store's blocking face, connecting on first use.

    Raises:
        SynchronousOnlyOperation: called in a coroutine, as with Django's ORM.
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
            # Before the old one is closed: this may fail, and then that one is kept.
            client = _build(MongoClient, source, _client_arguments(source))
            _close_own_client()
            held = (source, client, _blocking_store(client, source.name))
            _process.blocking = held
        return held[2]


def _blocking_store(client: MongoClient[Document], name: str) -> Store:
    database = client[name]

    def collection(name: str) -> BlockingCollection:
        return BlockingCollection(database.get_collection(name, **OPTIONS[name]))

    return Store(
        BlockingClient(client),
        collection(EVENTS),
        collection(SNAPSHOTS),
        collection(LEASES),
        collection(POSITIONS),
        collection(SUBSCRIPTIONS),
        collection(PARKED),
        collection(SKIPPED),
        blocking_turns(),
    )


def _borrowed(alias: str) -> Store:
    """Return the store over the client of django-mongodb-backend."""
    connection: Any = connections[alias]
    with explained():
        # Through Django's own door: pytest-django's blocker and the guard against
        # blocking calls in a coroutine both stand there.
        connection.ensure_connection()
    client, name = connection.connection, connection.database.name
    held = _process.blocking
    if held is None or held[1] is not client or held[0].name != name:
        if pymongo.version_tuple >= (4, 14):  # before, a client had no such method
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
    # A loop closes its asynchronous generators when it ends, and so this client:
    # asyncio.run() a request would otherwise leave one client behind each time.
    try:
        yield
    finally:
        await client.close()


def _awaitable_store(client: AsyncMongoClient[Document], name: str) -> Store:
    database = client[name]

    def collection(name: str) -> AwaitableCollection:
        return AwaitableCollection(database.get_collection(name, **OPTIONS[name]))

    return Store(
        AwaitableClient(client),
        collection(EVENTS),
        collection(SNAPSHOTS),
        collection(LEASES),
        collection(POSITIONS),
        collection(SUBSCRIPTIONS),
        collection(PARKED),
        collection(SKIPPED),
        awaitable_turns(),
    )


# --- public -----------------------------------------------------------------


class Mongo:
    """
    The connection, for those who want to see it.

    A project that sets ``OSSY_EVENT_STORE`` or ``DB_URL`` needs none of this: the
    first use connects.
    """

    @classmethod
    def connect(cls, url: str | None = None) -> Database[Document]:
        """
        Connect, make sure that a server answers, and return the database.

        Args:
            url: ``mongodb://``, ``mongodb+srv://`` or ``embedded://``; it holds for
                the whole process from now on. Without it the settings decide.

        Raises:
            StoreUnavailable: no server answered within the setting ``TIMEOUT``.
            ImproperlyConfigured: nothing says where, or the URL is malformed.
        """
        if url is not None:
            use(url)
        store = blocking()
        with in_time():
            drive(store.client.command("ping"))
        return raw(store.events).database

    @classmethod
    async def aconnect(cls, url: str | None = None) -> AsyncDatabase[Document]:
        """Connect the running loop; see ``connect()``."""
        if url is not None:
            use(url)
        store = await awaitable()
        with in_time():
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
        """Close the running loop's client; the end of the loop does so as well."""
        held = _process.awaitable.pop(asyncio.get_running_loop(), None)
        if held is not None:
            await held[3].aclose()
