"""The pages of subscriptions: their status, parked streams, retrying and skipping."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from bson import ObjectId
from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.utils.timesince import timesince
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext
from django.views.decorators.http import require_POST

from ..documents.bson_types import Document
from ..documents.display import visible
from ..exceptions import UnknownSubscription
from ..models import Subscription
from ..mongodb import connection, deadline
from ..mongodb.ports import drive
from ..monitoring.status import Status, status, statuses
from ..positions.damage import held_up
from ..projections import projection
from ..projections.forget import forget
from ..subscriptions import operator_actions, parked_streams, snapshot_subscription
from .addresses import from_address
from .base import may
from .outbox import OutboxPages
from .query_string import number_of

PARKED_LIMIT = 100  # parked streams on a page, those parked longest
SKIPPED_LIMIT = 20  # skipped events on a page, the latest
SECONDS_LIMIT = 120  # from here on a lag is in minutes or more

STATES = {
    "running": gettext_lazy("running"),
    "not running": gettext_lazy("not running"),
    "stopped": gettext_lazy("stopped"),
    "paused": gettext_lazy("paused"),
    "new": gettext_lazy("never run"),
}
KINDS = {
    "subscription": gettext_lazy("subscription"),
    projection.KIND: gettext_lazy("projection"),
    projection.BUILD_KIND: gettext_lazy("projection being rebuilt"),
    snapshot_subscription.KIND: gettext_lazy("snapshots"),
}


class SubscriptionAdmin(OutboxPages):
    """Subscriptions and projections with their parked streams, and the outboxes."""

    parked_limit = PARKED_LIMIT

    def get_urls(self) -> list[Any]:
        """Return the URLs: to view, and to operate."""
        one, view = "<path:object_id>/", "view_subscription"
        operate = (view, "operate_subscription")
        views = {
            "retry": self.retry_view,
            "skip": self.skip_view,
            "pause": self.pause_view,
            "resume": self.resume_view,
            "forget": self.forget_view,
        }
        return [
            self._path("", "changelist", self.changelist_view, view),
            self._path(f"{one}change/", "change", self.change_view, view),
            *(
                self._path(f"{one}{action}/", action, require_POST(call), *operate)
                for action, call in views.items()
            ),
            *self.outbox_urls(),
        ]

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """List all subscriptions: those that are declared, and those that ever ran."""
        found = drive(statuses(connection.blocking()))
        for one in drive(held_up(connection.blocking()))[1]:
            stream = visible(one.aggregate_id)
            messages.error(
                request, f"Stream {stream}: {one.reason}"
            )  # as commands say it
        context = {
            "rows": [self._status_row(request, one) for one in found],
            "outboxes": self.outbox_rows(),
            "is_list": True,
            **(extra_context or {}),
        }
        return self._render(request, "subscriptions", _("Subscriptions"), context)

    def change_view(
        self,
        request: HttpRequest,
        object_id: str,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        """Show the status of a subscription, its parked streams and skipped events."""
        store, name = connection.blocking(), from_address(object_id)
        found = drive(status(store, name))
        if found is None:
            raise Http404(_("This subscription does not exist."))
        parked = drive(parked_streams.find_parked(store, name, limit=self.parked_limit))
        skipped = drive(_skipped(store, name))
        error = _unless_parked(found.last_error, parked)
        # A subscription that never ran has no checkpoint to continue from.
        may_operate = may(request, "operate_subscription") and found.state != "new"
        context = {
            "subscription": self._status_row(request, found),
            "error": self._failure_row(request, error),
            "parked": [self._parked_row(request, name, one) for one in parked],
            "more": max(0, found.parked - len(parked)),
            "skipped": [self._failure_row(request, one) for one in skipped],
            "may_operate": may_operate,
            "retry_url": self.url_of("subscription", "retry", name),
            "skip_url": self._skip_url(name, found.stopped),
            **{
                f"{action}_url": self.url_of("subscription", action, name)
                for action in ("pause", "resume", "forget")
            },
            **(extra_context or {}),
        }
        return self._render(request, "subscription", visible(name), context)

    def retry_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Request a retry of one parked stream, or of everything that failed."""
        name, stream = from_address(object_id), request.GET.get("stream")
        with _existing(ValueError):
            requested = operator_actions.retry(name, stream)
        if requested:
            messages.success(
                request,
                _("Retry requested; it happens once a process runs the subscription."),
            )
            what = "everything that failed" if stream is None else f"stream {stream!r}"
            self.record(request, Subscription(id=name), f"Requested a retry of {what}.")
        else:
            messages.warning(request, _("Nothing is left to retry."))
        return self._back(name)

    def skip_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Skip the event at which a stream, or the whole subscription, is blocked."""
        name, stream = from_address(object_id), request.GET.get("stream")
        reason = request.POST.get("reason", "").strip()
        position = request.GET.get("position", "")
        if not reason:
            messages.error(request, _("Enter a reason to skip an event."))
            return self._back(name)
        number = number_of(position)
        if number is None:
            raise Http404(_("This event does not exist."))
        who = request.user.get_username()
        with _existing(ValueError):
            record = operator_actions.skip(name, stream, reason, who, number)
        if record is None:
            messages.warning(request, _("This event no longer blocks delivery."))
            return self._back(name)
        messages.success(request, _("Skipped the event. Delivery continues after it."))
        version, stream_id = record["aggregateVersion"], record["aggregateId"]
        self.record(
            request,
            Subscription(id=name),
            f"Skipped {record['type']} ({record['eventId']}), "
            f"version {version} of stream {stream_id!r}: {reason}",
        )
        return self._back(name)

    def pause_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Pause a subscription."""
        name, who = from_address(object_id), request.user.get_username()
        return self._operate(
            request, name, "Paused.", lambda: operator_actions.pause(name, who)
        )

    def resume_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Let a paused subscription continue."""
        name = from_address(object_id)
        return self._operate(
            request, name, "Resumed.", lambda: operator_actions.resume(name)
        )

    def forget_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Delete what is stored of a subscription that no longer exists in the code."""
        name = from_address(object_id)

        def gone() -> bool:
            forget(name)
            return True

        self._operate(request, name, "Forgotten.", gone)
        return HttpResponseRedirect(str(self.url_of("subscription", "changelist")))

    def _operate(
        self, request: HttpRequest, name: str, done: str, action: Callable[[], bool]
    ) -> HttpResponse:
        """Do what an operator asks for, say so and log it."""
        try:
            with _existing():
                changed = action()
        except ValueError as error:
            messages.error(request, visible(str(error)))
            return self._back(name)
        if changed:
            messages.success(request, _("Done."))
            self.record(request, Subscription(id=name), done)
        return self._back(name)

    def _back(self, name: str) -> HttpResponse:
        return HttpResponseRedirect(str(self.url_of("subscription", "change", name)))

    # --- rows of the templates ----------------------------------------------

    def _status_row(self, request: HttpRequest, one: Status) -> dict[str, Any]:
        return {
            "name": visible(one.name),
            "url": self.url_of("subscription", "change", one.name),
            "kind": KINDS.get(one.kind, visible(one.kind)),
            "state": one.state,
            "state_text": STATES[one.state],
            "position": one.position,
            "lag": one.lag,
            "lag_time": _span(one.lag_seconds),
            "rate": one.rate,
            "delivered": one.delivered,
            "parked": one.parked,
            "owner": visible(one.owner or ""),
            "updated": one.updated,
            "error": self._failure_row(request, one.last_error),
            "stopped": self._failure_row(request, one.stopped),
            "paused": one.paused,
            "paused_by": visible(str((one.paused or {}).get("by") or "")),
            "is_declared": one.declared,
            "is_changed": one.changed,
        }

    def _parked_row(
        self, request: HttpRequest, name: str, one: Document
    ) -> dict[str, Any]:
        """Return what templates show of a parked stream."""
        stream = one["aggregateId"]
        return {
            **(self._failure_row(request, one) or {}),
            "is_catching_up": one.get("eventId") is None,
            "is_retry_requested": one.get("retry"),
            "attempts": one.get("tries") or 0,
            "since": one.get("since"),
            "retry_url": self.url_of("subscription", "retry", name, stream=stream),
            "skip_url": self._skip_url(name, one, stream),
        }

    def _failure_row(
        self, request: HttpRequest, record: Mapping[str, Any] | None
    ) -> dict[str, Any] | None:
        """Return what templates show of a failed or skipped event and its error."""
        if not record:
            return None
        event_id, stream = record.get("eventId"), record.get("aggregateId")
        version = record.get("aggregateVersion")
        traceback = str(record.get("traceback") or "")
        is_event = isinstance(event_id, (str, ObjectId))
        return {
            "failed": record.get("failed"),
            "error": visible(str(record.get("error") or "")),
            "traceback": "\n".join(map(visible, traceback.splitlines())),
            "type": visible(str(record.get("type") or "")),
            "stream": visible(str(stream or "")),
            "version": version,
            "position": record.get("position"),
            "event_url": self.url_of("event", "change", event_id)
            if is_event and may(request, "view_event")
            else None,
            "stream_url": self.url_of("stream", "change", stream, version=version)
            if is_event and may(request, "view_stream")
            else None,
            "reason": visible(str(record.get("reason") or "")),
            "by": visible(str(record.get("skippedBy") or "")),
            "skipped": record.get("skipped"),
        }

    def _skip_url(
        self, name: str, failed: Mapping[str, Any] | None, stream: str | None = None
    ) -> str | None:
        """Return the URL that skips the failed event, and no other."""
        if not failed or failed.get("eventId") is None:
            return None
        # In the URL, because a form would change the line breaks of an id.
        position = failed["position"]
        return self.url_of(
            "subscription", "skip", name, stream=stream, position=position
        )


