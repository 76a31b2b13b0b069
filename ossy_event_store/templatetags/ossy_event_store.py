"""The tag ``stream_history``: the history of a stream on your own pages."""

from __future__ import annotations

from typing import Any

from django import template
from django.contrib.admin.utils import quote
from django.core.exceptions import ImproperlyConfigured
from django.urls import NoReverseMatch, reverse
from pymongo.errors import PyMongoError

from ..admin.event_fields import LISTED_FIELDS
from ..documents.bson_types import Document
from ..documents.display import visible
from ..documents.event_document import check_id, read_event
from ..documents.passed_over import is_event
from ..exceptions import EventStoreError
from ..mongodb import connection
from ..mongodb.deadline import in_time
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
    except (EventStoreError, PyMongoError, ImproperlyConfigured, ValueError):
        return {"is_unavailable": True}  # it is the page of a project: it stays
    return {
        "rows": [_row(event) for event in events],
        "url": _url(getattr(request, "current_app", None), str(aggregate_id)),
    }


async def _latest(store: connection.Store, aggregate_id: str) -> list[Document]:
    with in_time():
        found = await store.events.find(
            {
                "aggregateId": {"$eq": check_id(aggregate_id)},
                "aggregateVersion": {"$gte": 1},
            },
            projection=LISTED_FIELDS,
            sort=[("aggregateVersion", -1)],
            limit=LATEST_EVENTS,
        )
    return [read_event(event) for event in found if is_event(event)]


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
