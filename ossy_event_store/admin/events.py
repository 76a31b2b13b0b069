"""The pages of events: the feed over all streams, and each event as stored."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.utils.translation import gettext as _

from ..documents.bson_types import Document
from ..documents.catalogue.as_python.events import source_of_event, source_of_test
from ..documents.catalogue.as_python.values import NoSource
from ..documents.catalogue.catalogue import current
from ..documents.catalogue.declaration import name_of_function
from ..documents.catalogue.upcasting import Ran
from ..documents.display import lines, visible
from ..documents.extended_json import dumps, encode
from ..documents.passed_over import is_event
from ..exceptions import UnknownEventVersion, UpcasterError
from ..mongodb import connection
from ..mongodb.ports import drive
from ..streams import lookup
from ..streams.event_lines import line_of
from ..streams.reducers import error_text
from . import event_lookups
from .addresses import from_address
from .base import download, may, text_of
from .catalogue import CataloguePages
from .context import trees
from .event_fields import text_in_metadata
from .query_string import ListQuery
from .stream_lookups import class_of


class EventAdmin(CataloguePages):
    """The feed over all streams, and each event as stored."""

    def get_urls(self) -> list[Any]:
        """Return the URLs: none adds, changes or deletes an event."""
        one = "<path:object_id>/"
        return [
            self._path("", "changelist", self.changelist_view, "view_event"),
            *self.catalogue_urls(),
            self._path(f"{one}change/", "change", self.change_view, "view_event"),
            self._path(f"{one}download/", "download", self.download_view, "view_event"),
        ]

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """List the events of all streams, newest first."""
        store = connection.blocking()
        query = ListQuery(
            request, "q", "type", "event_type", "by", "tag", "correlation"
        )
        if event_id := query.filters.pop("q", ""):
            if _find(store, event_id) is not None:
                url = self.url_of("event", "change", event_id)
                return HttpResponseRedirect(str(url))
            query.errors.append(_("No event has this id."))
        search = query.search()
        page = drive(
            event_lookups.events(store, search, older=query.older, newer=query.newer)
        )
        context = {
            "rows": [self.event_row(request, event) for event in page.items],
            "links": query.links(page),
            "filters": {**query.filters, "q": event_id},
            "errors": query.errors,
            "types": _choices(drive(lookup.types(store))),
            "is_list": True,
            "event_types": _choices(drive(event_lookups.event_types(store))),
            "streams_url": self.url_of("stream", "changelist")
            if may(request, "view_stream")
            else None,
            "catalogue_url": self.url_of("event", "catalogue"),
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
        """Show an event as read today and as stored, and the events related to it."""
        store = connection.blocking()
        event = _stored_event(store, from_address(object_id))
        related = drive(event_lookups.neighbours(store, event))
        around = drive(trees.tree_of(store, event))

        def row(other: Document | None) -> dict[str, Any] | None:
            return None if other is None else self.event_row(request, other)

        correlation = text_in_metadata(event, "correlationId")
        document = lines(event)
        context = {
            "event": self.event_row(request, event),
            "document": document,
            "test": None if document.is_cut else _as_test(store, event),
            **_read_today(event),
            "download_url": self.url_of("event", "download", event["_id"]),
            "previous": row(related.previous),
            "next": row(related.next),
            "tree": trees.rows_of(
                around.trace, event, lambda other: self.event_row(request, other)
            )
            if around.trace.count > 1 or around.trace.roots[0].lacks_cause
            else None,
            "tree_is_cut": around.trace.is_cut,
            "tree_lacks_index": around.lacks_index,
            "correlation_url": self.url_of(
                "event", "changelist", correlation=correlation
            )
            if correlation
            else None,
            **(extra_context or {}),
        }
        title = text_of(event.get("type"))
        return self._render(request, "event", title, context)

    def download_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Download the full event as JSON."""
        event = _stored_event(connection.blocking(), from_address(object_id))
        text = line_of(event) if is_event(event) else dumps(encode(event))
        return download(text, f"{event['_id']}.json")


def _read_today(event: Document) -> dict[str, Any]:
    """Return what the code makes of an event, unless that is the event as stored."""
    if not is_event(event):
        return {}
    payload = {} if event.get("payload") is None else event["payload"]
    whole: Document = {**event, "payload": payload}
    ran: list[Ran] = []
    try:
        found = current().of(whole, ran=ran)
    except (UnknownEventVersion, UpcasterError, ImproperlyConfigured) as error:
        return {"unreadable": visible(error_text(error)), "is_upcasted": True}
    return {
        "is_upcasted": any(one is not whole for one in found) or not found,
        "results": [lines(one) for one in found],
        "upcasters": [
            f"{name_of_function(one.upcaster.function)} ({one.upcaster.type} "
            f"{one.upcaster.version} → {one.upcaster.version + 1})"
            for one in ran
        ],
    }


def _as_test(store: connection.Store, event: Document) -> str | None:
    """Return a test with the stream up to an event; without its class, the event."""
    if not is_event(event):
        return None
    Root = class_of(event)
    with suppress(NoSource):  # the class cannot be imported
        if Root and (stream := drive(event_lookups.up_to(store, event))):
            return source_of_test(Root, stream)
    return source_of_event(event)


def _choices(names: list[str]) -> list[tuple[str, str]]:
    return [(name, visible(name)) for name in names]


def _find(store: connection.Store, event_id: str) -> Document | None:
    try:
        return drive(event_lookups.event(store, event_id))
    except ValueError:
        return None


def _stored_event(store: connection.Store, event_id: str) -> Document:
    event = _find(store, event_id)
    if event is None:
        raise Http404(_("This event does not exist."))
    return event
