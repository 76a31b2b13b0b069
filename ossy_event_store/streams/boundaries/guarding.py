"""
Check a condition at an append, and guard it.

The events that match an item take a place in each of its names. So an append that takes
the next number in one of these names commits only if none of them did meanwhile: first
read where the name ends, then look for matches up to there, then take the number after.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import aclosing
from typing import Any

from ...conf import get_settings
from ...documents.boundaries.condition import Condition
from ...documents.boundaries.places import Heads, places_after
from ...documents.boundaries.query import Guard
from ...documents.boundaries.tags import is_reserved
from ...documents.boundaries.token import Known, decode, encode
from ...documents.bson_types import Document
from ...exceptions import BoundaryConflict, InvalidBoundary
from ...mongodb.connection import Store

MATCHES = 10  # ids of matching events in an error
PAGE = 500  # events whose positions are looked up at a time


class Guarding:
    """
    A condition of one append: what is known of its query, and where that is guarded.

    Args:
        condition: the checked condition.
        store: the name of the database.

    Raises:
        InvalidBoundary: a type is not declared, or the token is not one of the query.
    """

    def __init__(self, condition: Condition, store: str) -> None:
        self.query = condition.query
        self.store = store
        self.guards = self.query.guards(get_settings().TYPE_BOUNDARIES)
        #: The name and number of each guard; None as long as no name is chosen.
        self.known: list[Known] | None = None
        # Without a token, events without a place match, too: those that were stored
        # before their type was declared.
        self.has_token = isinstance(condition.after, str)
        #: Events up to this position do not count.
        self.position: int | None = None
        if isinstance(condition.after, int):
            self.position = condition.after
        if isinstance(condition.after, str):
            self.known = decode(condition.after, self.query, self.guards, store)

    @property
    def names(self) -> list[str]:
        """The names of which to read where they end."""
        if self.known is None:
            return [name for guard in self.guards for name in guard.names]
        return [known.name for known in self.known]

    async def check(
        self, store: Store, heads: Heads, taken: Collection[str]
    ) -> list[str]:
        """
        Return the names in which a place has to be taken.

        Args:
            store: one face of the store.
            heads: where the names end, read before.
            taken: the names in which the new events take a place anyway.

        Raises:
            BoundaryConflict: unknown events match.
            InvalidBoundary: the token knows of more events than there are.
        """
        if self.position is not None:
            await self._check_position(store, self.position)
        if self.known is None:
            self.known = [
                Known(chosen(guard, heads, taken), 0) for guard in self.guards
            ]
        after: dict[str, int] = {}
        items: dict[str, list[Document]] = {}
        for guard, known in zip(self.guards, self.known, strict=True):
            if known.number > heads.numbers.get(known.name, 0):
                await self._check_exists(store, known)
            elif self._has_news(known, heads):
                items.setdefault(known.name, []).append(guard.item.filter)
                after[known.name] = known.number
        ids: list[Any] = []
        places = []
        for name, filters in items.items():
            query = {**self._unknown(name, after[name]), "$or": filters}
            found = await self._matches(store, query)
            ids += [event_id for event_id in found if event_id not in ids]
            places += [name] if found else []
        current = [
            Known(known.name, max(known.number, heads.numbers.get(known.name, 0)))
            for known in self.known
        ]
        if ids:
            token = encode(self.query, self.guards, current, self.store)
            raise BoundaryConflict(self.query, ids[:MATCHES], places, token)
        # A further attempt only looks at what is new by then.
        self.known, self.position, self.has_token = current, None, True
        return [known.name for known in self.known]

    def _has_news(self, known: Known, heads: Heads) -> bool:
        is_longer = known.number < heads.numbers.get(known.name, 0)
        return is_longer or (not self.has_token and is_reserved(known.name))

    def _unknown(self, name: str, number: int) -> Document:
        """Return the filter for the events in a name of which nothing is known."""
        if not self.has_token and is_reserved(name):
            return {"aggregateVersion": {"$gte": 1}}  # else it is no event
        return places_after(name, number)

    async def _matches(self, store: Store, query: Document) -> list[Any]:
        """Return the ids of some events that match, and are not known."""
        if self.position is None:
            some = await store.events.find(query, projection=["_id"], limit=MATCHES)
            return [event["_id"] for event in some]
        ids: list[Any] = []
        fields = ["aggregateId", "aggregateVersion"]
        found = store.events.batches(query, PAGE, projection=fields)
        async with aclosing(found) as batches:
            async for batch in batches:
                ids += await self._after_position(store, batch)
                if len(ids) >= MATCHES:
                    break
        return ids

    async def _check_position(self, store: Store, position: int) -> None:
        """Make sure that a position is assigned."""
        order = [("_id", -1)]
        head = await store.positions.find_one({}, projection=["_id"], sort=order)
        if (last := head["_id"] if head else 0) >= position:
            return
        # A primary that was just elected may not know it yet.
        later = {"_id": {"$gte": position}}
        settled = store.client.find_after_all_writes
        if not await settled(store.positions, later, projection={"_id": 1}, limit=1):
            reason = f"position {position} is not assigned; the last one is {last}"
            raise InvalidBoundary("after", reason)

    async def _after_position(self, store: Store, events: list[Document]) -> list[Any]:
        """Return the ids of those events whose position is missing or higher."""
        keys = ("aggregateId", "aggregateVersion")
        versions = [{key: {"$eq": event[key]} for key in keys} for event in events]
        found = await store.positions.find(
            {"$or": versions, "_id": {"$lte": self.position}}, projection=keys
        )
        known = {tuple(entry[key] for key in keys) for entry in found}
        return [
            event["_id"]
            for event in events
            if tuple(event[key] for key in keys) not in known
        ]

    async def _check_exists(self, store: Store, known: Known) -> None:
        """Make sure that a number exists that the primary did not show yet."""
        found = await store.client.find_after_all_writes(
            store.events,
            places_after(known.name, known.number - 1),
            projection={"_id": 1},
            limit=1,
        )
        if not found:
            raise InvalidBoundary(
                "after",
                "the token knows of events that this store does not have: it is of "
                "another store, or this one was restored. Read the boundary again",
            )


def chosen(guard: Guard, heads: Heads, taken: Collection[str] = ()) -> str:
    """Return the name to guard: one that is taken anyway, else the shortest."""
    return min(
        guard.names,
        key=lambda name: (name not in taken, heads.numbers.get(name, 0)),
    )
