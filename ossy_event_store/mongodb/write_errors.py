"""
What an error of the driver says about a write.

Decided by codes, labels and ``keyPattern``, never by the text of a message.
The distinctions follow experiments with real servers: an acknowledgement that
got lost, a write concern that timed out and a plain race look alike at first.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from typing import Any

from pymongo.errors import (
    BulkWriteError,
    ConfigurationError,
    ConnectionFailure,
    DuplicateKeyError,
    ExecutionTimeout,
    OperationFailure,
    PyMongoError,
    ServerSelectionTimeoutError,
    WriteConcernError,
)

UNAUTHORIZED = 13
FAILED_VALIDATION = 121
DUPLICATE_KEY = 11000
MAX_TIME_EXPIRED = 50
# HostUnreachable, HostNotFound, NetworkTimeout, ExceededTimeLimit, SocketException:
# the driver repeats these, and what it gave up on may be there.
LOST_ON_THE_WAY = frozenset({6, 7, 89, 262, 9001})
# WriteConflict, TemporarilyUnavailable: outside of a transaction without a label.
TOO_BUSY = frozenset({112, 365})
# The member is primary no more. In an error of the command the driver makes a
# ConnectionFailure of these; in one of a single write it does not.
NOT_PRIMARY = frozenset({91, 189, 10058, 10107, 11600, 11602, 13435, 13436})
ILLEGAL_OPERATION = 20
TRANSACTION_UNSUPPORTED = 263


class Fault(enum.Enum):
    """What a failed write may have left behind."""

    DUPLICATE = "an index refused it: a race lost, or an earlier try of our own"
    UNKNOWN = "it may or may not be stored"
    TRANSIENT = "nothing is stored, and a new try may succeed"
    UNSENT = "no server was found, so nothing was sent"
    FATAL = "nothing is stored, and a new try would fail the same way"


def classify(error: PyMongoError) -> Fault:
    """Return what ``error``, raised by an insert or a transaction, leaves behind."""
    if key_pattern(error) is not None:
        return Fault.DUPLICATE
    if error.has_error_label("UnknownTransactionCommitResult"):
        return Fault.UNKNOWN
    if isinstance(error, ServerSelectionTimeoutError):
        # A retry that finds no server raises the error of the first try instead,
        # so this one always means that nothing went out. In a transaction it is
        # labelled as transient as well, but there is nobody to try again with.
        return Fault.UNSENT
    if error.has_error_label("TransientTransactionError"):
        return Fault.TRANSIENT
    if isinstance(error, OperationFailure) and error.code in TOO_BUSY:
        return Fault.TRANSIENT
    if isinstance(error, ConfigurationError):
        # A connection without sessions, opened while its member had no role.
        return Fault.TRANSIENT
    if _may_be_stored(error):
        return Fault.UNKNOWN
    return Fault.FATAL


def _may_be_stored(error: PyMongoError) -> bool:
    if error.timeout or isinstance(error, (ConnectionFailure, WriteConcernError)):
        return True
    if isinstance(error, BulkWriteError):
        # Only a write concern failed: every document is there, perhaps not for good.
        details = error.details or {}
        return not details.get("writeErrors") and bool(
            details.get("writeConcernErrors")
        )
    if isinstance(error, ExecutionTimeout):
        return True
    return isinstance(error, OperationFailure) and (
        error.code == MAX_TIME_EXPIRED
        or error.code in LOST_ON_THE_WAY
        or error.code in NOT_PRIMARY
    )


def key_pattern(error: PyMongoError) -> Mapping[str, Any] | None:
    """Return the keys of the unique index that refused the write, if one did."""
    pattern: Mapping[str, Any]
    if isinstance(error, DuplicateKeyError):
        pattern = (error.details or {}).get("keyPattern", {})
        return pattern
    if isinstance(error, BulkWriteError):
        for failure in (error.details or {}).get("writeErrors", ()):
            if failure.get("code") == DUPLICATE_KEY:
                pattern = failure.get("keyPattern", {})
                return pattern
    return None


def lacks_transactions(error: PyMongoError) -> bool:
    """Whether ``error`` is a standalone server's answer to a transaction."""
    return isinstance(error, OperationFailure) and error.code in (
        ILLEGAL_OPERATION,
        TRANSACTION_UNSUPPORTED,
    )


_CREDENTIALS = re.compile(r"//[^/\s]*@")


def short_reason(error: BaseException) -> str:
    """
    Return one line of ``error`` for people: no topology dump, no password.

    PyMongo appends the whole topology to its messages, and a malformed URL may
    hold a part of the password.
    """
    try:
        text = str(error).split(", Topology Description:")[0]
    except Exception:  # its own method fails
        text = f"a {type(error).__name__} that cannot be told"
    text = text.split(" (configured timeouts:")[0].split(", full error:")[0]
    first = text.strip().splitlines()[0] if text.strip() else type(error).__name__
    return _CREDENTIALS.sub("//***@", first)[:300]
