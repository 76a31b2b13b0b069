"""
What an error of the driver says about a write: stored, not stored, or unknown.

Codes, labels and ``keyPattern`` decide, never the text of a message. The distinctions
follow experiments with real servers: a lost acknowledgement, a write concern that
timed out and a plain race look alike at first.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
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

from ..documents.masking import mask

UNAUTHORIZED = 13
AUTHENTICATION_FAILED = 18
LOGIN_REFUSED = frozenset({AUTHENTICATION_FAILED, 8000})  # that of Atlas
FAILED_VALIDATION = 121
DUPLICATE_KEY = 11000
MAX_TIME_EXPIRED = 50
# HostUnreachable, HostNotFound, NetworkTimeout, ExceededTimeLimit, SocketException:
# the driver retries these, and a write that it gave up may be stored.
LOST_ON_THE_WAY = frozenset({6, 7, 89, 262, 9001})
WRITE_CONFLICT = 112
# And TemporarilyUnavailable: without a label outside of a transaction.
TOO_BUSY = frozenset({WRITE_CONFLICT, 365})
# The member is no longer primary. If the whole command fails with one of these, the
# driver raises a ConnectionFailure; if one write in it fails, it does not.
NOT_PRIMARY = frozenset({91, 189, 10058, 10107, 11600, 11602, 13435, 13436})
ILLEGAL_OPERATION = 20
TRANSACTION_UNSUPPORTED = 263


class Fault(enum.Enum):
    """Whether a failed write may be stored."""

    DUPLICATE = "a unique index refused it: a lost race, or our own earlier try"
    UNKNOWN = "it may be stored or not"
    TRANSIENT = "nothing is stored, and a retry may succeed"
    UNSENT = "no server was found, so nothing was sent"
    FATAL = "nothing is stored, and a retry would fail the same way"


def classify(error: PyMongoError) -> Fault:
    """Return whether the insert or transaction that raised ``error`` may be stored."""
    if key_pattern(error) is not None:
        return Fault.DUPLICATE
    if error.has_error_label("UnknownTransactionCommitResult"):
        return Fault.UNKNOWN
    if isinstance(error, ServerSelectionTimeoutError):
        # A retry that finds no server raises the error of the first try, so this one
        # always means that nothing was sent. In a transaction it is also labelled as
        # transient, but there is no server to retry with.
        return Fault.UNSENT
    if error.has_error_label("TransientTransactionError"):
        return Fault.TRANSIENT
    if isinstance(error, OperationFailure) and error.code in TOO_BUSY:
        return Fault.TRANSIENT
    if isinstance(error, ConfigurationError):
        # A connection without sessions: its member had no role when it was opened.
        return Fault.TRANSIENT
    if _may_be_stored(error):
        return Fault.UNKNOWN
    return Fault.FATAL


def _may_be_stored(error: PyMongoError) -> bool:
    if error.timeout or isinstance(error, (ConnectionFailure, WriteConcernError)):
        return True
    if isinstance(error, BulkWriteError):
        # Only the write concern failed: every document is stored, perhaps not durably.
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


def is_from_secondary(error: PyMongoError) -> bool:
    """Whether a write was refused by a member that is no longer the primary."""
    if isinstance(error, BulkWriteError):
        failures = (error.details or {}).get("writeErrors", ())
        return any(failure.get("code") in NOT_PRIMARY for failure in failures)
    return isinstance(error, OperationFailure) and error.code in NOT_PRIMARY


def key_pattern(error: PyMongoError) -> Mapping[str, Any] | None:
    """Return the keys of the unique index that refused the write, or None."""
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


def key_value(error: PyMongoError) -> Mapping[str, Any]:
    """Return the values that a unique index refused, by key; empty if unknown."""
    details: Mapping[str, Any] = getattr(error, "details", None) or {}
    for failure in (details, *details.get("writeErrors", ())):
        if "keyValue" in failure:
            found: Mapping[str, Any] = failure["keyValue"]
            return found
    return {}


def is_taken_id(error: PyMongoError) -> bool:
    """Whether a write was refused because a document with its ``_id`` exists."""
    return set(key_pattern(error) or ()) == {"_id"}


@contextmanager
def unless_it_exists() -> Iterator[None]:
    """Pass over an insert that finds its ``_id`` taken; not over any other refusal."""
    try:
        yield
    except DuplicateKeyError as error:
        if not is_taken_id(error):
            raise


def foreign_index(pattern: Mapping[str, Any]) -> tuple[str, str]:
    """Return path and reason for a document that an index of the project refused."""
    return next(iter(pattern), ""), (
        f"a unique index on {dict(pattern)!r}, which is not the event store's, refuses "
        "it, since another document has the same value. Drop that index, or make it "
        "not unique"
    )


def lacks_transactions(error: PyMongoError) -> bool:
    """Whether a standalone server refused a transaction with ``error``."""
    return isinstance(error, OperationFailure) and error.code in (
        ILLEGAL_OPERATION,
        TRANSACTION_UNSUPPORTED,
    )


def short_reason(error: BaseException) -> str:
    """
    Return ``error`` as one line for people, without topology and password.

    PyMongo appends the whole topology to its messages, and the message about a
    malformed URL may contain a part of the password.
    """
    try:
        text = str(error).split(", Topology Description:")[0]
    except Exception:  # its own __str__() fails
        text = f"{type(error).__name__} (its message cannot be read)"
    text = text.split(" (configured timeouts:")[0].split(", full error:")[0]
    first = text.strip().splitlines()[0] if text.strip() else type(error).__name__
    return mask(first)[:300]
