"""
Repeat an append that lost a race on its stream.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

from pymongo.errors import PyMongoError

from ...conf import get_settings
from ...exceptions import ConcurrencyError
from ...mongodb.connection import Store

T = TypeVar("T")


async def until_won(
    store: Store,
    aggregate_id: str,
    attempt_once: Callable[[], Awaitable[T]],
    most: int | None = None,
) -> T:
    """
    Repeat an attempt after each race that it lost on the stream.

    Args:
        store: one face of the store; the caller bounds the time.
        aggregate_id: the stream; a race lost on another stream is not repeated.
        attempt_once: reads where the stream ends, and appends there.
        most: how often to try at most; None until the time is up.

    Raises:
        ConcurrencyError: of the last race, when attempts or time are used up; at
            once inside the caller's transaction, which a lost race aborts.
    """
    lost: ConcurrencyError | None = None
    ticket = store.turns.place(aggregate_id, get_settings().TIMEOUT / 4)
    try:
        if ticket.is_wanted:
            await ticket.take()
        for attempt in attempts():
            try:
                return await attempt_once()
            except ConcurrencyError as error:
                is_this_stream = error.aggregate_id == aggregate_id
                if not is_this_stream or store.outside or attempt == most:
                    raise
                lost = error
            except PyMongoError as error:
                if lost is not None and error.timeout:
                    raise lost from None
                raise
            if not await ticket.take():  # the rivals are other processes
                await pause_before(store, attempt)
    finally:
        ticket.leave()
    raise AssertionError("unreachable")  # pragma: no cover


def attempts() -> Iterable[int]:
    """Count the attempts, until the caller's time is up."""
    attempt = 0
    while True:
        attempt += 1
        yield attempt


async def pause_before(store: Store, attempt: int) -> None:
    """Pause before the attempt after this one."""
    await store.client.pause(_backoff(attempt))


def _backoff(attempt: int) -> float:
    """Return the seconds to wait: jittered, doubling from 5 ms to 0.5 s."""
    return random.uniform(0.5, 1) * min(0.5, 0.005 * 2.0 ** min(attempt, 10))  # noqa: S311
