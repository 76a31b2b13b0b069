"""
Which event types and versions are stored, and whether the code can read each.

Whether one exists takes one seek in an index, so the answer is as quick with a billion
events. Only the counts read the keys of an index, as long as the time allows.
"""

from __future__ import annotations

import enum
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from typing import Any

from bson import Int64
from pymongo.errors import OperationFailure, PyMongoError

from ...documents.bson_types import Document
from ...documents.catalogue.compatibility.event_types import KnownTypes
from ...documents.event_document import STREAM_CLOSED, STREAM_CONTINUED, read_event
from ...mongodb.connection import Store
from ...mongodb.indexes import (
    EVENT_TYPE_TIME,
    EVENT_TYPE_VERSIONS,
    NAMESPACE_NOT_FOUND,
    Index,
)
from ...mongodb.write_errors import UNAUTHORIZED

OF_THE_STORE = frozenset({STREAM_CLOSED, STREAM_CONTINUED})
GROUPS = 1000  # a batch


class Standing(enum.Enum):
    """What the code makes of the events of a type and version."""

    CURRENT = "current"
    UPCASTED = "upcasted"
    STORE = "of the store"
    UNKNOWN = "unknown"
    UNREADABLE = "unreadable"


@dataclass
class Group:
    """How many events have a type and version, and when the last was appended."""

    count: int | None = None
    last: Any = None


@dataclass(frozen=True)
class StoredVersion:
    """The events of one type and version."""

    type: str
    version: int
    standing: Standing
    #: How many there are; None if the time was up.
    count: int | None = None
    #: When the last one was appended.
    last: Any = None
    #: Why the code cannot read them.
    reason: str | None = None

    def as_dict(self) -> Document:
        """Return it as JSON has it."""
        found = {**vars(self), "standing": self.standing.value}
        last = getattr(self.last, "isoformat", None)
        return {**found, "last": last() if last else self.last}


@dataclass(frozen=True)
class StoredTypes:
    """What is stored, beside what the code knows."""

    versions: list[StoredVersion] = field(default_factory=list)
    #: Types of the code that are not stored, under any name.
    never_stored: list[str] = field(default_factory=list)
    #: Whether the time sufficed to count everything.
    is_counted: bool = True

    def unreadable(self, *, strict: bool = False) -> list[StoredVersion]:
        """
        Return what the code cannot read.

        Args:
            strict: also types that it does not know; it gets their events as they are.
        """
        wrong = {Standing.UNREADABLE, *([Standing.UNKNOWN] if strict else [])}
        return [one for one in self.versions if one.standing in wrong]


async def stored_types(store: Store, known: KnownTypes) -> StoredTypes:
    """
    Return every type and version that is stored.

    Bound it by ``pymongo.timeout()`` or ``in_time()``. If the time is up while the
    events are counted, what is not counted yet has no count. Without the two indexes of
    event types, which ``ADMIN_INDEXES`` leaves out, it reads all events.

    Args:
        store: one face of the store.
        known: what the code knows.
    """
    if await _has_indexes(store):
        lookup = _Lookup(store)
        await lookup.run()
        return judged(lookup.groups, known, is_counted=lookup.is_counted)
    return judged(await _by_scan(store), known, is_counted=True)


# --- with the indexes ---------------------------------------------------------


async def _has_indexes(store: Store) -> bool:
    try:
        present = await store.events.index_information()
    except OperationFailure as error:
        if error.code not in (UNAUTHORIZED, NAMESPACE_NOT_FOUND):
            raise
        return False
    return {EVENT_TYPE_TIME.name, EVENT_TYPE_VERSIONS.name} <= {*present}


