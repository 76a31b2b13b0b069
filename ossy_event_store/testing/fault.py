"""
Let the next append meet a fault, so that a test can see what its caller does then.

Each is a context manager, for coroutines as well. What goes wrong, goes wrong between
the store and the driver: a write whose acknowledgement is lost has happened, another
writer really was first, and the store raises what it raises in production. They work
with any server, and only in this process, so the workers of a test run may share one.

Appends in a transaction of django-mongodb-backend are not affected: Django commits it.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import Context
from typing import Any, Self
from unittest import mock

from django.conf import settings
from django.test import override_settings
from pymongo.errors import AutoReconnect, NetworkTimeout

from ..conf import SETTING
from ..documents.bson_types import Document, Filter
from ..documents.catalogue.appending import as_event
from ..documents.collections import EVENTS
from ..documents.event_document import check_id
from ..event_store import EventStore
from ..mongodb import location
from ..mongodb.awaitable_port import AwaitableClient, AwaitableCollection
from ..mongodb.blocking_port import BlockingClient, BlockingCollection
from ..mongodb.deadline import let_time_be_up, time_is_up
from ..mongodb.ports import Client, Documents
from ..streams.new_events import Event
from .database import check_test_run

__all__ = ["away", "lost_acknowledgement", "outcome_unknown", "race"]

AWAY_SECONDS = 0.1  # until a server that is away is given up

# How the driver tells of a commit whose answer did not arrive.
_UNKNOWN_COMMIT = {"errorLabels": ["UnknownTransactionCommitResult"]}
_LOST = "connection closed by ossy_event_store.testing.fault"


@contextmanager
def lost_acknowledgement() -> Iterator[None]:
    """
    Lose the answer of the server to the next append, which has stored its events.

    The store finds out by itself: the append returns as if nothing had happened, and
    the events are stored once.

    Raises:
        AssertionError: nothing was appended in the block.
    """

    async def after(write: Callable[[], Any]) -> None:
        await write()

    with _next_append("lost_acknowledgement()", after):
        yield


@contextmanager
def outcome_unknown(*, stored: bool = True) -> Iterator[None]:
    """
    Let the next append raise ``OutcomeUnknown``: no answer, and then the time is up.

    Later appends in the block work, so that of an event with the same ``id`` finds out.

    Args:
        stored: whether its events are stored.

    Raises:
        AssertionError: nothing was appended in the block.
    """

    async def after(write: Callable[[], Any]) -> None:
        if stored:
            await write()
        let_time_be_up()

    def find(real: Any) -> Any:
        async def find_after_all_writes(
            self: Client, collection: Documents, query: Filter, **options: Any
        ) -> list[Document]:
            if time_is_up():
                raise NetworkTimeout(_LOST)
            found: list[Document] = await real(self, collection, query, **options)
            return found

        return find_after_all_writes

    with (
        _wrapped((BlockingClient, AwaitableClient), "find_after_all_writes", find),
        _next_append("outcome_unknown()", after),
    ):
        yield


@contextmanager
def race(stream: str, event: Event) -> Iterator[None]:
    """
    Let another writer append to a stream just before the next append to it.

    An append with an expected version, and so ``Aggregate.add()``, raises
    ``ConcurrencyError``; one without, and ``execute()``, try again and come second.

    Args:
        stream: the ``aggregateId``.
        event: what the other one appends, as for ``EventStore.append_event()``, whose
            ``aggregateType`` is by default that of the append which loses.

    Raises:
        AssertionError: nothing was appended to the stream in the block.
    """
    check_test_run("race()")
    check_id(stream, "stream")
    met = _Once("race()", f"appended to {stream!r}")

    async def be_first(port: Any, documents: Sequence[Any]) -> None:
        if port.raw.name != EVENTS:
            return
        own = next((one for one in documents if one["aggregateId"] == stream), None)
        if own is not None and met.is_first():
            await _append_as_another(port, {**_stream_of(own), **_dict_of(event)}, own)

    def one(real: Any) -> Any:
        async def insert_one(self: Any, document: Any, **options: Any) -> None:
            await be_first(self, [document])
            await real(self, document, **options)

        return insert_one

    def many(real: Any) -> Any:
        async def insert_many(self: Any, documents: Any, **options: Any) -> None:
            await be_first(self, documents)
            await real(self, documents, **options)

        return insert_many

    ports = (BlockingCollection, AwaitableCollection)
    with met, _wrapped(ports, "insert_one", one), _wrapped(ports, "insert_many", many):
        yield


@contextmanager
def away() -> Iterator[None]:
    """
    Let no server answer in the block: what the store does raises ``StoreUnavailable``.

    The store connects to a port at which nothing listens. Django's own models in
    MongoDB are not affected.
    """
    check_test_run("away()")
    with socket.socket() as taken:  # nothing else can listen there meanwhile
        taken.bind(("127.0.0.1", 0))
        before = location.use(f"mongodb://127.0.0.1:{taken.getsockname()[1]}/")
        options = {**getattr(settings, SETTING, {}), "TIMEOUT": AWAY_SECONDS}
        try:
            with override_settings(**{SETTING: options}):
                yield
        finally:
            location.use(before)


def _stream_of(document: Document) -> Document:
    return {name: document[name] for name in ("aggregateId", "aggregateType")}


def _dict_of(event: Event) -> Document:
    found = as_event(event)
    if not isinstance(found, Mapping):
        raise TypeError(
            "event must be a dict, or an object of a class with @event, not "
            f"{type(event).__name__}."
        )
    return dict(found)


async def _append_as_another(port: Any, event: Document, own: Document) -> None:
    """Append an event in a context of its own, where the version of ``own`` is next."""
    expected = own["aggregateVersion"] - 1

    def blocking() -> None:
        context = Context()
        context.run(EventStore.append_event, event, expected_version=expected)

    async def awaitable() -> None:
        work = EventStore.aappend_event(event, expected_version=expected)
        await asyncio.create_task(work, context=Context())

    await port.client.either(blocking, awaitable)


# --- the rim ----------------------------------------------------------------


class _Once:
    """Lets a fault happen once, and complains if it never did."""

    def __init__(self, what: str, where: str) -> None:
        self._complaint = f"fault.{what} changed nothing: nothing was {where} in it."
        self._happened = False

    def is_first(self) -> bool:
        first, self._happened = not self._happened, True
        return first

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        if error is None and not self._happened:
            raise AssertionError(self._complaint)


@contextmanager
def _wrapped(
    ports: Sequence[type], name: str, wrapper: Callable[[Any], Any]
) -> Iterator[None]:
    """Wrap a method of the ports; it is a coroutine function in both faces."""
    with ExitStack() as stack:
        for port in ports:
            real = getattr(port, name)
            stack.enter_context(mock.patch.object(port, name, wrapper(real)))
        yield


class _NextAppend(_Once):
    """
    Lets the answer to the next append not arrive.

    Args:
        what: the name of the fault.
        instead: called with the write, which it may await.
    """

    def __init__(
        self, what: str, instead: Callable[[Callable[[], Any]], Awaitable[None]]
    ) -> None:
        super().__init__(what, "appended")
        self._instead = instead
        self._with_events: set[int] = set()  # sessions whose commit is an append's

    def one(self, real: Any) -> Any:
        """Wrap the method that stores an event without a transaction."""

        async def insert_one(port: Any, document: Any, **options: Any) -> None:
            if port.raw.name == EVENTS and port.session is None and self.is_first():
                await self._instead(lambda: real(port, document, **options))
                raise AutoReconnect(_LOST)
            await real(port, document, **options)

        return insert_one

    def many(self, real: Any) -> Any:
        """Wrap the method that stores events in a transaction."""

        async def insert_many(port: Any, documents: Any, **options: Any) -> None:
            if port.raw.name == EVENTS:
                self._with_events.add(id(options.get("session") or port.session))
            await real(port, documents, **options)

        return insert_many

    def commit(self, real: Any) -> Any:
        """Wrap the method that commits."""

        async def commit(port: Any, session: Any) -> None:
            if id(session) in self._with_events and self.is_first():
                await self._instead(lambda: real(port, session))
                raise AutoReconnect(_LOST, _UNKNOWN_COMMIT)
            await real(port, session)

        return commit


@contextmanager
def _next_append(
    what: str, instead: Callable[[Callable[[], Any]], Awaitable[None]]
) -> Iterator[None]:
    """Let the answer to the next append not arrive; see ``_NextAppend``."""
    check_test_run(what)
    collections = (BlockingCollection, AwaitableCollection)
    clients = (BlockingClient, AwaitableClient)
    with (
        _NextAppend(what, instead) as wrap,
        _wrapped(collections, "insert_one", wrap.one),
        _wrapped(collections, "insert_many", wrap.many),
        _wrapped(clients, "commit", wrap.commit),
    ):
        yield
