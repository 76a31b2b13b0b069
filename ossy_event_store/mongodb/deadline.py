"""
The deadline of what is at work, and the errors of a server that does not answer.
"""

from __future__ import annotations

import math
import time
from contextlib import AbstractContextManager
from contextvars import ContextVar
from typing import Any

import pymongo
from pymongo.errors import ConnectionFailure, PyMongoError

from ..conf import get_settings
from ..exceptions import StoreUnavailable
from .write_errors import short_reason

# PyMongo has the same for itself, but no public way to read it.
_deadline: ContextVar[float] = ContextVar("deadline", default=math.inf)


class _Explained:
    # Classes, not generators: these two surround every operation.

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        if isinstance(error, PyMongoError) and (
            error.timeout or isinstance(error, ConnectionFailure)
        ):
            raise StoreUnavailable(short_reason(error)) from None


class _InTime(_Explained):
    def __init__(self, most: float) -> None:
        self.most = most

    def __enter__(self) -> None:
        seconds = min(self.most, get_settings().TIMEOUT)
        end = min(_deadline.get(), time.monotonic() + seconds)
        self.token = _deadline.set(end)
        self.limit = pymongo.timeout(seconds)
        self.limit.__enter__()

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        self.limit.__exit__(kind, error, traceback)
        _deadline.reset(self.token)
        super().__exit__(kind, error, traceback)


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
