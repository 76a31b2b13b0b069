"""
The awaitable face of the ports, over PyMongo's asynchronous client.

Its twin ``blocking_port`` says what each method does.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
from collections.abc import (
    AsyncGenerator,
    Awaitable,
    Callable,
    Coroutine,
    Mapping,
    Sequence,
)
from typing import Any, TypeAlias, TypeVar

import pymongo
from pymongo import AsyncMongoClient, CursorType
from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.asynchronous.command_cursor import AsyncCommandCursor
from pymongo.asynchronous.cursor import AsyncCursor
from pymongo.errors import (
    ConfigurationError,
    ConnectionFailure,
    ExecutionTimeout,
    PyMongoError,
)

from ..documents.bson_types import Document, Filter
from .deadline import bound
from .ports import (
    END_SECONDS,
    ONE_BATCH,
    TRANSACTION,
    Documents,
    Done,
    encrypts,
    has_large_pool,
    may_be_open,
    pieces,
    pool_resets,
)

T = TypeVar("T")

_Cursor: TypeAlias = AsyncCursor[Document] | AsyncCommandCursor[Document]


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
        """The client of the collection."""
        return AwaitableClient(self.raw.database.client)

    async def find_one(
        self, query: Filter, *, unbounded: bool = False, **options: Any
    ) -> Document | None:
        options.setdefault("session", self.session)
        with bound(unbounded):
            return await self.raw.find_one(query, **options)

    async def find(
        self, query: Filter, *, unbounded: bool = False, **options: Any
    ) -> list[Document]:
        options = {"session": self.session, "batch_size": ONE_BATCH, **options}
        with bound(unbounded):
            async with self.raw.find(query, **options) as cursor:
                return await cursor.to_list()

    async def batches(
        self,
        query: Filter,
        size: int,
        *,
        pushed: bool = False,
        unbounded: bool = False,
        **options: Any,
    ) -> AsyncGenerator[list[Document], None]:
        options.setdefault("session", self.session)
        if pushed and options["session"] is None and has_large_pool(self.raw):
            options["cursor_type"] = CursorType.EXHAUST
        if encrypts(self.raw):
            cursor = self.raw.find(query, batch_size=size, **options)
        else:
            # As the server cuts them: it sends no more than 16 MB at a time, while the
            # driver would gather as many as asked for.
            cursor = self.raw.find_raw_batches(query, batch_size=size, **options)
        try:
            is_more = True
            while is_more:
                is_more = False
                found = pieces(await self._next_of(cursor, size, unbounded), self.raw)
                for documents in found:
                    is_more = True
                    yield documents
        except (ConnectionFailure, ExecutionTimeout):
            # PyMongo would use its connection again, with more on the way.
            if pushed:
                await self.client.drop_connections()
            raise
        finally:
            await self._close(cursor)

    async def aggregate(
        self,
        pipeline: Sequence[Filter],
        size: int,
        *,
        unbounded: bool = False,
        **options: Any,
    ) -> AsyncGenerator[list[Document], None]:
        options.setdefault("session", self.session)
        with bound(unbounded):
            cursor = await self.raw.aggregate(pipeline, batchSize=size, **options)
        try:
            while batch := await self._next(cursor, size, unbounded):
                yield batch
        finally:
            await self._close(cursor)

    async def _next(
        self, cursor: _Cursor, size: int, unbounded: bool
    ) -> list[Document]:
        with bound(unbounded):
            return await cursor.to_list(size)

    async def _next_of(
        self, cursor: Any, size: int, unbounded: bool
    ) -> list[Document] | bytes:
        """Return the next batch of a scan, raw unless the client encrypts."""
        if encrypts(self.raw):
            return await self._next(cursor, size, unbounded)
        with bound(unbounded):
            found = await cursor.to_list(1)
        return found[0] if found else b""

    async def _close(self, cursor: _Cursor) -> None:
        with bound():
            await cursor.close()

    async def insert_one(self, document: Any, **options: Any) -> None:
        options.setdefault("session", self.session)
        with bound():
            await self.raw.insert_one(document, **options)

    async def insert_many(self, documents: Sequence[Any], **options: Any) -> None:
        options.setdefault("session", self.session)
        with bound():
            await self.raw.insert_many(documents, **options)

    async def replace_one(self, query: Filter, document: Any, **options: Any) -> int:
        options.setdefault("session", self.session)
        with bound():
            result = await self.raw.replace_one(query, document, **options)
        return result.matched_count + (result.upserted_id is not None)

    async def update_one(self, query: Filter, update: Any, **options: Any) -> int:
        with bound():
            result = await self.raw.update_one(query, update, **options)
        return result.matched_count

    async def update_many(self, query: Filter, update: Any) -> int:
        with bound():
            return (await self.raw.update_many(query, update)).matched_count

    async def find_one_and_update(
        self, query: Filter, update: Any, **options: Any
    ) -> Document | None:
        with bound():
            return await self.raw.find_one_and_update(query, update, **options)

    async def delete_one(self, query: Filter, **options: Any) -> int:
        options.setdefault("session", self.session)
        with bound():
            result = await self.raw.delete_one(query, **options)
        return result.deleted_count

    async def delete_many(self, query: Filter, **options: Any) -> int:
        options.setdefault("session", self.session)
        with bound():
            result = await self.raw.delete_many(query, **options)
        return result.deleted_count

    async def bulk_write(self, requests: Sequence[Any], **options: Any) -> int:
        with bound():
            result = await self.raw.bulk_write(requests, **options)
        changed = result.matched_count + result.upserted_count
        return changed + result.inserted_count + result.deleted_count

    async def count(self) -> int:
        with bound():
            return await self.raw.estimated_document_count()

    async def count_where(
        self, query: Filter, *, unbounded: bool = False, **options: Any
    ) -> int:
        options.setdefault("session", self.session)
        with bound(unbounded):
            return await self.raw.count_documents(query, **options)

    async def index_information(self) -> Mapping[str, Any]:
        with bound():
            return await self.raw.index_information()

    async def create_index(
        self, keys: Any, *, unbounded: bool = False, **options: Any
    ) -> str:
        with bound(unbounded):
            return await self.raw.create_index(keys, **options)

    async def database_command(
        self, name: str, value: Any = 1, **options: Any
    ) -> Mapping[str, Any]:
        with bound():
            reply: Mapping[str, Any] = await self.raw.database.command(
                name, value, **options
            )
        return reply


class AwaitableClient:
    """The same over PyMongo's asynchronous client."""

    __slots__ = ("raw",)

    def __init__(self, raw: AsyncMongoClient[Document]) -> None:
        self.raw = raw

    async def either(
        self, blocking: Callable[[], T], awaitable: Callable[[], Awaitable[T]]
    ) -> T:
        """Return what the coroutine function of this face returns."""
        return await awaitable()

    async def command(self, name: str, **options: Any) -> Mapping[str, Any]:
        with bound():
            reply: Mapping[str, Any] = await self.raw.admin.command(name, **options)
        return reply

    async def pause(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    @contextlib.asynccontextmanager
    async def meanwhile(
        self, work: Coroutine[Any, Any, T]
    ) -> AsyncGenerator[Done[T], None]:
        """Do some work in another task; it is done when the block ends."""
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
            await session.start_transaction(**TRANSACTION)
            try:
                yield session
            except BaseException:
                await self._abort(session)
                raise
            if session.in_transaction:
                await self.commit(session)
        except ConfigurationError:
            await self.drop_connections()
            raise
        except PyMongoError as error:
            if may_be_open(error):
                await self.end_transaction(session.session_id)
            raise

    async def commit(self, session: AsyncClientSession) -> None:
        with bound():
            await session.commit_transaction()

    async def _abort(self, session: AsyncClientSession) -> None:
        with pymongo.timeout(END_SECONDS):
            if session.in_transaction:
                await session.abort_transaction()

    async def in_transaction(
        self, collection: Documents, documents: Sequence[Any]
    ) -> None:
        with bound():
            async with self.transaction() as session:
                await collection.insert_many(documents, session=session)

    async def end_transaction(self, session_id: Any) -> None:
        own = contextvars.Context()
        await asyncio.create_task(self._kill(session_id), context=own)

    async def _kill(self, session_id: Any) -> None:
        with contextlib.suppress(PyMongoError), pymongo.timeout(END_SECONDS):
            await self.raw.admin.command("killSessions", [session_id])

    async def drop_connections(self) -> None:
        for reset in pool_resets(self.raw):
            await reset()

    async def find_after_all_writes(
        self, collection: Documents, query: Filter, **options: Any
    ) -> list[Document]:
        with bound():
            async with self.raw.start_session(causal_consistency=True) as session:
                try:
                    await self.raw.admin.command("ping", session=session)
                except ConfigurationError:
                    await self.drop_connections()
                    raise
                return await collection.find(query, session=session, **options)
