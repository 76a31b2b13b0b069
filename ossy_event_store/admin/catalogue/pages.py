"""The page of the event types: what the code declares, and on demand what is stored."""

from __future__ import annotations

from typing import Any

import pymongo
from django.http import HttpRequest, HttpResponse
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from pymongo.errors import PyMongoError

from ...aggregate.registry import registered_aggregates
from ...documents.catalogue import declaration
from ...documents.catalogue.compatibility.event_types import known_types
from ...documents.catalogue.problems import problems
from ...documents.display import visible
from ...mongodb import connection
from ...mongodb.ports import drive
from ...monitoring.catalogue.listing import ListedType, listed_types
from ...monitoring.catalogue.stored import Standing, StoredVersion, stored_types
from ...monitoring.catalogue.text import visible_lines
from ..base import StoreModelAdmin, may

STORED_SECONDS = 5.0  # for which the page waits while it counts

_STANDINGS = {
    Standing.CURRENT: gettext_lazy("current"),
    Standing.UPCASTED: gettext_lazy("upcasted"),
    Standing.STORE: gettext_lazy("of the store"),
    Standing.UNKNOWN: gettext_lazy("not declared"),
    Standing.UNREADABLE: gettext_lazy("cannot be read"),
}
_CLASSES = {
    Standing.CURRENT: "current",
    Standing.UNKNOWN: "missing",
    Standing.UNREADABLE: "ahead",
}


class CataloguePages(StoreModelAdmin):
    """The event types that the code declares, among the pages of the events."""

    def catalogue_urls(self) -> list[Any]:
        """Return the URLs."""
        view = self.catalogue_view
        return [self._path("catalogue/", "catalogue", view, "view_event")]

    def catalogue_view(self, request: HttpRequest) -> HttpResponse:
        """Show every event type; what is stored is only counted if it is asked for."""
        context: dict[str, Any] = {
            "problems": list(problems(declaration.declarations)),
            "types": [self._type_row(request, one) for one in listed_types()],
        }
        if "stored" in request.GET:
            context |= self._stored()
        return self._render(request, "catalogue", _("Event types"), context)

    def _stored(self) -> dict[str, Any]:
        known = known_types(declaration.declarations)
        try:
            with pymongo.timeout(STORED_SECONDS):
                found = drive(stored_types(connection.blocking(), known))
        except PyMongoError as error:
            if not error.timeout:
                raise
            return {"is_late": True}
        return {
            "stored": [self._stored_row(one) for one in found.versions],
            "never": list(map(visible, found.never_stored)),
            "is_asked": True,
            "is_counted": found.is_counted,
        }

    def _type_row(self, request: HttpRequest, one: ListedType) -> dict[str, Any]:
        first, _rest, more = visible_lines(one.doc).partition("\n\n")
        return {
            "name": visible(one.name),
            "url": self.url_of("event", "changelist", event_type=one.name),
            "version": one.version,
            "cls": one.cls or "",
            "aliases": list(map(visible, one.aliases)),
            "summary": first,
            "doc": more,
            "fields": [
                {
                    "name": visible(field.name),
                    "type": visible(field.type),
                    "default": visible(field.default or ""),
                    "required": field.required,
                }
                for field in one.fields
            ],
            "upcasters": [
                {
                    "version": upcaster.version,
                    "function": upcaster.function,
                    "into": list(map(visible, upcaster.into)),
                }
                for upcaster in one.upcasters
            ],
            "readers": [
                {"name": visible(name), "url": self._reader_url(request, kind, name)}
                for kind, names in one.named_by.items()
                for name in names
            ],
        }

    def _reader_url(self, request: HttpRequest, kind: str, name: str) -> str | None:
        """Return the page of what reads a type, if this user may see it."""
        if kind == "reducer":
            is_listed = may(request, "view_stream") and name in registered_aggregates()
            return self.url_of("stream", "changelist", type=name) if is_listed else None
        if may(request, "view_subscription"):
            return self.url_of("subscription", "change", name)
        return None

    def _stored_row(self, one: StoredVersion) -> dict[str, Any]:
        return {
            "name": visible(one.type),
            "url": self.url_of("event", "changelist", event_type=one.type),
            "version": one.version,
            "count": one.count,
            "last": one.last,
            "standing": _STANDINGS[one.standing],
            "status": _CLASSES.get(one.standing, ""),
            "reason": one.reason or "",
        }
