"""
Call a handler, and tell an event that fails from a database that is away.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from asgiref.sync import sync_to_async
from django.db import connections

from ...documents.context.current import active, context_of
from ...streams.reducers import pass_on_what_ends
from ..transactions import HandlerFailed, is_away, is_overtaken


async def call(handle: Callable[..., Any], is_async: bool, *arguments: Any) -> None:
    """
    Call a handler, in the context of the event that it handles.

    Raises:
        HandlerFailed: the handler raised an error.
        PyMongoError, StoreUnavailable: MongoDB is away; the event is not to blame.
    """
    try:
        with active(context_of(arguments[0])):
            result = handle(*arguments)
            if is_async:
                await result
        if is_async:
            return
        if inspect.iscoroutine(result) or inspect.isgenerator(result):
            result.close()
            raise TypeError(
                f"The handler returned a {type(result).__name__}, which was not run. "
                "Write a coroutine function, or a function that does the work itself."
            )
    except BaseException as error:
        pass_on_what_ends(error)
        await _drop_broken_connections(is_async)
        # A transaction that conflicts with another one is tried again in full.
        if is_away(error) or (len(arguments) > 1 and is_overtaken(error)):
            raise
        raise HandlerFailed(error) from error


async def _drop_broken_connections(is_async: bool) -> None:
    """Let the next try open a new connection to a database that was restarted."""
    if is_async:
        # In the thread in which Django's ORM works for coroutines.
        await sync_to_async(close_broken_connections)()
    else:
        close_broken_connections()


def close_broken_connections() -> None:
    """Close this thread's connections to SQL databases that went away."""
    for connection in connections.all(initialized_only=True):
        if not connection.in_atomic_block:  # else it would be rolled back
            connection.close_if_unusable_or_obsolete()
