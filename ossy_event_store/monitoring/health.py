"""
Health checks: the store answers, positions are assigned, subscriptions keep up.

``figures()`` returns them as a dict, ``HealthView`` responds with status 200 or 503.
"""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Iterator, Mapping, Sequence
from shlex import quote
from typing import Any, ClassVar

from asgiref.sync import sync_to_async
from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest, JsonResponse
from django.utils.decorators import method_decorator
from django.views.decorators.cache import never_cache
from pymongo.errors import PyMongoError

from ..conf import HealthLimits, get_settings
from ..documents.collections import SEQUENCER_LEASE
from ..documents.display import counted
from ..exceptions import EventStoreError
from ..mongodb import connection
from ..mongodb.connection import Store
from ..mongodb.deadline import in_time
from ..mongodb.leases import server_time
from ..mongodb.ports import drive
from ..mongodb.write_errors import short_reason
from ..positions import reader
from ..positions.damage import held_up
from ..projections.projection import BUILD_KIND
from ..relational import outbox
from ..relational.views import UntransactedView
from ..subscriptions.transactions import is_away
from .outboxes import OutboxStatus, outboxes
from .outboxes import problems as problems_of_outbox
from .status import Status, is_held, statuses

logger = logging.getLogger("ossy_event_store")

#: What ``HealthView`` shows only with ``details=True``: hosts and texts of errors.
DETAILS = frozenset(
    {"by", "error", "owner", "stopped", "last_error", "damaged_streams"}
)


def figures() -> dict[str, Any]:
    """
    Return the health of the store and its figures, as a dict for JSON.

    Its keys: ``ok``; ``reasons``, sentences that say why it is not; ``remarks``,
    sentences about what is no reason for that; ``store``: whether
    it is ``reachable``, and the ``error`` if it has one; ``positions``: the ``head``,
    the number of ``events`` (as MongoDB estimates it), whether a process is ``running``
    that assigns positions and its ``owner``, ``lag_seconds`` of the event that has
    waited longest for its position, how many ``damaged`` streams get no positions, and
    the first of these ``damaged_streams`` with the reason; ``subscriptions``, the
    status of each; and ``outboxes``, for each SQL database with an outbox: ``using``,
    its alias, ``waiting`` events, ``parked`` streams, ``lag_seconds`` of the oldest
    event, and the ``error`` if it could not be read. A server that does not answer
    raises nothing: the dict says so.
    """
    try:
        limits = limits_of_settings()
        with in_time(limits.TIMEOUT):
            return drive(_figures(connection.blocking(), limits, outboxes()))
    except _EXPECTED as error:
        return _unanswered(error)


async def afigures() -> dict[str, Any]:
    """See ``figures()``."""
    try:
        limits = limits_of_settings()
        # Django's SQL databases are blocking; most sites have no outbox.
        in_sql = await sync_to_async(outboxes)() if outbox.candidates() else []
        with in_time(limits.TIMEOUT):
            return await _figures(await connection.awaitable(), limits, in_sql)
    except _EXPECTED as error:
        return _unanswered(error)


_EXPECTED = (EventStoreError, PyMongoError, ImproperlyConfigured)


def limits_of_settings() -> HealthLimits:
    """Return the limits of the setting ``HEALTH``."""
    return HealthLimits(**get_settings().HEALTH)


def _unanswered(error: Exception) -> dict[str, Any]:
    reachable = not (is_away(error) or isinstance(error, ImproperlyConfigured))
    reason = "cannot be read" if reachable else "does not answer"
    return {
        "ok": False,
        "reasons": [f"The store {reason} ({type(error).__name__})."],
        "remarks": [],
        "store": {"reachable": reachable, "error": short_reason(error)},
        "positions": None,
        "subscriptions": [],
        "outboxes": [],
    }


async def _figures(
    store: Store, limits: HealthLimits, in_sql: Sequence[OutboxStatus]
) -> dict[str, Any]:
    subscriptions = await statuses(store)
    positions = await _positions(store)
    is_used = bool(positions["head"]) or any(one.declared for one in subscriptions)
    reasons = [
        *_problems_of_positions(positions, limits, is_used=is_used),
        *(problem for one in subscriptions for problem in problems(one, limits)),
        *(reason for one in in_sql for reason in problems_of_outbox(one, limits)),
    ]
    return {
        "ok": not reasons,
        "reasons": reasons,
        "remarks": [remark for one in subscriptions for remark in undeclared(one)],
        "store": {"reachable": True, "error": None},
        "positions": positions,
        "subscriptions": [_as_json(one) for one in subscriptions],
        "outboxes": [one.as_dict() for one in in_sql],
    }


async def _positions(store: Store) -> dict[str, Any]:
    lease = await store.leases.find_one({"_id": SEQUENCER_LEASE})
    now = await server_time(store)
    is_running = is_held(lease, now)
    since = await reader.waiting_since(store, now)
    damaged, streams = await held_up(store)
    return {
        "head": await reader.head_position(store),
        "events": await store.events.count(),
        "running": is_running,
        "owner": lease["owner"] if lease and is_running else None,
        "lag_seconds": max(0.0, (now - since).total_seconds()) if since else 0.0,
        "damaged": damaged,
        "damaged_streams": {one.aggregate_id: one.reason for one in streams},
    }


