"""The pages of an outbox: what waits, and retrying and discarding what is parked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.utils.translation import gettext as _
from django.views.decorators.http import require_POST

from ...documents.display import visible
from ...models import Subscription
from ...monitoring.outboxes import OutboxStatus, outboxes
from ...relational import outbox
from ..addresses import from_address
from ..base import StoreModelAdmin, may
from ..query_string import number_of

if TYPE_CHECKING:
    from ...relational.models import Outbox

PARKED_LIMIT = 100  # parked events on a page
DISCARDED_LIMIT = 20  # records of discarded events on a page, the latest


class OutboxPages(StoreModelAdmin):
    """The outbox of each SQL database, among the pages of the subscriptions."""

    def outbox_urls(self) -> list[Any]:
        """Return the URLs; they come after those of the subscriptions."""
        one, view = "outbox/<path:object_id>/", "view_subscription"
        operate = (view, "operate_subscription")
        retry, discard = map(require_POST, (self.retry_event_view, self.discard_view))
        return [
            self._path(f"{one}retry-event/", "retry_event", retry, *operate),
            self._path(f"{one}discard-event/", "discard_event", discard, *operate),
            self._path(one, "outbox", self.outbox_view, view),
        ]

    def outbox_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Show what waits in an outbox, its parked and its discarded events."""
        found = self._status_of(object_id)
        using, is_readable = found.using, found.error is None
        parked = outbox.parked_rows(using, PARKED_LIMIT) if is_readable else []
        discarded = outbox.discarded_rows(using, DISCARDED_LIMIT) if is_readable else []
        context = {
            "outbox": self._outbox_row(found),
            "parked": [self._event_row(using, row) for row in parked],
            "more": max(0, found.parked - len(parked)),
            "discarded": [self._event_row(using, row) for row in discarded],
            "may_operate": may(request, "operate_subscription"),
            "retry_url": self.url_of("subscription", "retry_event", using),
        }
        title = _("Outbox of %(database)s") % {"database": visible(using)}
        return self._render(request, "outbox", title, context)

    def retry_event_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Let a parked event wait again, or all of them."""
        using = self._status_of(object_id).using
        number = self._number(request) if "number" in request.GET else None
        if outbox.retry(using, number):
            messages.success(
                request, _("Retry requested; a process of run_subscriptions retries.")
            )
            what = "all parked events" if number is None else f"event {number}"
            self._record(request, using, f"Requested a retry of {what}.")
        else:
            messages.warning(request, _("Nothing is left to retry."))
        return self._back_to(using)

    def discard_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Discard a parked event, with a reason."""
        using = self._status_of(object_id).using
        reason = request.POST.get("reason", "").strip()
        number = self._number(request)
        if not reason:
            messages.error(request, _("Enter a reason to discard an event."))
            return self._back_to(using)
        row = outbox.discard(using, number, reason, request.user.get_username())
        if row is None:
            messages.warning(request, _("This event is no longer parked."))
            return self._back_to(using)
        messages.success(request, _("Discarded the event. Those after it follow."))
        self._record(
            request,
            using,
            f"Discarded {row.type} ({row.event_id}) of stream "
            f"{row.aggregate_id!r}: {reason}",
        )
        return self._back_to(using)

    def outbox_rows(self) -> list[dict[str, Any]]:
        """Return what the list of subscriptions shows of each outbox."""
        return [self._outbox_row(one) for one in outboxes()]

    def _status_of(self, object_id: str) -> OutboxStatus:
        using = from_address(object_id)
        for one in outboxes():
            if one.using == using:
                return one
        raise Http404(_("This database has no outbox."))

    def _number(self, request: HttpRequest) -> int:
        number = number_of(request.GET.get("number", ""))
        if number is None:
            raise Http404(_("This event does not exist."))
        return number

    def _back_to(self, using: str) -> HttpResponse:
        return HttpResponseRedirect(str(self.url_of("subscription", "outbox", using)))

    def _record(self, request: HttpRequest, using: str, text: str) -> None:
        self.record(request, Subscription(id=f"outbox of {using}"), text)

    # --- rows of the templates ----------------------------------------------

    def _outbox_row(self, one: OutboxStatus) -> dict[str, Any]:
        return {
            **one.as_dict(),
            "name": visible(one.using),
            "error": visible(one.error or ""),
            "url": self.url_of("subscription", "outbox", one.using),
        }

    def _event_row(self, using: str, row: Outbox) -> dict[str, Any]:
        number = row.pk
        return {
            "number": number,
            "stream": visible(row.aggregate_id),
            "type": visible(row.type),
            "event_id": visible(row.event_id),
            "created": row.created,
            "tries": row.tries,
            "error": visible(row.error),
            "by": visible(row.discarded_by),
            "reason": visible(row.reason),
            "discarded": row.discarded,
            "retry_url": self.url_of(
                "subscription", "retry_event", using, number=number
            ),
            "discard_url": self.url_of(
                "subscription", "discard_event", using, number=number
            ),
        }
