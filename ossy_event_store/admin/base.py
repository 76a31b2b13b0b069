"""
What the pages of the admin share: permissions, addresses, and a store that is down.

Every view checks its own permission: ``view_stream`` shows which streams there are
and who did what when; ``view_event`` what events hold, and the states they led to;
``view_snapshot`` how the stored state stands; ``rebuild_snapshot`` renews it;
``view_subscription`` how subscriptions stand and why they failed;
``operate_subscription`` tries again and skips.
"""

from __future__ import annotations

import datetime as dt
import functools
from collections.abc import Callable, Mapping
from typing import Any

import django
from bson import ObjectId
from django.contrib import admin
from django.contrib.admin.utils import quote
from django.core.exceptions import ImproperlyConfigured, PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import NoReverseMatch, URLPattern, path, reverse
from django.utils.http import urlencode
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from pymongo.errors import OperationFailure

from ..documents.bson_types import Document
from ..documents.display import brief, visible
from ..exceptions import StoreUnavailable
from ..mongodb.write_errors import short_reason

STATUS = {
    "current": gettext_lazy("up to date"),
    "behind": gettext_lazy("behind"),
    "ahead": gettext_lazy("ahead of its stream"),
    "other revision": gettext_lazy("of an earlier reducer"),
    "missing": gettext_lazy("none"),
    "unregistered": gettext_lazy("no class for this type"),
}

View = Callable[..., HttpResponse]


def may(request: HttpRequest, permission: str) -> bool:
    """Whether the user has a permission of the app."""
    return request.user.has_perm(f"ossy_event_store.{permission}")


class StoreModelAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """What the pages share: addresses, permissions, and a store that is down."""

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Nobody may: what is stored is not made here."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Nobody may."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Nobody may."""
        return False

    def _view(self, name: str, view: View, *permissions: str) -> View:
        """Return ``view`` as the admin serves it, with its permissions checked."""

        @functools.wraps(view)
        def checked(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
            if not all(may(request, name) for name in permissions):
                raise PermissionDenied
            try:
                return view(request, *args, **kwargs)
            except StoreUnavailable as error:
                return self._failed(request, str(error), _("Try again in a moment."))
            except ImproperlyConfigured as error:
                return self._failed(request, str(error), "")
            except OperationFailure as error:
                advice = _(
                    "If an index is missing, “manage.py ensure_event_store” makes it."
                )
                return self._failed(request, short_reason(error), advice)

        return self.admin_site.admin_view(checked)

    def _path(self, route: str, name: str, view: View, *permissions: str) -> URLPattern:
        full = f"{self.opts.app_label}_{self.opts.model_name}_{name}"
        return path(route, self._view(name, view, *permissions), name=full)

    def _url(self, model: str, page: str, *args: Any, **query: Any) -> str | None:
        """Return the address of a page, or None if this site does not have it."""
        name = f"admin:{self.opts.app_label}_{model}_{page}"
        try:
            url = reverse(
                name,
                args=[quote(str(arg)) for arg in args],
                current_app=self.admin_site.name,
            )
        except NoReverseMatch:
            return None
        asked = {key: value for key, value in query.items() if value is not None}
        return f"{url}?{urlencode(asked)}" if asked else url

    def _render(
        self,
        request: HttpRequest,
        template: str,
        title: str,
        context: Mapping[str, Any],
        status: int = 200,
    ) -> HttpResponse:
        request.current_app = self.admin_site.name
        return TemplateResponse(
            request,
            f"admin/ossy_event_store/{template}.html",
            {
                **self.admin_site.each_context(request),
                "opts": self.opts,
                "title": title,
                "list_url": self._url(str(self.opts.model_name), "changelist"),
                "breadcrumbs_are_a_list": django.VERSION >= (6, 1),
                **context,
            },
            status=status,
        )

    def _failed(self, request: HttpRequest, reason: str, advice: str) -> HttpResponse:
        context = {"reason": reason, "advice": advice}
        title = _("The event store is not available")
        return self._render(request, "unavailable", title, context, status=503)

    # --- events as people see them ------------------------------------------

    def _event(self, request: HttpRequest, event: Document) -> dict[str, Any]:
        """Return an event, or the last event of a stream, as a template shows it."""
        aggregate_id, version = event["aggregateId"], event["aggregateVersion"]
        may_open = may(request, "view_event")
        # What another program stored may lack a field, or have anything in it.
        created = event.get("created", "")
        shown = {
            "id": visible(str(event["_id"])),
            "type": visible(str(event.get("type", ""))),
            "stream": visible(str(aggregate_id)),
            "stream_type": visible(str(event.get("aggregateType", ""))),
            "version": version,
            "created": created,
            "is_time": isinstance(created, dt.datetime),
            "by": _by(event),
            "url": self._url("event", "change", event["_id"])
            if may_open and isinstance(event["_id"], (str, ObjectId))
            else None,
            "stream_url": self._url("stream", "change", aggregate_id),
            "version_url": self._url("stream", "change", aggregate_id, version=version),
        }
        if "bytes" in event and may_open:
            whole = event.get("payload")
            shown["payload"] = None if whole is None else brief(whole)
            shown["bytes"] = event["bytes"]
            shown["is_long"] = whole is None and bool(event["bytes"])
        if status := event.get("snapshot"):
            shown["status"], shown["status_text"] = status, STATUS[status]
        return shown


def _by(event: Document) -> str:
    by = event["createdBy"]
    return "" if by is None else visible(by if isinstance(by, str) else repr(by))


def download(text: str, name: str) -> HttpResponse:
    """Return some JSON as a file."""
    response = HttpResponse(text, content_type="application/json")
    response["Content-Disposition"] = attachment(name)
    return response


def attachment(name: str) -> str:
    """Return the header that makes a file of an answer, whatever its name is."""
    safe = "".join(
        c if c.isascii() and (c.isalnum() or c in "-_.") else "_" for c in name
    )
    return f'attachment; filename="{safe[-150:]}"'
