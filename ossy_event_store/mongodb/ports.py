"""
Two faces from one implementation.

An operation that does I/O is written once, as a coroutine over the collections
of this module. The awaitable face awaits it. The blocking face drives it to its
end without an event loop: a blocking collection never suspends, so one
``send(None)`` runs the whole coroutine.

The two collection classes differ by ``await`` and nothing else;
``tests/mongodb/test_ports.py`` compares them line by line.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import time
from collections.abc import AsyncGenerator, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol, TypeAlias, TypeVar

import pymongo
from pymongo import CursorType, MongoClient
from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.asynchronous.mongo_client import AsyncMongoClient
from pymongo.client_session import ClientSession
from pymongo.collection import Collection
from pymongo.errors import (
    ConfigurationError,
    ConnectionFailure,
    ExecutionTimeout,
    PyMongoError,
    ServerSelectionTimeoutError,
)
from pymongo.read_concern import ReadConcern
from pymongo.write_concern import WriteConcern

from ..documents.bson_types import Document, Filter

Session: TypeAlias = ClientSession | AsyncClientSession

MAJORITY = WriteConcern("majority")
SNAPSHOT = ReadConcern("snapshot")

END = 1.0  # seconds to end a transaction that may have been left open
ROOMY = 10  # connections of a pool of which a scan may hold one
ALL = 1_000_000  # documents a batch, where all are wanted; by itself the first has 101

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


def may_be_open(error: PyMongoError) -> bool:
    """Whether the server may still hold the transaction that failed like this."""
    if isinstance(error, ServerSelectionTimeoutError):
        return False  # or nobody is there to be told
    return (
        error.timeout
        or isinstance(error, ConnectionFailure)
        or error.has_error_label("UnknownTransactionCommitResult")
    )


def drive(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that never suspends and return its result."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        result: T = stop.value
        return result
    coroutine.close()
    raise RuntimeError("An operation of the blocking face tried to wait for a loop.")


def drive_each(generator: AsyncGenerator[T, None]) -> Iterator[T]:
    """Iterate over an asynchronous generator that never suspends."""
    try:
        while True:
            try:
                item = drive(generator.__anext__())
            except StopAsyncIteration:
                return
            yield item
    finally:
        drive(generator.aclose())


def _may_hold(raw: Collection[Document] | AsyncCollection[Document]) -> bool:
    """Whether a scan may hold a connection: what is done meanwhile needs others."""
    size = raw.database.client.options.pool_options.max_pool_size
    return not size or size >= ROOMY


class Documents(Protocol):
    """A collection through either face."""

    async def find_one(self, query: Filter, **options: Any) -> Document | None: ...
    async def find(self, query: Filter, **options: Any) -> list[Document]: ...
    def batches(
        self, query: Filter, size: int, *, pushed: bool = False, **options: Any
    ) -> AsyncGenerator[list[Document], None]: ...
    def aggregate(
        self, pipeline: Sequence[Filter], size: int, **options: Any
    ) -> AsyncGenerator[list[Document], None]: ...
    async def insert_one(self, document: Any, **options: Any) -> None: ...
    async def insert_many(self, documents: Sequence[Any], **options: Any) -> None: ...
    async def replace_one(
        self, query: Filter, document: Any, **options: Any
    ) -> int: ...
    async def update_one(self, query: Filter, update: Any, **options: Any) -> int: ...
    async def update_many(self, query: Filter, update: Any) -> int: ...
    async def find_one_and_update(
        self, query: Filter, update: Any, **options: Any
    ) -> Document | None: ...
    async def delete_one(self, query: Filter, **options: Any) -> int: ...
    async def delete_many(self, query: Filter, **options: Any) -> int: ...
    async def bulk_write(self, requests: Sequence[Any], **options: Any) -> int: ...
    async def count(self) -> int: ...
    async def count_where(self, query: Filter, **options: Any) -> int: ...
    async def index_information(self) -> Mapping[str, Any]: ...
    async def create_index(self, keys: Any, **options: Any) -> str: ...
    async def database_command(
        self, name: str, value: Any = 1, **options: Any
    ) -> Mapping[str, Any]: ...


class BlockingCollection:
    """A PyMongo collection whose methods are coroutines that never suspend."""

    __slots__ = ("raw", "session")

    def __init__(
        self, raw: Collection[Document], session: ClientSession | None = None
    ) -> None:
        self.raw = raw
        self.session = session

    @property
    def client(self) -> BlockingClient:
        """The client that it belongs to."""
        return BlockingClient(self.raw.database.client)

    async def find_one(self, query: Filter, **options: Any) -> Document | None:
        options.setdefault("session", self.session)
        return self.raw.find_one(query, **options)

    async def find(self, query: Filter, **options: Any) -> list[Document]:
        options = {"session": self.session, "batch_size": ALL, **options}
        with self.raw.find(query, **options) as cursor:
            return cursor.to_list()

    async def batches(
        self, query: Filter, size: int, *, pushed: bool = False, **options: Any
    ) -> AsyncGenerator[list[Document], None]:
        """
        Yield what is found, so many a round trip.

        Args:
            query: which documents.
            size: documents a batch.
            pushed: let the server send one batch after the other unasked, where that
                can be, so that it reads the next while one is worked on. The scan
                holds a connection, which is lost if it is not read to its end.
            options: those of ``find()``.

        Raises:
            InvalidOperation: ``pushed``, by a mongos of which server or PyMongo do not
                know that, or to a client that encrypts.
        """
        options.setdefault("session", self.session)
        if pushed and options["session"] is None and _may_hold(self.raw):
            options["cursor_type"] = CursorType.EXHAUST
        with self.raw.find(query, batch_size=size, **options) as cursor:
            try:
                while batch := cursor.to_list(size):
                    yield batch
            except (ConnectionFailure, ExecutionTimeout):
                # PyMongo would use its connection again, with more on the way.
                if pushed:
                    await self.client.drop_connections()
                raise

    async def aggregate(
        self, pipeline: Sequence[Filter], size: int, **options: Any
    ) -> AsyncGenerator[list[Document], None]:
        with self.raw.aggregate(
            pipeline, batchSize=size, session=self.session, **options
        ) as cursor:
            while batch := cursor.to_list(size):
                yield batch

    async def insert_one(self, document: Any, **options: Any) -> None:
        options.setdefault("session", self.session)
        self.raw.insert_one(document, **options)

    async def insert_many(self, documents: Sequence[Any], **options: Any) -> None:
        options.setdefault("session", self.session)
        self.raw.insert_many(documents, **options)

    async def replace_one(self, query: Filter, document: Any, **options: Any) -> int:
        options.setdefault("session", self.session)
        result = self.raw.replace_one(query, document, **options)
        return result.matched_count + (result.upserted_id is not None)

    async def update_one(self, query: Filter, update: Any, **options: Any) -> int:
        result = self.raw.update_one(query, update, **options)
        return result.matched_count

    async def update_many(self, query: Filter, update: Any) -> int:
        return self.raw.update_many(query, update).matched_count

    async def find_one_and_update(
        self, query: Filter, update: Any, **options: Any
    ) -> Document | None:
        return self.raw.find_one_and_update(query, update, **options)

    async def delete_one(self, query: Filter, **options: Any) -> int:
        options.setdefault("session", self.session)
        result = self.raw.delete_one(query, **options)
        return result.deleted_count

    async def delete_many(self, query: Filter, **options: Any) -> int:
        options.setdefault("session", self.session)
        result = self.raw.delete_many(query, **options)
        return result.deleted_count

    async def bulk_write(self, requests: Sequence[Any], **options: Any) -> int:
        result = self.raw.bulk_write(requests, **options)
        return result.matched_count + result.upserted_count + result.inserted_count

    async def count(self) -> int:
        return self.raw.estimated_document_count()

    async def count_where(self, query: Filter, **options: Any) -> int:
        return self.raw.count_documents(query, **options)

    async def index_information(self) -> Mapping[str, Any]:
        return self.raw.index_information()

    async def create_index(self, keys: Any, **options: Any) -> str:
        return self.raw.create_index(keys, **options)

    async def database_command(
        self, name: str, value: Any = 1, **options: Any
    ) -> Mapping[str, Any]:
        """Run a command on the collection's database, at its primary."""
        answer: Mapping[str, Any] = self.raw.database.command(name, value, **options)
        return answer


