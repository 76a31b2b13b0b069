"""
The view that pushes new events to browsers as server-sent events.

The browser needs nothing but its own ``EventSource``. Messages have no name, so that
``onmessage`` receives every event, as one line of JSON. The exceptions are ``reset``:
events were lost, and the page has to reload; and ``skipped``: the server cannot read an
event, since a newer release wrote it or an upcaster failed.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import inspect
import logging
import random
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from time import monotonic
from typing import Any

from asgiref.sync import SyncToAsync, iscoroutinefunction, sync_to_async
from django.core.exceptions import ImproperlyConfigured, PermissionDenied
from django.core.handlers.asgi import ASGIRequest
from django.db import connections
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase
from pymongo.errors import PyMongoError

from ..documents.arguments import check_names
from ..documents.bson_types import Document
from ..documents.context.current import active, context_of
from ..documents.event_document import check_id
from ..documents.extended_json import iso
from ..exceptions import StoreUnavailable
from ..mongodb.write_errors import short_reason
from ..projections import projection as projection_module
from ..relational.views import UntransactedView
from . import protocol
from .event_filter import EventFilter
from .notification import Notification
from .running_feeds import listening

logger = logging.getLogger("ossy_event_store")

#: Fields of an event that are sent as they are.
FIELDS = ("aggregateId", "aggregateType", "aggregateVersion", "type")
#: Parameters of the path or the query string, and the attribute that each sets.
PARAMETERS = {
    "stream": "stream",
    "type": "types",
    "aggregate_type": "aggregate_types",
    "tag": "tags",
    "projection": "projection",
    "key": "key",
}
#: Parameters that a query string may repeat.
REPEATABLE = ("type", "aggregate_type", "tag")
#: Attributes that are lists.
LISTS = ("types", "aggregate_types", "tags", "query")


class EventSourceView(UntransactedView):
    """
    Sends new events to a browser's ``EventSource``. Needs ASGI and a replica set.

    A subclass, or ``as_view()``, must define ``may_see``. ``as_view()`` takes every
    attribute.
    """

    http_method_names = ["get"]  # a response to HEAD would never end

    #: Only events of this stream; a path parameter of this name sets it too.
    stream: str | None = None
    #: Only events of these types; as a path parameter, ``type``.
    types: Sequence[str] | None = None
    #: Only events of these aggregate types; as a path parameter, ``aggregate_type``.
    aggregate_types: Sequence[str] | None = None
    #: Only events that have all of these tags; as a path parameter, ``tag``.
    tags: Sequence[str] | None = None
    #: An event is sent once the projection of this name has applied it.
    projection: str | None = None
    #: Only events with this key in the projection.
    key: str | None = None
    #: What the query string may choose, any of ``stream``, ``type``,
    #: ``aggregate_type``, ``tag``, ``projection`` and ``key``. It can narrow what the
    #: view sets, but never widen it.
    query: Sequence[str] = ()
    #: Seconds between two heartbeats.
    heartbeat = 15.0
    #: Seconds after which a browser reconnects.
    retry = 3.0
    #: Seconds after which a response ends. The browser reconnects, and permission is
    #: checked again.
    lifetime = 900.0

    def may_see(self, request: HttpRequest, wanted: EventFilter) -> Any:
        """
        Return whether the request may see the events that it wants.

        Required. It may be a coroutine function; a plain function runs in a thread and
        may use the ORM, in no transaction, even with ``ATOMIC_REQUESTS``.
        """
        raise NotImplementedError

    @staticmethod
    def data(event: Document) -> Mapping[str, Any]:
        """
        Return what is sent of an event: not its payload, unless you add it.

        It is called once for all listeners, so it cannot depend on the user.
        """
        created = event.get("created")
        if isinstance(created, dt.datetime):
            created = iso(created)
        return {
            "position": event["position"],
            **{name: event.get(name) for name in FIELDS},
            "created": created,
            "createdBy": event.get("createdBy"),
        }

    @classmethod
    def as_view(cls, **initkwargs: Any) -> Callable[..., HttpResponseBase]:
        """
        Return the view.

        Raises:
            ImproperlyConfigured: ``may_see`` is missing, or an attribute is wrong.
        """
        if cls.may_see is EventSourceView.may_see and "may_see" not in initkwargs:
            raise ImproperlyConfigured(
                f"{cls.__name__} needs may_see(request, wanted): it decides "
                "who may see the events. To allow everyone, return True."
            )
        lists = {name: initkwargs.get(name, getattr(cls, name)) for name in LISTS}
        for name, value in lists.items():
            try:
                check_names(value, name)
            except (TypeError, ValueError) as error:
                raise ImproperlyConfigured(f"{cls.__name__}: {error}") from None
        if unknown := set(lists["query"]) - PARAMETERS.keys():
            raise ImproperlyConfigured(
                f"{cls.__name__}.query names unknown parameters: "
                f"{', '.join(sorted(unknown))}. Known: {', '.join(PARAMETERS)}."
            )
        return super().as_view(**initkwargs)

    async def get(
        self, request: HttpRequest, *args: Any, **kwargs: Any
    ) -> HttpResponseBase:
        """Respond with a stream of events, or with one line that says why not."""
        if not isinstance(request, ASGIRequest):
            return _refusal(
                501,
                "Server-sent events need an ASGI server, for example uvicorn; this one "
                "runs Django under WSGI.",
            )
        last_id = request.headers.get("Last-Event-ID")
        try:
            wanted = self.wanted(request)
            after = protocol.last_position(last_id, request.GET.get("after"))
        except (TypeError, ValueError) as error:
            return _refusal(400, str(error))
        if not await self._may_see(request, wanted):
            raise PermissionDenied
        return StreamingHttpResponse(
            _Parts(self._stream(wanted, after, reconnects=bool(last_id))),
            content_type=protocol.CONTENT_TYPE,
            headers=protocol.HEADERS,
        )

    def wanted(self, request: HttpRequest) -> EventFilter:
        """
        Return which events the request wants.

        Raises:
            ValueError, TypeError: a parameter is not allowed here; answered with 400.
        """
        for name in request.GET:
            if name not in (*self.query, "after"):
                raise ValueError(f"Unknown parameter {name!r}.")
        values = {
            attribute: self._value(name, attribute, request)
            for name, attribute in PARAMETERS.items()
        }
        wanted = EventFilter(**values)
        if wanted.key is not None and wanted.projection is None:
            raise ValueError("The parameter 'key' needs the parameter 'projection'.")
        known = [None, *projection_module.registered_projections()]
        if wanted.projection not in known:
            raise ValueError(f"Unknown projection {wanted.projection!r}.")
        return wanted

    def _value(self, name: str, attribute: str, request: HttpRequest) -> Any:
        """Return the value of one condition: the view's, narrowed by the request."""
        own = getattr(self, attribute)
        values = [self.kwargs[name]] if name in self.kwargs else []
        values = values or request.GET.getlist(name)
        if name == "tag":
            tags = [*(own or ()), *values]  # each further one narrows what is sent
            return frozenset(tags) or None
        for value in values:
            check_id(value, name)
            allowed = own if name in REPEATABLE else [own]
            if own is not None and value not in allowed:
                raise ValueError(f"This view does not send events of {name} {value!r}.")
        if name in REPEATABLE:
            chosen = values or own
            return None if chosen is None else frozenset(chosen)
        if len(values) > 1:
            raise ValueError(f"The parameter {name!r} must not be repeated.")
        return values[0] if values else own

    async def _may_see(self, request: HttpRequest, wanted: EventFilter) -> bool:
        if iscoroutinefunction(self.may_see):
            allowed = await self.may_see(request, wanted)
        else:
            allowed = await sync_to_async(self.may_see)(request, wanted)
            if inspect.isawaitable(allowed):  # a coroutine would count as true
                allowed = await allowed
        return bool(allowed)

    async def _stream(
        self, wanted: EventFilter, after: int | None, *, reconnects: bool
    ) -> AsyncGenerator[bytes, None]:
        await _release_thread()  # now that all middleware has seen the response
        # At different times, also if all browsers connected at once after a restart.
        end = monotonic() + self.lifetime * random.uniform(0.8, 1.0)  # noqa: S311
        sent = after  # the position that the browser has
        yield protocol.retry_after(self.retry)
        async with listening(wanted, after, reconnects=reconnects) as listener:
            while (left := end - monotonic()) > 0:
                try:
                    received = await listener.receive(min(self.heartbeat, left))
                except (PyMongoError, StoreUnavailable) as error:
                    logger.warning(
                        "Closing an event stream (the browser reconnects): %s",
                        short_reason(error),
                    )
                    return
                if listener.is_ended:
                    return
                if received:
                    sent = received[-1].position
                    text = b"".join(self._render(one, wanted) for one in received)
                    received = []  # a slow browser need not keep the events
                    yield text
                elif listener.position != sent and listener.position is not None:
                    sent = listener.position
                    yield protocol.id_alone(sent)
                else:
                    yield protocol.HEARTBEAT

    def _render(self, notification: Notification, wanted: EventFilter) -> bytes:
        position, skipped = notification.position, notification.skipped
        if skipped is not None:
            data = {name: skipped.get(name) for name in ("position", *FIELDS)}
            return protocol.skipped(position, data)
        if not notification.events:
            return protocol.reset(position)
        # A function of the class is the same for all instances of the view.
        shared = (self.data, wanted.projection, wanted.key)
        if shared not in notification.rendered:
            *others, last = (self._data(one, wanted) for one in notification.events)
            # Only the last carries the id, so that a browser that reconnects between
            # two of them gets all of them again.
            notification.rendered[shared] = b"".join(
                (
                    *(protocol.message(None, data) for data in others),
                    protocol.message(position, last),
                )
            )
        return notification.rendered[shared]

    def _data(self, event: Document, wanted: EventFilter) -> Mapping[str, Any]:
        with active(context_of(event)):
            data = self.data(event)
        if wanted.projection is not None:
            return {**data, "projection": wanted.projection, "key": wanted.key}
        return data


