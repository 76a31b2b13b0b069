"""
Tags and filters of templates.

``stream_history`` shows the history of a stream on your own pages, ``user_events`` what
a user did; the pages of the admin use ``local_time``.
"""

from __future__ import annotations

import datetime as dt
import logging
from typing import Any

from django import template
from django.core.exceptions import ImproperlyConfigured
from django.urls import NoReverseMatch, reverse
from django.utils.html import format_html
from django.utils.http import urlencode
from pymongo.errors import PyMongoError

from ..admin import site_time
from ..admin.addresses import in_address
from ..admin.base import text_of
from ..admin.context.users import events_of, name_in_events
from ..admin.event_fields import LISTED_FIELDS, VERSIONS, is_in_stream
from ..documents.bson_types import Document
from ..documents.event_document import check_id, read_event
from ..exceptions import EventStoreError
from ..mongodb import connection
from ..mongodb.deadline import in_time
from ..mongodb.ports import drive
from ..mongodb.write_errors import short_reason

logger = logging.getLogger("ossy_event_store")

register = template.Library()

LATEST_EVENTS = 10


@register.filter
def local_time(value: Any) -> str:
    """
    Return a ``<time>`` in the local time of the site, whatever its settings.

    Args:
        value: an aware datetime. Other values are shown as text, None as "".
    """
    if not isinstance(value, dt.datetime):
        return text_of(value)
    time = site_time.local(value)
    text = time.replace(tzinfo=None).isoformat(" ", "seconds")
    return format_html(
        '<time dir="ltr" datetime="{}">{}</time>', time.isoformat(), text
    )


@register.inclusion_tag("admin/ossy_event_store/history.html", takes_context=True)
def stream_history(context: template.Context, aggregate_id: object) -> dict[str, Any]:
    """
    Show the latest events of a stream, with a link to its full history.

    Shows nothing to users without the permission ``view_stream``, and nothing if the
    stream does not exist. ``request`` must be in the context. Where the store cannot be
    read, the page says so, and the log says why.

    Args:
        context: the context of the page.
        aggregate_id: the stream; anything but a string is converted with ``str()``.
    """
    request = context.get("request")
    user = getattr(request, "user", None)
    if user is None or not user.has_perm("ossy_event_store.view_stream"):
        return {}
    try:
        with in_time():
            events = drive(_latest(connection.blocking(), str(aggregate_id)))
    except ValueError:  # no stream can have such an id
        return {}
    except (EventStoreError, ImproperlyConfigured, PyMongoError) as error:
        logger.warning("Cannot show the history of a stream: %s", short_reason(error))
        return {"is_unavailable": True}
    return {
        "rows": [_row(event) for event in events],
        "url": _address(
            "stream_change", getattr(request, "current_app", None), str(aggregate_id)
        ),
    }


@register.inclusion_tag("admin/ossy_event_store/user_events.html", takes_context=True)
def user_events(context: template.Context, user: Any) -> dict[str, Any]:
    """
    Show the latest events that a user appended, with a link to all of them.

    Shows nothing to users without the permission ``view_event``. ``request`` must be in
    the context. Where the store cannot be read, the page says so, and the log says why.

    Args:
        context: the context of the page.
        user: whose events; found by what the setting ``CONTEXT`` says of a user.
    """
    request = context.get("request")
    viewer = getattr(request, "user", None)
    if viewer is None or not viewer.has_perm("ossy_event_store.view_event"):
        return {}
    try:
        name = name_in_events(user)
        if name is None:
            return {}
        with in_time():
            events = drive(events_of(connection.blocking(), name))
    except (EventStoreError, ImproperlyConfigured, PyMongoError) as error:
        logger.warning("Cannot show the events of a user: %s", short_reason(error))
        return {"is_unavailable": True}
    app = getattr(request, "current_app", None)
    url = _address("event_changelist", app)
    return {
        "rows": [
            {
                **_row(event),
                "stream": text_of(event.get("aggregateId")),
                "stream_type": text_of(event.get("aggregateType")),
                "url": _address("event_change", app, event["_id"]),
            }
            for event in events
        ],
        "url": None if url is None else f"{url}?{urlencode({'by': name})}",
        "is_empty": not events,
    }


async def _latest(store: connection.Store, aggregate_id: str) -> list[Document]:
    found = await store.events.find(
        {
            "aggregateId": {"$eq": check_id(aggregate_id)},
            "aggregateVersion": VERSIONS,
        },
        projection=LISTED_FIELDS,
        sort=[("aggregateVersion", -1)],
        limit=LATEST_EVENTS,
    )
    return [read_event(event) for event in found if is_in_stream(event)]


def _row(event: Document) -> dict[str, Any]:
    return {
        "type": text_of(event.get("type")),
        "version": text_of(event.get("aggregateVersion")),
        "created": event.get("created"),
        "by": text_of(event.get("createdBy")),
    }


def _address(page: str, current_app: str | None, *ids: Any) -> str | None:
    """Return the URL of a page of the admin; None if the site does not have it."""
    name = f"admin:ossy_event_store_{page}"
    try:
        return reverse(name, args=list(map(in_address, ids)), current_app=current_app)
    except NoReverseMatch:
        return None