class AwaitableCollection:
    """The same over PyMongo's asynchronous collection."""

    __slots__ = ("raw", "session")

    def __init__(
        self, raw: AsyncCollection[Document], session: AsyncClientSession | None = None
    ) -> None:
        self.raw = raw
        self.session = session

    @property
    def client(self) -> AwaitableClient:
        """The client that it belongs to."""
        return AwaitableClient(self.raw.database.client)

    async def find_one(self, query: Filter, **options: Any) -> Document | None:
        options.setdefault("session", self.session)
        return await self.raw.find_one(query, **options)

    async def find(self, query: Filter, **options: Any) -> list[Document]:
        options = {"session": self.session, "batch_size": ALL, **options}
        async with self.raw.find(query, **options) as cursor:
            return await cursor.to_list()

    async def batches(
        self, query: Filter, size: int, *, pushed: bool = False, **options: Any
    ) -> AsyncGenerator[list[Document], None]:
        options.setdefault("session", self.session)
        if pushed and options["session"] is None and _may_hold(self.raw):
            options["cursor_type"] = CursorType.EXHAUST
        async with self.raw.find(query, batch_size=size, **options) as cursor:
            try:
                while batch := await cursor.to_list(size):
                    yield batch
            except (ConnectionFailure, ExecutionTimeout):
                # PyMongo would use its connection again, with more on the way.
                if pushed:
                    await self.client.drop_connections()
                raise

    async def aggregate(
        self, pipeline: Sequence[Filter], size: int, **options: Any
    ) -> AsyncGenerator[list[Document], None]:
        async with await self.raw.aggregate(
            pipeline, batchSize=size, session=self.session, **options
        ) as cursor:
            while batch := await cursor.to_list(size):
                yield batch

    async def insert_one(self, document: Any, **options: Any) -> None:
        options.setdefault("session", self.session)
        await self.raw.insert_one(document, **options)

    async def insert_many(self, documents: Sequence[Any], **options: Any) -> None:
        options.setdefault("session", self.session)
        await self.raw.insert_many(documents, **options)

    async def replace_one(self, query: Filter, document: Any, **options: Any) -> int:
        options.setdefault("session", self.session)
        result = await self.raw.replace_one(query, document, **options)
        return result.matched_count + (result.upserted_id is not None)

    async def update_one(self, query: Filter, update: Any, **options: Any) -> int:
        result = await self.raw.update_one(query, update, **options)
        return result.matched_count

    async def update_many(self, query: Filter, update: Any) -> int:
        return (await self.raw.update_many(query, update)).matched_count

    async def find_one_and_update(
        self, query: Filter, update: Any, **options: Any
    ) -> Document | None:
        return await self.raw.find_one_and_update(query, update, **options)

    async def delete_one(self, query: Filter, **options: Any) -> int:
        options.setdefault("session", self.session)
        result = await self.raw.delete_one(query, **options)
        return result.deleted_count

    async def delete_many(self, query: Filter, **options: Any) -> int:
        options.setdefault("session", self.session)
        result = await self.raw.delete_many(query, **options)
        return result.deleted_count

    async def bulk_write(self, requests: Sequence[Any], **options: Any) -> int:
        result = await self.raw.bulk_write(requests, **options)
        return result.matched_count + result.upserted_count + result.inserted_count

    async def count(self) -> int:
        return await self.raw.estimated_document_count()

    async def count_where(self, query: Filter, **options: Any) -> int:
        return await self.raw.count_documents(query, **options)

    async def index_information(self) -> Mapping[str, Any]:
        return await self.raw.index_information()

    async def create_index(self, keys: Any, **options: Any) -> str:
        return await self.raw.create_index(keys, **options)

    async def database_command(
        self, name: str, value: Any = 1, **options: Any
    ) -> Mapping[str, Any]:
        answer: Mapping[str, Any] = await self.raw.database.command(
            name, value, **options
        )
        return answer