class _Parts:
    """
    The parts of a response, which end with it.

    When a browser disconnects while it is written to, Django drops the iterator of the
    parts without closing it. But it closes the response, in another thread.
    """

    def __init__(self, parts: AsyncGenerator[bytes, None]) -> None:
        self._parts = parts
        self._loop = asyncio.get_running_loop()

    def __aiter__(self) -> AsyncGenerator[bytes, None]:
        return self._parts

    def close(self) -> None:
        if not self._loop.is_closed():
            asyncio.run_coroutine_threadsafe(self._end(), self._loop)

    async def _end(self) -> None:
        await self._parts.aclose()


async def _release_thread() -> None:
    """
    End the thread in which middleware and ``may_see`` ran, with its connections.

    Django keeps one thread for each request until it ends, which may take hours here;
    if the request needs one again, asgiref starts another.
    """
    context = SyncToAsync.thread_sensitive_context.get(None)
    if context is None:
        return  # not a request of an ASGI server
    if context in SyncToAsync.context_to_thread_executor:
        await sync_to_async(_close_connections)()
        thread = SyncToAsync.context_to_thread_executor.pop(context)
        thread.shutdown(wait=False)


def _close_connections() -> None:
    for connection in connections.all(initialized_only=True):
        if not connection.in_atomic_block:  # as in a test
            connection.close()


def _refusal(status: int, text: str) -> HttpResponse:
    return HttpResponse(f"{text}\n", status=status, content_type="text/plain")
