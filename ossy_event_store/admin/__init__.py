"""
The admin's pages: browse streams and events, operate subscriptions.

Nothing here changes an event. Django discovers the pages in this package.
"""

from __future__ import annotations

from typing import Any

from django.contrib import admin

from ..models import Event, Stream, Subscription
from .context.users import UserEventsMixin
from .events import EventAdmin
from .streams import StreamAdmin
from .subscriptions import SubscriptionAdmin

__all__ = [
    "EventAdmin",
    "StreamAdmin",
    "StreamHistoryMixin",
    "SubscriptionAdmin",
    "UserEventsMixin",
]

admin.site.register(Stream, StreamAdmin)
admin.site.register(Event, EventAdmin)
admin.site.register(Subscription, SubscriptionAdmin)


class StreamHistoryMixin(admin.ModelAdmin):  # type: ignore[type-arg]
    """
    Show the history of a stream below the form of one of your models.

    ``class OrderAdmin(StreamHistoryMixin, admin.ModelAdmin)``. A class with its
    own ``change_form_template`` uses the tag ``stream_history`` in that template.
    """

    change_form_template = "admin/ossy_event_store/change_form.html"

    def stream_id(self, obj: Any) -> str | None:
        """Return the id of the object's stream, or None if it has no stream."""
        return str(obj.pk)

    def render_change_form(
        self, request: Any, context: Any, *args: Any, **kwargs: Any
    ) -> Any:
        """Add the id of the object's stream to the context."""
        obj = kwargs.get("obj")
        context["stream_id"] = None if obj is None else self.stream_id(obj)
        return super().render_change_form(request, context, *args, **kwargs)