class Done(Protocol[T_co]):
    """Work whose result can be taken once it is done."""

    def result(self) -> T_co: ...


class Client(Protocol):
    """What the store asks of a client as a whole, through either face."""

    async def command(self, name: str, **options: Any) -> Mapping[str, Any]: ...
    async def pause(self, seconds: float) -> None: ...
    def meanwhile(
        self, work: Coroutine[Any, Any, T]
    ) -> AbstractAsyncContextManager[Done[T]]: ...
    def session(self) -> AbstractAsyncContextManager[Any]: ...
    def snapshot_session(self) -> AbstractAsyncContextManager[Any]: ...
    def transaction(self, session: Any = None) -> AbstractAsyncContextManager[Any]: ...
    async def end_transaction(self, session_id: Any) -> None: ...
    async def in_transaction(
        self, collection: Documents, documents: Sequence[Any]
    ) -> None: ...
    async def find_after_all_writes(
        self, collection: Documents, query: Filter, **options: Any
    ) -> list[Document]: ...


class BlockingClient:
    """A PyMongo client whose methods are coroutines that never suspend."""

    __slots__ = ("raw",)

    def __init__(self, raw: MongoClient[Document]) -> None:
        self.raw = raw

    async def command(self, name: str, **options: Any) -> Mapping[str, Any]:
        answer: Mapping[str, Any] = self.raw.admin.command(name, **options)
        return answer

    async def pause(self, seconds: float) -> None:
        time.sleep(seconds)  # noqa: ASYNC251 - this face blocks

    @contextlib.asynccontextmanager
    async def meanwhile(
        self, work: Coroutine[Any, Any, T]
    ) -> AsyncGenerator[Done[T], None]:
        """Do some work in another thread; behind the block it is done."""
        with ThreadPoolExecutor(1, "ossy_event_store.meanwhile") as thread:
            yield thread.submit(drive, work)

    @contextlib.asynccontextmanager
    async def session(self) -> AsyncGenerator[ClientSession, None]:
        """Hold a session in which each read sees what those before it saw."""
        with self.raw.start_session(causal_consistency=True) as session:
            yield session

    @contextlib.asynccontextmanager
    async def snapshot_session(self) -> AsyncGenerator[ClientSession, None]:
        """
        Hold a session whose reads all see what a majority has at the first of them.

        By default the server keeps that for five minutes, and refuses later reads.
        """
        with self.raw.start_session(snapshot=True) as session:
            yield session

    @contextlib.asynccontextmanager
    async def transaction(
        self, session: Any = None
    ) -> AsyncGenerator[ClientSession, None]:
        """
        Hold a transaction around what is inside: one try, no retry here.

        Args:
            session: in which to hold it; None takes one of its own.
        """
        if session is None:
            with self.raw.start_session() as own:
                async with self.transaction(own):
                    yield own
            return
        try:
            with session.start_transaction(
                read_concern=SNAPSHOT, write_concern=MAJORITY
            ):
                yield session
        except ConfigurationError:
            await self.drop_connections()
            raise
        except PyMongoError as error:
            if may_be_open(error):
                await self.end_transaction(session.session_id)
            raise

    async def in_transaction(
        self, collection: Documents, documents: Sequence[Any]
    ) -> None:
        """Insert all documents in one transaction."""
        async with self.transaction() as session:
            await collection.insert_many(documents, session=session)

    async def end_transaction(self, session_id: Any) -> None:
        """
        End a transaction whose end the server may not have heard of.

        It would hold its stream for a minute. In a context of its own, as the time
        of the caller may be over.
        """
        contextvars.Context().run(drive, self._kill(session_id))

    async def _kill(self, session_id: Any) -> None:
        with contextlib.suppress(PyMongoError), pymongo.timeout(END):
            self.raw.admin.command("killSessions", [session_id])

    async def drop_connections(self) -> None:
        """
        Take no connection from the pool that was opened before now.

        PyMongo keeps two that are of no use, and has no public way to drop them: one
        that was opened while its member was neither primary nor secondary, which has
        no sessions, and never will; and one of a pushed scan whose time was over.
        """
        with contextlib.suppress(AttributeError):
            for server in list(self.raw._topology._servers.values()):
                server.pool.reset_without_pause()

    async def find_after_all_writes(
        self, collection: Documents, query: Filter, **options: Any
    ) -> list[Document]:
        """
        Find what answers ``query``, once all that the primary has now is settled.

        The ping gives the session the primary's operation time; a majority read
        behind it waits until every write up to then is durable or gone, an
        earlier try of our own among them.
        """
        with self.raw.start_session(causal_consistency=True) as session:
            try:
                self.raw.admin.command("ping", session=session)
            except ConfigurationError:
                await self.drop_connections()
                raise
            return await collection.find(query, session=session, **options)


