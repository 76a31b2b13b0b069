"""
The progress and result of an import or an export.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from ..documents.passed_over import PassedOver


@dataclass
class TransferReport:
    """What an import or export has done; passed to ``progress`` while it runs."""

    #: Events read from the file, or written to it.
    events: int = 0
    #: Events stored by this import.
    stored: int = 0
    #: Events that had been stored before, with the same content.
    present: int = 0
    #: Seconds so far.
    seconds: float = 0.0
    #: Stored documents that are no events, and were not exported.
    passed_over: PassedOver = field(default_factory=PassedOver)

    @property
    def rate(self) -> float:
        """Events a second."""
        return self.events / self.seconds if self.seconds else 0.0


Progress = Callable[[TransferReport], None]
