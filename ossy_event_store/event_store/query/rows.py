"""
Read the rows of a plan in order: parts of indexes, a page at a time, and merged.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, NoReturn

from bson.datetime_ms import DatetimeMS
from bson.max_key import MaxKey
from bson.min_key import MinKey
from pymongo.errors import OperationFailure

from ...documents.arguments import LARGEST
from ...documents.bson_types import Document
from ...documents.collections import POSITIONS
from ...exceptions import IndexMissing
from ...mongodb.connection import Store, database_name
from ...mongodb.ports import ONE_BATCH, Documents, bytes_of
from ...positions.event_pages import PageLimit, id_key
from .conditions import milliseconds_of
from .plan import Bound, Plan, Source, index_name

_ENTRY = ["eventId", "aggregateId", "aggregateVersion", "aggregateType", "type", "tags"]
_ENTRY += ["lost"]
_NO_SUCH_INDEX = 2
# The upper bound of an index is not above the lower one.
_NOTHING_BETWEEN = 51175

#: Where a query is: of some sources, by their numbers, the key of the last event.
Place = dict[int, Bound]
#: An event or an entry, and the number of its source.
Row = tuple[Document, int]


class Part:
    """What is left of a source, and the rows that were read of it and not used."""

    def __init__(self, source: Source, plan: Plan) -> None:
        self.source = source
        self.plan = plan
        self.low, self.high = source.low, source.high
        self.rows: deque[Document] = deque()
        self.is_done = False
        self.last: Any = None

    def resume(self, key: Bound, *, own: bool = True) -> None:
        """Continue after the event with a key, which another source may have."""
        backwards = self.plan.backwards
        if len(key) == 1:
            if backwards:
                self.high = key
            else:
                self.low = (key[0] + 1,)
            return
        if not own:
            # Of two events of one time, that with a number comes first.
            is_later = self.source.is_of_dates
            created = milliseconds_of(key[0]) or 0
            moment = DatetimeMS(int(created)) if is_later else created
            key = (moment, MinKey() if is_later else MaxKey())
        elif not backwards:
            self.last = key[1]
        self.low, self.high = (self.low, key) if backwards else (key, self.high)

    async def fill(
        self, store: Store, size: int, session: Any, limit: PageLimit
    ) -> int:
        """Read the next rows, fewer if they are large; return how many keys it took."""
        many = size + (self.last is not None)
        found: list[Document] = []
        weight, is_cut = 0, False
        batches = self._search(store, many, session)
        try:
            async with aclosing(batches) as pieces:
                async for piece in pieces:
                    found += piece
                    weight += bytes_of(piece)
                    if weight > limit.bytes:
                        is_cut = len(found) < many
                        break
        except OperationFailure as error:
            if error.code != _NOTHING_BETWEEN:
                await raise_if_missing(store, self.source, error)
        read = len(found)
        self.is_done = read < many and not is_cut
        if not self.plan.is_of_entries:
            limit.learn(read, weight)
        self._keep(found)
        return read + self.source.searches

    def _search(
        self, store: Store, many: int, session: Any
    ) -> AsyncGenerator[list[Document], None]:
        plan, documents = self.plan, documents_of(store, self.source)
        options = self.source.find(self.low, self.high, backwards=plan.backwards)
        query = options.pop("filter")
        if plan.is_of_entries:
            options["projection"] = _ENTRY
        elif plan.is_scan and plan.left:
            query = {"$and": [query, plan.conditions.filter(plan.left)]}
        return documents.batches(
            query, ONE_BATCH, limit=many, session=session, **options
        )

    def _keep(self, found: list[Document]) -> None:
        was_last = found and self.last is not None
        if was_last and id_key(found[0]["_id"]) == id_key(self.last):
            found = found[1:]  # the lower bound is inclusive
        if found:
            self.last = None
            self.resume(tuple(found[-1].get(name) for name in self.source.order))
        self.rows.extend(found)


def documents_of(store: Store, source: Source) -> Documents:
    """Return the collection of a source."""
    return store.positions if source.collection == POSITIONS else store.events


async def raise_if_missing(
    store: Store, source: Source, error: OperationFailure
) -> NoReturn:
    """Raise an error of the server, or that the index of a source does not exist."""
    if error.code == _NO_SUCH_INDEX:
        found = await documents_of(store, source).index_information()
        present = found.values()
        if list(source.keys) not in [list(map(tuple, one["key"])) for one in present]:
            name = index_name(source)
            raise IndexMissing(source.collection, name, database_name(store)) from None
    raise error


class Rows:
    """The rows of a plan in order: events, or the entries in the positions."""

    def __init__(self, plan: Plan, place: Place) -> None:
        self.plan = plan
        self.parts = [Part(source, plan) for source in plan.sources]
        for number, key in place.items():
            for part in self.parts:
                own = part is self.parts[number]
                if own or plan.order == "created":
                    part.resume(key, own=own)

    @property
    def is_done(self) -> bool:
        """Whether there are no more."""
        return all(part.is_done and not part.rows for part in self.parts)

    async def next(
        self, store: Store, size: int, session: Any, limit: PageLimit
    ) -> tuple[list[Row], int]:
        """Return the next rows, at least one if there are any; and the keys read."""
        read = 0
        # Of two parts, each is read as if it had all; of many, each has its share.
        share = size if len(self.parts) <= 2 else -(-size // len(self.parts))
        for part in self.parts:
            if not part.rows and not part.is_done:
                read += await part.fill(store, share, session, limit)
        found: list[Row] = []
        choose = max if self.plan.backwards else min
        while len(found) < size and all(one.rows or one.is_done for one in self.parts):
            heads = [n for n, part in enumerate(self.parts) if part.rows]
            if not heads:
                break
            number = choose(heads, key=lambda n: self._key(self.parts[n]))
            found.append((self.parts[number].rows.popleft(), number))
        return found, read

    async def keep_to_positions(self, store: Store, session: Any) -> int:
        """Leave out what is not between the positions; return how many keys it took."""
        conditions, read = self.plan.conditions, 0
        bounds = [conditions.after, conditions.until_position]
        for part in self.parts:
            if part.source.order != ("aggregateVersion",) or bounds == [None, None]:
                continue
            ends: list[Bound] = []
            for position in bounds:
                version = None
                if position is not None:
                    stream = part.source.equal
                    search = _first_after(store, stream, position, session)
                    version, keys = await search
                    read += keys
                ends.append(() if version is None else (version,))
            part.low = max(part.low, ends[0])
            part.high = min(part.high, ends[1] or part.high)
        return read

    def _key(self, part: Part) -> Any:
        row = part.rows[0]
        if self.plan.order == "position":
            return row["_id"]
        return milliseconds_of(row.get("created")) or 0, part.source.is_of_dates


async def _first_after(
    store: Store, stream: Document, position: int, session: Any
) -> tuple[int, int]:
    """
    Return the first version of a stream whose event is after a position.

    Within a stream, positions ascend with the versions, so it is searched by halves.
    """
    low, high, read = 1, LARGEST, 0
    bounds, direction = {"$gt": 0}, -1  # the last entry at first
    while low < high:
        read += 1
        entry = await store.positions.find_one(
            {**stream, "aggregateVersion": bounds},
            projection=["aggregateVersion"],
            sort=[("aggregateVersion", direction)],
            session=session,
        )
        if entry is None:
            return 1, read
        version = entry["aggregateVersion"]
        if entry["_id"] <= position:
            low = version + 1
            if direction == -1:
                break
        elif direction == -1:
            high = version
        else:
            high = bounds["$gte"]
        middle = (low + high) // 2
        bounds, direction = {"$gte": middle}, 1
    return low, read
