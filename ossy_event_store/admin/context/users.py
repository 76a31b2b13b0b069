"""What a user did, on the user's own page."""

from __future__ import annotations

from typing import Any

from django.contrib import admin

from ...documents.bson_types import Document
from ...documents.context.requests import name_of
from ...exceptions import InvalidEvent
from ...mongodb.connection import Store
from ...mongodb.deadline import in_time
from ..paging import Search, read_page

LATEST_EVENTS = 10


class UserEventsMixin(admin.ModelAdmin):  # type: ignore[type-arg]
    """
    Show the latest events of a user below the form of that user.

    ``class Users(UserEventsMixin, UserAdmin)``. A class with its own
    ``change_form_template`` uses the tag ``user_events`` in that template.
    """

    change_form_template = "admin/ossy_event_store/user_form.html"

    def render_change_form(
        self, request: Any, context: Any, *args: Any, **kwargs: Any
    ) -> Any:
        """Add the user to the context."""
        context["events_of"] = kwargs.get("obj")
        return super().render_change_form(request, context, *args, **kwargs)


def name_in_events(user: Any) -> str | None:
    """Return the ``createdBy`` of a user's events, None if they cannot have one."""
    try:
        return name_of(user)
    except InvalidEvent:
        return None


async def events_of(store: Store, name: str) -> list[Document]:
    """Return the latest events that a user appended."""
    with in_time():
        page = await read_page(store, Search(created_by=name), size=LATEST_EVENTS)
    return page.items
