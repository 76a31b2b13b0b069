"""The pages of events: the feed over all streams, and each event as it is stored."""

from __future__ import annotations

from typing import Any

from django.contrib.admin.utils import unquote
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.utils.translation import gettext as _

from ..documents.bson_types import Document
from ..documents.display import lines, visible
from ..mongodb import connection
from ..mongodb.ports import drive
from ..streams import lookup
from ..streams.event_lines import line_of
from . import lookups
from .base import StoreModelAdmin, download, may
from .query_string import ListQuery


class EventAdmin(StoreModelAdmin):
    """The feed over all streams, and each event as it is stored."""

    def get_urls(self) -> list[Any]:
        """Return the addresses that exist: there is none to add, change or delete."""
        one = "<path:object_id>/"
        return [
            self._path("", "changelist", self.changelist_view, "view_event"),
            self._path(f"{one}change/", "change", self.change_view, "view_event"),
            self._path(f"{one}download/", "download", self.download_view, "view_event"),
        ]

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """List the events of all streams, the newest first."""
        store = connection.blocking()
        asked = ListQuery(request, "q", "type", "event_type", "by", "correlation")
        if event_id := asked.given.pop("q", ""):
            if _find(store, event_id) is not None:
                return HttpResponseRedirect(str(self._url("event", "change", event_id)))
            asked.errors.append(_("There is no event of this id."))
        search = asked.search()
        page = drive(
            lookups.events(store, search, older=asked.older, newer=asked.newer)
        )
        context = {
            "rows": [self._event(request, event) for event in page.items],
            "links": asked.links(page),
            "asked": {**asked.given, "q": event_id},
            "errors": asked.errors,
            "types": _choices(drive(lookup.types(store))),
            "is_list": True,
            "event_types": _choices(drive(lookups.event_types(store))),
            "streams_url": self._url("stream", "changelist")
            if may(request, "view_stream")
            else None,
            **(extra_context or {}),
        }
        return self._render(request, "events", _("Events"), context)

    def change_view(
        self,
        request: HttpRequest,
        object_id: str,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        """Show an event as it is stored, and what belongs to it."""
        store = connection.blocking()
        event = _stored_event(store, unquote(object_id))
        related = drive(lookups.relations(store, event))

        def shown(other: Document | None) -> dict[str, Any] | None:
            return None if other is None else self._event(request, other)

        correlation = lookups.text_in_metadata(event, "correlationId")
        context = {
            "event": self._event(request, event),
            "whole": lines(event),
            "download_url": self._url("event", "download", event["_id"]),
            "previous": shown(related.previous),
            "next": shown(related.next),
            "cause": shown(related.cause),
            "caused": [shown(other) for other in related.caused],
            "correlated": [shown(other) for other in related.correlated],
            "correlation_url": self._url("event", "changelist", correlation=correlation)
            if correlation
            else None,
            **(extra_context or {}),
        }
        title = visible(str(event.get("type", "")))
        return self._render(request, "event", title, context)

    def download_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Download the whole event as JSON."""
        event = _stored_event(connection.blocking(), unquote(object_id))
        return download(line_of(event), f"{event['_id']}.json")


def _choices(names: list[str]) -> list[tuple[str, str]]:
    return [(name, visible(name)) for name in names]


def _find(store: connection.Store, event_id: str) -> Document | None:
    try:
        return drive(lookups.event(store, event_id))
    except ValueError:
        return None


def _stored_event(store: connection.Store, event_id: str) -> Document:
    event = _find(store, event_id)
    if event is None:
        raise Http404(_("There is no such event."))
    return event
