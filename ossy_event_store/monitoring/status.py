"""
The status of each subscription: its lag, its rate, its parked streams, its owner.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from ..documents.bson_types import Document
from ..documents.collections import subscription_lease
from ..mongodb.connection import Store
from ..mongodb.deadline import in_time
from ..mongodb.leases import server_time
from ..positions.reader import head_position, read
from ..projections.generations import revision
from ..projections.projection import registered_projections
from ..subscriptions import declaration
from ..subscriptions.claim import DEFAULT_TIMINGS

# After this time without an update, the rate of a subscription is 0.
RATE_VALID_SECONDS = 3 * DEFAULT_TIMINGS.lease_seconds

State = Literal["running", "not running", "stopped", "paused", "new"]


@dataclass(frozen=True)
class Status:
    """The status of one subscription."""

    name: str
    #: ``subscription``, ``projection``, ``snapshots`` or ``projection build``.
    kind: str
    #: ``running`` in a process, ``not running`` in any, ``stopped`` by a failure,
    #: ``paused`` by an operator, or ``new`` if it has never run.
    state: State
    #: Its checkpoint: the position of the last event that is done.
    position: int
    #: Events after its checkpoint that have a position, whether it wants them or not.
    lag: int
    #: Positions from the last event to its checkpoint, which the next events would not
    #: reach: 0, unless positions were lost or a backup was restored.
    ahead: int
    #: Seconds since the next event that it wants was recorded; 0 if there is none.
    lag_seconds: float
    #: Recent events per second.
    rate: float
    #: Events delivered since its first run.
    delivered: int
    #: Parked streams.
    parked: int
    #: The process that runs it: host, process id and a random part.
    owner: str | None
    #: When its checkpoint was last written.
    updated: dt.datetime | None
    #: The last failure: ``error``, ``traceback`` and, if an event failed, where it is.
    last_error: Mapping[str, Any] | None
    #: The event at which it stopped, in the form of ``last_error``.
    stopped: Mapping[str, Any] | None
    #: When and ``by`` whom it was paused, ``since`` when; None if it is not.
    paused: Mapping[str, Any] | None
    #: Whether this process's code declares it.
    declared: bool
    #: Whether the class of a projection, or an upcaster of its events, has changed
    #: since its documents were built.
    changed: bool

    def as_dict(self) -> dict[str, Any]:
        """Return a dict with the names of the fields."""
        return asdict(self)


async def statuses(store: Store) -> list[Status]:
    """Return the status of each subscription that is declared or has ever run."""
    now = await server_time(store)
    async with store.client.session() as session:
        with in_time():
            documents = await store.subscriptions.find(
                {}, sort=[("_id", 1)], session=session
            )
        # Afterwards: no checkpoint that was read can be ahead of it.
        head = await head_position(store, session)
        stored = {document["_id"]: document for document in documents}
        names = sorted(stored.keys() | declaration.registered_subscriptions().keys())
        return [
            await _status(store, name, stored.get(name), head, now, session)
            for name in names
        ]


async def status(store: Store, name: str) -> Status | None:
    """Return the status of one subscription; None if it does not exist."""
    for one in await statuses(store):
        if one.name == name:
            return one
    return None


async def _status(
    store: Store,
    name: str,
    found: Document | None,
    head: int,
    now: dt.datetime,
    session: Any,
) -> Status:
    declared = declaration.registered_subscriptions().get(name)
    document = found or {}
    position = document.get("position", 0)
    with in_time():
        lease = await store.leases.find_one({"_id": subscription_lease(name)})
        parked = await store.parked.count_where({"subscription": {"$eq": name}})
    running = is_held(lease, now)
    updated = document.get("updated")
    is_outdated = (
        updated is None or (now - updated).total_seconds() > RATE_VALID_SECONDS
    )
    kind = document.get("kind") or (declared.kind if declared else "subscription")
    return Status(
        name=name,
        kind=kind,
        state=_state(document, running),
        position=position,
        lag=max(0, head - position),
        ahead=max(0, position - head),
        lag_seconds=0.0
        if position >= head
        else await _lag_seconds(store, declared, position, now, session),
        rate=0.0 if is_outdated else document.get("rate", 0.0),
        delivered=document.get("delivered", 0),
        parked=parked,
        owner=lease["owner"] if lease and running else None,
        updated=updated,
        last_error=document.get("lastError"),
        stopped=document.get("stopped"),
        paused=document.get("paused"),
        declared=declaration.is_declared(name, kind),
        changed=_is_changed(name, document),
    )


def _state(document: Document, running: bool) -> State:
    if not document:
        return "new"
    if document.get("stopped"):
        return "stopped"
    if document.get("paused"):
        return "paused"
    return "running" if running else "not running"


def is_held(lease: Document | None, now: dt.datetime) -> bool:
    """Whether a process holds a lease."""
    until = (lease or {}).get("until")
    return until is not None and until > now


async def _lag_seconds(
    store: Store,
    declared: declaration.Subscription | None,
    position: int,
    now: dt.datetime,
    session: Any,
) -> float:
    query = {**(declared.query() if declared else {}), "_id": {"$gt": position}}
    found = (await read(store, {**query, "lost": None}, 1, session)).events
    created = found[0].get("created") if found else None
    if not isinstance(created, dt.datetime):
        return 0.0
    return max(0.0, (now - created).total_seconds())


def _is_changed(name: str, document: Document) -> bool:
    projection = registered_projections().get(name)
    built = document.get("revision")
    return projection is not None and built not in (None, revision(projection))
