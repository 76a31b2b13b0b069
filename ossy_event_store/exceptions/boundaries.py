"""
The errors of boundaries: rules that reach across streams.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .errors import EventStoreError, Refused


class BoundaryConflict(EventStoreError):
    """
    Events match ``query`` that the decision did not know; nothing was written.

    Read the boundary again and decide again, or show the user what has changed: with
    ``token``, the boundary as it is now, a form can be sent again at once.
    """

    def __init__(
        self, query: Any, event_ids: Sequence[Any], tags: Sequence[str], token: str
    ) -> None:
        super().__init__(query, event_ids, tags, token)
        #: The query of the condition.
        self.query = query
        #: The ids of the newest of these events, ten at most.
        self.event_ids = tuple(event_ids)
        #: The tags in which they were found, or ``type:`` and a declared type.
        self.tags = tuple(tags)
        #: What a condition takes as ``after``.
        self.token = token

    def __str__(self) -> str:
        ids = ", ".join(repr(event_id) for event_id in self.event_ids)
        return (
            f"Events match the condition that were not known to the decision, in "
            f"{', '.join(self.tags)}: {ids}. Nothing was written. Read the boundary "
            "again and retry."
        )


class InvalidBoundary(Refused):
    """A query, a condition or a token was refused before anything was written."""