class _Lookup:
    """Looks for the types and versions first, and counts them in what time is left."""

    def __init__(self, store: Store) -> None:
        self.events = store.events
        self.groups: dict[tuple[str, Any], Group] = {}
        self.is_counted = True

    async def run(self) -> None:
        """Fill ``groups``."""
        kinds = [one async for one in self._distinct("type", {}, EVENT_TYPE_TIME, "")]
        async for kind in self._distinct("type", _LATER, EVENT_TYPE_VERSIONS, ""):
            where = {"type": kind}
            async for version in self._distinct(
                "typeVersion", where, EVENT_TYPE_VERSIONS, 1
            ):
                last = await self._end({**where, "typeVersion": version}, -1)
                self.groups[kind, version] = Group(None, _created(last))
        later = {kind for kind, _ in self.groups}
        for kind in kinds:
            first = await self._end({"type": kind}, 1)
            if first is None or not _is_later(first):
                last = None if kind in later else await self._end({"type": kind}, -1)
                self.groups[kind, 1] = Group(None, _created(last))
        try:
            await self._count(kinds)
            await self._find_last_of_first_version(later)
        except PyMongoError as error:
            if not error.timeout:
                raise
            self.is_counted = False

    async def _distinct(
        self, key: str, where: Document, index: Index, after: Any
    ) -> AsyncGenerator[Any, None]:
        """Yield the values of a field, each by one seek in an index."""
        while True:
            found = await self.events.find_one(
                {**where, key: {"$gt": after}},
                projection={"_id": 0, key: 1},
                sort=[(key, 1)],
                hint=index.name,
                unbounded=True,
            )
            # A list is another program's: its items are the keys of the index.
            if found is None or isinstance(found[key], list):
                return
            after = found[key]
            yield after

    async def _end(self, where: Document, direction: int) -> Document | None:
        """Return the last event of a type and version, or the first of a type."""
        index = EVENT_TYPE_VERSIONS if "typeVersion" in where else EVENT_TYPE_TIME
        return await self.events.find_one(
            where,
            projection={"_id": 0, "typeVersion": 1, "created": 1},
            sort=[("created", direction)],
            hint=index.name,
            unbounded=True,
        )

    async def _count(self, kinds: list[str]) -> None:
        counted: dict[str, int] = dict.fromkeys(kinds, 0)
        for (kind, version), group in list(self.groups.items()):
            if version != 1:
                where = {"type": kind, "typeVersion": version}
                group.count = await self._number(where, EVENT_TYPE_VERSIONS)
                counted[kind] = counted.get(kind, 0) + group.count
        for kind in kinds:
            rest = await self._number({"type": kind}, EVENT_TYPE_TIME) - counted[kind]
            if rest > 0:
                self.groups.setdefault((kind, 1), Group()).count = rest

    async def _number(self, where: Document, index: Index) -> int:
        return await self.events.count_where(where, hint=index.name, unbounded=True)

    async def _find_last_of_first_version(self, later: set[str]) -> None:
        """
        Find when events of version 1 were last appended, though no index leads there.

        Nearly all are older than the first event of a later version. How many are not,
        the counts tell, so nothing is read in vain.
        """
        for kind in sorted(later):
            group = self.groups.get((kind, 1))
            if group is None:
                continue
            wheres = [
                {"type": kind, "typeVersion": version}
                for name, version in self.groups
                if name == kind and version != 1
            ]
            firsts = [(await self._end(where, 1) or {})["created"] for where in wheres]
            after = {"created": {"$gt": min(firsts)}}
            rest = await self._number({"type": kind, **after}, EVENT_TYPE_TIME)
            for where in wheres:
                rest -= await self._number({**where, **after}, EVENT_TYPE_VERSIONS)
            group.last = _created(await self._last_first(kind, min(firsts), rest))

    async def _last_first(self, kind: str, begin: Any, rest: int) -> Document | None:
        """Return the last event of version 1; ``rest`` are newer than ``begin``."""
        is_newer = rest > 0
        return await self.events.find_one(
            {
                "type": kind,
                "typeVersion": {"$not": {"$gt": 1}},
                "created": {"$gt" if is_newer else "$lte": begin},
            },
            projection={"_id": 0, "created": 1},
            sort=[("created", 1 if is_newer else -1)],
            skip=rest - 1 if is_newer else 0,
            hint=EVENT_TYPE_TIME.name,
            unbounded=True,
        )


_LATER: Document = {"typeVersion": {"$gt": 1}}  # as the partial index has it


def _is_later(event: Document) -> bool:
    version = event.get("typeVersion")
    return isinstance(version, (int, float)) and version > 1


def _created(event: Document | None) -> Any:
    return None if event is None else read_event(event).get("created")


# --- without them -------------------------------------------------------------


async def _by_scan(store: Store) -> dict[tuple[str, Any], Group]:
    """Return the types and versions of all events; reads each of them."""
    version = {"$cond": [{"$gt": ["$typeVersion", 1]}, "$typeVersion", 1]}
    pipeline: list[Document] = [
        {
            "$group": {
                "_id": {"type": "$type", "version": version},
                "count": {"$sum": 1},
                "last": {"$max": "$created"},
            }
        }
    ]
    groups: dict[tuple[str, Any], Group] = {}
    pages = store.events.aggregate(pipeline, GROUPS, unbounded=True)
    async for batch in pages:
        for one in batch:
            kind, last = one["_id"].get("type"), one["last"]
            if type(kind) is str:
                created = _created({"created": last})
                groups[kind, one["_id"]["version"]] = Group(one["count"], created)
    return groups


# --- beside the code ----------------------------------------------------------


def judged(
    groups: Mapping[tuple[str, Any], Group], known: KnownTypes, *, is_counted: bool
) -> StoredTypes:
    """Return what is stored with what the code makes of each; pure."""
    versions = [
        _judged(kind, version, groups[kind, version], known)
        for kind, version in sorted(groups, key=lambda key: (key[0], str(key[1])))
    ]
    stored = {kind for kind, _ in groups}
    never = [
        name
        for name, one in known.types.items()
        if one.schema is not None and not stored & {name, *one.aliases}
    ]
    return StoredTypes(versions, never, is_counted)


def _judged(kind: str, value: Any, group: Group, known: KnownTypes) -> StoredVersion:
    version = int(value) if isinstance(value, float) and value % 1 == 0 else value
    owner = known.owner(kind)
    reason = None
    if type(version) is not int and not isinstance(version, Int64):
        standing, reason = Standing.UNREADABLE, "its version is no whole number"
    elif kind in OF_THE_STORE:
        standing = Standing.STORE
    elif owner is None and version == 1:
        standing = Standing.UNKNOWN
    elif reason := known.obstacle(kind, version):
        standing = Standing.UNREADABLE
    elif owner is not None and (owner.name, owner.version) == (kind, version):
        standing = Standing.CURRENT
    else:
        standing = Standing.UPCASTED
    return StoredVersion(kind, version, standing, group.count, group.last, reason)
