"""
Run a transaction again after it lost a race.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from ...documents.arguments import check_number
from ...exceptions import ConcurrencyError, StoreUnavailable, TransactionAborted
from ...mongodb.connection import Store
from ...mongodb.deadline import time_is_up
from ..races.repeating import attempts, pause_before
from .transaction import Transaction
from .unit_of_work import open_unit

T = TypeVar("T")


async def until_committed(
    store: Store,
    once: Callable[[], Awaitable[T]],
    most: int | None = None,
    is_lost: Callable[[StoreUnavailable | ConcurrencyError], bool] = lambda error: True,
) -> T:
    """
    Repeat an attempt after each race that its transaction lost.

    Args:
        store: one face of the store; the caller bounds the time.
        once: one attempt.
        most: how often at most; None until the time is up.
        is_lost: whether another attempt may succeed after an error.

    Raises:
        ConcurrencyError, TransactionAborted: of the last attempt.
    """
    lost: StoreUnavailable | ConcurrencyError | None = None
    for attempt in attempts():
        try:
            return await once()
        except (ConcurrencyError, TransactionAborted) as error:
            if attempt == most or time_is_up() or not is_lost(error):
                raise
            lost = error
        except StoreUnavailable:
            if lost is not None and time_is_up():
                raise lost from None
            raise
        await pause_before(store, attempt)
    raise AssertionError("unreachable")  # pragma: no cover


class Work:
    """One call of ``in_transaction()``: its checked arguments."""

    def __init__(self, work: Any, most: int | None, *, is_async: bool) -> None:
        if not callable(work):
            raise TypeError(f"work must be a function, not {type(work).__name__}.")
        if inspect.iscoroutinefunction(work) and not is_async:
            raise TypeError(
                "work must be a plain function, not a coroutine function; await "
                "ain_transaction() for that."
            )
        if most is not None:
            check_number(most, "attempts", 1)
        self.work = work
        self.most = most
        self.is_async = is_async

    async def run(self, store: Store) -> Any:
        """Return what the work returns, once its transaction is committed."""
        return await until_committed(store, lambda: self._once(store), self.most)

    async def _once(self, store: Store) -> Any:
        async with open_unit(store) as unit:
            result = self.work(Transaction(unit))
            if self.is_async and inspect.isawaitable(result):
                return await result
            if inspect.iscoroutine(result) or inspect.isgenerator(result):
                result.close()
                raise TypeError(
                    f"work returned a {type(result).__name__}, which was not run. "
                    "Write a function that does the work itself."
                )
            return result
