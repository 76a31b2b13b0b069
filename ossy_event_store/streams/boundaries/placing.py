"""
Give new events their places, for as many attempts as an append takes.
"""

from __future__ import annotations

from collections.abc import Sequence

from ...documents.boundaries.condition import Condition
from ...documents.boundaries.places import Heads, assign
from ...documents.bson_types import Document
from ...mongodb.connection import Store, database_name
from ..new_events import NewEvents
from .guarding import Guarding
from .heads import read_head_of_both, read_heads


class Placing:
    """
    The places that the events of one append take.

    Args:
        documents: events of one stream.
        guarding: the condition of the append, if it has one.
        guards: more names in which the first event takes a place without a tag, as
            ``stream_place()`` of each stream that a transaction checks.
    """

    def __init__(
        self,
        documents: NewEvents,
        guarding: Guarding | None = None,
        guards: Sequence[str] = (),
    ) -> None:
        self.documents = documents
        self.guarding = guarding
        self.guards = guards
        self.taken = {name for names in documents.names for name in names}
        self._heads: Heads | None = None  # read already, for the next attempt
        self._is_first = True

    @property
    def aggregate_id(self) -> str:
        """The stream of the events."""
        aggregate_id: str = self.documents[0]["aggregateId"]
        return aggregate_id

    @property
    def names(self) -> list[str]:
        """The names of which an attempt reads where they end."""
        guarded = self.guarding.names if self.guarding else []
        return list(dict.fromkeys([*self.taken, *guarded, *self.guards]))

    async def read_stream(self, store: Store, *, guess: bool) -> Document | None:
        """
        Return the last event of the stream, and read the other ends as well.

        Args:
            store: one face of the store.
            guess: whether the stream may be longer: then the append is refused, and
                the next attempt does not guess.
        """
        heads = None
        if guess and self._is_first and self.names == [self.aggregate_id]:
            heads = await read_head_of_both(store, self.aggregate_id)
        if heads is None:
            heads = await read_heads(store, [self.aggregate_id], self.names)
        self._heads, self._is_first = heads, False
        return heads.streams.get(self.aggregate_id)

    async def assign(self, store: Store) -> None:
        """
        Give the documents the next numbers in their names, for one attempt.

        Raises:
            BoundaryConflict: events match the condition that the decision did not know.
        """
        heads, self._heads = self._heads, None
        if heads is None:
            heads = await read_heads(store, [self.aggregate_id], self.names)
        guarded = list(self.guards)
        if self.guarding is not None:
            guarded += await self.guarding.check(store, heads, self.taken)
        names = [list(own) for own in self.documents.names]
        names[0] += [one for one in dict.fromkeys(guarded) if one not in self.taken]
        assign(self.documents, names, heads)


def placing_of(
    store: Store, documents: NewEvents, condition: Condition | None
) -> Placing | None:
    """
    Return the places of an append; None if it takes none.

    Raises:
        InvalidBoundary: the condition is not one of this store.
    """
    if condition is not None:
        return Placing(documents, Guarding(condition, database_name(store)))
    return Placing(documents) if documents.take_places else None
