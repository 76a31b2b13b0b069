"""
Call a handler, and tell an event that fails from a database that is away.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from asgiref.sync import sync_to_async
from django.db import connections

from ...documents.bson_types import Document
from ...documents.catalogue.objects import stored_events
from ...documents.catalogue.reading import current_events
from ...documents.context.current import active, context_of
from ...streams.reducers import pass_on_what_ends
from ..declaration import Subscription
from ..transactions import HandlerFailed, is_away, is_overtaken


async def call(
    declared: Subscription,
    handle: Callable[..., Any],
    is_async: bool,
    event: Document,
    *more: Any,
) -> None:
    """
    Call a handler with what a stored event is at the version that the code knows.

    It runs in the context of the event. Upcasters may make several events of it, or
    none.

    Args:
        declared: the subscription.
        handle: its handler.
        is_async: whether to await it.
        event: as stored.
        more: arguments after the event.

    Raises:
        HandlerFailed: the handler or an upcaster raised an error.
        PyMongoError, StoreUnavailable: MongoDB is away; the event is not to blame.
    """
    try:
        events = current_events(declared, [event])
        with active(context_of(event)), stored_events(events):
            for one in events:
                result = handle(one, *more)
                if is_async:
                    await result
                else:
                    _check_result(result)
    except BaseException as error:
        pass_on_what_ends(error)
        await _drop_broken_connections(is_async)
        # A transaction that conflicts with another one is tried again in full.
        if is_away(error) or (more and is_overtaken(error)):
            raise
        raise HandlerFailed(error) from error


def _check_result(result: Any) -> None:
    if inspect.iscoroutine(result) or inspect.isgenerator(result):
        result.close()
        raise TypeError(
            f"The handler returned a {type(result).__name__}, which was not run. "
            "Write a coroutine function, or a function that does the work itself."
        )


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
        # Only those that failed: a test may not even ask the others.
        if connection.errors_occurred and not connection.in_atomic_block:
            # Inside an atomic block, it would be rolled back.
            connection.close_if_unusable_or_obsolete()
