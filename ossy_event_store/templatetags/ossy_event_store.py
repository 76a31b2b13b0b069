"""The tag ``stream_history``: the history of a stream on your own pages."""

from __future__ import annotations

from typing import Any

from django import template
from django.contrib.admin.utils import quote
from django.urls import NoReverseMatch, reverse

from ..admin import stream_lookups
from ..documents.bson_types import Document
from ..documents.display import visible
from ..documents.event_document import read_event
from ..exceptions import StoreUnavailable
from ..mongodb import connection
from ..mongodb.ports import drive

register = template.Library()

LATEST_EVENTS = 10


@register.inclusion_tag("admin/ossy_event_store/history.html", takes_context=True)
def stream_history(context: template.Context, aggregate_id: object) -> dict[str, Any]:
    """
    Show the latest events of a stream, with a link to its full history.

    Shows nothing to users without the permission ``view_stream``, and nothing if the
    stream does not exist. ``request`` must be in the context.

    Args:
        context: the context of the page.
        aggregate_id: the stream; anything but a string is converted with ``str()``.
    """
    request = context.get("request")
    if request is None or not request.user.has_perm("ossy_event_store.view_stream"):
        return {}
    try:
        events = drive(_latest(connection.blocking(), str(aggregate_id)))
    except (StoreUnavailable, ValueError):
        return {"is_unavailable": True}
    return {
        "rows": [_row(event) for event in events],
        "url": _url(getattr(request, "current_app", None), str(aggregate_id)),
    }


async def _latest(store: connection.Store, aggregate_id: str) -> list[Document]:
    head = await stream_lookups.last_event(store, aggregate_id)
    if head is None:
        return []
    last = head["aggregateVersion"]
    first = max(1, last - LATEST_EVENTS + 1)
    found = await stream_lookups.timeline(
        store, aggregate_id, first, last, payloads=False
    )
    return [read_event(event) for event in reversed(found)]


def _row(event: Document) -> dict[str, Any]:
    by = event["createdBy"]
    return {
        "type": visible(str(event["type"])),
        "version": event["aggregateVersion"],
        "created": event["created"],
        "is_time": hasattr(event["created"], "tzinfo"),
        "by": "" if by is None else visible(str(by)),
    }


def _url(current_app: str | None, aggregate_id: str) -> str | None:
    name = "admin:ossy_event_store_stream_change"
    try:
        return reverse(name, args=[quote(aggregate_id)], current_app=current_app)
    except NoReverseMatch:
        return None
