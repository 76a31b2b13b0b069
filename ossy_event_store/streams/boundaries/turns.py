"""
Let the writers of one process that contend for a tag take turns.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...conf import get_settings
from ...mongodb.connection import Store
from ...mongodb.writer_queue import Ticket


class TagTurn:
    """
    One writer's turn in one of some names.

    It joins a queue at the start if others are in it, else after a lost race.
    """

    def __init__(self, store: Store, names: Sequence[str]) -> None:
        self.store = store
        self.names = names
        self.ticket: Ticket | None = None

    async def __aenter__(self) -> TagTurn:
        for name in self.names:
            if name in self.store.turns.locks:
                await self.take(name)
                break
        return self

    async def __aexit__(self, *error: Any) -> None:
        if self.ticket is not None:
            self.ticket.leave()

    async def take(self, name: str) -> bool:
        """Wait for the turn in a name; False at once if waiting would not help."""
        if self.ticket is None:
            patience = get_settings().TIMEOUT / 4
            self.ticket = self.store.turns.place(name, patience)
        return await self.ticket.take()
