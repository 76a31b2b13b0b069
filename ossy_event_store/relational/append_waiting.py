"""
Append the event of a row of the outbox: one try, and what its failure means.
"""

from __future__ import annotations

import enum
import logging
import math
from typing import TYPE_CHECKING, Any

from django.core.exceptions import ImproperlyConfigured
from pymongo.errors import OperationFailure, PyMongoError

from ..documents.context.event_context import event_context
from ..documents.masking import mask
from ..exceptions import (
    ConcurrencyError,
    IndexMissing,
    OutcomeUnknown,
    StoreUnavailable,
)
from ..mongodb import connection
from ..mongodb.deadline import in_time
from ..mongodb.ports import drive
from ..mongodb.write_errors import Fault, classify, short_reason
from ..streams.append import append_at
from ..streams.new_events import raw_events
from . import outbox

if TYPE_CHECKING:
    from .models import Outbox

logger = logging.getLogger("ossy_event_store")

DOCUMENT_VALIDATION_FAILURE = 121
# Not the fault of an event: the same append succeeds later.
_PASSING = (
    ConcurrencyError,
    ImproperlyConfigured,
    IndexMissing,
    MemoryError,
    OutcomeUnknown,
    StoreUnavailable,
)


class Outcome(enum.Enum):
    """What became of a try."""

    APPENDED = "the event is stored, and the row deleted"
    NOT_TRIED = "another row comes first, or another process is at work on it"
    PARKED = "the event cannot be stored as it is"
    DELAYED = "a later try may succeed"
    AWAY = "MongoDB is away: so it is for all other rows"


def try_to_append(using: str, number: int, seconds: float = math.inf) -> Outcome:
    """
    Append the event of a row, if its turn has come, and delete the row.

    Args:
        using: the alias of the database.
        number: the row.
        seconds: how long MongoDB may take, if less than the setting ``TIMEOUT``.

    Raises:
        django.db.Error: the SQL database failed; the row is still there.
    """
    with outbox.claimed(using, number) as row:
        if row is None:
            return Outcome.NOT_TRIED
        try:
            _append(row, seconds)
        except Exception as error:
            outcome = _outcome_of(error)
            _record(using, row, outcome, error)
            return outcome
        outbox.remove(using, row)
    return Outcome.APPENDED


def _record(using: str, row: Outbox, outcome: Outcome, error: Exception) -> None:
    is_parked = outcome is Outcome.PARKED
    reason = f"{type(error).__name__}: {_readable(error)}"
    outbox.record_failure(using, row, reason, park=is_parked)
    if is_parked:
        logger.error("Parked in the outbox of %s: %s. %s", using, row, reason)
    elif outcome is Outcome.DELAYED:
        logger.warning("Delayed in the outbox of %s: %s. %s", using, row, reason)


def _append(row: Outbox, seconds: float) -> None:
    event, context = outbox.kept_event(row)
    with event_context.carried(context):
        documents, _ = raw_events([event], None, is_encoded=True)
    store: Any = connection.blocking()
    # Not within a transaction of the caller's on MongoDB, which may be rolled back.
    store = store.outside or store
    with in_time(seconds):
        drive(append_at(store, documents, None))


def _outcome_of(error: Exception) -> Outcome:
    if isinstance(error, (StoreUnavailable, OutcomeUnknown)):
        return Outcome.AWAY
    if isinstance(error, PyMongoError):
        if classify(error) in (Fault.UNKNOWN, Fault.UNSENT):
            return Outcome.AWAY
        is_refused = (
            isinstance(error, OperationFailure)
            and error.code == DOCUMENT_VALIDATION_FAILURE
        )
        return Outcome.PARKED if is_refused else Outcome.DELAYED
    return Outcome.DELAYED if isinstance(error, _PASSING) else Outcome.PARKED


def _readable(error: Exception) -> str:
    """Return the message of an error as any SQL database can store it."""
    text = mask(short_reason(error)).replace("\0", "\\0")
    return text.encode("utf-8", "backslashreplace").decode()
