"""
What ``EventStore.transaction()`` returns.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Any, NoReturn

from ...documents.arguments import check_number
from ...documents.event_document import check_id
from ...exceptions import InvalidTransaction
from ...mongodb import connection
from ...mongodb.ports import drive
from .unit_of_work import UnitOfWork, open_unit


class Transaction:
    """
    An open transaction of the event store.

    It ends with its block: with a commit, or with a rollback if the block raises. Do
    not share it between threads or tasks.
    """

    def __init__(self, unit: UnitOfWork) -> None:
        self._unit = unit

    @property
    def session(self) -> Any:
        """Its session of PyMongo, for the calls that take part in it."""
        return self._unit.session

    @property
    def database(self) -> Any:
        """The database of the store, for documents of your own."""
        events: Any = self._unit.outside.events
        return events.raw.database

    def unchanged(self, subject: Any, version: int | None = None) -> None:
        """
        Let the transaction commit only if a stream is where it was read.

        Args:
            subject: an ``Aggregate``, or the id of a stream. A stream to which the
                transaction appends is checked anyway.
            version: with an id, the version of the stream's last event; 0 if the
                stream must not exist.

        Raises:
            InvalidTransaction: the transaction has ended.
        """
        if isinstance(subject, str):
            stream = check_id(subject, "subject")
            number = check_number(version, "version")
        else:
            stream, number = _read(subject, version)
        if not self._unit.is_open:
            raise InvalidTransaction(
                "The transaction has ended; unchanged() has to be inside its block."
            )
        end = self._unit.ends.get(stream)
        if end is not None and end["aggregateVersion"] == number:
            return  # the transaction itself has appended the last events
        known = self._unit.unchanged.setdefault(stream, number)
        if known != number:
            raise InvalidTransaction(
                f"Stream {stream!r} cannot be at version {known} and at version "
                f"{number}: it was read at two times. Run the transaction again."
            )

    def __repr__(self) -> str:
        state = "open" if self._unit.is_open else "ended"
        return f"<Transaction {state}>"


def _read(subject: Any, version: Any) -> tuple[str, int]:
    stream = getattr(subject, "id", None)
    number = getattr(subject, "version", None)
    if not isinstance(stream, str) or not isinstance(number, int):
        raise TypeError(
            "subject must be an Aggregate or the id of a stream, not "
            f"{type(subject).__name__}."
        )
    if version is not None:
        raise TypeError("version must be left out: the aggregate has its own.")
    return stream, number


class BlockingTransaction:
    """The context manager of the blocking face."""

    def __init__(self) -> None:
        self._opened: AbstractAsyncContextManager[UnitOfWork] | None = None

    def __enter__(self) -> Transaction:
        _refuse_second(self._opened)
        self._opened = open_unit(connection.blocking())
        return Transaction(drive(self._opened.__aenter__()))

    def __exit__(self, kind: Any, error: Any, trace: Any) -> bool | None:
        assert self._opened is not None  # noqa: S101 - for the type checker
        return drive(_exit(self._opened, kind, error, trace))

    async def __aenter__(self) -> NoReturn:
        raise TypeError(
            "transaction() is of the blocking face; write async with "
            "EventStore.atransaction()."
        )

    async def __aexit__(self, *_: object) -> None:
        """Never called."""


class AwaitableTransaction:
    """The context manager of the awaitable face."""

    def __init__(self) -> None:
        self._opened: AbstractAsyncContextManager[UnitOfWork] | None = None

    async def __aenter__(self) -> Transaction:
        _refuse_second(self._opened)
        self._opened = open_unit(await connection.awaitable())
        return Transaction(await self._opened.__aenter__())

    async def __aexit__(self, kind: Any, error: Any, trace: Any) -> bool | None:
        assert self._opened is not None  # noqa: S101 - for the type checker
        return await self._opened.__aexit__(kind, error, trace)

    def __enter__(self) -> NoReturn:
        raise TypeError(
            "atransaction() is of the awaitable face; write with "
            "EventStore.transaction()."
        )

    def __exit__(self, *_: object) -> None:
        """Never called."""


async def _exit(
    opened: AbstractAsyncContextManager[UnitOfWork], kind: Any, error: Any, trace: Any
) -> bool | None:
    return await opened.__aexit__(kind, error, trace)


def _refuse_second(opened: object) -> None:
    if opened is not None:
        raise InvalidTransaction(
            "This transaction was begun before. Call transaction() for each block."
        )
