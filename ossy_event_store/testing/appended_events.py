"""
What was appended while a block ran, in the order of the commits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, overload

from asgiref.sync import sync_to_async
from django.core.exceptions import ImproperlyConfigured

from ..documents.bson_types import Document
from ..documents.event_document import read_event
from ..mongodb import connection
from ..mongodb.connection import raw
from ..mongodb.deadline import explained
from ..positions.change_stream import ChangeStream
from .database import check_test_run, token_of_now
from .matching import diff, pattern_of

IDS_PER_READ = 1000


class AppendedEvents(Sequence[Document]):
    """
    The events of a block; ``appended()`` fills it when the block ends.

    It equals a list of what is expected, as ``event()``, objects of classes with
    ``@event``, dicts, or types, in the same order and number.
    """

    __hash__ = None  # type: ignore[assignment]

    def __init__(self, events: Sequence[Document] | None = None) -> None:
        self._events = None if events is None else list(events)

    @property
    def events(self) -> list[Document]:
        """
        The events as they are stored.

        Raises:
            RuntimeError: the block has not ended.
        """
        if self._events is None:
            raise RuntimeError(
                "The log of appended() is filled when its block ends. Look at it after "
                "the block."
            )
        return list(self._events)

    @property
    def types(self) -> list[str]:
        """The types of the events."""
        return [one["type"] for one in self.events]

    def only(self, *types: Any) -> AppendedEvents:
        """Return those of some types: names, or classes with ``@event``."""
        names = {pattern_of(one).type for one in types}
        return AppendedEvents([one for one in self.events if one["type"] in names])

    def difference(self, expected: Sequence[Any]) -> str:
        """Return how the events differ from what is expected; "" if they do not."""
        return diff(expected, self.events)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, AppendedEvents):
            return self.events == other.events
        if isinstance(other, (list, tuple)):
            return not self.difference(other)
        return NotImplemented

    @overload
    def __getitem__(self, at: int) -> Document: ...
    @overload
    def __getitem__(self, at: slice) -> AppendedEvents: ...
    def __getitem__(self, at: int | slice) -> Document | AppendedEvents:
        if isinstance(at, slice):
            return AppendedEvents(self.events[at])
        return self.events[at]

    def __len__(self) -> int:
        return len(self.events)

    def __iter__(self) -> Iterator[Document]:
        return iter(self.events)

    def __repr__(self) -> str:
        if self._events is None:
            return "<the events of a block that has not ended>"
        return repr([pattern_of(_as_given(one)) for one in self._events])


def _as_given(stored: Document) -> Document:
    return {"type": stored["type"], "payload": stored.get("payload")}


class appended:  # noqa: N801 - reads as the function that it is for its callers
    """
    Note what is appended in a block: ``with appended() as log:``.

    Everything counts that was committed between its start and its end: by any call of
    this process or another one, in any thread, in either face. In a coroutine, write
    ``async with``.

    Raises:
        ImproperlyConfigured: no tests run in this process, or the server is
            standalone.
    """

    # The server's change stream is in the order of the commits. Neither `created` nor
    # `_id` is, and positions are assigned only where subscriptions run.

    def __enter__(self) -> AppendedEvents:
        check_test_run("appended()")
        self._log = AppendedEvents()
        self._start = token_of_now(connection.blocking())
        if self._start is None:
            raise ImproperlyConfigured(
                "appended() needs a replica set, and this server is standalone. Use "
                "embedded:// for tests, or start mongod with --replSet."
            )
        return self._log

    def __exit__(self, *error: object) -> None:
        self._log._events = _events_since(self._start)

    async def __aenter__(self) -> AppendedEvents:
        return await sync_to_async(self.__enter__)()

    async def __aexit__(self, *error: object) -> None:
        await sync_to_async(self.__exit__)()


def _events_since(token: object) -> list[Document]:
    events = raw(connection.blocking().events)
    ids: list[Any] = []
    found: dict[Any, Document] = {}
    # Without a deadline: as long as one runs, the driver lets the server wait for more
    # changes until it is over.
    with explained():
        changes = ChangeStream(events, token)
        try:
            while some := changes.fetch(0.0):
                ids += [document["_id"] for document, _ in some]
        finally:
            changes.close()
        for at in range(0, len(ids), IDS_PER_READ):
            some_ids = {"_id": {"$in": ids[at : at + IDS_PER_READ]}}
            found.update((one["_id"], read_event(one)) for one in events.find(some_ids))
    return [found[one] for one in ids if one in found]
