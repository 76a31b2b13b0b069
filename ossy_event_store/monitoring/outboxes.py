"""
The figures of the outbox of each SQL database that has one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from django.db import Error, connections

from ..conf import HealthLimits
from ..documents.display import counted
from ..mongodb.write_errors import short_reason
from ..relational import outbox


@dataclass(frozen=True)
class OutboxStatus:
    """What waits in the outbox of one SQL database."""

    #: The alias of the database.
    using: str
    #: Events that are still to be appended, those behind parked ones included.
    waiting: int = 0
    #: Parked streams: their first event cannot be appended as it is.
    parked: int = 0
    #: Seconds since the oldest event was written that no parked one holds up.
    lag_seconds: float = 0.0
    #: Why the database could not be read; None if it was.
    error: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return a dict with the names of the fields."""
        return asdict(self)


def outboxes() -> list[OutboxStatus]:
    """Return the status of each outbox; a database that is away raises nothing."""
    return [found for alias in outbox.candidates() if (found := _status(alias))]


def _status(using: str) -> OutboxStatus | None:
    try:
        if not outbox.has_table(using):
            return None
        return OutboxStatus(*outbox.figures(using))
    except Error as error:
        if not connections[using].in_atomic_block:
            connections[using].close()
        # A database that this process never saw may have nothing to do with the store.
        if not outbox.had_table(using):
            return None
        reason = f"{type(error).__name__}: {short_reason(error)}"
        return OutboxStatus(using, error=reason)


def problems(one: OutboxStatus, limits: HealthLimits) -> Iterator[str]:
    """Yield sentences that say why an outbox is not healthy."""
    if one.error is not None:
        yield f"The outbox of {one.using} cannot be read."
    if limits.LAG_SECONDS is not None and one.lag_seconds > limits.LAG_SECONDS:
        yield (
            f"An event has been waiting in the outbox of {one.using} for "
            f"{one.lag_seconds:,.0f} seconds."
        )
    if limits.PARKED is not None and one.parked > limits.PARKED:
        yield (
            f"The outbox of {one.using} has {counted(one.parked, 'parked stream')}; "
            "see manage.py outbox."
        )


def line_of(one: OutboxStatus) -> str:
    """Return a line about what waits in an outbox."""
    if one.error is not None:
        return f"Outbox of {one.using}: cannot be read: {one.error}"
    return (
        f"Outbox of {one.using}: {counted(one.waiting, 'event')} waiting, "
        f"{one.lag_seconds:,.0f} seconds, {counted(one.parked, 'parked stream')}"
    )