def _as_json(one: Status) -> dict[str, Any]:
    """Return a status with values that JSON can hold, and without tracebacks."""
    values = one.as_dict()
    values["updated"] = one.updated.isoformat() if one.updated else None
    for name in ("last_error", "stopped", "paused"):
        failure: Mapping[str, Any] = values[name] or {}
        values[name] = {
            key: _plain(value) for key, value in failure.items() if key != "traceback"
        } or None
    return values


def _plain(value: Any) -> Any:
    if isinstance(value, dt.datetime):
        return value.isoformat()
    return value if isinstance(value, (str, int, type(None))) else str(value)


# --- problems ---------------------------------------------------------------


def _problems_of_positions(
    positions: Mapping[str, Any], limits: HealthLimits, *, is_used: bool
) -> Iterator[str]:
    if not positions["running"] and limits.RUNNING and is_used:
        yield "No process is assigning positions; start manage.py run_subscriptions."
    seconds = positions["lag_seconds"]
    is_expected = positions["head"] or (limits.RUNNING and is_used)
    if is_expected and _exceeds(seconds, limits.POSITION_SECONDS):
        yield f"An event has been waiting for its position for {seconds:,.0f} seconds."
    if damaged := positions["damaged"]:
        what = (
            "stream is damaged and gets"
            if damaged == 1
            else ("streams are damaged and get")
        )
        yield f"{damaged:,} {what} no positions; run manage.py verify_event_store."


_AT_REST = {
    "stopped": "has stopped at an event",
    "paused": "is paused; manage.py subscriptions resume ends that",
    "new": "has never run",
    "not running": "is not running",
}


def problems(one: Status, limits: HealthLimits) -> Iterator[str]:
    """Yield sentences that say why a subscription is not healthy."""
    if not one.declared or one.kind == BUILD_KIND:
        return  # its code is gone, or it is not in use yet: nobody waits for it
    what = _AT_REST.get(one.state)
    if what and (limits.RUNNING or one.state in ("stopped", "paused")):
        yield f"{one.name} {what}."
    if one.ahead:
        yield (
            f"{one.name} is at position {one.position:,}, but no event has that "
            "position, so it would skip the next events. Run manage.py subscriptions "
            f"reset {quote(one.name)} --to POSITION."
        )
    if _exceeds(one.lag, limits.LAG):
        yield f"{one.name} is {counted(one.lag, 'event')} behind."
    if _exceeds(one.lag_seconds, limits.LAG_SECONDS):
        yield f"{one.name} is {one.lag_seconds:,.0f} seconds behind."
    if _exceeds(one.parked, limits.PARKED):
        yield f"{one.name} has {counted(one.parked, 'parked stream')}."


def undeclared(one: Status) -> Iterator[str]:
    """Yield a sentence about a subscription that no longer exists in the code."""
    if not one.declared:
        yield (
            f"{one.name} is not declared in this project; manage.py subscriptions "
            f"forget {quote(one.name)} removes it."
        )


def _exceeds(value: float, limit: float | None) -> bool:
    return limit is not None and value > limit


# --- the view ---------------------------------------------------------------


@method_decorator(never_cache, name="dispatch")
class HealthView(UntransactedView):
    """
    Responds with ``figures()`` as JSON: status 200 if the store is healthy, 503 if not.

    It may be public: it shows the names of subscriptions and figures, but no hosts, no
    streams and no texts of errors. ``HealthView.as_view(details=True)`` shows those as
    well. ``as_view(store_only=True)`` only checks that the store answers; it is meant
    for load balancers, which must not take a process out because a subscription lags.
    """

    http_method_names: ClassVar[list[str]] = ["get", "head"]  # type: ignore[misc]
    details = False
    store_only = False

    def get(self, request: HttpRequest) -> JsonResponse:
        """Respond; a failure gets a response, too."""
        try:
            found = _ping() if self.store_only else figures()
        except Exception as error:
            logger.exception("Cannot determine the health of the event store.")
            found = _unanswered(error)
        body = found if self.details else _public(found)
        response = JsonResponse(body, status=200 if found["ok"] else 503)
        if not found["ok"]:
            why = found["store"]["error"] or " ".join(found["reasons"])
            logger.warning("The event store is unhealthy: %s", why)
            # Django logs each 503 as an error, which it mails to the admins by default.
            response._has_been_logged = True  # type: ignore[attr-defined]
        return response


def _ping() -> dict[str, Any]:
    """Return the part of ``figures()`` that concerns the store alone."""
    try:
        with in_time(limits_of_settings().TIMEOUT):
            drive(connection.blocking().client.command("ping"))
    except _EXPECTED as error:
        found = _unanswered(error)
        return {name: found[name] for name in ("ok", "reasons", "store")}
    return {"ok": True, "reasons": [], "store": {"reachable": True, "error": None}}


def _public(value: Any) -> Any:
    """Return figures without the details."""
    if isinstance(value, dict):
        return {k: _public(v) for k, v in value.items() if k not in DETAILS}
    if isinstance(value, list):
        return [_public(one) for one in value]
    return value
