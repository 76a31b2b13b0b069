"""
The errors of questions to the past.
"""

from __future__ import annotations

from collections.abc import Sequence

from .errors import AggregateNotFound, EventStoreError


class AggregatesNotFound(AggregateNotFound):
    """
    Of several streams, those with the ``aggregate_ids`` do not exist.

    ``aggregate_id`` is the first of them.
    """

    def __init__(self, aggregate_type: str, aggregate_ids: Sequence[str]) -> None:
        super().__init__(aggregate_type, aggregate_ids[0])
        self.args = (aggregate_type, aggregate_ids)
        self.aggregate_ids = tuple(aggregate_ids)

    def __str__(self) -> str:
        named = ", ".join(map(repr, self.aggregate_ids[:_NAMED]))
        more = len(self.aggregate_ids) - _NAMED
        return (
            f"Of {self.aggregate_type} these do not exist: {named}"
            f"{f' and {more:,} more' if more > 0 else ''}. Pass skip_missing=True to "
            "load the others."
        )


class BeforeFirstEvent(AggregateNotFound):
    """
    The stream began after the ``moment`` at which it should be loaded.

    ``moment`` and ``began`` say in words when that was and when the first event is.
    ``predecessor`` is the id of the stream that it continues, or None.
    """

    def __init__(
        self,
        aggregate_type: str,
        aggregate_id: str,
        moment: str,
        began: str,
        predecessor: str | None = None,
    ) -> None:
        super().__init__(aggregate_type, aggregate_id)
        self.args = (aggregate_type, aggregate_id, moment, began, predecessor)
        self.moment = moment
        self.began = began
        self.predecessor = predecessor

    def __str__(self) -> str:
        earlier = (
            f" It continues {self.predecessor!r}: load that one."
            if self.predecessor
            else ""
        )
        return (
            f"{self.aggregate_type} {self.aggregate_id!r} did not exist at "
            f"{self.moment}: it began at {self.began}.{earlier}"
        )


class PastAggregate(EventStoreError):
    """The aggregate was loaded as of the past, at ``version``: it cannot be changed."""

    def __init__(self, aggregate_type: str, aggregate_id: str, version: int) -> None:
        super().__init__(aggregate_type, aggregate_id, version)
        self.aggregate_type = aggregate_type
        self.aggregate_id = aggregate_id
        self.version = version

    def __str__(self) -> str:
        return (
            f"{self.aggregate_type} {self.aggregate_id!r} is read-only: it was loaded "
            f"as of the past, at version {self.version}. Nothing was written. Load it "
            "without at_version, at and at_position to change it."
        )


class PositionNotAssigned(EventStoreError):
    """No event has the ``position`` yet; the last assigned position is ``head``."""

    def __init__(self, position: int, head: int) -> None:
        super().__init__(position, head)
        self.position = position
        self.head = head

    def __str__(self) -> str:
        return (
            f"No event has position {self.position} yet: the last assigned position is "
            f"{self.head}. EventStore.wait_for({self.position}) waits for it."
        )


class VersionNotFound(EventStoreError):
    """Stream ``aggregate_id`` has no event at ``version``; its last is ``last``."""

    def __init__(self, aggregate_id: str, version: int, last: int) -> None:
        super().__init__(aggregate_id, version, last)
        self.aggregate_id = aggregate_id
        self.version = version
        self.last = last

    def __str__(self) -> str:
        return (
            f"Stream {self.aggregate_id!r} has no event at version {self.version}: its "
            f"last version is {self.last}."
        )


_NAMED = 5  # of the ids that do not exist
