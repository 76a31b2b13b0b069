"""The pages of subscriptions: how each stands, what is parked, and what to do then."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any

from bson import ObjectId
from django.contrib import messages
from django.contrib.admin.utils import unquote
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.utils.timesince import timesince
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext
from django.views.decorators.http import require_POST

from ..documents.bson_types import Document
from ..documents.display import visible
from ..exceptions import UnknownSubscription
from ..models import Subscription
from ..mongodb import connection
from ..mongodb.ports import drive
from ..monitoring.status import Status, status, statuses
from ..projections import projection
from ..subscriptions import operator_actions, parked_streams, snapshot_subscription
from .base import StoreModelAdmin, may

SHOWN = 100  # parked streams on a page, those that wait longest
LATEST = 20  # events that were skipped
MINUTES = 120  # seconds from which on minutes are told

STATES = {
    "running": gettext_lazy("running"),
    "not running": gettext_lazy("not running"),
    "stopped": gettext_lazy("stopped"),
    "new": gettext_lazy("never run"),
}
KINDS = {
    "subscription": gettext_lazy("subscription"),
    projection.KIND: gettext_lazy("projection"),
    projection.BUILD_KIND: gettext_lazy("projection that is built anew"),
    snapshot_subscription.KIND: gettext_lazy("snapshots"),
}


class SubscriptionAdmin(StoreModelAdmin):
    """Subscriptions and projections, and the streams that each has parked."""

    def get_urls(self) -> list[Any]:
        """Return the addresses that exist: there is none to add, change or delete."""
        one, seen = "<path:object_id>/", "view_subscription"
        operated = (seen, "operate_subscription")
        retry, skip = require_POST(self.retry_view), require_POST(self.skip_view)
        return [
            self._path("", "changelist", self.changelist_view, seen),
            self._path(f"{one}change/", "change", self.change_view, seen),
            self._path(f"{one}retry/", "retry", retry, *operated),
            self._path(f"{one}skip/", "skip", skip, *operated),
        ]

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """List all subscriptions: those declared, and those that ever ran."""
        found = drive(statuses(connection.blocking()))
        context = {
            "rows": [self._status(request, one) for one in found],
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
        """Show how one stands, the streams that wait, and the events skipped."""
        store, name = connection.blocking(), unquote(object_id)
        found = drive(status(store, name))
        if found is None:
            raise Http404(_("There is no such subscription."))
        waiting = drive(parked_streams.parked(store, name, limit=SHOWN))
        skipped = drive(_skipped(store, name))
        # One that never ran has no place from which it could go on.
        may_operate = may(request, "operate_subscription") and found.state != "new"
        context = {
            "subscription": self._status(request, found),
            "error": self._at(request, _not_among(waiting, found.last_error)),
            "parked": [self._waits(request, name, one) for one in waiting],
            "more": max(0, found.parked - len(waiting)),
            "skipped": [self._at(request, one) for one in skipped],
            "may_operate": may_operate,
            "retry_url": self._url("subscription", "retry", name),
            "skip_url": self._skip_url(name, found.stopped),
            **(extra_context or {}),
        }
        return self._render(request, "subscription", visible(name), context)

    def retry_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Ask for a retry of one parked stream, or of all that waits."""
        name, stream = unquote(object_id), request.GET.get("stream")
        try:
            asked = operator_actions.retry(name, stream)
        except UnknownSubscription:
            raise Http404(_("There is no such subscription.")) from None
        if asked:
            messages.success(
                request,
                _("To be tried again, as soon as a process runs the subscription."),
            )
            what = "all that waits" if stream is None else f"stream {stream!r}"
            self.log_change(request, Subscription(id=name), f"Tried {what} again.")
        else:
            messages.warning(request, _("Nothing waits there any more."))
        return self._back(name)

    def skip_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Pass over the event at which a stream, or all, waits."""
        name, stream = unquote(object_id), request.GET.get("stream")
        reason = request.POST.get("reason", "").strip()
        position = request.GET.get("position", "")
        if not reason:
            messages.error(request, _("To skip an event, give a reason."))
            return self._back(name)
        if not (position.isascii() and position.isdigit()):
            raise Http404(_("There is no such event."))
        who = request.user.get_username()
        try:
            kept = operator_actions.skip(name, stream, reason, who, int(position[:18]))
        except UnknownSubscription:
            raise Http404(_("There is no such subscription.")) from None
        if kept is None:
            messages.warning(request, _("It does not wait at this event any more."))
            return self._back(name)
        messages.success(request, _("The event was skipped; what follows it goes on."))
        where = f"version {kept['aggregateVersion']} of stream {kept['aggregateId']!r}"
        self.log_change(
            request,
            Subscription(id=name),
            f"Skipped {kept['type']} ({kept['eventId']}), {where}: {reason}",
        )
        return self._back(name)

    def _back(self, name: str) -> HttpResponse:
        return HttpResponseRedirect(str(self._url("subscription", "change", name)))

    # --- as people see it ---------------------------------------------------

    def _status(self, request: HttpRequest, one: Status) -> dict[str, Any]:
        return {
            "name": visible(one.name),
            "url": self._url("subscription", "change", one.name),
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
            "error": self._at(request, one.last_error),
            "stopped": self._at(request, one.stopped),
            "is_declared": one.declared,
            "is_changed": one.changed,
        }

    def _waits(self, request: HttpRequest, name: str, one: Document) -> dict[str, Any]:
        """Return a parked stream as a template shows it."""
        stream = one["aggregateId"]
        return {
            **(self._at(request, one) or {}),
            "goes_on": one.get("eventId") is None,
            "is_asked": one.get("retry"),
            "tries": one.get("tries"),
            "since": one.get("since"),
            "retry_url": self._url("subscription", "retry", name, stream=stream),
            "skip_url": self._skip_url(name, one, stream),
        }

    def _at(
        self, request: HttpRequest, kept: Mapping[str, Any] | None
    ) -> dict[str, Any] | None:
        """Return an error, and the event of it, as a template shows it."""
        if not kept:
            return None
        event_id, stream = kept.get("eventId"), kept.get("aggregateId")
        version = kept.get("aggregateVersion")
        is_event = isinstance(event_id, (str, ObjectId))
        return {
            "failed": kept.get("failed"),
            "error": visible(str(kept.get("error") or "")),
            "traceback": "\n".join(
                visible(line) for line in str(kept.get("traceback") or "").splitlines()
            ),
            "type": visible(str(kept.get("type") or "")),
            "stream": visible(str(stream or "")),
            "version": version,
            "position": kept.get("position"),
            "event_url": self._url("event", "change", event_id)
            if is_event and may(request, "view_event")
            else None,
            "stream_url": self._url("stream", "change", stream, version=version)
            if is_event and may(request, "view_stream")
            else None,
            "reason": visible(str(kept.get("reason") or "")),
            "by": visible(str(kept.get("skippedBy") or "")),
            "skipped": kept.get("skipped"),
        }

    def _skip_url(
        self, name: str, waits: Mapping[str, Any] | None, stream: str | None = None
    ) -> str | None:
        """Return where the event at which something waits, and no other, is skipped."""
        if not waits or waits.get("eventId") is None:
            return None
        # In the address, as a form would turn the line breaks of an id into others.
        position = waits["position"]
        return self._url("subscription", "skip", name, stream=stream, position=position)


def _not_among(
    waiting: list[Document], error: Mapping[str, Any] | None
) -> Mapping[str, Any] | None:
    """Return an error, unless it is told with the parked stream that it stopped."""
    if error is None:
        return None
    place = error.get("aggregateId"), error.get("position")
    is_told = any(place == (one["aggregateId"], one["position"]) for one in waiting)
    return None if is_told else error


async def _skipped(store: connection.Store, name: str) -> list[Document]:
    """Return the events of a subscription that were skipped, the newest first."""
    with connection.in_time():
        return await store.skipped.find(
            {"subscription": {"$eq": name}, "withdrawn": None},
            sort=[("position", -1)],
            limit=LATEST,
        )


def _span(seconds: float) -> str:
    """Return a length of time in words, with one unit."""
    if seconds < MINUTES:
        whole = round(seconds)
        text = ngettext("%(count)s second", "%(count)s seconds", whole)
        return text % {"count": whole}
    now = dt.datetime.now(dt.UTC)
    return timesince(now - dt.timedelta(seconds=seconds), now, depth=1)