@contextmanager
def _existing(*more: type[Exception]) -> Iterator[None]:
    """Respond with 404 if a subscription does not exist, or on one of more errors."""
    errors: tuple[type[Exception], ...] = (UnknownSubscription, *more)
    try:
        yield
    except errors:  # as for a text that cannot be an id
        raise Http404(_("This subscription does not exist.")) from None


def _unless_parked(
    error: Mapping[str, Any] | None, parked: list[Document]
) -> Mapping[str, Any] | None:
    """Return an error, or None if the page shows it with a parked stream."""
    if error is None:
        return None
    failed = error.get("aggregateId"), error.get("position")
    is_listed = any(failed == (one["aggregateId"], one["position"]) for one in parked)
    return None if is_listed else error


async def _skipped(store: connection.Store, name: str) -> list[Document]:
    """Return the skipped events of a subscription, newest first."""
    with deadline.in_time():
        return await store.skipped.find(
            {"subscription": {"$eq": name}, "withdrawn": None},
            sort=[("position", -1)],
            limit=SKIPPED_LIMIT,
        )


def _span(seconds: float) -> str:
    """Return a duration in words, in one unit."""
    if seconds < SECONDS_LIMIT:
        whole = round(seconds)
        text = ngettext("%(count)s second", "%(count)s seconds", whole)
        return text % {"count": whole}
    now = dt.datetime.now(dt.UTC)
    return timesince(now - dt.timedelta(seconds=seconds), now, depth=1)
