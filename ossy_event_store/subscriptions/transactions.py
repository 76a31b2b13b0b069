"""
Transactions around somebody else's code, and what its errors say of the event.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from typing import Any

from pymongo.errors import ConfigurationError, ConnectionFailure, PyMongoError

from ..exceptions import OutcomeUnknown, StoreUnavailable
from ..mongodb.connection import Store
from ..mongodb.deadline import in_time
from ..mongodb.write_errors import Fault, classify

TRIES = 10  # of a transaction that met another one


class HandlerFailed(Exception):
    """What the handler raised, ``error``, at one event or at one of several."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(error)
        self.error = error


class DatabaseAway(Exception):
    """The handler raised since a database is away; that is not the event's fault."""


def is_away(error: BaseException) -> bool:
    """Whether an error says that MongoDB did not answer, and nothing of the event."""
    if isinstance(error, (StoreUnavailable, OutcomeUnknown, DatabaseAway)):
        return True
    if isinstance(error, (ConnectionFailure, ConfigurationError)):
        return True
    return isinstance(error, PyMongoError) and (
        classify(error) in (Fault.UNKNOWN, Fault.UNSENT)
    )


def is_overtaken(error: BaseException) -> bool:
    """Whether a transaction met another one, and may be tried again."""
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
    Run ``work()`` in a transaction of ``session``, again if it met another one.

    Args:
        store: one face of the store.
        session: a session of it.
        work: what to do; it may run several times.
        again: called before it runs once more; what it raises ends it.
        handler: whether ``work`` calls a handler, which is then blamed if the
            transaction meets others again and again.

    Raises:
        HandlerFailed: from ``work``, or the handler is blamed.
    """
    for attempt in range(1, TRIES + 1):
        try:
            with ExitStack() as until_the_end:
                async with store.client.transaction(session):
                    await work()
                    # The commit is bounded; a handler takes the time it takes.
                    until_the_end.enter_context(in_time())
            return
        except PyMongoError as error:
            if is_away(error) or not is_overtaken(error):
                raise
            if attempt == TRIES:
                if not handler:
                    raise
                raise HandlerFailed(error) from error
        await store.client.pause(0.005 * attempt)
        if again is not None:
            await again()
