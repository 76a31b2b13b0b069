"""
The admin's pages: events to be looked at, never changed; subscriptions to be operated.

Django finds them here; each kind of page has a module of its own.
"""

from __future__ import annotations

from typing import Any

from django.contrib import admin

from ..models import Event, Stream, Subscription
from .events import EventAdmin
from .streams import StreamAdmin
from .subscriptions import SubscriptionAdmin

__all__ = ["EventAdmin", "StreamAdmin", "StreamHistoryMixin", "SubscriptionAdmin"]

admin.site.register(Stream, StreamAdmin)
admin.site.register(Event, EventAdmin)
admin.site.register(Subscription, SubscriptionAdmin)


class StreamHistoryMixin(admin.ModelAdmin):  # type: ignore[type-arg]
    """
    Put the history of a stream below the form of a model of your own.

    ``class OrderAdmin(StreamHistoryMixin, admin.ModelAdmin)``. A class with a
    ``change_form_template`` of its own puts the tag ``stream_history`` there.
    """

    change_form_template = "admin/ossy_event_store/change_form.html"

    def stream_id(self, obj: Any) -> str | None:
        """Return the id of the object's stream, or None if it has none."""
        return str(obj.pk)

    def render_change_form(
        self, request: Any, context: Any, *args: Any, **kwargs: Any
    ) -> Any:
        """Render the form, and tell the template which stream is the object's."""
        obj = kwargs.get("obj")
        context["stream_id"] = None if obj is None else self.stream_id(obj)
        return super().render_change_form(request, context, *args, **kwargs)
