"""
Whether all is well: the store answers, positions are given, subscriptions keep up.

``figures()`` says it as a dict, ``HealthView`` with status 200 or 503.
"""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest, JsonResponse
from django.utils.decorators import method_decorator
from django.views import View
from django.views.decorators.cache import never_cache
from pymongo.errors import PyMongoError

from ..conf import HealthLimits, get_settings
from ..exceptions import EventStoreError
from ..mongodb import connection
from ..mongodb.connection import Store
from ..mongodb.deadline import in_time
from ..mongodb.ports import drive
from ..mongodb.write_errors import short_reason
from ..positions import leased_sequencer, reader
from ..projections.projection import BUILD_KIND
from ..subscriptions.transactions import is_away
from .status import Status, holds, statuses

logger = logging.getLogger("ossy_event_store")

#: What ``HealthView`` tells only with ``details=True``: hosts, and what an error says.
DETAILS = frozenset({"error", "owner", "stopped", "last_error"})


def figures() -> dict[str, Any]:
    """
    Return how the store stands, as a dict for JSON.

    Its keys: ``ok``; ``reasons``, in words, why it is not; ``store``: whether it is
    ``reachable``, and the ``error`` if something is wrong with it; ``positions``: the
    ``head``, how many ``events`` there are (as MongoDB estimates), whether somebody is
    ``given`` the work of giving them and who, ``lag_seconds`` of the event that waits
    longest; and ``subscriptions``, a list of how each stands. A server that does not
    answer is told here, and not raised.
    """
    try:
        limits = limits_of_settings()
        with in_time(limits.TIMEOUT):
            return drive(_figures(connection.blocking(), limits))
    except _EXPECTED as error:
        return _unanswered(error)


async def afigures() -> dict[str, Any]:
    """See ``figures()``."""
    try:
        limits = limits_of_settings()
        with in_time(limits.TIMEOUT):
            return await _figures(await connection.awaitable(), limits)
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
        "store": {"reachable": reachable, "error": short_reason(error)},
        "positions": None,
        "subscriptions": [],
    }


async def _figures(store: Store, limits: HealthLimits) -> dict[str, Any]:
    found = await statuses(store)
    given = await _positions(store)
    expected = bool(given["head"]) or any(one.declared for one in found)
    reasons = [
        *_doubts_of_positions(given, limits, expected=expected),
        *(reason for one in found for reason in doubts(one, limits)),
    ]
    return {
        "ok": not reasons,
        "reasons": reasons,
        "store": {"reachable": True, "error": None},
        "positions": given,
        "subscriptions": [_told(one) for one in found],
    }


async def _positions(store: Store) -> dict[str, Any]:
    lease = await store.leases.find_one({"_id": leased_sequencer.LEASE_NAME})
    now = dt.datetime.now(dt.UTC)
    is_given = holds(lease, now)
    since = await reader.waiting_since(store)
    return {
        "head": await reader.head_position(store),
        "events": await store.events.count(),
        "running": is_given,
        "owner": lease["owner"] if lease and is_given else None,
        "lag_seconds": (now - since).total_seconds() if since else 0.0,
    }


def _told(one: Status) -> dict[str, Any]:
    """Return a status with what JSON can hold, and without the tracebacks."""
    told = one.as_dict()
    told["updated"] = one.updated.isoformat() if one.updated else None
    for name in ("last_error", "stopped"):
        failure: Mapping[str, Any] = told[name] or {}
        told[name] = {
            key: _plain(value) for key, value in failure.items() if key != "traceback"
        } or None
    return told


def _plain(value: Any) -> Any:
    if isinstance(value, dt.datetime):
        return value.isoformat()
    return value if isinstance(value, (str, int, type(None))) else str(value)


# --- the verdict ------------------------------------------------------------


def _doubts_of_positions(
    given: Mapping[str, Any], limits: HealthLimits, *, expected: bool
) -> Iterator[str]:
    if not given["running"] and limits.RUNNING and expected:
        yield "No process gives positions: run manage.py run_subscriptions."
    is_used = given["head"] or (limits.RUNNING and expected)
    seconds = given["lag_seconds"]
    if is_used and _exceeds(seconds, limits.POSITION_SECONDS):
        yield f"An event has waited for its position for {seconds:,.0f} seconds."


def doubts(one: Status, limits: HealthLimits) -> Iterator[str]:
    """Yield why a subscription is not healthy, in words."""
    if not one.declared or one.kind == BUILD_KIND:
        return  # of code that is gone, or not in use yet: nobody waits for it
    if one.state == "stopped":
        yield f"{one.name} has stopped at an event."
    elif one.state != "running" and limits.RUNNING:
        yield f"{one.name} {'never ran' if one.state == 'new' else 'does not run'}."
    if _exceeds(one.lag, limits.LAG):
        yield f"{one.name} is {one.lag:,} events behind."
    if _exceeds(one.lag_seconds, limits.LAG_SECONDS):
        yield f"{one.name} is {one.lag_seconds:,.0f} seconds behind."
    if _exceeds(one.parked, limits.PARKED):
        yield f"{one.name} has {one.parked:,} parked streams."


def _exceeds(value: float, limit: float | None) -> bool:
    return limit is not None and value > limit


# --- the view ---------------------------------------------------------------


@method_decorator(never_cache, name="dispatch")
class HealthView(View):
    """
    Answers with ``figures()`` as JSON: status 200 if all is well, 503 if not.

    It may be public: it tells names of subscriptions and figures, but no host, no
    stream and no text of an error. ``HealthView.as_view(details=True)`` tells all;
    ``as_view(store_only=True)`` only asks whether the store answers, for a load
    balancer, which must not take every process out since a subscription is behind.
    """

    http_method_names: ClassVar[list[str]] = ["get", "head"]  # type: ignore[misc]
    details = False
    store_only = False

    def get(self, request: HttpRequest) -> JsonResponse:
        """Answer; a failure is an answer as well."""
        try:
            found = _ping() if self.store_only else figures()
        except Exception as error:
            logger.exception("The health of the store is not known.")
            found = _unanswered(error)
        told = found if self.details else _public(found)
        answer = JsonResponse(told, status=200 if found["ok"] else 503)
        if not found["ok"]:
            why = found["store"]["error"] or " ".join(found["reasons"])
            logger.warning("Not healthy: %s", why)
            # Django logs each 503 as an error, which by default it mails to the admins.
            answer._has_been_logged = True  # type: ignore[attr-defined]
        return answer


def _ping() -> dict[str, Any]:
    """Return the part of ``figures()`` that is about the store alone."""
    try:
        with in_time(limits_of_settings().TIMEOUT):
            drive(connection.blocking().client.command("ping"))
    except _EXPECTED as error:
        found = _unanswered(error)
        return {name: found[name] for name in ("ok", "reasons", "store")}
    return {"ok": True, "reasons": [], "store": {"reachable": True, "error": None}}


def _public(value: Any) -> Any:
    """Return figures without what is nobody else's business."""
    if isinstance(value, dict):
        return {k: _public(v) for k, v in value.items() if k not in DETAILS}
    if isinstance(value, list):
        return [_public(one) for one in value]
    return value
