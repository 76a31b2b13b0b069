"""
The blocking face of the ports, over PyMongo's blocking client.

Its twin is ``awaitable_port``. The two differ by ``await`` and little else;
``tests/mongodb/test_ports.py`` compares them line by line.
"""

from __future__ import annotations

import contextlib
import contextvars
import time
from collections.abc import (
    AsyncGenerator,
    Awaitable,
    Callable,
    Coroutine,
    Mapping,
    Sequence,
)
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeAlias, TypeVar

import pymongo
from pymongo import CursorType, MongoClient
from pymongo.client_session import ClientSession
from pymongo.collection import Collection
from pymongo.command_cursor import CommandCursor
from pymongo.cursor import Cursor
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
    drive,
    encrypts,
    has_large_pool,
    may_be_open,
    pieces,
    pool_resets,
)

T = TypeVar("T")

_Cursor: TypeAlias = Cursor[Document] | CommandCursor[Document]


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
        """The client of the collection."""
        return BlockingClient(self.raw.database.client)

    async def find_one(
        self, query: Filter, *, unbounded: bool = False, **options: Any
    ) -> Document | None:
        options.setdefault("session", self.session)
        with bound(unbounded):
            return self.raw.find_one(query, **options)

    async def find(
        self, query: Filter, *, unbounded: bool = False, **options: Any
    ) -> list[Document]:
        options = {"session": self.session, "batch_size": ONE_BATCH, **options}
        with bound(unbounded):  # noqa: SIM117 - as its twin
            with self.raw.find(query, **options) as cursor:
                return cursor.to_list()

    async def batches(
        self,
        query: Filter,
        size: int,
        *,
        pushed: bool = False,
        unbounded: bool = False,
        **options: Any,
    ) -> AsyncGenerator[list[Document], None]:
        """
        Yield what is found in lists, each of a batch or, if that is large, of a part.

        Args:
            query: which documents.
            size: documents of a round trip, at most; it has at most 16 MB, too.
            pushed: let the server send batches without being asked for each, where it
                can, so that it reads the next one while one is processed. The scan
                keeps a connection, which is closed if the scan ends early.
            unbounded: let each batch take as long as it takes.
            options: those of ``find()``.

        Raises:
            InvalidOperation: ``pushed`` through a mongos or a PyMongo that does not
                support it, or with a client that encrypts.
        """
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
            cursor = self.raw.aggregate(pipeline, batchSize=size, **options)
        try:
            while batch := await self._next(cursor, size, unbounded):
                yield batch
        finally:
            await self._close(cursor)

    async def _next(
        self, cursor: _Cursor, size: int, unbounded: bool
    ) -> list[Document]:
        with bound(unbounded):
            return cursor.to_list(size)

    async def _next_of(
        self, cursor: Any, size: int, unbounded: bool
    ) -> list[Document] | bytes:
        """Return the next batch of a scan, raw unless the client encrypts."""
        if encrypts(self.raw):
            return await self._next(cursor, size, unbounded)
        with bound(unbounded):
            found = cursor.to_list(1)
        return found[0] if found else b""

    async def _close(self, cursor: _Cursor) -> None:
        with bound():
            cursor.close()

    async def insert_one(self, document: Any, **options: Any) -> None:
        options.setdefault("session", self.session)
        with bound():
            self.raw.insert_one(document, **options)

    async def insert_many(self, documents: Sequence[Any], **options: Any) -> None:
        options.setdefault("session", self.session)
        with bound():
            self.raw.insert_many(documents, **options)

    async def replace_one(self, query: Filter, document: Any, **options: Any) -> int:
        options.setdefault("session", self.session)
        with bound():
            result = self.raw.replace_one(query, document, **options)
        return result.matched_count + (result.upserted_id is not None)

    async def update_one(self, query: Filter, update: Any, **options: Any) -> int:
        with bound():
            result = self.raw.update_one(query, update, **options)
        return result.matched_count

    async def update_many(self, query: Filter, update: Any) -> int:
        with bound():
            return self.raw.update_many(query, update).matched_count

    async def find_one_and_update(
        self, query: Filter, update: Any, **options: Any
    ) -> Document | None:
        with bound():
            return self.raw.find_one_and_update(query, update, **options)

    async def delete_one(self, query: Filter, **options: Any) -> int:
        options.setdefault("session", self.session)
        with bound():
            result = self.raw.delete_one(query, **options)
        return result.deleted_count

    async def delete_many(self, query: Filter, **options: Any) -> int:
        options.setdefault("session", self.session)
        with bound():
            result = self.raw.delete_many(query, **options)
        return result.deleted_count

    async def bulk_write(self, requests: Sequence[Any], **options: Any) -> int:
        with bound():
            result = self.raw.bulk_write(requests, **options)
        changed = result.matched_count + result.upserted_count
        return changed + result.inserted_count + result.deleted_count

    async def count(self) -> int:
        with bound():
            return self.raw.estimated_document_count()

    async def count_where(
        self, query: Filter, *, unbounded: bool = False, **options: Any
    ) -> int:
        options.setdefault("session", self.session)
        with bound(unbounded):
            return self.raw.count_documents(query, **options)

    async def index_information(self) -> Mapping[str, Any]:
        with bound():
            return self.raw.index_information()

    async def create_index(
        self, keys: Any, *, unbounded: bool = False, **options: Any
    ) -> str:
        with bound(unbounded):
            return self.raw.create_index(keys, **options)

    async def database_command(
        self, name: str, value: Any = 1, **options: Any
    ) -> Mapping[str, Any]:
        """Run a command on the collection's database, at its primary."""
        with bound():
            reply: Mapping[str, Any] = self.raw.database.command(name, value, **options)
        return reply


