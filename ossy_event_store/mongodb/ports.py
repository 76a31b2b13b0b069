"""
The ports: a collection and a client, each with a blocking and an awaitable face.

An operation that does I/O is written once, as a coroutine over ``Documents`` and
``Client``. The awaitable face awaits it. The blocking face drives it to its end
without an event loop: a blocking collection never suspends, so one ``send(None)``
runs the whole coroutine.

Each call is bounded by the setting ``TIMEOUT``, or by ``in_time()`` around it, and
raises what PyMongo raises. A call that may take longer says so: ``unbounded=True``.
"""

from __future__ import annotations

import functools
import logging
import struct
from collections.abc import (
    AsyncGenerator,
    Awaitable,
    Callable,
    Coroutine,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol, TypeVar

import bson
import pymongo
from pymongo import AsyncMongoClient, MongoClient
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.collection import Collection
from pymongo.errors import (
    ConnectionFailure,
    PyMongoError,
    ServerSelectionTimeoutError,
)
from pymongo.read_concern import ReadConcern
from pymongo.read_preferences import ReadPreference
from pymongo.write_concern import WriteConcern

from ..documents.bson_types import Document, Filter

logger = logging.getLogger("ossy_event_store")

MAJORITY = WriteConcern("majority")
# How a transaction begins, whatever the options of the client are.
TRANSACTION: Mapping[str, Any] = {
    "read_concern": ReadConcern("snapshot"),
    "write_concern": MAJORITY,
    "read_preference": ReadPreference.PRIMARY,
}

END_SECONDS = 1.0  # to end what others would else wait for until it expires
LARGE_POOL = 10  # connections of a pool from which a scan may keep one
ONE_BATCH = 1_000_000  # documents a batch, to get all at once; MongoDB begins with 101
PIECE_BYTES = 500_000  # of a batch, decoded at a time: dicts take several times as much

_LENGTH = struct.Struct("<i")

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


def may_be_open(error: PyMongoError) -> bool:
    """Whether the server may still hold the transaction that failed like this."""
    if isinstance(error, ServerSelectionTimeoutError):
        return False  # nothing was sent, or no server can be told
    return (
        error.timeout
        or isinstance(error, ConnectionFailure)
        or error.has_error_label("UnknownTransactionCommitResult")
    )


def pool_resets(
    client: MongoClient[Document] | AsyncMongoClient[Document],
) -> list[Callable[[], Any]]:
    """Return what makes each pool of a client open new connections."""
    try:
        servers: list[Any] = list(client._topology._servers.values())
        return [server.pool.reset_without_pause for server in servers]
    except AttributeError as missing:
        _warn_of(str(missing))
        return []


@functools.cache
def _warn_of(missing: str) -> None:
    logger.warning(
        "The event store cannot close stale connections of PyMongo %s (%s). After a "
        "failover or a scan that timed out, operations may fail until the process "
        "restarts. Install an earlier PyMongo, and report this.",
        pymongo.version,
        missing,
    )


def drive(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that never suspends and return its result."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        result: T = stop.value
        return result
    coroutine.close()
    raise RuntimeError("A blocking operation tried to wait for an event loop.")


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


def has_large_pool(raw: Collection[Document] | AsyncCollection[Document]) -> bool:
    """Whether the pool is large enough for a scan to keep a connection checked out."""
    size = raw.database.client.options.pool_options.max_pool_size
    return not size or size >= LARGE_POOL


def encrypts(raw: Collection[Document] | AsyncCollection[Document]) -> bool:
    """Whether the client encrypts fields itself, so that raw batches are not read."""
    return raw.database.client.options.auto_encryption_opts is not None


class Piece(list[Document]):
    """Some documents of a batch, and how many bytes they had."""

    __slots__ = ("bytes",)
    bytes: int


def bytes_of(batch: list[Document]) -> int:
    """Return the bytes of a list that ``batches()`` yielded; 0 if they are unknown."""
    return getattr(batch, "bytes", 0)


def pieces(
    batch: list[Document] | bytes,
    raw: Collection[Document] | AsyncCollection[Document],
) -> Iterator[list[Document]]:
    """
    Yield a batch, decoded if it is raw: a large one in several lists.

    Each list but the last has ``PIECE_BYTES``, or little more.
    """
    if isinstance(batch, list):
        if batch:
            yield batch
        return
    view, at = memoryview(batch), 0
    while at < len(batch):
        end = len(batch) if len(batch) - at <= PIECE_BYTES else at
        while end - at < PIECE_BYTES and end < len(batch):
            end += _LENGTH.unpack_from(view, end)[0]  # a document begins with it
        piece = Piece(bson.decode_all(view[at:end], raw.codec_options))
        piece.bytes = end - at
        yield piece
        at = end


class Documents(Protocol):
    """
    A collection through either face.

    ``batches()`` and ``aggregate()`` are bounded a batch at a time, and with
    ``unbounded=True`` not at all. The server counts the time of all batches of a scan
    together, so say that of one that may be long and does not resume.
    """

    async def find_one(
        self, query: Filter, *, unbounded: bool = False, **options: Any
    ) -> Document | None: ...
    async def find(
        self, query: Filter, *, unbounded: bool = False, **options: Any
    ) -> list[Document]: ...
    def batches(
        self,
        query: Filter,
        size: int,
        *,
        pushed: bool = False,
        unbounded: bool = False,
        **options: Any,
    ) -> AsyncGenerator[list[Document], None]: ...
    def aggregate(
        self,
        pipeline: Sequence[Filter],
        size: int,
        *,
        unbounded: bool = False,
        **options: Any,
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
    async def count_where(
        self, query: Filter, *, unbounded: bool = False, **options: Any
    ) -> int: ...
    async def index_information(self) -> Mapping[str, Any]: ...
    async def create_index(
        self, keys: Any, *, unbounded: bool = False, **options: Any
    ) -> str: ...
    async def database_command(
        self, name: str, value: Any = 1, **options: Any
    ) -> Mapping[str, Any]: ...


class Done(Protocol[T_co]):
    """Work whose result can be taken once it is done."""

    def result(self) -> T_co: ...


class Client(Protocol):
    """A client through either face: sessions, transactions, commands, waiting."""

    async def either(
        self, blocking: Callable[[], T], awaitable: Callable[[], Awaitable[T]]
    ) -> T: ...
    async def command(self, name: str, **options: Any) -> Mapping[str, Any]: ...
    async def pause(self, seconds: float) -> None: ...
    def meanwhile(
        self, work: Coroutine[Any, Any, T]
    ) -> AbstractAsyncContextManager[Done[T]]: ...
    def session(self) -> AbstractAsyncContextManager[Any]: ...
    def snapshot_session(self) -> AbstractAsyncContextManager[Any]: ...
    def transaction(self, session: Any = None) -> AbstractAsyncContextManager[Any]: ...
    async def commit(self, session: Any) -> None: ...
    async def end_transaction(self, session_id: Any) -> None: ...
    async def in_transaction(
        self, collection: Documents, documents: Sequence[Any]
    ) -> None: ...
    async def find_after_all_writes(
        self, collection: Documents, query: Filter, **options: Any
    ) -> list[Document]: ...
