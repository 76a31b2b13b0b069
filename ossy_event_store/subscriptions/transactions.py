"""
Transactions around a handler: when to retry them, and whether the event is to blame.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from typing import Any

from pymongo.errors import ConfigurationError, ConnectionFailure, PyMongoError

from ..exceptions import (
    ConcurrencyError,
    OutcomeUnknown,
    StoreUnavailable,
    TransactionAborted,
)
from ..mongodb.connection import Store
from ..mongodb.deadline import in_time
from ..mongodb.write_errors import Fault, classify

TRANSACTION_TRIES = 10  # of a transaction that conflicts with others


class HandlerFailed(Exception):
    """
    The handler raised ``error`` at an event, or at one of several.

    ``done`` events before that one are delivered; 0 if it is not known which one.
    """

    def __init__(self, error: BaseException, done: int = 0) -> None:
        super().__init__(error, done)
        self.error = error
        self.done = done


class DatabaseAway(Exception):
    """A database is away; the event is not to blame."""


def is_away(error: BaseException) -> bool:
    """Whether an error means that a database is away; the event is not to blame."""
    if isinstance(error, TransactionAborted):
        return False
    if isinstance(error, (StoreUnavailable, OutcomeUnknown, DatabaseAway)):
        return True
    if isinstance(error, (ConnectionFailure, ConfigurationError)):
        return True
    return isinstance(error, PyMongoError) and (
        classify(error) in (Fault.UNKNOWN, Fault.UNSENT)
    )


def is_overtaken(error: BaseException) -> bool:
    """Whether a transaction conflicted with another one and may be tried again."""
    if isinstance(error, (ConcurrencyError, TransactionAborted)):
        return True  # an append of the handler that joined it
    return isinstance(error, PyMongoError) and classify(error) is Fault.TRANSIENT


async def in_transaction(
    store: Store,
    session: Any,
    work: Callable[[], Awaitable[None]],
    again: Callable[[], Awaitable[None]] | None = None,
    *,
    handler: bool = False,
) -> None:
    """
    Run ``work()`` in a transaction of ``session``; try again if it conflicts.

    Args:
        store: one face of the store.
        session: a session of it.
        work: what to do; it may run several times.
        again: called before each further try; an error that it raises ends the tries.
        handler: whether ``work`` calls a handler, which is to blame if the last try
            conflicts as well.

    Raises:
        HandlerFailed: ``work`` raised it, or the handler is to blame.
    """
    for attempt in range(1, TRANSACTION_TRIES + 1):
        try:
            with ExitStack() as until_the_end:
                async with store.client.transaction(session):
                    await work()
                    # The commit is bounded; a handler takes the time it takes.
                    until_the_end.enter_context(in_time())
            return
        except (PyMongoError, ConcurrencyError, TransactionAborted) as error:
            if is_away(error) or not is_overtaken(error):
                raise
            if attempt == TRANSACTION_TRIES:
                if not handler:
                    raise
                raise HandlerFailed(error) from error
        await store.client.pause(0.005 * attempt)
        if again is not None:
            await again()
