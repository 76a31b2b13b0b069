"""
The errors of lost races, transactions and closed streams.
"""

from __future__ import annotations

from collections.abc import Sequence

from .errors import EventStoreError, StoreUnavailable

Conflict = tuple[str, int, int]  # stream, expected version, actual version


class ConcurrencyError(EventStoreError):
    """
    The stream is not at ``expected_version``, as another writer has appended.

    The store found ``actual_version``. Nothing was written: load and decide again. If
    several streams were checked, ``conflicts`` names all that failed, each as a tuple
    of aggregate id, expected and actual version; the first one is in the other
    attributes as well.
    """

    def __init__(
        self,
        aggregate_id: str,
        expected_version: int,
        actual_version: int,
        conflicts: Sequence[Conflict] = (),
    ) -> None:
        super().__init__(aggregate_id, expected_version, actual_version, conflicts)
        self.aggregate_id = aggregate_id
        self.expected_version = expected_version
        self.actual_version = actual_version
        first = (aggregate_id, expected_version, actual_version)
        self.conflicts: list[Conflict] = list(conflicts) or [first]

    @classmethod
    def of(cls, conflicts: Sequence[Conflict]) -> ConcurrencyError:
        """Return the error of some conflicts, at least one."""
        return cls(*conflicts[0], conflicts)

    def __str__(self) -> str:
        found = [
            f"{aggregate_id!r}: expected "
            f"{f'version {expected}' if expected else 'a new stream'}, found version "
            f"{actual}"
            for aggregate_id, expected, actual in self.conflicts
        ]
        again = "Load it again" if len(found) == 1 else "Load them again"
        streams = "Stream" if len(found) == 1 else "Streams"
        return f"{streams} {'; '.join(found)}. Nothing was written. {again} and retry."


class InvalidTransaction(EventStoreError, ValueError):
    """A transaction or session was used as it may not be; nothing was written."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return self.reason


class StreamClosed(EventStoreError):
    """
    The stream was closed at ``version``, so nothing can be appended to it.

    ``successor`` is the id of the stream that continues it, or None.
    """

    def __init__(
        self, aggregate_id: str, version: int, successor: str | None = None
    ) -> None:
        super().__init__(aggregate_id, version, successor)
        self.aggregate_id = aggregate_id
        self.version = version
        self.successor = successor

    def __str__(self) -> str:
        what_to_do = (
            f"Append to {self.successor!r}, which continues it."
            if self.successor
            else "Begin a new stream."
        )
        return (
            f"Stream {self.aggregate_id!r} was closed at version {self.version}. "
            f"Nothing was written. {what_to_do}"
        )


class TransactionAborted(StoreUnavailable):
    """
    The transaction cannot be committed, for ``reason``; run all of it again.

    It conflicted with another transaction, or the primary changed. Nothing that was
    written in it is stored. ``__cause__`` is the error of the driver, if there is one.
    """

    def __str__(self) -> str:
        return (
            f"The transaction was aborted: {self.reason}. Nothing in it was stored; "
            "run it again."
        )


class TransactionsUnavailable(EventStoreError):
    """The operation needs a transaction, and the server has none."""

    def __str__(self) -> str:
        return (
            "Several events in one append, and rules over several streams, need a "
            "transaction, and this server has none: it is not a member of a replica "
            "set. Nothing was written. Append one event at a time, or run the server "
            "as a replica set of one member."
        )