class BlockingClient:
    """A PyMongo client whose methods are coroutines that never suspend."""

    __slots__ = ("raw",)

    def __init__(self, raw: MongoClient[Document]) -> None:
        self.raw = raw

    async def either(
        self, blocking: Callable[[], T], awaitable: Callable[[], Awaitable[T]]
    ) -> T:
        """Return what the function of this face returns."""
        return blocking()

    async def command(self, name: str, **options: Any) -> Mapping[str, Any]:
        with bound():
            reply: Mapping[str, Any] = self.raw.admin.command(name, **options)
        return reply

    async def pause(self, seconds: float) -> None:
        time.sleep(seconds)  # noqa: ASYNC251 - this face blocks

    @contextlib.asynccontextmanager
    async def meanwhile(
        self, work: Coroutine[Any, Any, T]
    ) -> AsyncGenerator[Done[T], None]:
        """Do some work in another thread; it is done when the block ends."""
        with ThreadPoolExecutor(1, "ossy_event_store.meanwhile") as thread:
            yield thread.submit(drive, work)

    @contextlib.asynccontextmanager
    async def session(self) -> AsyncGenerator[ClientSession, None]:
        """Open a session in which each read sees what earlier ones saw."""
        with self.raw.start_session(causal_consistency=True) as session:
            yield session

    @contextlib.asynccontextmanager
    async def snapshot_session(self) -> AsyncGenerator[ClientSession, None]:
        """
        Open a session whose reads all see what a majority has at the first one.

        By default the server keeps that for five minutes, then it refuses to read.
        """
        with self.raw.start_session(snapshot=True) as session:
            yield session

    @contextlib.asynccontextmanager
    async def transaction(
        self, session: Any = None
    ) -> AsyncGenerator[ClientSession, None]:
        """
        Run what is inside in a transaction, once; the caller retries.

        The commit is bounded; what is inside bounds itself.

        Args:
            session: the session to run it in; None opens one.
        """
        if session is None:
            with self.raw.start_session() as own:
                async with self.transaction(own):
                    yield own
            return
        try:
            session.start_transaction(**TRANSACTION)
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

    async def commit(self, session: ClientSession) -> None:
        """Commit; again, if the outcome of the first commit is not known."""
        with bound():
            session.commit_transaction()

    async def _abort(self, session: ClientSession) -> None:
        with pymongo.timeout(END_SECONDS):
            if session.in_transaction:
                session.abort_transaction()

    async def in_transaction(
        self, collection: Documents, documents: Sequence[Any]
    ) -> None:
        """Insert all documents in one transaction."""
        with bound():
            async with self.transaction() as session:
                await collection.insert_many(documents, session=session)

    async def end_transaction(self, session_id: Any) -> None:
        """
        End a transaction that the server may still hold open.

        It would block its stream for a minute. This runs in its own context, as the
        caller's deadline may have passed.
        """
        contextvars.Context().run(drive, self._kill(session_id))

    async def _kill(self, session_id: Any) -> None:
        with contextlib.suppress(PyMongoError), pymongo.timeout(END_SECONDS):
            self.raw.admin.command("killSessions", [session_id])

    async def drop_connections(self) -> None:
        """
        Use none of the connections again that are open now.

        PyMongo keeps two kinds that are useless, and has no public way to drop them:
        those opened while their member was neither primary nor secondary, which never
        support sessions, and that of a pushed scan that ran out of time.
        """
        for reset in pool_resets(self.raw):
            reset()

    async def find_after_all_writes(
        self, collection: Documents, query: Filter, **options: Any
    ) -> list[Document]:
        """
        Find documents once every write that the primary has now is settled.

        The ping gives the session the primary's operation time. A majority read after
        it waits until every write up to then is durable or gone, including our own
        earlier tries.
        """
        with bound():  # noqa: SIM117 - as its twin
            with self.raw.start_session(causal_consistency=True) as session:
                try:
                    self.raw.admin.command("ping", session=session)
                except ConfigurationError:
                    await self.drop_connections()
                    raise
                return await collection.find(query, session=session, **options)