class AwaitableClient:
    """The same over PyMongo's asynchronous client."""

    __slots__ = ("raw",)

    def __init__(self, raw: AsyncMongoClient[Document]) -> None:
        self.raw = raw

    async def command(self, name: str, **options: Any) -> Mapping[str, Any]:
        answer: Mapping[str, Any] = await self.raw.admin.command(name, **options)
        return answer

    async def pause(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    @contextlib.asynccontextmanager
    async def meanwhile(
        self, work: Coroutine[Any, Any, T]
    ) -> AsyncGenerator[Done[T], None]:
        """Do some work in another task; behind the block it is done."""
        task = asyncio.ensure_future(work)
        try:
            yield task
        finally:
            await asyncio.gather(task, return_exceptions=True)

    @contextlib.asynccontextmanager
    async def session(self) -> AsyncGenerator[AsyncClientSession, None]:
        async with self.raw.start_session(causal_consistency=True) as session:
            yield session

    @contextlib.asynccontextmanager
    async def snapshot_session(self) -> AsyncGenerator[AsyncClientSession, None]:
        async with self.raw.start_session(snapshot=True) as session:
            yield session

    @contextlib.asynccontextmanager
    async def transaction(
        self, session: Any = None
    ) -> AsyncGenerator[AsyncClientSession, None]:
        if session is None:
            async with self.raw.start_session() as own:  # noqa: SIM117 - as its twin
                async with self.transaction(own):
                    yield own
            return
        try:
            async with await session.start_transaction(
                read_concern=SNAPSHOT, write_concern=MAJORITY
            ):
                yield session
        except ConfigurationError:
            await self.drop_connections()
            raise
        except PyMongoError as error:
            if may_be_open(error):
                await self.end_transaction(session.session_id)
            raise

    async def in_transaction(
        self, collection: Documents, documents: Sequence[Any]
    ) -> None:
        async with self.transaction() as session:
            await collection.insert_many(documents, session=session)

    async def end_transaction(self, session_id: Any) -> None:
        own = contextvars.Context()
        await asyncio.create_task(self._kill(session_id), context=own)

    async def _kill(self, session_id: Any) -> None:
        with contextlib.suppress(PyMongoError), pymongo.timeout(END):
            await self.raw.admin.command("killSessions", [session_id])

    async def drop_connections(self) -> None:
        with contextlib.suppress(AttributeError):
            for server in list(self.raw._topology._servers.values()):
                await server.pool.reset_without_pause()

    async def find_after_all_writes(
        self, collection: Documents, query: Filter, **options: Any
    ) -> list[Document]:
        async with self.raw.start_session(causal_consistency=True) as session:
            try:
                await self.raw.admin.command("ping", session=session)
            except ConfigurationError:
                await self.drop_connections()
                raise
            return await collection.find(query, session=session, **options)
