"""
Deadlines: each call of the driver has one, and ``in_time()`` sets one for several.

The ports use ``bound()`` for each call: it sets the setting ``TIMEOUT`` and lets
PyMongo's errors through. ``in_time()`` sets one deadline for everything inside, which
replaces those of the calls, and turns a server that does not answer into
``StoreUnavailable``. ``explained()`` only does the latter.
"""

from __future__ import annotations

import math
import time
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar
from types import BuiltinFunctionType
from typing import Any

import pymongo
from pymongo.errors import (
    ConnectionFailure,
    InvalidOperation,
    OperationFailure,
    PyMongoError,
)

from ..conf import get_settings
from ..documents.context.replaced_clock import check_clock
from ..exceptions import (
    StoreUnavailable,
    TransactionAborted,
    TransactionsUnavailable,
)
from .write_errors import (
    AUTHENTICATION_FAILED,
    ILLEGAL_OPERATION,
    Fault,
    classify,
    is_from_secondary,
    short_reason,
)

# PyMongo has the same for itself, but no public way to read it.
_deadline: ContextVar[float] = ContextVar("deadline", default=math.inf)

# Whether what runs now has joined a transaction that the caller began and will commit.
in_transaction_of_caller = ContextVar("in_transaction_of_caller", default=False)
# The transaction of the store in whose block this thread or task is, if any.
transaction_of_block: ContextVar[Any] = ContextVar("transaction_of_block", default=None)

_NO_BOUND = nullcontext()


def bound(unbounded: bool = False) -> AbstractContextManager[Any]:
    """
    Bound one call of the driver by the setting ``TIMEOUT``, or by ``in_time()``.

    PyMongo's errors are not explained, as those who retry have to tell them apart.

    Args:
        unbounded: let the call take as long as it takes; inside of ``in_time()`` it is
            bounded all the same.
    """
    if unbounded or _deadline.get() != math.inf:
        return _NO_BOUND
    if type(time.monotonic) is not BuiltinFunctionType:
        check_clock()
    return pymongo.timeout(get_settings().TIMEOUT)


class _Explained:
    # Classes, not generators: these two surround every operation.

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        if not isinstance(error, PyMongoError):
            return
        is_refusal = (
            isinstance(error, OperationFailure) and error.code == AUTHENTICATION_FAILED
        )
        # PyMongo raises the latter if Mongo.connect() or Mongo.close() closes a client
        # that another thread uses.
        is_gone = isinstance(error, (ConnectionFailure, InvalidOperation))
        # The driver raises no ConnectionFailure if only a write in a command failed.
        is_gone = is_gone or is_from_secondary(error)
        if in_transaction_of_caller.get():
            raise_if_aborted(error)
        if error.timeout or is_refusal or is_gone:
            raise StoreUnavailable(short_reason(error)) from error


def raise_if_aborted(error: PyMongoError) -> None:
    """
    Explain an error that ended a transaction of which nothing is stored.

    Raises:
        TransactionAborted: it may succeed if it is run again.
        TransactionsUnavailable: the server has no transactions.
    """
    if getattr(error, "code", None) == ILLEGAL_OPERATION:
        raise TransactionsUnavailable from None
    if not error.timeout and classify(error) is Fault.TRANSIENT:
        raise TransactionAborted(short_reason(error)) from error


class _InTime(_Explained):
    def __init__(self, most: float) -> None:
        self.most = most

    def __enter__(self) -> None:
        if type(time.monotonic) is not BuiltinFunctionType:
            check_clock()
        seconds = min(self.most, get_settings().TIMEOUT)
        end = min(_deadline.get(), time.monotonic() + seconds)
        self.token = _deadline.set(end)
        self.joined = in_transaction_of_caller.set(in_transaction_of_caller.get())
        self.limit = pymongo.timeout(seconds)
        self.limit.__enter__()

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        self.limit.__exit__(kind, error, traceback)
        _deadline.reset(self.token)
        try:
            super().__exit__(kind, error, traceback)
        finally:
            in_transaction_of_caller.reset(self.joined)


def explained() -> AbstractContextManager[None]:
    """Turn a server that does not answer into one short ``StoreUnavailable``."""
    return _Explained()


def in_time(most: float = math.inf) -> AbstractContextManager[None]:
    """
    Bound everything inside by the setting ``TIMEOUT``, and explain its errors.

    Args:
        most: seconds, if they are fewer than the setting's.
    """
    return _InTime(most)


def time_is_up() -> bool:
    """Whether the time of ``in_time()`` is over."""
    return time.monotonic() >= _deadline.get()


def let_time_be_up() -> None:
    """End the time of the ``in_time()`` around this now, for tests of what follows."""
    if _deadline.get() != math.inf:
        _deadline.set(-math.inf)
