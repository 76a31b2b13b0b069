"""
What the admin's pages share: permissions, addresses, and the page without a store.

Every view checks its own permission: ``view_stream`` shows the streams, and who did
what when; ``view_event`` the contents of events and the states they led to;
``view_snapshot`` the standing of a snapshot; ``rebuild_snapshot`` rebuilds one;
``view_subscription`` shows subscriptions and their errors; ``operate_subscription``
retries and skips.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping
from typing import Any

import django
from bson import ObjectId
from django.apps import apps
from django.contrib import admin
from django.core.exceptions import ImproperlyConfigured, PermissionDenied
from django.db import DatabaseError, router, transaction
from django.db.models import Model
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import NoReverseMatch, URLPattern, path, reverse
from django.utils.http import urlencode
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from pymongo.errors import PyMongoError

from ..documents.bson_types import Document
from ..documents.display import brief, visible
from ..documents.event_document import version_number
from ..documents.passed_over import is_event
from ..exceptions import StoreUnavailable
from ..mongodb import connection, schema_validator
from ..mongodb.deadline import in_time
from ..mongodb.ports import drive
from ..mongodb.write_errors import short_reason
from .addresses import in_address
from .event_fields import is_in_stream, tags_of

logger = logging.getLogger("ossy_event_store")

SNAPSHOT_STATUS = {
    "current": gettext_lazy("up to date"),
    "behind": gettext_lazy("older than its stream"),
    "ahead": gettext_lazy("newer than its stream"),
    "other revision": gettext_lazy("from another reducer revision"),
    "missing": gettext_lazy("none"),
    "unregistered": gettext_lazy("no class registered for this type"),
}

View = Callable[..., HttpResponse]


def may(request: HttpRequest, permission: str) -> bool:
    """Whether the user has a permission of the app."""
    return request.user.has_perm(f"ossy_event_store.{permission}")


class StoreModelAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """Views over MongoDB in place of those over SQL, read-only."""

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return False: nothing is added in the admin."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return False: nothing is changed in the admin."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return False: nothing is deleted in the admin."""
        return False

    def _view(self, name: str, view: View, *permissions: str) -> View:
        """
        Wrap a view for the admin: check its permissions, and explain failures.

        All queries of a page together may take the setting ``TIMEOUT``.
        """

        @functools.wraps(view)
        def checked(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
            if not all(may(request, name) for name in permissions):
                raise PermissionDenied
            try:
                with in_time():
                    return view(request, *args, **kwargs)
            except StoreUnavailable as error:
                advice = _("Try again in a moment.")
                return self._unavailable(request, str(error), advice)
            except ImproperlyConfigured as error:
                return self._unavailable(request, str(error), "")
            except PyMongoError as error:
                advice = _(
                    "If an index is missing, “manage.py ensure_event_store” creates it."
                )
                reason = drive(schema_validator.other_shape(connection.blocking()))
                if reason is not None:
                    return self._unavailable(request, reason, "")
                return self._unavailable(request, short_reason(error), advice)

        return self.admin_site.admin_view(checked)

    def _path(self, route: str, name: str, view: View, *permissions: str) -> URLPattern:
        full = f"{self.opts.app_label}_{self.opts.model_name}_{name}"
        return path(route, self._view(name, view, *permissions), name=full)

    def url_of(self, model: str, page: str, *args: Any, **query: Any) -> str | None:
        """Return the URL of a page, or None if this admin site does not have it."""
        name = f"admin:{self.opts.app_label}_{model}_{page}"
        try:
            url = reverse(
                name,
                args=[in_address(arg) for arg in args],
                current_app=self.admin_site.name,
            )
        except NoReverseMatch:
            return None
        used = {key: value for key, value in query.items() if value is not None}
        return f"{url}?{urlencode(used)}" if used else url

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
                "list_url": self.url_of(str(self.opts.model_name), "changelist"),
                "breadcrumbs_are_a_list": django.VERSION >= (6, 1),
                **context,
            },
            status=status,
        )

    def _unavailable(
        self, request: HttpRequest, reason: str, advice: str
    ) -> HttpResponse:
        context = {"reason": reason, "advice": advice}
        title = _("The event store is not available")
        return self._render(request, "unavailable", title, context, status=503)

    def record(self, request: HttpRequest, changed: Model, text: str) -> None:
        """
        Record in the admin's log what a user did to the store.

        It is done, so a failure is only logged: the site's own database may be away.
        """
        using = router.db_for_write(apps.get_model("admin", "LogEntry"))
        try:
            with transaction.atomic(using=using):
                # Some databases cannot store a NUL character.
                self.log_change(request, changed, visible(text))
        except DatabaseError:
            logger.exception(
                "Could not record in the admin's log what user %s did: %s",
                request.user.pk,
                text,
            )

    def event_row(self, request: HttpRequest, event: Document) -> dict[str, Any]:
        """Return what templates show of an event, or of a stream by its last event."""
        # A document of another program may lack a field, or hold any value.
        aggregate_id = event.get("aggregateId")
        version = version_number(event.get("aggregateVersion"))
        may_open = may(request, "view_event")
        row = {
            "id": visible(str(event["_id"])),
            "type": text_of(event.get("type")),
            "stream": text_of(aggregate_id),
            "stream_type": text_of(event.get("aggregateType")),
            "version": version or text_of(event.get("aggregateVersion")),
            "created": event.get("created"),
            "by": text_of(event.get("createdBy")),
            "by_url": self.url_of("event", "changelist", by=event["createdBy"])
            if may_open and isinstance(event.get("createdBy"), str)
            else None,
            "tags": [
                (visible(tag), self.url_of("event", "changelist", tag=tag))
                for tag in (tags_of(event) if may_open else ())
            ],
            "is_foreign": not is_event(event),
            "url": self.url_of("event", "change", event["_id"])
            if may_open and isinstance(event["_id"], (str, ObjectId))
            else None,
            "stream_url": None,
            "version_url": None,
        }
        if is_in_stream(event):
            row["stream_url"] = self.url_of("stream", "change", aggregate_id)
            row["version_url"] = self.url_of(
                "stream", "change", aggregate_id, version=version
            )
        if "bytes" in event and may_open:
            payload = event.get("payload")
            row["payload"] = None if payload is None else brief(payload)
            row["bytes"] = event["bytes"]
            row["is_long"] = payload is None and bool(event["bytes"])
        if status := event.get("snapshot"):
            row["status"], row["status_text"] = status, SNAPSHOT_STATUS[status]
        return row


def text_of(value: Any) -> str:
    """Return a field as text in which every character is visible; "" without one."""
    if value is None:
        return ""
    return visible(value) if isinstance(value, str) else brief(value)


def download(text: str, name: str) -> HttpResponse:
    """Return JSON as a file to download."""
    response = HttpResponse(text, content_type="application/json")
    response["Content-Disposition"] = attachment(name)
    return response


def attachment(name: str) -> str:
    """Return the header that offers a response as a file, with a safe name."""
    safe = "".join(
        c if c.isascii() and (c.isalnum() or c in "-_.") else "_" for c in name
    )
    # Neither a hidden file nor, to a shell command, an option.
    return f'attachment; filename="{safe[-150:].lstrip("-.") or "_"}"'
