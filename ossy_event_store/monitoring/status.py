"""
How the subscriptions stand: how far behind, how fast, what waits, who runs them.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from ..documents.bson_types import Document
from ..exceptions import PositionsBroken
from ..mongodb.connection import Store
from ..mongodb.deadline import in_time
from ..positions.reader import head_position, read
from ..projections.generations import revision
from ..projections.projection import BUILD_KIND, registered_projections
from ..subscriptions import declaration
from ..subscriptions.consumer import LEASE, lease_of

QUIET = 3 * LEASE  # seconds after which a rate that nobody wrote anew is 0

State = Literal["running", "not running", "stopped", "new"]


@dataclass(frozen=True)
class Status:
    """One subscription as it stands."""

    name: str
    #: ``subscription``, ``projection``, ``snapshots`` or ``projection build``.
    kind: str
    #: ``running`` somewhere, ``not running`` anywhere, ``stopped`` by a failure, or
    #: ``new`` as long as it has never run.
    state: State
    #: Position behind which it goes on.
    position: int
    #: Events behind the last one that has a position, whether it wants them or not.
    lag: int
    #: Seconds since the next event it wants was recorded; 0 if there is none.
    lag_seconds: float
    #: Events a second, lately.
    rate: float
    #: Events handed on since it began.
    delivered: int
    #: Streams that wait since a handler failed.
    parked: int
    #: Process that runs it: host, process id and a random part.
    owner: str | None
    #: When its checkpoint was written last.
    updated: dt.datetime | None
    #: The last failure: ``error``, ``traceback`` and, of an event, where it is.
    last_error: Mapping[str, Any] | None
    #: The event at which it stopped, as ``last_error``.
    stopped: Mapping[str, Any] | None
    #: Whether it is declared in this process's code.
    declared: bool
    #: Of a projection: whether its class has changed since it was built.
    changed: bool

    def as_dict(self) -> dict[str, Any]:
        """Return it with the names of the fields, for JSON."""
        return asdict(self)


async def statuses(store: Store) -> list[Status]:
    """Return how all subscriptions stand: those declared, and those that ever ran."""
    async with store.client.session() as session:
        head = await head_position(store, session)
        with in_time():
            documents = await store.subscriptions.find({}, sort=[("_id", 1)])
        there = {document["_id"]: document for document in documents}
        names = sorted(there.keys() | declaration.registered().keys())
        return [
            await _status(store, name, there.get(name), head, session) for name in names
        ]


async def status(store: Store, name: str) -> Status | None:
    """Return how one subscription stands; None if there is none of this name."""
    for one in await statuses(store):
        if one.name == name:
            return one
    return None


async def _status(
    store: Store, name: str, found: Document | None, head: int, session: Any
) -> Status:
    declared = declaration.registered().get(name)
    document = found or {}
    position = document.get("position", 0)
    with in_time():
        lease = await store.leases.find_one({"_id": lease_of(name)})
        parked = await store.parked.count_where({"subscription": {"$eq": name}})
    now = dt.datetime.now(dt.UTC)
    running = holds(lease, now)
    updated = document.get("updated")
    is_quiet = updated is None or (now - updated).total_seconds() > QUIET
    return Status(
        name=name,
        kind=document.get("kind") or (declared.kind if declared else "subscription"),
        state=_state(document, running),
        position=position,
        lag=max(0, head - position),
        lag_seconds=await _lag_seconds(store, declared, position, head, session),
        rate=0.0 if is_quiet else document.get("rate", 0.0),
        delivered=document.get("delivered", 0),
        parked=parked,
        owner=lease["owner"] if lease and running else None,
        updated=updated,
        last_error=document.get("lastError"),
        stopped=document.get("stopped"),
        declared=declared is not None or document.get("kind") == BUILD_KIND,
        changed=_is_changed(name, document),
    )


def _state(document: Document, running: bool) -> State:
    if not document:
        return "new"
    if document.get("stopped"):
        return "stopped"
    return "running" if running else "not running"


def holds(lease: Document | None, now: dt.datetime) -> bool:
    """Whether somebody holds a lease."""
    until = (lease or {}).get("until")
    return until is not None and until > now


async def _lag_seconds(
    store: Store,
    declared: declaration.Subscription | None,
    position: int,
    head: int,
    session: Any,
) -> float:
    if position >= head:
        return 0.0
    query = {**(declared.query() if declared else {}), "_id": {"$gt": position}}
    try:
        found = await read(store, query, 1, session)
    except PositionsBroken:
        return 0.0  # its own error says so
    created = found[0].get("created") if found else None
    if not isinstance(created, dt.datetime):
        return 0.0
    return max(0.0, (dt.datetime.now(dt.UTC) - created).total_seconds())


def _is_changed(name: str, document: Document) -> bool:
    projection = registered_projections().get(name)
    built = document.get("revision")
    return projection is not None and built not in (None, revision(projection))
